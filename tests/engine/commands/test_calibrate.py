"""packrank calibrate: files in, a table out, and margins that serve what they were measured for."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from packrank.checkpoint.fingerprint import fingerprint
from packrank.commands import calibrate as calibrate_command
from packrank.commands.cli import main
from packrank.exits.margins import FILE, find, load

LAYERS = (8, 16, 24, 40)


class Layerwise:
    """Stands for a Reranker; a document is two numbers, its final score and its noise."""

    exit_layers: tuple[int, ...] = LAYERS
    made: list["Layerwise"]

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder, self.options = folder, options
        self.calls: list[tuple[int, list[int]]] = []
        self.made.append(self)

    @property
    def exit_settings(self) -> dict[str, Any]:
        return {"template": self.options.get("template", "yes-no")}

    def try_score(
        self, pairs: list[tuple[str, str]], *, activation: str, cutoff_layers: list[int]
    ) -> tuple[np.ndarray, dict[int, str]]:
        assert activation == "identity"
        self.calls.append((len(pairs), cutoff_layers))
        out = np.full((len(pairs), len(cutoff_layers)), np.nan, dtype=np.float32)
        reasons = {}
        for place, (query, document) in enumerate(pairs):
            assert query.startswith("query ")
            try:
                final, noise = map(float, document.split())
            except ValueError:
                reasons[place] = "it is no number"
            else:
                out[place] = [final + noise * (1 - layer / 40) for layer in cutoff_layers]
        return out, reasons


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Layerwise]]:
    monkeypatch.setattr(Layerwise, "made", [], raising=False)
    monkeypatch.setattr(calibrate_command, "Reranker", Layerwise)
    yield Layerwise.made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"weights")
    return path


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def records() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """40 queries, 12 candidates of each."""
    rng = np.random.default_rng(1)
    queries = [{"id": f"q{i}", "text": f"query {i}"} for i in range(40)]
    candidates = [
        {"query": f"q{i}", "text": "{:.4f} {:.4f}".format(*rng.normal(size=2))}
        for _ in range(12)
        for i in range(40)
    ]
    return queries, candidates


@pytest.fixture
def run(
    folder: Path, tmp_path: Path, records: tuple[list[dict[str, Any]], list[dict[str, Any]]]
) -> Callable[..., int]:
    def run(*options: str) -> int:
        queries = write(tmp_path / "queries.jsonl", records[0])
        candidates = write(tmp_path / "candidates.jsonl", records[1])
        files = ["--queries", str(queries), "--candidates", str(candidates)]
        return main(["calibrate", str(folder), *files, "--top-k", "3", *options])

    return run


def test_margins_are_written_beside_the_model(
    run: Callable[..., int],
    folder: Path,
    made: list[Layerwise],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("--recall", "0.9") == 0
    shown = capsys.readouterr()
    [margins] = load(folder / FILE)
    same = {"fingerprint": fingerprint(folder), "settings": {"template": "yes-no"}}
    assert find(folder / FILE, top_k=3, final_layer=40, **same) == margins
    assert (margins.layers, margins.recall, margins.model) == (LAYERS[:-1], 0.9, str(folder))
    assert (margins.num_fitted, margins.num_held_out, margins.num_left_out) == (20, 20, 0)
    assert sum(count for count, _ in made[0].calls) == 480
    assert all(layers == list(LAYERS) for _, layers in made[0].calls)

    rows = shown.out.splitlines()
    for row, layer, margin, share in zip(
        rows[1:4], margins.layers, margins.margins, margins.dropped, strict=True
    ):
        assert row.split() == [str(layer), f"{margin:.4f}", f"{share:.1%}"]
    recall = f"{margins.held_out_recall:.4f} (95 % interval {margins.held_out_low:.4f} to "
    assert f"recall of the top 3 on held-out queries: {recall}" in shown.out
    assert f"layers saved: {margins.saved:.1%}" in shown.out
    assert "candidates: 12 a query; margins hold for up to 24" in rows
    assert rows[-1] == f"written to {folder / FILE}"
    assert not margins.extrapolated and "too few" not in shown.err
    assert margins.held_out_low < 0.9 and "the interval reaches below 0.9;" in shown.err


def test_every_query_keeps_its_own_candidates(
    run: Callable[..., int], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However queries fall into windows; margins tell, as they hang on every score."""
    assert run() == 0
    [whole] = load(folder / FILE)
    monkeypatch.setattr("packrank.jobs.pace._SECONDS", 0.0)
    assert run() == 0
    assert load(folder / FILE) == [whole]
    monkeypatch.setattr("packrank.jobs.pace._SECONDS", 1e9)
    assert run() == 0
    assert load(folder / FILE) == [whole]
    assert [len(model.calls) for model in Layerwise.made][1:] == [40, 6]
    assert run("--seed", "2") == 0
    assert load(folder / FILE) != [whole]


