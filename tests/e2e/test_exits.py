"""Calibrated exits from texts to rankings, against the rule applied by hand to scores by layer."""

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoders import layerwise_minicpm, lightweight
from prompts import WORDS, byte_bpe

from packrank import InputError, Margins, Reranker
from packrank.commands.cli import main
from packrank_kernels.dispatch import TABLE

FILE, TOP_K, LAYERS = "packrank_exits.json", 3, (2, 3, 4, 5, 6)
Requests = list[tuple[str, list[str]]]


def some_requests(seed: int, count: int, size: int) -> Requests:
    rng = np.random.default_rng(seed)

    def text() -> str:
        return " ".join(rng.choice(WORDS, rng.integers(1, 9)))

    return [(text(), [text() for _ in range(size)]) for _ in range(count)]


def lines(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.fixture(scope="module", autouse=True)
def _no_interpreter() -> Iterator[None]:
    """Triton's is slow, and threads cannot share it; without a GPU nobody else runs there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TABLE, "take_sequences", TABLE["take_sequences"][1:])
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of six layers whose scores settle with depth, calibrated for its best three."""
    torch.manual_seed(3)
    root = tmp_path_factory.mktemp("exits")
    layerwise_minicpm(root / "model", byte_bpe("<pad>", "<s>"), layers=6, settling=0.7)
    requests = some_requests(0, 30, 12)
    queries = [{"id": i, "text": query} for i, (query, _) in enumerate(requests)]
    candidates = [{"query": i, "text": d} for i, (_, texts) in enumerate(requests) for d in texts]
    files = ["--queries", lines(root / "queries.jsonl", queries)]
    files += ["--candidates", lines(root / "candidates.jsonl", candidates)]
    words = ["--top-k", str(TOP_K), "--recall", "0.8", "--quiet"]
    assert main(["calibrate", str(root / "model"), *files, *words]) == 0
    return root / "model"


@pytest.fixture(scope="module")
def margins(folder: Path) -> list[float]:
    """As JSON has them."""
    [entry] = json.loads((folder / FILE).read_text())["entries"]
    assert entry["layers"] == list(LAYERS[:-1])
    return [np.inf if margin is None else margin for margin in entry["margins"]]


@pytest.fixture(scope="module")
def model(folder: Path) -> Reranker:
    return Reranker(folder)


@pytest.fixture(scope="module")
def measured(model: Reranker, margins: list[float]) -> Margins:
    """The same, from Python."""
    return Margins(
        model="the model",
        fingerprint=model._fingerprint,
        settings=model.exit_settings,
        top_k=TOP_K,
        final_layer=LAYERS[-1],
        layers=LAYERS[:-1],
        margins=tuple(margins),
        recall=0.8,
        held_out_recall=1.0,
        held_out_low=0.9,
        held_out_high=1.0,
        dropped=(0.1,) * len(margins),
        saved=0.1,
        num_fitted=20,
        num_held_out=20,
        num_left_out=0,
        num_candidates=12,
        extrapolated=False,
    )


def by_hand(
    logits: np.ndarray, margins: list[float], layers: tuple[int, ...] = LAYERS, k: int = TOP_K
) -> tuple[list[int], list[int]]:
    """The best k in order, and how many layers each of the candidates runs."""
    scores = logits.tolist()
    alive = list(range(len(scores)))
    ran = [layers[0]] * len(scores)
    for stage, margin in enumerate(margins):
        if len(alive) > k:
            threshold = sorted(scores[i][stage] for i in alive)[-k]
            alive = [i for i in alive if not scores[i][stage] + margin < threshold]
        for i in alive:
            ran[i] = layers[stage + 1]
    return sorted(alive, key=lambda i: (-scores[i][-1], i))[:k], ran


def all_logits(model: Reranker, query: str, texts: list[str]) -> np.ndarray:
    pairs = [(query, text) for text in texts]
    return model.score(pairs, cutoff_layers=LAYERS, activation="identity")


def test_who_stops_and_who_stays(model: Reranker, margins: list[float]) -> None:
    stopped = np.zeros(LAYERS[-1] + 1, dtype=int)
    recalls = []
    for query, texts in some_requests(1, 12, 16):
        logits = all_logits(model, query, texts)
        best, ran = by_hand(logits, margins)
        ranking = model.rank(query, texts, top_k=TOP_K, exit="calibrated")
        assert ranking.num_layers.tolist() == ran
        assert list(ranking) == [(i, logits[i, -1], texts[i]) for i in best]
        stopped += np.bincount(ran, minlength=len(stopped))
        recalls.append(len({*best} & {*np.argsort(-logits[:, -1], kind="stable")[:TOP_K]}) / TOP_K)
    assert (stopped[list(LAYERS)] > 0).all()
    assert stopped[LAYERS[-1]] < 12 * 16 / 2
    assert np.mean(recalls) >= 0.8


def test_the_work_says_what_exits_saved(model: Reranker) -> None:
    ((query, texts),) = some_requests(2, 1, 20)
    ranking = model.rank(query, texts, top_k=TOP_K, exit="calibrated")
    work = ranking.work
    assert work is not None
    before = model.num_tokens
    lengths = []
    for text in texts:
        model.score([(query, text)])
        lengths.append(model.num_tokens - before)
        before = model.num_tokens
    assert work.total == LAYERS[-1] * sum(lengths)
    assert work.saved_by_exits == int(((LAYERS[-1] - ranking.num_layers) * lengths).sum()) > 0
    assert work.saved_by_compression == 0
    assert 0 < work.computed < work.total


@pytest.mark.parametrize("budget_tokens", [1, 200, None])
def test_other_queries_change_nothing(folder: Path, model: Reranker, budget_tokens: Any) -> None:
    """Nor do the order of documents or threads."""
    requests = [*some_requests(3, 3, 8), ("nothing", []), ("a", ["b"]), *some_requests(4, 1, 24)]
    alone = [model.rank(*one, top_k=TOP_K, exit="calibrated") for one in requests]
    other = Reranker(folder, budget_tokens=budget_tokens, share_prefixes=budget_tokens != 200)
    for found in (
        other.rank_many(requests, top_k=TOP_K, exit="calibrated"),
        other.rank_many(requests[::-1], top_k=TOP_K, exit="calibrated")[::-1],
    ):
        assert found == alone
        for one, two in zip(found, alone, strict=True):
            np.testing.assert_array_equal(one.num_layers, two.num_layers)
    with ThreadPoolExecutor(3) as pool:
        work = [pool.submit(other.rank, *one, top_k=TOP_K, exit="calibrated") for one in requests]
        assert [one.result() for one in work] == alone
    query, texts = requests[0]
    turned = other.rank(query, texts[::-1], top_k=TOP_K, exit="calibrated")
    assert turned.num_layers[::-1].tolist() == alone[0].num_layers.tolist()
    assert [ranked[1:] for ranked in turned] == [ranked[1:] for ranked in alone[0]]


def test_infinite_margins_drop_nothing(model: Reranker, measured: Margins) -> None:
    infinite = replace(measured, margins=(np.inf,) * len(measured.margins))
    for query, texts in some_requests(5, 3, 12):
        full = model.rank(query, texts, top_k=TOP_K)
        found = model.rank(query, texts, top_k=TOP_K, exit=infinite)
        assert found == full
        assert found.num_layers.tolist() == full.num_layers.tolist() == [LAYERS[-1]] * 12
        assert found.work is not None and full.work is not None
        assert found.work.saved_by_exits == 0
        assert found.work.total == full.work.total


def test_a_document_that_fails_is_no_candidate(model: Reranker) -> None:
    ((query, texts),) = some_requests(6, 1, 12)
    sound = model.rank(query, texts, top_k=TOP_K, exit="calibrated")
    ranking, failures = model.try_rank(
        query, [*texts[:4], "\ud800", *texts[4:]], top_k=TOP_K, exit="calibrated"
    )
    assert list(failures) == [4] and "lone surrogate" in failures[4]
    assert [ranked[1:] for ranked in ranking] == [ranked[1:] for ranked in sound]
    assert ranking.num_layers.tolist() == np.insert(sound.num_layers, 4, 0).tolist()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_length": 99}, "max_length 500, not with max_length 99"),
        ({"template": "bge-gemma"}, 'template "bge-minicpm-layerwise", not with template "bge-g'),
        ({"truncation": "off"}, 'truncation "longest_first", not with truncation "off"'),
    ],
)
def test_another_use_of_the_model_is_refused(
    folder: Path, options: dict[str, Any], words: str
) -> None:
    refused(Reranker(folder, **options), words)


