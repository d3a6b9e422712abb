"""How a command ends that is stopped, or meets what nobody foresaw, and that nothing is left."""

import contextlib
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from packrank import Reranker
from packrank.commands import cli, scorer
from packrank.commands.cli import main
from packrank.jobs import run as run_file
from packrank.jobs.job import Job

OneSentence = Callable[..., None]


def rank(model: Path, documents: Path, *options: str) -> int:
    return main(["rank", str(model), "--query", "red", "--documents", str(documents), *options])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TypeError("no such\nthing"), "TypeError: no such was not foreseen"),
        (RecursionError("too deep"), "RecursionError: too deep was not foreseen"),
        (KeyError(), "KeyError was not foreseen"),
        (type("PanicException", (BaseException,), {})("boom"), "PanicException: boom was not"),
    ],
)
def test_what_nobody_foresaw_has_a_status_of_its_own(
    model: Path,
    documents: Path,
    one_sentence: OneSentence,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    words: str,
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("packrank.runtime.runner.Runner.submit", fail)
    assert rank(model, documents) == 3
    one_sentence(words, "--traceback")
    assert rank(model, documents, "--traceback") == 3
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_nobody_reads_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Broken())
    assert main(["rank", "no/such-model", "--query", "red", "--documents", "/dev/null"]) == 2


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_stopped_leaves_what_was_finished(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    named: bool,
) -> None:
    """Of a pipe, which cannot be read again, the rows; of a file a journal, and it goes on."""
    pairs, pipe, out = tmp_path / "pairs.jsonl", tmp_path / "pipe", tmp_path / "out"
    out.mkdir()
    (out / "o").write_text("before")
    content = b'{"query": "red", "document": "fox"}\n{"query": "red"}\n'
    pairs.write_bytes(content)
    os.mkfifo(pipe)
    real = run_file.score_windows

    def stopped(*args: Any, **options: Any) -> Any:
        yield from real(*args, **options)
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)  # as a supervisor may

    if named:
        monkeypatch.delattr(os, "O_TMPFILE")
    inherited = signal.signal(number, signal.SIG_DFL)  # nohup, for one, ignores SIGHUP
    try:
        with monkeypatch.context() as patch:
            patch.setattr(run_file, "score_windows", stopped)
            writer = threading.Thread(target=lambda: pipe.write_bytes(content))
            writer.start()
            asked = ["score", str(model), str(pipe), "--output", str(out / "o")]
            assert main(asked) == 128 + number
            writer.join()
            assert signal.getsignal(number) is signal.SIG_DFL
            assert (out / "o").read_text() == "before"
            rows = (out / "o.part").read_text().splitlines()
            assert [json.loads(row)["score"] is None for row in rows] == [False, True]
            assert len(list(out.iterdir())) == 2
            part, left_out = capsys.readouterr().err.splitlines()[-2:]
            assert part == f"packrank: {out / 'o.part'} has what was finished, rows: 2{ANEW}"
            assert left_out.startswith("packrank: line 2 was not scored: ")
            asked[2] = str(pairs)
            assert main(asked) == 128 + number
        assert (out / "o").read_text() == "before"
        assert "stopped; what was scored is safe" in capsys.readouterr().err
        monkeypatch.setattr(Reranker, "score_stream", lambda *_, **__: Nothing())
        assert main(asked) == 1
    finally:
        signal.signal(number, inherited)
    assert (out / "o").read_text().splitlines() == rows
    assert sorted(path.name for path in out.iterdir()) == ["o", "o.part"]
    assert "rows: 2, 2 of them before" in capsys.readouterr().err


class Nothing:
    """A stream of scores of no batch."""

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        raise StopIteration

    def close(self) -> None:
        pass