def test_every_option_reaches_the_model(
    run: Callable[..., int], folder: Path, tmp_path: Path, made: list[Layerwise]
) -> None:
    given = {
        "device": "cpu",
        "dtype": "float32",
        "max_length": 99,
        "truncation": "only_second",
        "template": "mine",
        "instruction": "find it",
        "compress_ratio": 2,
        "compress_layers": (8, 24),
        "head_index": "layer",
    }
    words = {**given, "compress_layers": "24,8"}
    flags = [w for name, v in words.items() for w in (f"--{name.replace('_', '-')}", str(v))]
    output = tmp_path / "margins.json"
    assert run(*flags, "--output", str(output), "--layers", "16,8", "--cutoff-layer", "24") == 0
    # Margins are of logits.
    assert (made[0].folder, made[0].options) == (folder, given | {"activation": "identity"})
    assert made[0].calls[0][1] == [8, 16, 24]
    [margins] = load(output)
    assert (margins.layers, margins.final_layer) == ((8, 16), 24)
    assert margins.settings == {"template": "mine"}
    assert not (folder / FILE).exists()
    assert run("--output", str(output)) == 0
    assert made[1].options == {"device": "auto", "dtype": "auto", "activation": "identity"}
    assert [entry.final_layer for entry in load(output)] == [24, 40]