def refused(model: Reranker, words: str, **options: Any) -> None:
    with pytest.raises(InputError) as raised:
        model.rank("a", ["b"] * 9, **{"top_k": TOP_K, "exit": "calibrated"} | options)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_was_not_measured_is_refused(model: Reranker, measured: Margins) -> None:
    refused(model, "measured with top_k 3, not with top_k 4; measure those", top_k=4)
    refused(model, "measured with cutoff_layer 6, not with cutoff_layer 5;", cutoff_layer=5)
    refused(model, "exit needs top_k", top_k=None)
    with pytest.raises(InputError, match="a query has 25 documents, and the margins hold for up"):
        model.rank_many([("a", ["b"]), ("a", ["b"] * 25)], top_k=TOP_K, exit=measured)
    refused(model, "exit is a int, expected 'calibrated', a file or Margins", exit=3)
    refused(model, "exit is a bool", exit=True)
    refused(model, "there are no margins in none.json; measure", exit="none.json")
    refused(model, "measured with top_k 3, not with top_k 9", exit=measured, top_k=9)
    # What a program makes up may name layers that have no head.
    made_up = replace(measured, layers=(1, 3, 4, 5))
    refused(model, "exit layer is 1, and the model has heads after 2 to 6 layers", exit=made_up)


def test_another_model_is_refused(folder: Path, measured: Margins, tmp_path: Path) -> None:
    torch.manual_seed(4)
    layerwise_minicpm(tmp_path / "other", byte_bpe("<pad>", "<s>"), layers=6)
    shutil.copy(folder / FILE, tmp_path / "other")
    other = Reranker(tmp_path / "other")
    refused(other, "this is another model, or its files have changed")
    refused(other, "this is another model, or its files have changed", exit=measured)