def test_an_interruption_keeps_whole_queries(
    model: Path,
    tmp_path: Path,
    documents: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    queries, out = tmp_path / "queries.jsonl", tmp_path / "out"
    lines = [f'{{"id": {n}, "text": "red"}}\n' for n in range(9)]
    queries.write_text("".join([*lines, '{"id": 9}\n']))
    original, calls = Reranker.try_rank_many, 0

    def interrupted(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return original(*args, **options)

    monkeypatch.setattr(Reranker, "try_rank_many", interrupted)
    asked = ["--queries", str(queries), "--documents", str(documents), "--json"]
    for kept in ("out.part", "out.part.2"):  # what is there is not lost
        calls = 0
        assert main(["rank", str(model), *asked, "--output", str(out)]) == 130
        rows = map(json.loads, (tmp_path / kept).read_text().splitlines())
        assert [row["query"] for row in rows] == ["0", "0", "1", "1", "2", "2"]
        assert "queries.jsonl, line 10 was left out: " in capsys.readouterr().err
    assert not out.exists()


def test_an_input_that_is_cut_off_is_scored_as_far_as_it_goes(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file in .gz says only at its end that this is missing."""
    row = json.dumps({"query": "red", "document": "fox", "note": "x" * 200}) + "\n"
    source, out = tmp_path / "cut.jsonl.gz", tmp_path / "out"
    source.write_bytes(gzip.compress(row.encode() * 500)[:-8])
    assert main(["score", str(model), str(source), "--output", str(out), "--quiet"]) == 1
    *rows, last = map(json.loads, out.read_text().splitlines())
    assert len({row["score"] for row in rows}) == 1 and len(rows) > 300
    assert "cut.jsonl.gz is damaged or cut off" in last["error"]
    assert "cut.jsonl.gz is damaged or cut off" in capsys.readouterr().err


def test_nothing_is_left_of_a_file_without_a_pair(
    model: Path, tmp_path: Path, one_sentence: OneSentence
) -> None:
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "out"
    for content, words in (('{"query": "red"}\n' * 3, "no column"), ("\n", "holds no pair")):
        pairs.write_text(content)
        assert main(["score", str(model), str(pairs), "--output", str(out)]) == 2
        one_sentence(str(pairs), words)
        assert list(tmp_path.glob("out*")) == []


ANEW = "; the same command begins from the start"

PROGRAM = """
import os, sys
from packrank.commands.cli import main
from packrank.jobs import run

run.score_windows = lambda *_, **__: os.kill(os.getpid(), int(sys.argv[1]))
sys.exit(main(["score", sys.argv[2], sys.argv[3], "--output", sys.argv[4], "--quiet"]))
"""


def test_a_program_that_is_stopped_ends_with_the_signals_status(
    model: Path, tmp_path: Path, thorough: bool
) -> None:
    """And leaves nothing behind, killed outright too."""
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "out"
    out.mkdir()
    pairs.write_text('{"query": "red", "document": "fox"}\n')
    for number in (signal.SIGTERM, signal.SIGKILL) if thorough else ():
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(int(number)), model, pairs, out / "o"],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            timeout=120,
        )
        assert done.stderr == ("" if number == signal.SIGKILL else "packrank: stopped\n")
        assert done.returncode == (-number if number == signal.SIGKILL else 128 + number)
        assert not list(out.iterdir())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_there_is_work_to_keep_a_signal_ends_at_once(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Whatever the libraries that are being imported make of an exception."""

    def imports(*_: Any, **__: Any) -> None:
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), number)
        raise AttributeError("half of a module")

    monkeypatch.setattr(cli, "_run", imports)
    child = os.fork()
    if child == 0:
        try:
            signal.signal(number, signal.SIG_DFL)  # who runs the tests may ignore it
            main(["info"])
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + number


@pytest.mark.parametrize("swallows", [True, False])
def test_an_interruption_while_a_model_loads_leaves_nothing(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    swallows: bool,
) -> None:
    """Also where a file has a name from the start, and whatever a library makes of it."""
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "out"
    pairs.write_text('{"query": "red", "document": "fox"}\n')

    def loads(*_: Any, **__: Any) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        if not swallows:
            raise AttributeError("half of a module")

    monkeypatch.setattr(scorer, "_opened", loads)
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main(["score", str(model), str(pairs), "--output", str(out)]) == 130
    finally:
        signal.signal(signal.SIGINT, inherited)
    assert [*tmp_path.glob("*out*"), *tmp_path.glob(".packrank-*")] == []
    assert capsys.readouterr().err == "packrank: stopped\n"


def test_an_interruption_that_a_library_takes_for_an_error_is_one(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "out"
    pairs.write_text('{"query": "red", "document": "fox"}\n')

    def converts(*_: Any, **__: Any) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise ValueError("an unfinished tensor") from None

    monkeypatch.setattr(Job, "run", converts)
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main(["score", str(model), str(pairs), "--output", str(out)]) == 130
    finally:
        signal.signal(signal.SIGINT, inherited)
    assert capsys.readouterr().err == "packrank: stopped\n"