def test_bad_lines_are_named_and_left_out(
    run: Callable[..., int],
    records: tuple[list[dict[str, Any]], list[dict[str, Any]]],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run() == 0
    [sound] = load(folder / FILE)
    queries, candidates = records
    queries[:0] = [{"text": "no id"}, {"id": 1.5, "text": "x"}, {"id": "q"}]
    queries.append({"id": "q7", "text": "another"})
    queries.append({"_id": 77, "text": "query 77"})  # 3 candidates, which tell nothing of a top 3
    candidates[:0] = [{"query": "q99", "text": "1 1"}, {"text": "1 1"}, {"query": "q0", "text": 1}]
    candidates += [{"query": "q0", "text": "not scored"}]
    candidates += [{"query": 77, "text": "1 1"}] * 3
    capsys.readouterr()
    assert run() == 1
    [margins] = load(folder / FILE)
    assert margins.num_left_out == 1
    assert margins.num_fitted + margins.num_held_out == 40
    assert margins.held_out_recall == sound.held_out_recall
    errors = [line.split("/")[-1] for line in capsys.readouterr().err.splitlines()]
    for place, reason in [
        ("queries.jsonl, line 1", 'the object has no "id"'),
        ("queries.jsonl, line 2", '"id" is 1.5, expected a string'),
        ("queries.jsonl, line 3", 'the object has no "text"'),
        ("queries.jsonl, line 44", "\"id\" is 'q7', as of a query before"),
        ("candidates.jsonl, line 1", "\"query\" is 'q99', which is the id of no query"),
        ("candidates.jsonl, line 2", 'the object has no "query"'),
        ("candidates.jsonl, line 3", '"text" is 1, expected a string'),
        ("candidates.jsonl, line 484", "it is no number"),
    ]:
        assert f"{place} was left out: {reason}" in errors


def test_a_query_that_cannot_be_used_is_told_once(
    run: Callable[..., int],
    records: tuple[list[dict[str, Any]], list[dict[str, Any]]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Not once more for each of its candidates."""
    queries, candidates = records
    queries.append({"id": "broken", "text": "query \ud800"})
    candidates += [{"query": "broken", "text": f"{n} 1"} for n in range(12)]
    assert run() == 1
    [line] = [one for one in capsys.readouterr().err.splitlines() if "left out" in one]
    assert "queries.jsonl, line 41 was left out: the text holds a lone surrogate" in line


def test_a_text_counts_once(
    run: Callable[..., int],
    records: tuple[list[dict[str, Any]], list[dict[str, Any]]],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As the same query in both halves would make held-out recall that of the fitted ones."""
    assert run() == 0
    [sound] = load(folder / FILE)
    queries, candidates = records
    queries.append({"id": "again", "text": "query 7"})
    candidates += [{**line, "query": "again"} for line in candidates if line["query"] == "q7"]
    capsys.readouterr()
    assert run() == 1
    assert load(folder / FILE) == [sound]
    [line, *_] = [one for one in capsys.readouterr().err.splitlines() if "left out" in one]
    assert line.endswith("line 41 was left out: \"text\" is that of query 'q7' before")


def test_too_few_queries_for_the_recall_are_said(
    run: Callable[..., int], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 0
    assert load(folder / FILE)[0].extrapolated
    words = "20 fitted queries are too few to show a recall of 0.99, so margins go beyond what any"
    [line] = [one for one in capsys.readouterr().err.splitlines() if words in one]
    assert line.endswith("give at least 177 queries in all, of more than 3 candidates each")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--layers", "8,17"], "has no head after layer 17; it has some after 8, 16, 24, 40"),
        (["--cutoff-layer", "28"], "has no head after layer 28"),
        (["--cutoff-layer", "8"], "no candidate can stop before layer 8"),
        (["--layers", "24", "--cutoff-layer", "16"], "no candidate can stop before layer 16"),
        (["--top-k", "12"], "0 queries have more than 12 candidates"),
        (["--output", "{tmp}/none/margins.json"], "cannot be written"),
        (["--output", "{tmp}/model/config.json"], "config.json is no file of margins"),
        (["--queries", "-", "--candidates", "-"], "cannot both come from standard input"),
        (["--queries", "/dev/null"], "holds no query"),
    ],
)
def test_nothing_is_scored_in_vain(
    run: Callable[..., int],
    made: list[Layerwise],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    reason: str,
) -> None:
    assert run(*(option.format(tmp=tmp_path) for option in options)) == 2
    assert reason in capsys.readouterr().err
    assert not any(model.calls for model in made)
    assert not (tmp_path / "model" / FILE).exists()


def test_nothing_is_written_into_a_cache_of_the_hub(
    run: Callable[..., int],
    folder: Path,
    made: list[Layerwise],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nor is anything fetched or read before that is said."""

    def fetch(*_: Any, **__: Any) -> str:
        raise AssertionError

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    snapshot = tmp_path / "models--org--name/snapshots/abc"
    snapshot.parent.mkdir(parents=True)
    folder.rename(snapshot)
    folder.symlink_to(snapshot)
    for model in (folder, snapshot, "org/name"):
        assert main(["calibrate", str(model), "--queries", "q", "--candidates", "c"]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith(f"packrank: {model}: models of the hub are kept in its cache, ")
        assert line.endswith("give --output FILE, and rank with --exit FILE")
    assert not made
    assert run("--output", str(tmp_path / "margins.json"), "--quiet") == 0
    assert len(load(tmp_path / "margins.json")) == 1
    assert not (snapshot / FILE).exists()


def test_margins_go_to_standard_output_and_the_table_aside(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for output in ("-", "/dev/stdout"):
        assert run("--output", output) == 0
        shown = capsys.readouterr()
        (tmp_path / "margins.json").write_text(shown.out)
        assert len(load(tmp_path / "margins.json")) == 1
        assert shown.err.startswith("layer      margin  dropped\n")
        assert "written to" not in shown.err
    for output in ("-", str(tmp_path / "quiet.json")):
        assert run("--output", output, "--quiet") == 0
        shown = capsys.readouterr()
        assert "dropped\n" not in shown.out + shown.err and "written to" not in shown.out


def test_too_few_queries_are_refused_before_the_model_is_loaded(
    run: Callable[..., int],
    records: tuple[list[dict[str, Any]], list[dict[str, Any]]],
    made: list[Layerwise],
    capsys: pytest.CaptureFixture[str],
) -> None:
    records[1].append({"query": "q0", "text": "1 1"})
    assert run("--top-k", "12") == 2
    assert "1 queries have more than 12 candidates, and" in capsys.readouterr().err
    assert made == []


def test_a_model_of_one_exit_is_refused(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Layerwise, "exit_layers", (40,))
    assert run() == 2
    assert "scores after one layer only" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0", "1", "1.5", "nan", "x"])
def test_recall_is_a_share(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], value: str
) -> None:
    with pytest.raises(SystemExit):
        run("--recall", value)
    assert f"{value!r} is not a number above 0 and below 1" in capsys.readouterr().err
