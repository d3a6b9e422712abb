"""packrank encode: documents to a store of token embeddings."""

import argparse
import os

from tqdm import tqdm

from packrank.commands.messages import hides_bar, report, say, saying_warnings
from packrank.commands.options import (
    FORMAT_HELP,
    MODEL_HELP,
    RECORDS,
    add_device_options,
    add_length_option,
    folder_of,
    positive,
)
from packrank.commands.signals import Stopped
from packrank.jobs.documents import Documents
from packrank.jobs.encode import encode_file
from packrank.late_interaction import LateInteraction
from packrank.records.formats import FORMATS as FILE_FORMATS
from packrank_kernels import FORMATS

_DESCRIPTION = """\
Encode the tokens of documents, and keep their vectors in a folder, the store.

Run it again after it was stopped, with the same arguments, and it goes on: what was encoded is safe
after some ten seconds. The store will have the same bytes. Run it on a store that is there, and
documents are appended: those that follow the lines encoded last, if DOCUMENTS begins with them;
with --append all of another file. A file that was encoded whole is not encoded again. Model,
document length and format must be those of the store.
"""


def add_encode(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command and its options."""
    parser = commands.add_parser(
        "encode",
        help="keep the token embeddings of documents in a store",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "documents",
        metavar="DOCUMENTS",
        help=f'{RECORDS} with "text" (and "title", "id" or "_id"), or one document a line; - for '
        "standard input. A document without id has the number of its line, row or element, counted "
        "on from file to file",
    )
    parser.add_argument("store", metavar="STORE", help="a folder; made if it is not there")
    parser.add_argument(
        "--format", choices=FORMATS, help="of the vectors (default: int8, or that of the store)"
    )
    parser.add_argument(
        "--centroids",
        type=positive,
        metavar="N",
        help="of 8bit to 1bit, when the store is made (default: as many as ColBERT takes)",
    )
    parser.add_argument(
        "--input-format",
        choices=FILE_FORMATS,
        help=f"of DOCUMENTS; {FORMAT_HELP}",
    )
    parser.add_argument(
        "--append",
        action="store_true",
        help="append all of DOCUMENTS if it does not begin with the lines encoded last; the rest "
        "of an unfinished file is given up",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no summary")
    add_length_option(parser, "document")
    add_device_options(parser, "auto, cpu, cuda or cuda:N")
    parser.set_defaults(run=_encode)


def _encode(args: argparse.Namespace) -> int:
    documents, total = Documents(args.documents, args.input_format), None
    if os.path.isfile(args.documents):
        with documents.open() as file:  # what it is, before a model is opened
            total = file.num_lines()
    folder = folder_of(args.model)
    model = LateInteraction(
        folder, device=args.device, dtype=args.dtype, document_length=args.document_length
    )
    name = os.path.abspath(args.model) if os.path.isdir(args.model) else args.model
    try:
        with (
            saying_warnings(),
            tqdm(total=total, unit=" documents", disable=hides_bar(args.quiet)) as bar,
        ):
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
