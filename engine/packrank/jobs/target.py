"""Where a job's output goes: a stream, a file, or a folder of parts; and its journal beside it."""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packrank.errors import InputError
from packrank.jobs.journal import FOLDER, MANIFEST
from packrank.jobs.output import OutputFormat
from packrank.output_file import is_stdout

_ENDINGS: dict[str, OutputFormat] = {
    ".parquet": "parquet",
    ".trec": "trec",
    ".run": "trec",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
# Names of what is not written.
_OTHERS = (".csv", ".tsv", ".gz", ".zst", ".arrow", ".feather", ".xlsx")


@dataclass(frozen=True)
class Target:
    """Where output goes.

    Attributes:
        path: as it is named.
        format: of it.
        journal: the folder in which progress is kept; None of a stream, where none is.
        is_folder: whether it is a folder of parts.
    """

    path: str
    format: OutputFormat
    journal: Path | None
    is_folder: bool


def target_of(
    output: str,
    format: OutputFormat | None,
    given: Sequence[str],
    inputs: Sequence[str],
    *,
    tables: Sequence[str] = (),
    is_table: bool = False,
) -> Target:
    """What an output's name stands for.

    A name that ends in a slash, or of a folder, is a folder of parts. Else it is a file; standard
    output ("-"), pipes and devices are streams.

    Args:
        output: its name.
        format: of it; None: as the name's end says; else of a folder Parquet, where that is what
            is read; else JSON Lines.
        given: what is read, as it is named.
        inputs: the files of it.
        tables: what else is read.
        is_table: whether Parquet or Arrow is read.

    Raises:
        InputError: it cannot be written to, or is what is read.
    """
    end = Path(output.rstrip("/")).suffix.lower()
    if format is None and end in _OTHERS:
        raise InputError(f"{output} ends in {end}, which is not written; take .jsonl or .parquet")
    is_folder = output.endswith("/") or os.path.isdir(output)
    usual: OutputFormat = "parquet" if is_folder and is_table else "jsonl"
    chosen: OutputFormat = format or _ENDINGS.get(end, usual)
    is_piped = not all(os.path.isfile(name) for name in inputs)
    if is_stdout(output) or _is_stream(output) or is_piped:
        if is_folder:
            raise InputError(
                f"{output} is a folder, and what is read from a pipe is written to a file or a "
                "stream; name one"
            )
        return Target(output, chosen, None, False)
    inside = os.path.realpath(output)
    for folder in filter(os.path.isdir, given):
        if os.path.commonpath([inside, os.path.realpath(folder)]) == os.path.realpath(folder):
            raise InputError(f"{output} lies in {folder}, which is read; name another place")
    if is_folder:
        _check_folder(output, inputs)
        return Target(output, chosen, Path(output) / FOLDER, True)
    for name in (*inputs, *tables):
        if os.path.exists(output) and os.path.exists(name) and os.path.samefile(name, output):
            raise InputError(f"{output} is a file that is read; name another one to write")
    return Target(output, chosen, Path(f"{output}.job"), False)


def _is_stream(output: str) -> bool:
    try:
        return not stat.S_ISREG(os.stat(output).st_mode) and not os.path.isdir(output)
    except (OSError, ValueError):
        return False


def _check_folder(output: str, inputs: Sequence[str]) -> None:
    inside = os.path.realpath(output)
    for name in inputs:
        if os.path.commonpath([inside, os.path.realpath(name)]) == inside:
            raise InputError(f"{name}, which is read, lies in {output}; name another folder")
    if os.path.isdir(output):
        names = sorted(name for name in os.listdir(output) if not name.startswith("."))
        others = [name for name in names if name != FOLDER]
        if others and not os.path.exists(os.path.join(output, FOLDER, MANIFEST)):
            raise InputError(
                f"{output} holds no job, and holds {others[0]!r}; name a folder that is new or "
                "empty"
            )
