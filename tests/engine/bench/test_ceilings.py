"""What is measured of a machine: what each call does, and how its rate follows from its time."""

import os

import pytest
import torch

from packrank.bench.speed import ceilings
from packrank.bench.speed.ceilings import Measured, measure
from packrank.demo import default_model
from packrank.text.tokenizer import Tokenizer

CPU = torch.device("cpu")


def test_a_rate_is_the_work_over_the_time() -> None:
    asked: list[int] = []

    def clock(call) -> float:
        call()
        return 2e-3 * asked[-1]

    one = Measured("x", "products", "op/s", asked.append, 50.0, {"large": True})
    other = Measured("y", "launch", "s", asked.append, 1.0, {})
    rate, launch = measure([one, other], rounds=3, clock=clock)
    assert rate.samples == pytest.approx([50.0 / 2e-3] * 3)
    assert launch.samples == pytest.approx([2e-3] * 3)
    assert (rate.unit, rate.facts) == ("op/s", {"large": True})


def test_each_level_of_memory_is_read_and_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "caches", lambda: {"L1": (1 << 15, 1), "L2": (1 << 20, 1)})
    monkeypatch.setattr(ceilings, "get_num_threads", lambda: 2)
    monkeypatch.setattr(ceilings, "_LARGEST_STREAM", 1 << 24)
    found = ceilings.memory(CPU)
    sizes = {one.name: one.facts["bytes"] for one in found}
    assert sizes == {
        "read, L1": 1 << 14, "copy, L1": 1 << 14, "read, L2": 1 << 19, "copy, L2": 1 << 19,
        "read, memory": 1 << 24, "copy, memory": 1 << 24,
    }  # fmt: skip
    moved = {one.name: one.amount for one in found}
    assert moved["read, L2"] == moved["copy, L2"] == 1 << 19
    for one in found:
        one.call(2)


def test_products_are_those_of_their_shape() -> None:
    for dtype in ceilings.PRODUCT_DTYPES:
        found = ceilings.product(CPU, dtype, 16, 32, 48, of="small")
        assert found, dtype
        for one in found:
            assert one.amount == 2 * 16 * 32 * 48
            assert one.facts | {"by": ""} == {
                "m": 16, "n": 48, "k": 32, "dtype": dtype, "of": "small", "by": ""
            }  # fmt: skip
            assert f"32 -> 48 of small, {one.facts['by']}" in one.name
    assert {one.facts["by"] for one in ceilings.product(CPU, "float32", 8, 8, 8)} >= {
        "torch", "packrank"
    }  # fmt: skip


def test_one_core_is_one_core_and_the_environment_is_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer, seen = Tokenizer.from_folder(default_model()), []

    def encode(texts: list[str]) -> None:
        seen.append((len(texts), os.environ.get("TOKENIZERS_PARALLELISM")))

    monkeypatch.setattr(tokenizer, "try_encode", encode)
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    alone, every = ceilings.tokenization(tokenizer, [("a", "b"), ("c", "d")], "it")
    assert (alone.amount, every.amount) == (2, 2)
    alone.call(1)
    every.call(2)
    assert seen == [(4, "false"), (4, None), (4, None)]
    assert "TOKENIZERS_PARALLELISM" not in os.environ
