"""Options of `packrank rank` for models that judge several documents at a time."""

import argparse

from packrank.commands.options import positive, valid_text

METHODS = ("pointwise", "listwise", "first", "setwise", "pairwise")
ORDERS = ("allpair", "heapsort", "sliding")
# Option -> the methods that it is for.
OF_METHODS: dict[str, tuple[str, ...]] = {
    "order": ("pairwise", "setwise"),
    "prompt": ("pairwise",),
    "num_child": ("setwise",),
    "votes": ("setwise",),
    "window": ("listwise", "first"),
    "stride": ("listwise", "first"),
    "passage_words": ("listwise", "first"),
    "context": ("listwise", "first"),
    "system": ("listwise", "first"),
    "constrained": ("listwise",),
    "block_size": ("listwise",),
}


def add_joint_options(parser: argparse.ArgumentParser) -> None:
    """How documents are judged, and how many of them at a time."""
    parser.add_argument(
        "--method",
        choices=METHODS,
        help="each document by itself (pointwise); windows whose order the model writes (listwise; "
        "jina-reranker-v3 reads all at once) or begins to (first); the best of a few (setwise); "
        "the better of two (pairwise). By default what the model is known for; a plain chat model "
        "needs it",
    )
    parser.add_argument(
        "--order",
        choices=ORDERS,
        help="of pairwise and setwise: all pairs (pairwise alone), a heap (the default), or passes "
        "from the end to the start",
    )
    parser.add_argument(
        "--prompt",
        choices=("prp", "duot5"),
        help="of pairwise: in words, or as duoT5 was trained; by default what the name says",
    )
    parser.add_argument(
        "--num-child", type=positive, metavar="N", help="of setwise: compared with one (3)"
    )
    parser.add_argument(
        "--votes", type=positive, metavar="N", help="of setwise: times each question is asked (1)"
    )
    for name, metavar, what in (
        ("--window", "N", "documents that are ordered at a time (20)"),
        ("--stride", "N", "documents from one window to the next (10)"),
        ("--passage-words", "N", "words of a document (300)"),
        ("--context", "N", "tokens of a prompt and its answer (4096)"),
    ):
        parser.add_argument(
            name, type=positive, metavar=metavar, help=f"of listwise and first: {what}"
        )
    parser.add_argument(
        "--system",
        type=valid_text,
        metavar="TEXT",
        help='what a chat model is told to be; "": nothing',
    )
    parser.add_argument(
        "--constrained",
        action="store_true",
        default=None,
        help="of listwise: let nothing be written but an order of all documents of the window",
    )
    parser.add_argument(
        "--block-size", type=positive, metavar="N", help="of jina-reranker-v3: read at once (125)"
    )
