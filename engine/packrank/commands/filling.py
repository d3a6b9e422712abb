"""What the commands share that fill a store from a file of documents: encode and tokenize."""

import argparse
import os
from collections.abc import Callable

from tqdm import tqdm

from packrank.commands.messages import progress, report, say, saying_warnings
from packrank.commands.signals import Stopped, keep
from packrank.jobs.adding import Added
from packrank.jobs.documents import Documents


def documents_of(args: argparse.Namespace) -> tuple[Documents, int | None]:
    """The file of documents, which is opened once to see what it is, and how many lines it has."""
    documents = Documents(args.documents, args.input_format)
    if not os.path.isfile(args.documents):
        return documents, None
    with documents.open() as file:
        return documents, file.num_lines()


def name_of(model: str) -> str:
    """What a store calls a model: its path from the root, or its name."""
    return os.path.abspath(model) if os.path.isdir(model) else model


def fill(add: Callable[["tqdm[None]"], Added], total: int | None, quiet: bool) -> Added:
    """Run what adds documents, with progress, and say what was left out."""
    keep()
    try:
        with saying_warnings(), progress(total, "documents", quiet) as bar:
            added = add(bar)
    except (KeyboardInterrupt, Stopped):
        say("packrank: stopped; the same command goes on")
        raise
    report(added.failures, added.part)
    if added.num_failed > len(added.failures):
        say(f"packrank: {added.part}s left out in all: {added.num_failed}")
    return added


def summary(added: Added, done: str) -> str:
    """What adding came to, "encoded" or "tokenized", in a line."""
    return (
        f"documents {done}: {added.documents}, tokens: {added.tokens}, "
        f"{added.bytes_per_token:g} bytes/token, {added.part}s failed: {added.num_failed}, "
        f"{added.seconds:.1f} s, {added.documents / added.seconds:,.0f} documents/s"
    )
