"""Generation on the CPU: steps of many sequences and of one, prompts, and what memory allows.

Qwen2.5-0.5B's sizes, seeded random weights. A step reads every weight once, whoever it is for, and
the keys and values of its sequences; its floor is those bytes at the rate at which memory is read.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoder_models import PAD, VOCABULARY, qwen

from packrank.models import CausalSettings, GenerativeModel, load_model
from packrank.models.generative import Step
from packrank.request import Pack, Sequence
from packrank.runtime.generation import PAGE_TOKENS, Generation, Generator
from packrank_kernels import stream

WINDOWS, HAVE = 16, 1500  # a listwise window of 20 passages of some 60 tokens, and its prompt
PROMPT, NEW = 48, 8  # of the tokens that are compared with transformers'
READ, PASSES = 64 << 20, 3  # numbers that are read to know how fast memory is


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen(tmp_path_factory.mktemp("qwen"), "CausalLM")


def load(folder: Path, dtype: str) -> GenerativeModel:
    settings = CausalSettings(head="vocabulary")
    model = load_model(folder, device="cpu", dtype=getattr(torch, dtype), causal=settings)
    assert isinstance(model, GenerativeModel)
    return model


def ids_of(length: int, seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, PAD, length).astype(np.int32)


def keep(rows: Any, bench: str, case: str, value: float, unit: str) -> None:
    rows.add({"bench": bench, "case": case, "contestant": "packrank", "rate": value, "unit": unit})


def bytes_read_a_second() -> float:
    """From memory, by all threads, at the best."""
    numbers, seconds = torch.ones(READ), []
    for _ in range(PASSES):
        start = time.perf_counter()
        stream(numbers)
        seconds.append(time.perf_counter() - start)
    return 4 * READ / min(seconds)


def weight_bytes(folder: Path, dtype: str) -> int:
    """Of all matrices; the embedding is the head."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as weights:
        shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
    numbers = sum(int(np.prod(shape)) for shape in shapes if len(shape) == 2)
    return numbers * getattr(torch, dtype).itemsize


@pytest.mark.filterwarnings("ignore")
def check_tokens(folder: Path) -> None:
    """In float32, those of transformers' generate."""
    import transformers

    reference = transformers.Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = ids_of(PROMPT, 0)
    want = reference.generate(
        torch.from_numpy(ids)[None].long(),
        attention_mask=torch.ones(1, PROMPT, dtype=torch.long),
        do_sample=False,
        max_new_tokens=NEW,
        eos_token_id=None,
        pad_token_id=PAD,
    )[0, PROMPT:].tolist()
    generator = Generator(load(folder, "float32"), cache_bytes=64 << 20)
    generator.add(0, Generation(ids, NEW))
    [(_, got)] = generator.finished()
    assert got == want


def bench_steps(race, rows, folder):
    check_tokens(folder)
    for dtype in ("float32", "bfloat16"):
        _race_steps(race, rows, folder, dtype)


def _race_steps(race: Any, rows: Any, folder: Path, dtype: str) -> None:
    model = load(folder, dtype)
    pages = -(-HAVE // PAGE_TOKENS)
    cache = model.make_cache(WINDOWS * pages, PAGE_TOKENS)
    for kept in (*cache.keys, *cache.values):
        kept.normal_()
    numbers = np.random.default_rng(0).permutation(WINDOWS * pages).astype(np.int32)
    table, new = numbers.reshape(WINDOWS, pages), ids_of(WINDOWS, 1)

    def step(some: slice) -> torch.Tensor:
        mine = table[some]
        count = np.arange(len(mine), dtype=np.int32)
        starts = np.append(count, np.int32(len(mine)))
        have = np.full(len(mine), HAVE, dtype=np.int32)
        return model.next_logits(Step(new[some], starts, have, mine, count), cache)

    def alone() -> torch.Tensor:
        return torch.cat([step(slice(n, n + 1)) for n in range(WINDOWS)])

    together = step(slice(None))
    assert together.shape == (WINDOWS, VOCABULARY)
    assert torch.equal(together, alone())
    contestants = {"packrank": lambda: step(slice(None)), "one by one": alone}
    case = f"Qwen2.5-0.5B {dtype}, a token of {WINDOWS} sequences of {HAVE} tokens"
    medians = race("generation", case, contestants, WINDOWS, "tokens", rounds=5)
    rate, weights = bytes_read_a_second(), weight_bytes(folder, dtype)
    mine = HAVE * model.page_bytes(1)
    for name, floor in (
        ("packrank", weights + WINDOWS * mine),
        ("one by one", WINDOWS * (weights + mine)),
    ):
        share = 100 * floor / rate / medians[name]
        keep(rows, f"generation, of the rate of memory, {name}", case, share, "%")
    keep(rows, "generation, memory", case, rate / 1e9, "GB/s")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def bench_prompts(race, folder, dtype):
    """A prompt through the cache, and through the model without one."""
    model, ids = load(folder, dtype), ids_of(HAVE, 2)
    pack = Pack.of([Sequence(ids, np.zeros_like(ids))])
    found = {}

    def cached() -> None:
        generator = Generator(model, cache_bytes=128 << 20)
        generator.add(0, Generation(ids, 1))
        [(_, found["token"])] = generator.finished()

    def whole() -> None:
        found["logits"] = model.logits(pack)

    cached()
    whole()
    assert found["token"] == [int(found["logits"].argmax())]
    case = f"Qwen2.5-0.5B {dtype}, a prompt of {HAVE} tokens"
    contestants = {"packrank": cached, "without a cache": whole}
    race("prompts", case, contestants, HAVE, "tokens", rounds=3)
