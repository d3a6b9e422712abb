"""The command line, declared: nothing is imported here that takes time."""

import argparse
from collections.abc import Sequence
from typing import TypeAlias

from packrank import __version__
from packrank.commands.bench_options import add_bench
from packrank.commands.joint_options import add_joint_options
from packrank.commands.options import (
    FORMAT_HELP,
    MODEL_HELP,
    OBJECTS,
    RECORDS,
    VECTOR_FORMATS,
    add_device_options,
    add_input_format,
    add_length_option,
    add_model_options,
    add_output_format,
    add_reranker_options,
    layer_numbers,
    positive,
    share,
    valid_text,
)
from packrank.commands.score_options import add_score
from packrank.commands.serve_options import add_serve
from packrank.errors import InputError
from packrank.records.file import is_stdin
from packrank.records.formats import FORMATS

_HELP = "Rank documents for a query, or score pairs, with a reranker."

_RANK = """\
Rank documents for a query, best first; or, with --queries, for each of many: the same --documents
or --store for all, or what --candidates has for each. A FILE may be -, for standard input.
"""

_ENCODE = """\
Encode the tokens of documents, and keep their vectors in a folder, the store.

Run it again after it was stopped, with the same arguments, and it goes on: what was encoded is safe
after some ten seconds. The store will have the same bytes. Run it on a store that is there, and
documents are appended: those that follow the lines encoded last, if DOCUMENTS begins with them;
with --append all of another file. A file that was encoded whole is not encoded again. Model,
document length and format must be those of the store.
"""

_TOKENIZE = """\
Tokenize documents, whole, and keep their token ids in a folder, the store, for the reranker MODEL
and others with the same tokenizer.

Run it again after it was stopped, with the same arguments, and it goes on; run it on a store that
is there, and documents are appended, as by packrank encode. The tokenizer must be the same.
"""

_CALIBRATE = """\
Score candidates of your own queries after every exit layer of a model, and measure by what margin a
candidate may be behind there and still come back. The queries are split in two at random: margins
are fitted to one half, and the recall that is printed, with its 95 % interval, is that of the
other. rank(..., top_k=K, exit="calibrated") then drops candidates that cannot reach the top K any
more; it refuses margins that were measured for another model, another K or another template, and
requests of more than twice the candidates that most queries had here.
"""

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def parser() -> argparse.ArgumentParser:
    """Of all commands; the name of the one that is asked for is `command`."""
    whole = argparse.ArgumentParser(prog="packrank", description=_HELP)
    whole.add_argument("--version", action="version", version=f"packrank {__version__}")
    commands = whole.add_subparsers(required=True, metavar="COMMAND", dest="command")
    _add_rank(commands)
    add_score(commands)
    add_serve(commands)
    _add_encode(commands)
    _add_tokenize(commands)
    _add_explain(commands)
    _add_calibrate(commands)
    _add_verify(commands)
    add_bench(commands)
    _add_info(commands)
    for command in commands.choices.values():
        command.add_argument(
            "--traceback", action="store_true", help="of an error, show where it was raised"
        )
    return whole


def parse(argv: Sequence[str] | None, args: argparse.Namespace) -> None:
    """Read a command line into `args`.

    Raises:
        InputError: options do not go together.
        SystemExit: argparse has answered, or said what is wrong.
    """
    parser().parse_args(argv, args)
    if args.command == "rank":
        _check_rank(args)


