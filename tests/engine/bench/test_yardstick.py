"""Fixed work right beside each sample: what is kept of it, and by which clock."""

import pytest
import torch

from packrank.bench.report import Result
from packrank.bench.speed import yardstick
from packrank.bench.speed.ceilings import Measured, Repeated
from packrank.bench.speed.yardstick import Yardstick, keep


def empty() -> Result:
    return Result("Offline", "m", "float32", "long", "rate", "candidates/s", [])


def test_a_sample_has_the_geometric_mean_of_before_and_after() -> None:
    result = empty()
    for before, after in (({"a": 1.0, "b": 3.0}, {"a": 4.0, "b": 3.0}), ({"a": 9.0}, {"a": 1.0})):
        keep(result, before, after)
    assert result.beside == {"a": [2.0, 3.0], "b": [3.0]}


def test_what_lacks_a_look_is_not_accompanied() -> None:
    result = empty()
    assert not result.accompanied
    result.samples = [1.0, 2.0]
    result.beside = {"a": [1.0, 1.0], "b": [1.0, 1.0]}
    assert result.accompanied
    result.beside["b"].pop()
    assert not result.accompanied


def test_a_look_measures_each_work_once() -> None:
    asked: list[int] = []

    def clock(call) -> float:
        call()
        return 2.0 * asked[-1]

    one = Measured("x", "products", "op/s", asked.append, 50.0, {})
    beside = Yardstick({"x": Repeated.of(one, clock, 8.0)})
    calibrated = len(asked)
    assert beside.look() == beside.latest == {"x": 25.0}
    assert len(asked) == calibrated + 1
    assert asked[-1] == 4  # of 2 s each


def test_its_work_is_the_same_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports of other versions and moments are compared by it."""
    monkeypatch.setattr(yardstick, "SAMPLE_S", 1e-6)
    works = Yardstick.of(torch.device("cpu")).works
    facts = {name: work.ceiling.facts for name, work in works.items()}
    wanted = {"m": 1024, "k": 384, "n": 1536, "dtype": "float32", "by": "torch"}
    assert facts["product"].items() >= wanted.items()
    assert facts["copy"]["bytes"] == 1 << 26  # of which half are read
