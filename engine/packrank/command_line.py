"""What the commands share: types of options, the folder of a model, words on standard error."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from packrank.arguments import check_text
from packrank.demo import default_model
from packrank.errors import InputError
from packrank.hub import resolve

MODEL_HELP = 'a model folder, a hub name (organisation/name), or "default"'
_MOST_THREADS = 4096


def folder_of(model: str) -> Path:
    """The folder of a model as `MODEL_HELP` names it."""
    return default_model() if model == "default" else resolve(model)


def say(line: str) -> None:
    """Print to standard error, unless it is closed."""
    if sys.stderr is not None:
        print(line, file=sys.stderr)


def check_stdout() -> None:
    """Raise InputError if standard output is closed."""
    if sys.stdout is None:
        raise InputError("standard output is closed; send it to a file")


def printable(text: str) -> str:
    """A text with a "?" for what standard output cannot show."""
    encoding = sys.stdout.encoding or "utf-8"
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return shown.encode(encoding, "replace").decode(encoding)


def report(failures: Sequence[tuple[int, str]]) -> None:
    """Say of lines, by their numbers, why they were left out."""
    for number, reason in failures:
        say(f"packrank: line {number} was left out: {reason}")


def hides_bar(quiet: bool) -> bool:
    """Whether a progress bar would be in the way."""
    return quiet or sys.stderr is None or not sys.stderr.isatty()


def count_lines(path: str) -> int | None:
    """Lines of a file that can be read twice, for the progress bar."""
    if not os.path.isfile(path):
        return None
    with open(path, "rb") as source:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: source.read(1 << 20), b""))


def positive(text: str) -> int:
    """An option that is a whole number of at least 1."""
    value = int(text) if text.isdecimal() and len(text) < 20 else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def threads(text: str) -> int:
    """An option that is a number of threads."""
    value = positive(text)
    if value > _MOST_THREADS:
        raise argparse.ArgumentTypeError(f"{text} is more than {_MOST_THREADS}")
    return value


def valid_text(text: str) -> str:
    """An option that is a text."""
    try:
        check_text(text)
    except InputError:
        raise argparse.ArgumentTypeError("not valid in the encoding of this terminal") from None
    return text


def add_device_options(parser: argparse.ArgumentParser, devices: str) -> None:
    """Where and how a model runs."""
    parser.add_argument("--device", default="auto", help=f"{devices} (default: auto)")
    parser.add_argument(
        "--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16")
    )
    parser.add_argument("--threads", type=threads, metavar="N", help="of the processor")