@pytest.mark.parametrize("damage", [b"", b"{}", b"[", b"\xff", None])
def test_a_damaged_file_is_refused(folder: Path, tmp_path: Path, damage: bytes | None) -> None:
    raw = (folder / FILE).read_bytes()
    path = tmp_path / "margins.json"
    path.write_bytes(raw.replace(b'"recall": 0.8', b'"recall": 0.9') if damage is None else damage)
    words = (
        "is no file of margins; name the one that" if damage is not None else "is a damaged file"
    )
    refused(Reranker(folder), words, exit=path)


@pytest.mark.parametrize("given", [False, True])
def test_the_command(
    folder: Path,
    model: Reranker,
    given: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ((query, texts),) = some_requests(7, 1, 14)
    source = lines(tmp_path / "documents.jsonl", [{"text": text} for text in texts])
    margins = str(shutil.copy(folder / FILE, tmp_path / "margins.json")) if given else "calibrated"
    words = ["--query", query, "--documents", source, "--top-k", str(TOP_K), "--json", "--summary"]
    words += ["--exit", margins]
    capsys.readouterr()
    assert main(["rank", str(folder), *words]) == 0
    *shown, summary = map(json.loads, capsys.readouterr().out.splitlines())
    ranking = model.rank(query, texts, top_k=TOP_K, exit="calibrated")
    assert [(row["line"] - 1, row["score"], row["layers"]) for row in shown] == [
        (ranked.index, ranked.score, LAYERS[-1]) for ranked in ranking
    ]
    layers = summary["summary"]["layers"]
    assert layers == {str(i): n for i, n in enumerate(ranking.num_layers.tolist(), start=1)}
    assert len(set(layers.values())) > 2
    work = summary["summary"]["token_layers"]
    assert work["saved_by_exits"] > 0
    assert work.pop("total") + work.pop("recomputed", 0) == sum(work.values())


@pytest.mark.parametrize("command", ["rank", "calibrate"])
def test_upstreams_heads_are_refused(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lightweight(tmp_path / "model", byte_bpe("<pad>", "<bos>"))
    files = ["--query", "a", "--documents", lines(tmp_path / "d", [{"text": "b"}])]
    files += ["--exit", "calibrated"]
    if command == "calibrate":
        queries = [{"id": i, "text": f"a {i}"} for i in range(20)]
        candidates = [{"query": i % 20, "text": "b"} for i in range(80)]
        files = ["--queries", lines(tmp_path / "queries.jsonl", queries)]
        files += ["--candidates", lines(tmp_path / "candidates.jsonl", candidates)]
    assert main([command, str(tmp_path / "model"), *files, "--top-k", "1"]) == 2
    shown = capsys.readouterr()
    [line] = shown.err.splitlines()
    assert "exits need the head that belongs to each layer" in line
    assert shown.out == ""


def test_exits_between_compressions(measured: Margins, tmp_path: Path) -> None:
    torch.manual_seed(5)
    lightweight(tmp_path / "model", byte_bpe("<pad>", "<bos>"))
    model = Reranker(
        tmp_path / "model", head_index="layer", compress_ratio=2, compress_layers=(1, 2, 3)
    )
    mine = replace(
        measured,
        fingerprint=model._fingerprint,
        settings=model.exit_settings,
        final_layer=4,
        layers=(2, 3),
        margins=(0.1, 0.2),
        dropped=(0.5, 0.5),
    )
    layers, stopped = (2, 3, 4), set()
    for query, texts in some_requests(8, 4, 12):
        pairs = [(query, text) for text in texts]
        logits = model.score(pairs, cutoff_layers=layers)
        best, ran = by_hand(logits, [0.1, 0.2], layers)
        ranking = model.rank(query, texts, top_k=TOP_K, exit=mine)
        assert ranking.num_layers.tolist() == ran
        assert list(ranking) == [(i, logits[i, -1], texts[i]) for i in best]
        assert ranking.work is not None and ranking.work.saved_by_compression > 0
        stopped |= {*ran}
    assert stopped == {*layers}
    refused(
        Reranker(tmp_path / "model", head_index="layer"),
        "2, compress_layers [1, 2, 3], not with compress_ratio 1, compress_layers []; measure",
        exit=mine,
    )
