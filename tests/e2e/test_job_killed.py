"""`packrank score`, stopped at any moment: it goes on, and the output has the same bytes."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from killing import KILL_AT, run_program

from packrank.commands.cli import main
from packrank.jobs import journal as journal_file
from packrank.jobs import parts as parts_file
from packrank.jobs import rows as rows_file
from packrank.jobs import score as score_file

WORDS = ["red", "blue", "fox", "owl"]

PROGRAM = (
    KILL_AT
    + """
import random, time
import pyarrow.parquet as pq
from packrank import set_num_threads
from packrank.commands.cli import main
from packrank.jobs import journal, parts, rows, score
from packrank.runtime import runner

parts._ROWS = 23
seed, most, wanted, source, *arguments = sys.argv[1:]
random.seed(int(seed))

kills = 0
while True:
    moment = random.randint(1, 60)
    if source.endswith(".parquet"):  # by somebody who likes other row groups
        pq.write_table(pq.read_table(source), source, row_group_size=random.randint(1, 99))
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        set_num_threads(random.choice((1, 2)))
        runner.CPU_BUDGET_TOKENS = random.choice((16, 64, 4096))
        rows.WINDOW_PAIRS = random.choice((1, 5, 17, 4096))
        score._FIRST_BATCH_PAIRS = random.choice((1, 3, 64))
        journal._COMMIT_SECONDS = random.choice((0.0, 0.0, 0.002, 60.0))
        if kills % 3 and kills < int(most):
            kill_at(moment)
        os._exit(main(arguments))
    if kills % 3 == 0 and kills < int(most):
        time.sleep(random.uniform(0, 0.5))
        try:
            os.killpg(child, signal.SIGKILL)
        except ProcessLookupError:
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not os.WIFEXITED(status):
        kills += 1
    elif kills == int(most) or os.WEXITSTATUS(status) > 1:
        sys.exit(os.WEXITSTATUS(status))
    else:  # too late to be killed: once more
        compare_and_remove(Path(arguments[3]), Path(wanted))