def _add_rank(commands: Commands) -> None:
    parser = commands.add_parser(
        "rank",
        help="rank documents for a query, or for many",
        description=_RANK,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--query", type=valid_text, metavar="TEXT")
    asked.add_argument("--queries", metavar="FILE", help=f'{RECORDS} with "id" (or "_id"), "text"')
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--documents",
        metavar="FILE",
        help=f'{RECORDS} with "text" (and "title", "id" or "_id"), or one document a line',
    )
    source.add_argument("--store", help="rank what packrank encode has put there")
    parser.add_argument(
        "--candidates",
        metavar="FILE",
        help=f'what to rank of the store: ids, one a line, or {RECORDS} with "id" or "_id". With '
        '--queries what to rank for each of them: records with "query", the id of one, and "id"; '
        'without a store "text" (and "title", "id")',
    )
    parser.add_argument(
        "--exact",
        nargs="?",
        const=True,
        default=False,
        type=positive,
        metavar="N",
        help="score documents of a store by the vectors that its format decodes to, in float32; "
        "with N, at least K, the N best by the format's own scores",
    )
    add_input_format(parser, "every FILE")
    parser.add_argument("--top-k", type=positive, metavar="K", help="show the best K of a query")
    parser.add_argument(
        "--output",
        default="-",
        metavar="OUT",
        help="a file, written whole or not at all; by default standard output",
    )
    add_output_format(
        parser,
        "a table, as wide as the terminal and uncut elsewhere (the default); one JSON object a "
        "document; or, with --queries, a TREC run",
        *("table", "jsonl", "trec"),
    )
    parser.add_argument(
        "--summary",
        action="store_true",
        default=None,
        help="of jsonl and a reranker: a last object, of layers that were run, or what was asked",
    )
    parser.add_argument(
        "--label", metavar="NAME", help="of a model of several labels: whose score counts"
    )
    parser.add_argument("--cutoff-layer", type=positive, metavar="L", help="layers to run")
    parser.add_argument(
        "--exit",
        metavar="MARGINS",
        help='let candidates stop early: by a file that packrank calibrate wrote, or "calibrated", '
        "the one that it left in the model's folder",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress, no summary")
    add_joint_options(parser)
    add_model_options(parser)


def _check_rank(args: argparse.Namespace) -> None:
    """Raise InputError unless options of `rank` go together."""
    many, candidates = args.queries is not None, args.candidates is not None
    if candidates and args.store is None:
        if not many:
            raise InputError("--candidates are ids of documents of a store; give --store as well")
        if args.documents is not None:
            raise InputError(
                "--candidates has what to rank for each query; leave --documents out, or encode "
                "them and give --store"
            )
    if args.documents is None and args.store is None and not candidates:
        raise InputError(
            "nothing to rank; give --documents, --store, or --queries with --candidates"
        )
    if args.exact is not False and args.store is None:
        raise InputError("--exact is for documents of a store; give --store as well")
    if args.summary and args.output_format != "jsonl":
        raise InputError("--summary is a line of jsonl; give --output-format jsonl as well")
    if args.output_format == "trec" and not many:
        raise InputError("a TREC run has ids of queries; give --queries, a file of them")
    read = [
        name for name in ("queries", "documents", "candidates") if is_stdin(getattr(args, name))
    ]
    if len(read) > 1:
        raise InputError(
            f"--{read[0]} and --{read[1]} cannot both come from standard input; name a file for one"
        )


def _add_encode(commands: Commands) -> None:
    parser = commands.add_parser(
        "encode",
        help="keep the token embeddings of documents in a store",
        description=_ENCODE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_filling(parser)
    parser.add_argument(
        "--format",
        choices=VECTOR_FORMATS,
        help="of the vectors (default: int8, or that of the store)",
    )
    parser.add_argument(
        "--centroids",
        type=positive,
        metavar="N",
        help="of 8bit to 1bit, when the store is made (default: as many as ColBERT takes)",
    )
    add_length_option(parser, "document")
    add_device_options(parser, "auto, cpu, cuda or cuda:N")


def _add_tokenize(commands: Commands) -> None:
    parser = commands.add_parser(
        "tokenize",
        help="keep the token ids of documents in a store",
        description=_TOKENIZE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_filling(parser)
    parser.add_argument(
        "--template", metavar="NAME", help='of a decoder\'s input, a .json file, or "pair": none'
    )


def _add_filling(parser: argparse.ArgumentParser) -> None:
    """What documents go into a store."""
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
        "--input-format",
        choices=FORMATS,
        help=f"of DOCUMENTS; {FORMAT_HELP}",
    )
    parser.add_argument(
        "--append",
        action="store_true",
        help="append all of DOCUMENTS if it does not begin with the lines added last; the rest of "
        "an unfinished file is given up",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress, no summary")


def _add_explain(commands: Commands) -> None:
    parser = commands.add_parser("explain", help="show which tokens make up a document's score")
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--query", required=True, type=valid_text)
    parser.add_argument(
        "--document",
        required=True,
        action="append",
        type=valid_text,
        metavar="TEXT",
        help="may be given several times; the best comes first",
    )
    parser.add_argument("--store", help="where the document is stored; its vectors there count")
    parser.add_argument(
        "--candidate",
        action="append",
        type=valid_text,
        metavar="ID",
        help="the document's id there, one for each --document; TEXT must be its text, of which "
        "only the number of tokens is checked",
    )
    parser.add_argument(
        "--html", metavar="FILE", help="a page; - for standard output, without the table"
    )
    add_output_format(
        parser, "a table (the default), or one JSON object a document", "table", "jsonl"
    )
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto")
    add_length_option(parser, "query", "document")
    add_device_options(parser, "auto, cpu, cuda or cuda:N")


def _add_calibrate(commands: Commands) -> None:
    parser = commands.add_parser(
        "calibrate",
        help="measure when candidates may stop before the last layer",
        description=_CALIBRATE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "--queries", required=True, metavar="FILE", help=f'{RECORDS} with "id" and "text"'
    )
    parser.add_argument(
        "--candidates",
        required=True,
        metavar="FILE",
        help=f'{RECORDS} with "query", the id of one, and "text"; some 100 of each query',
    )
    parser.add_argument(
        "--top-k", type=positive, default=10, metavar="K", help="wanted in the end (default: 10)"
    )
    parser.add_argument(
        "--recall",
        type=share,
        default=0.99,
        metavar="R",
        help="share of the top K that should survive, a mean over queries (default: 0.99)",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="where margins go (default: a file in the model's folder; of a model of the hub there "
        "is none); - for standard output, and the table goes to standard error",
    )
    parser.add_argument(
        "--layers",
        type=layer_numbers,
        metavar="L,L,...",
        help="exit layers where candidates may stop (default: all)",
    )
    parser.add_argument(
        "--cutoff-layer",
        type=positive,
        metavar="L",
        help="the layer after which scores count (default: the last)",
    )
    parser.add_argument(
        "--seed", type=positive, default=1, metavar="N", help="of the split (default: 1)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress, no summary")
    add_input_format(parser, "both files", OBJECTS)
    add_reranker_options(parser)


def _add_verify(commands: Commands) -> None:
    parser = commands.add_parser(
        "verify", help="compare a model's scores with sentence-transformers or transformers"
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "--pairs",
        metavar="FILE",
        help=f'{RECORDS} with "query" and "document", in place of those that are built in; - for '
        "standard input",
    )
    add_input_format(parser, "FILE", OBJECTS)
    add_output_format(parser, "a table (the default), or one JSON object", "table", "jsonl")
    parser.add_argument("--max-length", type=positive, metavar="N", help="tokens of a pair")
    parser.add_argument(
        "--template", metavar="NAME", help='of a decoder\'s input, a .json file, or "pair": none'
    )
    parser.add_argument(
        "--instruction", type=valid_text, metavar="TEXT", help="in place of the template's own"
    )
    add_length_option(parser, "query", "document")
    add_device_options(parser, "auto, cpu, cuda or cuda:N")


def _add_info(commands: Commands) -> None:
    parser = commands.add_parser(
        "info", help="show versions and backends, or what a model or a store is"
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--models", action="store_true", help="which models run, and by what")
