"""packrank encode: documents to a store of token embeddings."""

import argparse
import os

from packrank.commands.messages import progress, report, say, saying_warnings
from packrank.commands.options import folder_of
from packrank.commands.signals import Stopped, keep
from packrank.jobs.documents import Documents
from packrank.jobs.encode import encode_file
from packrank.late_interaction import LateInteraction


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    documents, total = Documents(args.documents, args.input_format), None
    if os.path.isfile(args.documents):
        with documents.open() as file:  # what it is, before a model is opened
            total = file.num_lines()
    folder = folder_of(args.model)
    model = LateInteraction(
        folder, device=args.device, dtype=args.dtype, document_length=args.document_length
    )
    keep()
    name = os.path.abspath(args.model) if os.path.isdir(args.model) else args.model
    try:
        with saying_warnings(), progress(total, "documents", args.quiet) as bar:
            encoded = encode_file(
                model,
                {**model.identity, "name": name},
                documents,
                args.store,
                bar,
                format=args.format,
                centroids=args.centroids,
                append=args.append,
            )
    except (KeyboardInterrupt, Stopped):
        say("packrank: stopped; the same command goes on")
        raise
    report(encoded.failures, encoded.part)
    if encoded.num_failed > len(encoded.failures):
        say(f"packrank: {encoded.part}s left out in all: {encoded.num_failed}")
    if not args.quiet:
        say(
            f"documents encoded: {encoded.documents}, tokens: {encoded.tokens}, "
            f"{encoded.bytes_per_token:g} bytes/token, {encoded.part}s failed: "
            f"{encoded.num_failed}, {encoded.seconds:.1f} s, "
            f"{encoded.documents / encoded.seconds:,.0f} documents/s"
        )
        cut, in_all = encoded.num_cut, encoded.num_cut_in_all or encoded.num_cut
        if in_all:
            of_all = f", in all {in_all}" if in_all != cut else ""
            say(f"documents cut to {model.document_length} tokens: {cut}{of_all}")
        if encoded.begun:
            say(f"{encoded.part}s encoded before: {encoded.begun}")
    return 1 if encoded.num_failed else 0
