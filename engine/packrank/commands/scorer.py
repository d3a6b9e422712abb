"""The model of `packrank rank` and `packrank score`: a reranker, or late interaction."""

import argparse
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from packrank.checkpoint.kind import LATE, RERANKERS, expect
from packrank.commands.joint import open_joint
from packrank.commands.messages import say, saying_warnings
from packrank.commands.options import folder_of, reranker_options
from packrank.commands.signals import Stopped, check, keep
from packrank.errors import InputError
from packrank.jobs.facts import AnyScorer, Ranker, Scorer
from packrank.late_interaction import LateInteraction
from packrank.output_file import is_stdout, replacing
from packrank.reranker import Reranker

# Options that late interaction has no use for.
_RERANKER_ONLY = (
    "max_length",
    "truncation",
    "long_documents",
    "activation",
    "template",
    "instruction",
    "compress_ratio",
    "compress_layers",
    "head_index",
    "label",
    "cutoff_layer",
    "exit",
    "summary",
)
_LATE_ONLY = ("query_length", "document_length")


def open_model(args: argparse.Namespace) -> Scorer:
    """A reranker, or late interaction, whichever the folder is for."""
    model = _opened(args)
    check()
    return model


def open_ranker(args: argparse.Namespace) -> Ranker:
    """The same, or what ranks by several documents at a time."""
    model = open_joint(args, folder_of(args.model)) or _opened(args)
    check()
    return model


def _opened(args: argparse.Namespace) -> Scorer:
    folder, door, options = asked_for(args)
    if door is Reranker:
        return door(folder, **options)
    with saying_warnings():
        return door(folder, **options)


def asked_for(
    args: argparse.Namespace,
) -> tuple[Path, type[Reranker] | type[LateInteraction], dict[str, Any]]:
    """The folder of the model, the front door that it is for, and that one's options.

    Raises:
        InputError: an option is for the other door.
    """
    folder = folder_of(args.model)
    store = getattr(args, "store", None)
    if expect(folder, RERANKERS + LATE) in RERANKERS:
        if store is not None:
            raise InputError(f"--store is for late interaction, and {args.model} is a reranker")
        for option in _LATE_ONLY:
            if getattr(args, option) is not None:
                raise InputError(
                    f"--{option.replace('_', '-')} is for late interaction, and {args.model} is a "
                    "reranker; give --max-length"
                )
        return folder, Reranker, reranker_options(args)
    for option in _RERANKER_ONLY:
        if getattr(args, option, None) is not None:
            raise InputError(
                f"--{option.replace('_', '-')} is for rerankers, and {args.model} scores by "
                "late interaction; leave it out"
            )
    if "," in args.device:
        raise InputError(
            f"--device names several devices, and {args.model} scores by late interaction, which "
            "takes one"
        )
    names = ("device", "dtype", "query_length", "document_length")
    options = {name: getattr(args, name) for name in names}
    return folder, LateInteraction, options | ({} if store is None else {"store": store})


def report_cut(model: AnyScorer | Ranker, quiet: bool) -> None:
    """Say how many queries and documents late interaction has read in part."""
    if quiet or not isinstance(model, LateInteraction):
        return
    for what, count, side in (
        ("queries", model.num_cut_queries, model.settings.query),
        ("documents", model.num_cut_documents, model.settings.document),
    ):
        if count:
            say(f"packrank: {what} cut to {side.max_length} tokens: {count}")


@contextmanager
def sink_of(output: str) -> Iterator[TextIO]:
    """Where rows go; of a file that an error or a signal leaves unfinished the rows are kept."""
    kept = False

    def tell(part: str, lines: int) -> None:
        nonlocal kept
        kept = True
        say(
            f"packrank: {part} has what was finished, rows: {lines:,}; "
            "the same command begins from the start"
        )

    keep()  # or a file that has a name from the start would stay
    try:
        with replacing(output, tell) as sink:
            yield sink
    except (KeyboardInterrupt, Stopped):
        if not kept:
            say("packrank: stopped")
        raise


def check_no_source(output: str, *sources: str | None) -> None:
    """Raise InputError if the output is a file that is read, by whatever name."""
    if is_stdout(output) or not os.path.exists(output):
        return
    for source in sources:
        if source is not None and _is_source(source, output):
            raise InputError(f"{output} is a file that is read; name another one to write")


def _is_source(source: str, output: str) -> bool:
    """Whether the output is the file that is read, by whatever name."""
    if source != "-":
        return os.path.isfile(source) and os.path.samefile(source, output)
    try:
        opened = os.fstat(sys.stdin.fileno())
    except (AttributeError, OSError, ValueError):  # closed, or not of the system
        return False
    return stat.S_ISREG(opened.st_mode) and os.path.samestat(opened, os.stat(output))