"""
)


def rows_of(kind: str, count: int) -> list[dict[str, Any]]:
    """Rows, some of which cannot be scored."""
    rng = np.random.default_rng(0)

    def text() -> str:
        return " ".join(rng.choice(WORDS, rng.integers(1, 9)))

    found: list[dict[str, Any]] = []
    for n in range(count):
        query = f"{WORDS[n // 7 % 4]} {n // 7}"
        if kind == "lists":
            documents: list[Any] = [text() for _ in range(rng.integers(0, 5))]
            found.append({"query": query, "documents": [*documents, *([None] * (n % 5 == 0))]})
        else:
            found.append({"id": n, "query": query, "document": "" if n % 9 == 0 else text()})
    return found


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def content_of(output: Path) -> dict[str, bytes]:
    """What an output holds; of a folder its parts."""
    if output.is_dir():
        return {path.name: path.read_bytes() for path in output.glob("part-*")}
    return {"": output.read_bytes()}


# Of the input, how rows are written, and more options.
CASES = {
    "lines": ("pairs.jsonl", "out.jsonl", ()),
    "parts": ("pairs.parquet", "out/", ("--output-format", "parquet")),
    "lists": ("lists.parquet", "out/", ("--output-format", "jsonl")),
    "best": ("pairs.parquet", "out.parquet", ("--top-k", "2")),
    "best-parts": ("pairs.jsonl", "out/", ("--top-k", "2", "--output-format", "parquet")),
}


@pytest.mark.parametrize("case", CASES)
def test_killed_at_random_moments_the_output_is_the_same(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, thorough: bool
) -> None:
    """By the clock and at calls to the system, half way through a write too.

    Every run has other threads, token budget, windows, batches and commits, and other row groups.
    """
    if case not in ("lines", "parts") and not thorough:
        pytest.skip("its long form alone: make proofs")
    monkeypatch.setattr(parts_file, "_ROWS", 23)
    name, output, options = CASES[case]
    source = write(tmp_path / name, rows_of(name.partition(".")[0], 90))
    slash = "/" if output.endswith("/") else ""
    (tmp_path / "undisturbed").mkdir()
    wanted = tmp_path / "undisturbed" / output
    arguments = ["score", str(model), str(source), "--output", *options, "--quiet"]
    arguments += ["--device", "cpu"]
    assert main([*arguments[:4], f"{wanted}{slash}", *arguments[4:]]) == 1
    killed, kills = tmp_path / output, 100 if thorough else 3
    given = ["score", str(model), "--output", f"{killed}{slash}", str(source), *options]
    status, said = run_program(PROGRAM, kills, wanted, source, *given, "--quiet", "--device", "cpu")
    assert status == 1, said[-2000:]
    assert content_of(killed) == content_of(wanted)
    assert not Path(f"{killed}.job").exists()


class Full(Exception):
    """The power is cut."""


@contextmanager
def failing(
    at: int, error: Callable[[], BaseException], *, for_good: bool = False
) -> Iterator[list[int]]:
    """The system refuses a call, the `at`th of those that write, or all from it on; how many."""
    calls, numbers = [0], count(1)

    def counted(original: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            number = next(numbers)  # threads count as well
            calls[0] = max(calls[0], number)
            if number == at or (for_good and number > at > 0):
                raise error()
            return original(*args, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("pwrite", "fsync", "replace", "mkdir"):
            patch.setattr(os, name, counted(getattr(os, name)))
        yield calls


def scene(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> tuple[Callable[[str], int], str]:
    """A job of many small commits and parts: a folder -> its exit status; and where output is."""
    monkeypatch.setattr(parts_file, "_ROWS", 23)
    monkeypatch.setattr(journal_file, "_COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(rows_file, "WINDOW_PAIRS", 16)
    monkeypatch.setattr(score_file, "_FIRST_BATCH_PAIRS", 8)
    name, output, options = CASES[case]
    source = write(tmp_path / name, rows_of("pairs", 60))
    slash = "/" if output.endswith("/") else ""

    def score(folder: str) -> int:
        out = f"{tmp_path / folder / output}{slash}"
        return main(["score", str(model), str(source), "--output", out, *options, "--quiet"])

    (tmp_path / "whole").mkdir()
    return score, output


def no_space() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("case", ["lines", "parts"])
def test_a_full_disk_is_told_and_the_same_command_goes_on(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: str,
    thorough: bool,
) -> None:
    """At every call that writes."""
    score, output = scene(model, tmp_path, monkeypatch, case)
    with failing(0, Full) as calls:
        assert score("whole") == 1
    wanted, total = content_of(tmp_path / "whole" / output), calls[0]
    assert total > 20
    for at in range(1, total + 1, 1 if thorough else 9):
        capsys.readouterr()
        (tmp_path / f"full-{at}").mkdir()
        with failing(at, no_space) as calls:
            status = score(f"full-{at}")
        if calls[0] < at:  # batches and threads met otherwise, and there were fewer
            assert status == 1
            continue
        assert status == 2, at
        [line] = [x for x in capsys.readouterr().err.splitlines() if "was not scored" not in x]
        assert "cannot be written: No space left on device" in line
        assert score(f"full-{at}") == 1
        assert content_of(tmp_path / f"full-{at}" / output) == wanted, at


class Disk:
    """What would be left of a folder if the power went: what was synced, by names that were."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[int, bytes] = {}  # by inode
        self._names: dict[Path, dict[str, int]] = {}
        self._held: list[int] = []  # open, so that nothing new gets their inodes
        self._fsync = os.fsync

    def fsync(self, file: int) -> None:
        self._fsync(file)
        path, found = Path(os.readlink(f"/proc/self/fd/{file}")), os.fstat(file)
        if path.is_dir():
            inside = [one for one in path.iterdir() if one.is_file()]
            self._names[path] = {one.name: one.stat().st_ino for one in inside}
        else:
            self._held.append(os.dup(file))
            with open(f"/proc/self/fd/{file}", "rb") as source:
                self._files[found.st_ino] = source.read()

    def cut(self) -> None:
        """Bring the folder to that: what took a name's place, or removed it, unsynced, did not."""
        for path in [one for one in self._folder.rglob("*") if one.is_file()]:
            path.unlink()
        for folder, names in self._names.items():
            for name, inode in names.items():
                (folder / name).write_bytes(self._files.get(inode, b""))
        for file in self._held:
            os.close(file)


@pytest.mark.parametrize("case", ["lines", "parts"])
def test_without_power_what_was_not_synced_is_lost_and_no_more(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, thorough: bool
) -> None:
    score, output = scene(model, tmp_path, monkeypatch, case)
    assert score("whole") == 1
    wanted = content_of(tmp_path / "whole" / output)
    for at in range(2, 60, 1 if thorough else 11):
        folder = tmp_path / f"cut-{at}"
        folder.mkdir()
        disk = Disk(folder)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", disk.fsync)
            with failing(at, Full, for_good=True):
                score(folder.name)
        disk.cut()
        assert score(folder.name) == 1
        assert content_of(folder / output) == wanted, at
        shutil.rmtree(folder)
