"""Steps over a cache: the logits of whole sequences, to the bit; and transformers' logits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoders import PECULIAR, SIZES, make

from packrank.errors import ModelError
from packrank.models import CausalSettings, GenerativeModel, load_model
from packrank.models.generative import Cache, Step
from packrank.request import Int32, Pack, Sequence


def load(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> GenerativeModel:
    settings = CausalSettings(head="vocabulary")
    model = load_model(folder, device="cpu", dtype=dtype, causal=settings, **options)
    assert isinstance(model, GenerativeModel)
    return model


def draw(lengths: list[int]) -> list[Int32]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, SIZES["vocab_size"], n).astype(np.int32) for n in lengths]


def packed(sequences: list[Int32]) -> Pack:
    return Pack.of(Sequence(ids, np.zeros_like(ids)) for ids in sequences)


def step_of(
    sequences: list[Int32], so_far: list[int], counts: list[int], table: Int32, asked: list[int]
) -> Step:
    some = [n for n, count in enumerate(counts) if count]
    new = [sequences[n][so_far[n] :][: counts[n]] for n in some]
    return Step(
        token_ids=np.concatenate(new),
        cu_seqlens=np.cumsum([0, *map(len, new)], dtype=np.int32),
        lengths=np.array([so_far[n] + counts[n] for n in some], dtype=np.int32),
        table=table[some],
        asked=np.array([some.index(n) for n in asked], dtype=np.int32),
    )


def pages_of(lengths: list[int], size: int) -> Int32:
    """[N, M] int32, pages in no order; -1 where there is none."""
    counts = [-(-length // size) for length in lengths]
    numbers = np.random.default_rng(1).permutation(sum(counts)).astype(np.int32)
    table = np.full((len(lengths), max(counts)), -1, dtype=np.int32)
    for row, count in zip(table, counts, strict=True):
        row[:count], numbers = numbers[:count], numbers[count:]
    return table


def grow(model: GenerativeModel, sequences: list[Int32], steps: list[list[int]], size: int) -> Any:
    """[N, V]: the last logits of sequences that grow step by step."""
    table = pages_of([len(ids) for ids in sequences], size)
    cache: Cache = model.make_cache(int(table.max()) + 1, size)
    so_far, found = [0] * len(sequences), {}
    for counts in steps:
        asked = [
            n for n, ids in enumerate(sequences) if counts[n] and so_far[n] + counts[n] == len(ids)
        ]
        logits = model.next_logits(step_of(sequences, so_far, counts, table, asked), cache)
        assert logits.shape == (len(asked), model.num_labels)
        found |= dict(zip(asked, logits, strict=True))
        so_far = [a + b for a, b in zip(so_far, counts, strict=True)]
    return torch.stack([found[n] for n in range(len(sequences))])


LENGTHS = [30, 1, 17, 9]
STEPS = [[12, 1, 0, 0], [17, 0, 16, 3], [1, 0, 1, 5], [0, 0, 0, 1]]


@pytest.mark.parametrize("family", PECULIAR)
def test_logits_against_transformers(family: str, tmp_path: Path) -> None:
    reference = make(family, "ForCausalLM")
    reference.save_pretrained(tmp_path)
    model, sequences = load(tmp_path), draw(LENGTHS)
    with torch.no_grad():
        want = [reference(torch.from_numpy(ids)[None].long()).logits[0, -1] for ids in sequences]
    for got in (model.logits(packed(sequences)), grow(model, sequences, STEPS, 4)):
        np.testing.assert_allclose(got, torch.stack(want), rtol=0, atol=5e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", PECULIAR)
def test_a_cache_changes_no_bit(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    make(family, "ForCausalLM").save_pretrained(tmp_path)
    model, sequences = load(tmp_path, dtype), draw(LENGTHS)
    want = model.logits(packed(sequences))
    assert want.dtype == torch.float32
    for size in (1, 3, 16):
        assert torch.equal(grow(model, sequences, STEPS, size), want)


@pytest.mark.parametrize("tied", [True, False])
def test_the_matrix_stays_narrow_and_sums_do_not(tied: bool, tmp_path: Path) -> None:
    make("Qwen2", "ForCausalLM", tie_word_embeddings=tied).save_pretrained(tmp_path)
    model = load(tmp_path, torch.bfloat16)
    logits = model.logits(packed(draw([9])))
    assert not torch.equal(logits, logits.bfloat16().float())


@pytest.mark.parametrize("what", ["page", "position"])
def test_a_wrong_page_or_position_is_seen(what: str, tmp_path: Path) -> None:
    make("Qwen3", "ForCausalLM").save_pretrained(tmp_path)
    model, sequences = load(tmp_path), draw([9, 12])
    want = model.logits(packed(sequences))
    table = pages_of([9, 12], 4)
    cache = model.make_cache(6, 4)
    model.next_logits(step_of(sequences, [0, 0], [8, 11], table, [0, 1]), cache)
    last = step_of(sequences, [8, 11], [1, 1], table, [0, 1])
    if what == "page":
        last.table[0, 0] = last.table[1, 0]
    else:
        last.lengths[:] -= 1
    got = model.next_logits(last, cache)
    assert (got - want)[0].abs().max() > 1e-3


def test_pages_have_the_bytes_that_they_say(tmp_path: Path) -> None:
    make("Gemma2", "ForCausalLM").save_pretrained(tmp_path)
    model = load(tmp_path, torch.bfloat16)
    cache = model.make_cache(5, 3)
    sizes = [x.numel() * x.element_size() for x in (*cache.keys, *cache.values)]
    assert sum(sizes) == 5 * model.page_bytes(3)
    assert cache.keys[0].shape == (5, 3, 2, 16)


def test_attention_both_ways_is_refused(tmp_path: Path) -> None:
    make("Qwen2", "ForCausalLM", is_causal=False).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="attends both ways here, and cannot generate"):
        load(tmp_path)
