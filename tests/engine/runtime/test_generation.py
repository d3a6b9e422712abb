"""Greedy generation: the tokens of transformers' generate, whatever happens on the way."""

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoders import PECULIAR, SIZES, make

from packrank.errors import InputError, ModelError
from packrank.models import CausalModel, CausalSettings, GenerativeModel, load_model
from packrank.request import Int32
from packrank.runtime.generation import Generation, Generator

VOCABULARY, POSITIONS = SIZES["vocab_size"], SIZES["max_position_embeddings"]
STOPS = (11, 50)


def load(folder: Path, head: Any = "vocabulary") -> CausalModel:
    causal = CausalSettings(head=head, true_token_id=7)
    model = load_model(folder, device="cpu", dtype=torch.float32, causal=causal)
    assert isinstance(model, CausalModel)
    return model


def prompt(rng: np.random.Generator, most: int = POSITIONS - 24) -> Int32:
    return rng.integers(1, VOCABULARY, rng.integers(1, most + 1)).astype(np.int32)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, GenerativeModel]:
    folder = tmp_path_factory.mktemp("qwen")
    torch.manual_seed(0)
    reference = make("Qwen3", "ForCausalLM")
    reference.save_pretrained(folder)
    model = load(folder)
    assert isinstance(model, GenerativeModel)
    return reference, model


def theirs(reference: Any, request: Generation) -> list[int]:
    """What transformers generates."""
    ids = torch.from_numpy(request.token_ids)[None].long()
    out = reference.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=request.max_tokens,
        min_new_tokens=request.min_tokens,
        eos_token_id=list(request.stop_token_ids) or None,
        pad_token_id=0,
    )
    found: list[int] = out[0, ids.shape[1] :].tolist()
    return found[:-1] if found and found[-1] in request.stop_token_ids else found


def ours(
    model: CausalModel, requests: list[Generation], **options: Any
) -> tuple[list[list[int]], Generator]:
    generator = Generator(model, **options)
    for number, request in enumerate(requests):
        generator.add(number, request)
    found = dict(generator.finished())
    return [found[number] for number in range(len(requests))], generator


def draw(
    rng: np.random.Generator, count: int, most: int = POSITIONS - 24, limit: int = 24
) -> list[Generation]:
    """Requests of all kinds: with and without stop tokens, at once or not before some tokens."""
    limits = rng.integers(1, limit, count).tolist()
    return [
        Generation(
            prompt(rng, most),
            max_tokens=tokens,
            min_tokens=min(int(rng.choice([0, 5])), tokens),
            stop_token_ids=STOPS if rng.random() < 0.7 else (),
        )
        for tokens in limits
    ]


@pytest.mark.parametrize("family", PECULIAR)
def test_the_tokens_of_transformers(family: str, tmp_path: Path, thorough: bool) -> None:
    reference = make(family, "ForCausalLM")
    reference.save_pretrained(tmp_path)
    requests = draw(np.random.default_rng(0), 200 if thorough else 20)
    model = load(tmp_path)
    found, generator = ours(model, requests, budget_tokens=64, cache_bytes=1 << 20)
    stopped = 0
    for request, got in zip(requests, found, strict=True):
        want = theirs(reference, request)
        assert got == want
        stopped += len(got) < request.max_tokens
    assert generator.generated_tokens == sum(map(len, found))
    assert stopped or not thorough


def page_bytes(model: CausalModel, size: int) -> int:
    assert isinstance(model, GenerativeModel)
    return model.page_bytes(size)


