"""How far a command has come, said where there is no terminal to draw on."""

import io
import sys
import warnings

import pytest

from packrank.commands import messages
from packrank.commands.messages import LeftOut, progress, saying_warnings
from packrank.output_file import Discarded


def test_lines_come_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("tqdm.std.time", lambda: now)
    with progress(100_000, "pairs", quiet=False) as bar:
        for _ in range(100):
            now += 3.0
            bar.update(930)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "packrank: 3,720 of 100,000 pairs, 310 pairs/s"
    assert lines[1] == "packrank: 7,440 of 100,000 pairs, 310 pairs/s"
    assert len(lines) == 25  # one every 12 s


def test_what_has_no_total_or_takes_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("tqdm.std.time", lambda: now)
    with progress(None, "documents", quiet=False) as bar:
        bar.set_description_str("training the codec")
        bar.set_description_str()
        now += 20.0
        bar.update(5)
    assert capsys.readouterr().err == "packrank: 5 documents, 0.25 documents/s\n"


def test_little_work_and_quiet_say_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(messages, "_LINE_SECONDS", 0.0)
    with progress(2, "pairs", quiet=True) as bar:
        bar.update(2)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", None)
        with progress(2, "pairs", quiet=False) as bar:
            bar.update(2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(messages, "_LINE_SECONDS", 10.0)
    with progress(2, "pairs", quiet=False) as bar:
        bar.update(2)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with progress(2, "pairs", quiet=False) as bar:
        bar.update(2)
    assert "\r" in terminal.getvalue() and "2.00/2.00" in terminal.getvalue()


def test_the_first_ones_are_named_and_the_rest_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    left_out = LeftOut()
    for n in range(25):
        left_out.add(f"line {n}", "it is no number")
    assert left_out.first == "line 0: it is no number"
    left_out.report()
    lines = capsys.readouterr().err.splitlines()
    assert lines[19] == "packrank: line 19 was left out: it is no number"
    assert lines[20:] == ["packrank: and 5 more"]


@pytest.mark.parametrize(
    ("error", "said"), [(KeyboardInterrupt, True), (ValueError, True), (Discarded, False)]
)
def test_what_was_left_out_is_said_whatever_ends_the_work(
    capsys: pytest.CaptureFixture[str], error: type[BaseException], said: bool
) -> None:
    """But where the error is about nothing else."""
    with pytest.raises(error), LeftOut() as left_out:
        left_out.add("line 1", "it is no number")
        raise error
    line = "packrank: line 1 was left out: it is no number\n"
    assert capsys.readouterr().err == line * said


def test_warnings_are_said_whatever_ends_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), saying_warnings():
        warnings.warn("of another model", stacklevel=1)
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "packrank: of another model\n"
