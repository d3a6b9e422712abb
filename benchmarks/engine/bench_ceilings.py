"""Ceilings of `packrank bench` against independent measurements of the same, in turns.

A copy by numpy, a product by torch and the tokenizers library alone: within a tenth.
"""

from importlib.metadata import version

import numpy as np
import pytest
import torch

from packrank import get_num_threads, set_num_threads
from packrank.bench.speed import ceilings
from packrank.bench.subjects.texts import Texts
from packrank.demo import default_model
from packrank.text.tokenizer import Tokenizer

CPU = torch.device("cpu")
ALLOWED = 0.1
ROUNDS = 15


def agree(race, case: str, ours: ceilings.Measured, other, amount: float, unit: str) -> None:
    """Each does the work often enough to forget what a call costs."""
    times = ceilings.repeats_for(ours.call, 0.2)

    def repeated() -> None:
        for _ in range(times):
            other()

    contestants = {"packrank": lambda: ours.call(times), "independent": repeated}
    medians = race("ceiling", case, contestants, times * amount, unit, rounds=ROUNDS)
    assert abs(medians["packrank"] / medians["independent"] - 1) <= ALLOWED, medians


def bench_copy(race):
    threads = get_num_threads()
    try:
        set_num_threads(1)  # numpy's copy has one
        [ours] = [one for one in ceilings.memory(CPU) if one.name == "copy, memory"]
        source = np.ones(ours.facts["bytes"] // 8, dtype=np.float32)
        target = np.zeros_like(source)
        agree(
            race, f"copy of {source.nbytes >> 20} MiB, one thread", ours,
            lambda: np.copyto(target, source), ours.amount / 1e9, "GB",
        )  # fmt: skip
    finally:
        set_num_threads(threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def bench_product(race, dtype):
    size, name = 1024, str(dtype)[6:]
    found = ceilings.product(CPU, name, size, size, size)
    ours = next(one for one in found if one.facts["by"] == "torch")
    a, b = torch.randn(2, size, size).to(dtype)
    agree(
        race, f"{size} x {size} x {size}, {name}", ours,
        lambda: torch.nn.functional.linear(a, b), ours.amount / 1e9, "GFLOP",
    )  # fmt: skip


def bench_tokenizer(race):
    import tokenizers

    pairs = Texts.named("msmarco-like").pairs(512, 16, seed=0)
    _, ours = ceilings.tokenization(Tokenizer.from_folder(default_model()), pairs, "MiniLM-L6")
    alone = tokenizers.Tokenizer.from_file(str(default_model() / "tokenizer.json"))
    alone.no_truncation()
    alone.no_padding()
    case = f"tokenizers {version('tokenizers')}, {len(pairs)} pairs, all cores"
    texts = [text for pair in pairs for text in pair]

    def encode() -> None:
        alone.encode_batch_fast(texts, add_special_tokens=False)

    agree(race, case, ours, encode, len(pairs), "pairs")
