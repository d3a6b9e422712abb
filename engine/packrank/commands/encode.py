"""packrank encode: documents to a store of token embeddings."""

import argparse

from packrank.commands.filling import documents_of, fill, name_of, summary
from packrank.commands.messages import say
from packrank.commands.options import folder_of
from packrank.jobs.encode import encode_file
from packrank.late_interaction import LateInteraction


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    documents, total = documents_of(args)  # before a model is opened
    model = LateInteraction(
        folder_of(args.model),
        device=args.device,
        dtype=args.dtype,
        document_length=args.document_length,
    )
    encoded = fill(
        lambda bar: encode_file(
            model,
            {**model.identity, "name": name_of(args.model)},
            documents,
            args.store,
            bar,
            format=args.format,
            centroids=args.centroids,
            append=args.append,
        ),
        total,
        args.quiet,
    )
    if not args.quiet:
        say(summary(encoded, "encoded"))
        cut, in_all = encoded.num_cut, encoded.num_cut_in_all or encoded.num_cut
        if in_all:
            of_all = f", in all {in_all}" if in_all != cut else ""
            say(f"documents cut to {model.document_length} tokens: {cut}{of_all}")
        if encoded.begun:
            say(f"{encoded.part}s encoded before: {encoded.begun}")
    return 1 if encoded.num_failed else 0