@pytest.mark.parametrize("size", [1, 3, 16])
@pytest.mark.parametrize("budget", [1, 7, 500])
def test_evictions_and_pages_change_no_token(
    qwen: tuple[Any, GenerativeModel], size: int, budget: int
) -> None:
    _, model = qwen
    requests = draw(np.random.default_rng(1), 12, 10, 48)
    want, roomy = ours(model, requests, cache_bytes=1 << 24)
    assert roomy.evictions == 0
    most = max(len(r.token_ids) + r.max_tokens - 1 for r in requests)
    tight = (-(-most // size) + 1) * page_bytes(model, size)
    got, generator = ours(
        model, requests, budget_tokens=budget, cache_bytes=tight, page_tokens=size
    )
    assert got == want
    assert len(generator._pages) == generator._pages.count
    if budget > 1:
        assert generator.evictions > 0


def test_requests_come_at_any_time(qwen: tuple[Any, GenerativeModel], thorough: bool) -> None:
    """Also between results; what others ask for changes no token."""
    _, model = qwen
    for seed in range(20 if thorough else 3):
        rng = np.random.default_rng(seed)
        requests = draw(rng, 30)
        alone = [ours(model, [request], cache_bytes=1 << 20)[0][0] for request in requests]
        limit = int(rng.integers(20, 60)) * page_bytes(model, 4)
        generator = Generator(
            model, budget_tokens=int(rng.integers(1, 90)), cache_bytes=limit, page_tokens=4
        )
        coming, found = list(enumerate(requests)), dict[Hashable, list[int]]()
        while coming:
            for _ in range(rng.integers(1, 6)):
                if coming:
                    generator.add(*coming.pop())
            for key, tokens in generator.finished():
                found[key] = tokens
                while coming and rng.random() < 0.6:
                    generator.add(*coming.pop())
                if rng.random() < 0.2:
                    break
        found |= dict(generator.finished())
        assert [found[number] for number in range(len(requests))] == alone


def test_decoding_is_done_together(qwen: tuple[Any, GenerativeModel]) -> None:
    _, model = qwen
    requests = [Generation(np.arange(1, 9, dtype=np.int32), max_tokens=10) for _ in range(16)]
    found, generator = ours(model, requests, budget_tokens=128, cache_bytes=1 << 24)
    assert generator.steps == 10
    assert all(tokens == found[0] for tokens in found)
    assert (generator.prompt_tokens, generator.generated_tokens) == (16 * 8, 160)


def test_long_prompts_are_read_beside_what_others_generate(
    qwen: tuple[Any, GenerativeModel],
) -> None:
    _, model = qwen
    generator = Generator(model, budget_tokens=5, cache_bytes=1 << 22)
    generator.add("short", Generation(np.arange(1, 3, dtype=np.int32), max_tokens=4))
    generator.add("long", Generation(np.arange(1, 40, dtype=np.int32), max_tokens=1))
    done = [key for key, _ in generator.finished()]
    assert done == ["short", "long"]
    assert generator.steps == 9  # 3 tokens of the long one, 4 in three steps, then 5 at a time


def test_stop_tokens_wait_for_min_tokens(qwen: tuple[Any, GenerativeModel]) -> None:
    _, model = qwen
    rng = np.random.default_rng(2)
    for _ in range(10):
        ids = prompt(rng)
        [free], _ = ours(model, [Generation(ids, max_tokens=8)], cache_bytes=1 << 20)
        stop = free[3]
        first = free.index(stop)
        [cut], _ = ours(model, [Generation(ids, 8, stop_token_ids=(stop,))], cache_bytes=1 << 20)
        assert cut == free[:first]
        [late], _ = ours(
            model,
            [Generation(ids, 8, min_tokens=8, stop_token_ids=(stop, 10**6))],
            cache_bytes=1 << 20,
        )
        assert len(late) == 8
        assert stop not in late
        assert late[:first] == free[:first]


def test_only_what_is_allowed_comes(qwen: tuple[Any, GenerativeModel]) -> None:
    """A permutation of some tokens, as a listwise reranker's identifiers, then a stop token."""
    reference, model = qwen
    names, stop, seen = [5, 80, 33, 2], 9, []

    def left(so_far: list[int]) -> Any:
        seen.append(list(so_far))
        rest = [name for name in names if name not in so_far]
        return np.array(rest[::-1] * 2 if rest else [stop])

    rng = np.random.default_rng(3)
    requests = [
        Generation(prompt(rng), 20, stop_token_ids=(stop,), allowed=left if n % 2 else None)
        for n in range(6)
    ]
    found, _ = ours(model, requests, cache_bytes=1 << 22)
    for request, got in zip(requests, found, strict=True):
        if request.allowed is None:
            assert got == theirs(reference, request)
            continue
        assert sorted(got) == sorted(names)
        with torch.no_grad():
            logits = reference(torch.from_numpy(request.token_ids)[None].long()).logits[0, -1]
        assert got[0] == max(names, key=lambda name: float(logits[name]))
    assert [] in seen


def test_an_output_ends_where_nothing_is_allowed(qwen: tuple[Any, GenerativeModel]) -> None:
    _, model = qwen

    def twice(so_far: list[int]) -> Any:
        return np.array([4, 8] if len(so_far) < 2 else [])

    def stop_alone(so_far: list[int]) -> Any:
        return np.array([9])

    ids = np.array([3, 1], dtype=np.int32)
    requests = [
        Generation(ids, 9, allowed=twice),
        Generation(ids, 9, allowed=stop_alone, stop_token_ids=(9,)),
        Generation(ids, 9, min_tokens=2, allowed=stop_alone, stop_token_ids=(9,)),
    ]
    found, _ = ours(model, requests, cache_bytes=1 << 20)
    assert [len(tokens) for tokens in found] == [2, 0, 0]
    with pytest.raises(InputError, match="prompt 0: allowed gives 97, which is not among the mod"):
        ours(model, [Generation(ids, 9, allowed=lambda _: np.array([97]))], cache_bytes=1 << 20)


def test_of_equal_logits_the_lower_id(
    qwen: tuple[Any, GenerativeModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model = qwen

    def level(step: Any, cache: Any) -> torch.Tensor:
        return torch.ones(len(step.asked), VOCABULARY).index_fill_(1, torch.tensor([0, 1]), 0.0)

    monkeypatch.setattr(model, "next_logits", level)
    ids = np.array([3, 1], dtype=np.int32)
    requests = [
        Generation(ids, 1),
        Generation(ids, 1, allowed=lambda _: np.array([50, 40, 0, 60])),
        Generation(ids, 1, min_tokens=1, stop_token_ids=(2, 4)),
    ]
    found, _ = ours(model, requests, cache_bytes=1 << 20)
    assert found == [[2], [40], [3]]


def test_logits_that_are_no_numbers(
    qwen: tuple[Any, GenerativeModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """End their own request, and no other."""
    _, model = qwen
    right = model.next_logits

    def broken(step: Any, cache: Any) -> torch.Tensor:
        logits = right(step, cache)
        logits[step.token_ids[step.cu_seqlens[step.asked + 1] - 1] == 3] = torch.nan
        return logits

    sound = Generation(np.array([4, 5], dtype=np.int32), 2, allowed=lambda _: np.array([7, 8]))
    want, _ = ours(model, [sound], cache_bytes=1 << 20)
    monkeypatch.setattr(model, "next_logits", broken)
    bad = Generation(np.array([5, 3], dtype=np.int32), 2)
    found, _ = ours(model, [bad, sound], cache_bytes=1 << 20)
    assert found == [None, *want]


def test_what_is_dropped_leaves_its_pages(qwen: tuple[Any, GenerativeModel]) -> None:
    _, model = qwen
    generator = Generator(model, cache_bytes=page_bytes(model, 16) * 3, budget_tokens=8)
    request = Generation(np.arange(1, 30, dtype=np.int32), 4)
    want, _ = ours(model, [request], cache_bytes=1 << 20)
    for _ in range(3):
        for key in range(3):
            generator.add(key, request)
        assert next(generator.finished()) == (0, want[0])
        generator.clear()
    assert list(generator.finished()) == []


def wrong_position(step: Any) -> None:
    step.lengths[np.diff(step.cu_seqlens) == 1] -= 1


def wrong_page(step: Any) -> None:
    step.table[:, 0] = step.table[:, 1]


@pytest.mark.parametrize("change", [wrong_position, wrong_page])
def test_a_mistake_would_be_seen(
    qwen: tuple[Any, GenerativeModel],
    change: Callable[[Any], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the fourth step on, it changes tokens."""
    _, model = qwen
    rng = np.random.default_rng(4)
    ids = [rng.integers(1, VOCABULARY, 12).astype(np.int32) for _ in range(8)]
    requests = [Generation(one, max_tokens=20) for one in ids]
    want, _ = ours(model, requests, cache_bytes=1 << 22, page_tokens=4)
    run, steps = model.next_logits, []

    def run_and_err(step: Any, cache: Any) -> torch.Tensor:
        steps.append(step)
        if len(steps) >= 4:
            change(step)
        return run(step, cache)

    monkeypatch.setattr(model, "next_logits", run_and_err)
    got, _ = ours(model, requests, cache_bytes=1 << 22, page_tokens=4)
    assert len(steps) == 20
    assert got != want


def test_refusals(qwen: tuple[Any, GenerativeModel], tmp_path: Path) -> None:
    reference, model = qwen
    ids = np.arange(1, 30, dtype=np.int32)
    small = Generator(model, cache_bytes=10 * page_bytes(model, 3), page_tokens=3)
    small.add("fits", Generation(ids, 2))
    with pytest.raises(InputError, match="prompt 'fits' is under way already"):
        small.add("fits", Generation(ids, 2))
    with pytest.raises(
        InputError,
        match="prompt 'long' has 29 tokens, and 3 may follow: the cache has pages for 30",
    ):
        small.add("long", Generation(ids, 3))
    roomy = Generator(model, cache_bytes=1 << 22)
    with pytest.raises(
        InputError,
        match="prompt 7 has 29 tokens, and 37 may follow: the model has positions for 64",
    ):
        roomy.add(7, Generation(ids, 37))
    roomy.add(7, Generation(ids, 36))
    with pytest.raises(InputError, match="prompt 'none' is empty"):
        roomy.add("none", Generation(ids[:0], 3))
    with pytest.raises(InputError, match="prompt 0: max_tokens is 0, expected at least 1"):
        roomy.add(0, Generation(ids, 0))
    with pytest.raises(InputError, match="prompt 0: token id 97 is not among the model's 97"):
        roomy.add(0, Generation(np.array([5, 97], dtype=np.int32), 1))
    with pytest.raises(InputError, match="budget_tokens is 0, expected at least 1"):
        Generator(model, budget_tokens=0)
    with pytest.raises(InputError, match="page_tokens is 0, expected at least 1"):
        Generator(model, page_tokens=0)
    with pytest.raises(InputError, match="cache_bytes is 5, and one page of 16 tokens takes"):
        Generator(model, cache_bytes=5)
    assert dict(small.finished()).keys() == {"fits"}
    reference.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="was loaded with another head than its vocabulary"):
        Generator(load(tmp_path, "tokens"))
