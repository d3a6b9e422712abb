"""Windows take a few seconds on any CPU, and follow from the documents alone on a GPU."""

from collections.abc import Callable

import pytest
import torch

from packrank.jobs import documents as documents_file
from packrank.jobs import pace as pace_file
from packrank.jobs.documents import next_window
from packrank.jobs.pace import WINDOW_CHARACTERS, Pace
from packrank.records.record import Record

Clock = Callable[[float], None]


@pytest.fixture
def advance(monkeypatch: pytest.MonkeyPatch) -> Clock:
    now = 0.0

    def advance(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(pace_file, "monotonic", lambda: now)
    return advance


@pytest.mark.parametrize("rate", [1, 100, 1500, 40_000, 10_000_000])
def test_a_window_takes_some_two_seconds(advance: Clock, rate: int) -> None:
    """Of characters a second; at most twice as many as the last one, at least one document."""
    pace = Pace(torch.device("cpu"), 512)
    records = (Record(number, {"text": "x" * 100}) for number in range(10**9))
    last = 2 * pace.characters
    for _ in range(12):
        texts = [str(record.fields["text"]) for record in next_window(records, pace)]
        characters = sum(map(len, texts))
        assert 100 <= characters <= 2 * last + 100
        last = max(characters, 1)
        with pace.kept(texts):
            advance(characters / rate)
    most = min(2 * rate, WINDOW_CHARACTERS, 100 * documents_file._WINDOW_DOCUMENTS)
    assert most / 1.1 - 100 <= characters <= most + 100


def test_what_the_model_does_not_read_takes_no_time(advance: Clock) -> None:
    """Else a long document that is cut would make the next window of short ones long."""
    pace = Pace(torch.device("cpu"), 64)
    with pace.kept(["x" * 1_000_000]):
        advance(1.0)
    assert pace.characters == 2 * 64 * 8


def test_windows_of_a_gpu_follow_from_the_documents(advance: Clock) -> None:
    pace = Pace(torch.device("cuda"), 512)
    for seconds in (0.001, 100.0):
        with pace.kept(["x"]):
            advance(seconds)
        assert pace.characters == WINDOW_CHARACTERS
