"""What is declared of packrank score."""

import argparse

from packrank.commands.options import (
    MODEL_HELP,
    OBJECTS,
    RECORDS,
    add_input_format,
    add_model_options,
    amount,
    names,
    positive,
    word,
)

_SCORE = """\
Score rows of files. A row is a pair: "query" and "document" (and "title"), or "query_id" and
"document_id", whose texts are in the tables of --queries and --documents; or a query with a list,
"documents" or "document_ids"; or "query", "pos" and "neg", as FlagEmbedding trains on. Each is
written again with its "score" ("scores", "pos_scores" and "neg_scores"), in the order of INPUT;
what cannot be scored has an "error".

Run it again after it was stopped, with the same arguments, and it goes on: what was scored is safe
after some five seconds, or a batch, in OUT.job, or in OUT/_job of a folder. The output is the same.
"""


def add_score(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "score",
        help="score files of pairs",
        description=_SCORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "input",
        nargs="+",
        metavar="INPUT",
        help=f"files, folders or patterns of {RECORDS} .zst, Parquet, Arrow or a TREC run; - for "
        "standard input",
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="OUT",
        help="a file; with a slash at its end a folder of parts; - for standard output",
    )
    for what, beir in (("queries", "queries.jsonl"), ("documents", "corpus.jsonl")):
        parser.add_argument(
            f"--{what}",
            metavar="TABLE",
            help=f"texts of {what} by id, where INPUT has ids; a folder may hold {beir}",
        )
    parser.add_argument(
        "--tokens",
        metavar="STORE",
        help="token ids of documents by id, of packrank tokenize, in place of --documents",
    )
    for what in ("query", "document", "score"):
        parser.add_argument(
            f"--{what}-column", metavar="NAME", help="if it is called otherwise than above"
        )
    add_input_format(parser, "INPUT", [*OBJECTS, "trec"])
    parser.add_argument(
        "--output-format",
        choices=("jsonl", "parquet", "trec"),
        help="by default as the end of OUT says, else jsonl",
    )
    parser.add_argument(
        "--columns",
        type=names,
        metavar="NAME,...",
        help="of INPUT that are written beside the scores (default: all)",
    )
    parser.add_argument(
        "--top-k", type=positive, metavar="K", help="the best K of each query, with their ranks"
    )
    parser.add_argument("--label", metavar="NAME", help="of a model of several: whose score ranks")
    parser.add_argument("--tag", default="packrank", type=word, help="of a TREC run")
    _add_negatives(parser)
    parser.add_argument("--cutoff-layer", type=positive, metavar="L", help="layers to run")
    parser.add_argument(
        "--strict", action="store_true", help="end at the first row that cannot be scored"
    )
    parser.add_argument(
        "--json-log",
        metavar="FILE",
        help="progress as JSON Lines; - for standard error",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress, no summary")
    parser.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="score on the nodes of a Ray cluster, by default of the one that this machine is of, "
        "else on this machine; --threads is of each process",
    )
    parser.add_argument(
        "--ray-actors", type=positive, metavar="N", help="processes (default: as many as fit)"
    )
    parser.add_argument(
        "--ray-gpus",
        type=amount,
        metavar="F",
        help="of each process, 0.5 for two on one (default: 1, or 0 where there are none)",
    )
    add_model_options(parser)


def _add_negatives(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "hard negatives", "chosen as mine_hard_negatives of sentence-transformers does"
    )
    group.add_argument(
        "--negatives",
        type=positive,
        metavar="N",
        help="write rows of hard negatives, N of each query, in place of scores",
    )
    group.add_argument(
        "--margin",
        metavar="M",
        help="by how much a negative scores less than every positive of its query: 0.1, or 5%%",
    )
    group.add_argument("--max-score", type=float, metavar="S", help="of a negative")
    group.add_argument("--min-score", type=float, metavar="S", help="of a negative")
    group.add_argument(
        "--negatives-form",
        choices=("triplet", "n-tuple", "n-tuple-scores", "labeled-pair", "labeled-list"),
        help="of the rows (default: triplet)",
    )
    group.add_argument("--sampling", choices=("top", "random"), help="of negatives (default: top)")
    group.add_argument(
        "--positive-column",
        metavar="NAME",
        help="what is positive: of pairs a label above 0 (default: label), of lists a list "
        "(default: positive_ids or positives)",
    )
