"""Early exits of long documents: the windows of one go on, or stop, together, by the best."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoders import layerwise_minicpm
from prompts import WORDS, byte_bpe

from packrank import InputError, Margins, Reranker
from packrank.commands.cli import main
from packrank_kernels.dispatch import TABLE

TOP_K, LAYERS, MARGIN = 3, (2, 3, 4, 5, 6), 0.3
Requests = list[tuple[str, list[str]]]


@pytest.fixture(scope="module", autouse=True)
def _no_interpreter() -> Iterator[None]:
    """Triton's is slow; without a GPU nobody else runs there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TABLE, "take_sequences", TABLE["take_sequences"][1:])
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Reranker:
    """Six layers, whose scores settle with depth, and pairs of 40 tokens."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("exits") / "model"
    layerwise_minicpm(folder, byte_bpe("<pad>", "<s>"), layers=6, settling=0.7)
    return Reranker(folder, max_length=40, long_documents="windows")


@pytest.fixture(scope="module")
def margins(model: Reranker) -> Margins:
    return Margins(
        model="the model",
        fingerprint=model._fingerprint,
        settings=model.exit_settings,
        top_k=TOP_K,
        final_layer=LAYERS[-1],
        layers=LAYERS[:-1],
        margins=(MARGIN,) * 4,
        recall=0.8,
        held_out_recall=1.0,
        held_out_low=0.9,
        held_out_high=1.0,
        dropped=(0.1,) * 4,
        saved=0.1,
        num_fitted=20,
        num_held_out=20,
        num_left_out=0,
        num_candidates=12,
        extrapolated=False,
    )


def some_requests(seed: int, count: int, size: int) -> Requests:
    """Of every third document several windows."""
    rng = np.random.default_rng(seed)

    def text(number: int) -> str:
        return " ".join(rng.choice(WORDS, rng.integers(1, 9) + 60 * (number % 3 == 0)))

    return [(text(1), [text(number) for number in range(size)]) for _ in range(count)]


def by_hand(logits: np.ndarray) -> tuple[list[int], list[int]]:
    """The best in order, and how many layers each document runs."""
    scores = logits.tolist()
    alive, ran = list(range(len(scores))), [LAYERS[0]] * len(scores)
    for stage in range(len(LAYERS) - 1):
        if len(alive) > TOP_K:
            threshold = sorted(scores[i][stage] for i in alive)[-TOP_K]
            alive = [i for i in alive if not scores[i][stage] + MARGIN < threshold]
        for i in alive:
            ran[i] = LAYERS[stage + 1]
    return sorted(alive, key=lambda i: (-scores[i][-1], i))[:TOP_K], ran


@pytest.mark.parametrize("budget_tokens", [1, 150, None])
def test_the_best_window_decides(
    model: Reranker, margins: Margins, budget_tokens: int | None
) -> None:
    other = model.opened_with(budget_tokens=budget_tokens)
    requests = some_requests(1, 5, 14)
    found = other.rank_many(requests, top_k=TOP_K, exit=margins)
    stopped = set()
    for (query, texts), ranking in zip(requests, found, strict=True):
        pairs = [(query, text) for text in texts]
        logits = model.score(pairs, cutoff_layers=LAYERS, activation="identity")
        best, ran = by_hand(logits)
        assert ranking.num_layers.tolist() == ran
        assert list(ranking) == [(i, logits[i, -1], texts[i]) for i in best]
        stopped |= set(ran)
    assert {2, 6} <= stopped


def test_margins_are_of_one_way_of_reading(model: Reranker, margins: Margins) -> None:
    query, texts = some_requests(2, 1, 6)[0]
    cut = model.opened_with(long_documents="truncate")
    assert margins.settings == cut.exit_settings | {"long_documents": "windows"}
    with pytest.raises(InputError, match="long_documents"):
        cut.rank(query, texts, top_k=TOP_K, exit=margins)
    with pytest.raises(InputError, match="long_documents"):
        model.rank(query, texts, TOP_K, exit=replace(margins, settings=cut.exit_settings))


def test_a_window_that_fails_takes_its_document_along(
    model: Reranker, margins: Margins, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, texts = some_requests(3, 1, 8)[0]
    others = [text for place, text in enumerate(texts) if place != 3]
    want = model.rank(query, others, TOP_K, exit=margins)
    inner = model._runner.model  # type: ignore[union-attr]
    usual = inner.exit_logits
    # Of all sequences, which are one pack, the second window of the document at 3.
    windows = model._scorer.reader.window([(query, text) for text in texts])
    assert windows.indices.count(3) > 2
    from_the_end = windows.indices.index(3) + 1 - len(windows.indices)

    def broken(state: Any, stage: int) -> torch.Tensor:
        found = usual(state, stage).clone()
        if stage == 0:
            found[from_the_end] = float("nan")
        return found

    monkeypatch.setattr(inner, "exit_logits", broken)
    ranking, failures = model.try_rank(query, texts, TOP_K, exit=margins)
    assert failures == {3: "the model's logits for it are not finite numbers"}
    assert ranking.num_layers[3] == 0
    assert [one[1:] for one in ranking] == [one[1:] for one in want]
    assert np.delete(ranking.num_layers, 3).tolist() == want.num_layers.tolist()


def test_calibration_measures_windows(
    model: Reranker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = some_requests(4, 24, 8)
    queries, candidates, out = (tmp_path / name for name in ("q.jsonl", "c.jsonl", "m.json"))
    queries.write_text(
        "".join(
            json.dumps({"id": n, "text": f"{query} {n}"}) + "\n"
            for n, (query, _) in enumerate(requests)
        )
    )
    candidates.write_text(
        "".join(
            json.dumps({"query": n, "text": text}) + "\n"
            for n, (_, texts) in enumerate(requests)
            for text in texts
        )
    )
    words = ["--queries", str(queries), "--candidates", str(candidates), "--top-k", "3"]
    words += ["--recall", "0.8", "--max-length", "40", "--output", str(out), "--quiet"]
    assert main(["calibrate", str(model.folder), *words, "--long-documents", "windows"]) == 0
    query, texts = some_requests(5, 1, 10)[0]
    assert len(model.rank(query, texts, 3, exit=out)) == 3
    with pytest.raises(InputError, match="long_documents"):
        model.rank(query, texts, 3, exit=out, long_documents="truncate")
