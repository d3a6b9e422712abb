"""Decoders on the CPU: what a shared prefix saves, what exits save, and transformers.

Seeded random weights (see decoder_models). Exits and transformers need --data: Qwen2's tokenizer,
and queries with their candidates by BM25. --thorough takes larger samples, for rows to keep.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoder_models import (
    FIRST_EXIT,
    HIDDEN,
    LAYERS,
    PAD,
    SETTLING,
    VOCABULARY,
    Requests,
    add_tokenizer,
    layerwise,
    qwen,
    qwen_flops,
    requests,
)
from numpy.typing import NDArray

from packrank import TEMPLATES, Margins, Ranking, Reranker
from packrank.checkpoint.fingerprint import fingerprint
from packrank.exits.calibration import calibrate
from packrank.models import CausalModel, CausalSettings, load_model
from packrank.request import Pack
from packrank.runtime.runner import Runner
from packrank.runtime.scheduler import packed_tokens, plan
from packrank.text.prompt import PromptLayout
from packrank.text.tokenizer import Tokenizer

COLLECTIONS = ("scifact", "cranfield")
CANDIDATES = 100
PREFIX, SHORTEST, LONGEST = 60, 50, 150  # tokens; of a document 100 on average
TOP_K, RECALL, CUTOFF = 10, 0.99, 28
WORDS = (10, 40)  # of a document of the layerwise model
NEIGHBOURS = 4  # candidates of a query in the race with transformers, and its batch


@pytest.fixture(scope="session")
def thorough(request: pytest.FixtureRequest) -> bool:
    chosen: bool = request.config.getoption("--thorough")
    return chosen


@pytest.fixture(scope="module")
def qwen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def data(data_dir: Path | None) -> Path:
    if data_dir is None:
        pytest.skip("needs --data: a tokenizer and collections")
    return data_dir


@pytest.fixture(scope="module")
def asked(data: Path) -> Requests:
    return requests(data, COLLECTIONS, CANDIDATES)


# Candidates, and rounds: by default, and thorough.
SHARED = {"bfloat16": ((50, 2), (100, 3)), "float32": ((20, 2), (100, 2))}


@pytest.mark.parametrize("dtype", SHARED)
def bench_shared_prefix(race, rows, qwen_folder, dtype, thorough):
    count, rounds = SHARED[dtype][thorough]
    model = load_model(
        qwen_folder, device="cpu", dtype=getattr(torch, dtype), causal=CausalSettings()
    )
    runner = Runner(model)
    rng = np.random.default_rng(0)
    lengths = PREFIX + rng.integers(SHORTEST, LONGEST + 1, count)
    cu_seqlens = np.append(0, np.cumsum(lengths)).astype(np.int32)
    ids = rng.integers(0, VOCABULARY, cu_seqlens[-1], dtype=np.int32)
    ids[cu_seqlens[:-1, None] + np.arange(PREFIX)] = ids[:PREFIX]
    pack = Pack(
        token_ids=ids,
        token_types=np.zeros_like(ids),
        cu_seqlens=cu_seqlens,
        queries=np.zeros(count, dtype=np.int32),
        shared=np.full(count, PREFIX, dtype=np.int32),
    )
    few = pack.take(np.arange(4))
    np.testing.assert_array_equal(runner.logits(few), runner.logits(alone(few)))
    found: dict[str, NDArray[np.float32]] = {}
    contestants = {
        "packrank": lambda: found.update(shared=runner.logits(pack)),
        "each with its prefix": lambda: found.update(alone=runner.logits(alone(pack))),
    }
    case = (
        f"Qwen2.5-0.5B {dtype}, {count} candidates of {lengths.mean() - PREFIX:.0f} tokens "
        f"under {PREFIX}"
    )
    medians = race("shared prefix", case, contestants, count, "candidates", rounds=rounds)
    np.testing.assert_array_equal(found["shared"], found["alone"])
    packs = map(pack.take, plan(lengths, runner.budget_tokens, pack.queries, pack.shared))
    tokens = sum(packed_tokens(each.lengths, each.queries, each.shared) for each in packs)
    rate = qwen_flops(tokens, count) / medians["packrank"] / 1e9
    keep(rows, "shared prefix, products", case, rate, "GFLOP/s")


def alone(pack: Pack) -> Pack:
    """The same sequences, of which nobody says that they share anything."""
    return replace(pack, queries=None, shared=None)


def keep(rows: Any, bench: str, case: str, value: float, unit: str) -> None:
    rows.add({"bench": bench, "case": case, "contestant": "packrank", "rate": value, "unit": unit})


# Queries to calibrate with, queries of a round, and rounds beside the first.
EXITS = ((60, 20, 4), (100, 25, 7))


@pytest.mark.parametrize("settling", SETTLING)
def bench_exits(race, rows, tmp_path, data, asked, settling, monkeypatch, thorough):
    if settling != "as published" and not thorough:
        pytest.skip("needs --thorough")
    num_fitted, per_round, rounds = EXITS[thorough]
    rng = np.random.default_rng(0)
    short = [
        (query, [" ".join(text.split()[: rng.integers(*WORDS)]) for text in texts])
        for query, texts in asked
    ]
    fitted, held_out = short[:num_fitted], short[num_fitted:]
    folder = add_tokenizer(layerwise(tmp_path, settling), data)
    ours = Reranker(folder, dtype="bfloat16", activation="identity")
    pairs = [(query, text) for query, texts in fitted for text in texts]
    exits = range(FIRST_EXIT, LAYERS + 1)
    scores = ours.score(pairs, cutoff_layers=exits).reshape(num_fitted, CANDIDATES, -1)
    depths = ", ".join(f"{agreement(scores, layer):.3f} at {layer}" for layer in (8, 16, 20, 28))
    case = (
        f"settling {settling} (correlation with layer {LAYERS} {depths}), hidden size {HIDDEN}, "
        f"top {TOP_K} of {CANDIDATES}, {ours.num_tokens / len(pairs):.0f} tokens a pair"
    )

    def margins(last: int, step: int) -> Margins:
        columns = slice(0, last - FIRST_EXIT + 1, step)
        return calibrate(
            list(scores[:, :, columns]),
            exits[columns],
            TOP_K,
            RECALL,
            model="layerwise",
            fingerprint=fingerprint(folder),
            settings=ours.exit_settings,
        )

    cut, whole = f"cutoff_layer={CUTOFF}", "all layers"
    options: dict[str, dict[str, Any]] = {
        "packrank": {"exit": margins(LAYERS, 1)},
        "exits at every 4th layer": {"exit": margins(LAYERS, 4)},
        f"the same, {cut}": {"exit": margins(CUTOFF, 4), "cutoff_layer": CUTOFF},
        cut: {"cutoff_layer": CUTOFF},
        whole: {},
    }
    contestants = {
        name: Rounds(partial(ours.rank_many, top_k=TOP_K, **chosen), held_out, per_round)
        for name, chosen in options.items()
    }
    for name, chosen in options.items():
        check_exits(ours, fitted[0], scores[0], **chosen)
        if "exit" in chosen:
            share = compaction(
                monkeypatch, partial(ours.rank_many, fitted[:per_round], TOP_K, **chosen)
            )
            keep(rows, "exits, compaction", f"{name}, {case}", 100 * share, "% of the forward")
    race("exits", case, contestants, per_round * CANDIDATES, "candidates", rounds=rounds)
    for name, contestant in contestants.items():
        found = contestant.rankings
        queries = f"{name}, {len(found)} held-out queries, settling {settling}"
        for truth in (whole, cut) if "cutoff_layer" in options[name] else (whole,):
            share = recall(found, contestants[truth].rankings)
            keep(rows, f"exits, recall of {truth}", queries, 100 * share, "%")
        layers = np.mean([ranking.num_layers.mean() for ranking in found])
        keep(rows, "exits, layers", queries, float(layers), "layers a candidate")


class Rounds:
    """A contestant that ranks the next queries at every call."""

    def __init__(
        self, rank: Callable[[Requests], list[Ranking]], asked: Requests, per_round: int
    ) -> None:
        self.rankings: list[Ranking] = []
        self._rank, self._asked, self._per_round = rank, asked, per_round

    def __call__(self) -> None:
        done = len(self.rankings)
        self.rankings += self._rank(self._asked[done : done + self._per_round])


def check_exits(
    ours: Reranker,
    asked: tuple[str, list[str]],
    scores: NDArray[np.float32],
    exit: Margins | None = None,
    cutoff_layer: int = LAYERS,
) -> None:
    """What is left has the very scores of the last layer; by exits, others have run fewer."""
    ranking = ours.rank(*asked, TOP_K, exit=exit, cutoff_layer=cutoff_layer)
    final = scores[:, cutoff_layer - FIRST_EXIT]
    left = np.array([ranked.index for ranked in ranking])
    np.testing.assert_array_equal([ranked.score for ranked in ranking], final[left])
    assert (ranking.num_layers[left] == cutoff_layer).all()
    assert (ranking.num_layers.min() < cutoff_layer) == (exit is not None)
    if exit is None:
        np.testing.assert_array_equal(left, np.argsort(-final, kind="stable")[:TOP_K])


def compaction(monkeypatch: pytest.MonkeyPatch, run: Callable[[], object]) -> float:
    """The share of the forward that goes into bringing survivors together."""
    seconds = dict.fromkeys(("begin", "gather", "advance", "exit_logits"), 0.0)

    def timed(name: str) -> Callable[..., Any]:
        method = getattr(CausalModel, name)

        def call(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = method(*args, **options)
            seconds[name] += time.perf_counter() - start
            return result

        return call

    with monkeypatch.context() as patch:
        for name in seconds:
            patch.setattr(CausalModel, name, timed(name))
        run()
    return seconds["gather"] / sum(seconds.values())


def agreement(scores: NDArray[np.float32], layer: int) -> float:
    """Correlation of the scores after some layers with those after all, a mean over queries."""
    of = [np.corrcoef(each[:, layer - FIRST_EXIT], each[:, -1])[0, 1] for each in scores]
    return float(np.mean(of))


def recall(rankings: list[Ranking], truth: list[Ranking]) -> float:
    """The share of the true top k that is found, a mean over queries."""
    pairs = zip(rankings, truth, strict=True)
    found = [len({one.index for one in a} & {one.index for one in b}) for a, b in pairs]
    return float(np.mean(found)) / TOP_K


# Queries, NEIGHBOURS candidates each, and rounds.
PADDED = ((3, 2), (6, 3))
CHECKED = 8


@pytest.mark.filterwarnings("ignore")
def bench_transformers(race, rows, data, asked, qwen_folder, thorough):
    num_queries, rounds = PADDED[thorough]
    folder = add_tokenizer(qwen_folder, data)
    pairs = []
    for place, (query, texts) in enumerate(asked[:num_queries]):
        ordered = sorted(texts, key=len)
        start = int((place + 0.5) / num_queries * len(texts)) - NEIGHBOURS // 2
        pairs += [(query, text) for text in ordered[start : start + NEIGHBOURS]]
    layout = PromptLayout(TEMPLATES["mxbai-v2"], Tokenizer.from_folder(folder), 32768)
    pack, failures = layout.lay_out(pairs)
    assert not failures

    def load(dtype: str, share_prefixes: bool = True) -> Reranker:
        return Reranker(
            folder,
            dtype=dtype,
            template="mxbai-v2",
            activation="identity",
            share_prefixes=share_prefixes,
        )

    few = pack.take(np.arange(CHECKED))
    expected = Padded(folder, torch.float32).score(few)
    exact = distance(load("float32").score(pairs[:CHECKED]), expected)
    assert exact <= 1e-5, exact
    ours, each, theirs = load("bfloat16"), load("bfloat16", False), Padded(folder, torch.bfloat16)
    bound = 2 * distance(theirs.score(few), expected)
    near = distance(ours.score(pairs[:CHECKED]), expected)
    assert near <= bound, (near, bound)
    np.testing.assert_array_equal(ours.score(pairs[:CHECKED]), each.score(pairs[:CHECKED]))
    case = (
        f"Qwen2.5-0.5B bfloat16, {num_queries} queries of {NEIGHBOURS} candidates, "
        f"{pack.lengths.mean():.0f} tokens a pair under mxbai-v2"
    )
    contestants = {
        "packrank": lambda: ours.score(pairs),
        "packrank, each with its prefix": lambda: each.score(pairs),
        f"transformers (sdpa, batch {NEIGHBOURS})": lambda: theirs.score(pack),
    }
    medians = race("decoder", case, contestants, len(pairs), "candidates", rounds=rounds)
    flops = qwen_flops(len(pack.token_ids), len(pairs))
    rate = flops / medians["packrank, each with its prefix"] / 1e9
    keep(rows, "decoder, products", f"{case}, each with its prefix", rate, "GFLOP/s")


class Padded:
    """transformers at its best: ids ready, sorted by length, few at a time."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        import transformers

        self._model = transformers.Qwen2ForSequenceClassification.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa"
        ).eval()

    @torch.inference_mode()
    def score(self, pack: Pack, batch: int = NEIGHBOURS) -> NDArray[np.float32]:
        order = np.argsort(-pack.lengths, kind="stable")
        out = np.empty(len(pack), dtype=np.float32)
        for start in range(0, len(pack), batch):
            chosen = order[start : start + batch]
            lengths = torch.from_numpy(pack.lengths[chosen]).long()
            mask = torch.arange(int(lengths.max())) < lengths[:, None]
            ids = torch.full(mask.shape, PAD)
            ids[mask] = torch.from_numpy(pack.take(chosen).token_ids).long()
            result = self._model(input_ids=ids, attention_mask=mask.long(), use_cache=False)
            out[chosen] = result.logits[:, 0].float().numpy()
        return out


def distance(scores: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Root mean squares: of the difference, over that of what is expected."""
    return float(np.linalg.norm(scores - expected) / np.linalg.norm(expected))
