"""packrank info, rank and score on folders of decoders."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from prompts import QWEN_TASK
from reranker_folders import PAIRS, Case

from packrank import Reranker
from packrank.commands.cli import main

INFO = {
    "bge-gemma": ["decoder, logit of 'Yes'\n", "template         bge-gemma, from ", "identity"],
    "bge-minicpm-layerwise": ["exit layers      2, 3, 4, 5\n", "bge-minicpm-layerwise, from"],
    "bge-gemma2-lightweight": ["exit layers      1, 2, 3, 4\n", "bge-gemma2-lightweight, from"],
    "mxbai-v2": ["logit of '1' less that of '0'\n", "instruction      none, but it takes one\n"],
    "qwen3": ["logit of 'yes' less that of 'no'\n", f"instruction      {QWEN_TASK!r}\n", "sigmoid"],
    "qwen3-classifier": ["scores by        decoder\n", "template         qwen3, from", "sigmoid"],
    "monot5": [
        "layers           3, and 2 in the decoder\n",
        "encoder-decoder, logit of '▁true' less that of '▁false'\n",
        "monot5, from",
        "sigmoid",
    ],
    "llama": ["template         none: ", "max length       700 tokens of a pair\n", "sigmoid"],
    "logit-score": ["logit of 'yes' less that of 'no'\n", "the folder's chat template\n"],
}

# A job takes an empty text for an error.
WHOLE = [pair for pair in PAIRS if all(text.strip() for text in pair)]


@pytest.mark.parametrize("name", INFO)
def test_info_says_what_scores(
    reranker_case: Callable[[str], Case], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    case = reranker_case(name)
    capsys.readouterr()
    assert main(["info", str(case.folder)]) == 0
    shown = capsys.readouterr().out
    for words in INFO[name]:
        assert words in shown
    assert f"max length       {Reranker(case.folder).max_length} tokens of a pair" in shown


def test_info_says_what_is_missing(
    reranker_case: Callable[[str], Case], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what a language model that is no reranker ranks by all the same."""
    folder = tmp_path / "unnamed"
    folder.symlink_to(reranker_case("qwen3").folder)
    assert main(["info", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "architecture     Qwen3ForCausalLM" in lines
    [scores] = [line for line in lines if line.startswith("scores by        none: ")]
    assert "does not say what makes it a reranker; pass template=" in scores
    assert "ranks by         --method listwise, first, pairwise or setwise" in lines
    assert any(line.startswith("template         none: ") for line in lines)


def test_commands(
    reranker_case: Callable[[str], Case], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every option of a decoder reaches it; an unnamed folder is scored by the template given."""
    folder = tmp_path / "unnamed"
    folder.symlink_to(reranker_case("mxbai-v2").folder)
    query, documents = PAIRS[0][0], [document for _, document in PAIRS[:2]]
    source, pairs, out = tmp_path / "documents.txt", tmp_path / "pairs.jsonl", tmp_path / "out"
    source.write_text("\n\n".join(documents))
    pairs.write_text("".join(json.dumps({"query": q, "document": d}) + "\n" for q, d in WHOLE))
    words = ["--template", "mxbai-v2", "--instruction", "find a panda", "--max-length", "40"]
    words += ["--activation", "normalized"]
    model = reranker_case("mxbai-v2-instructed").open()
    ranked_by = ["--query", query, "--documents", str(source), "--json", "--summary"]
    capsys.readouterr()
    assert main(["rank", str(folder), *ranked_by, *words]) == 0
    *shown, summary = map(json.loads, capsys.readouterr().out.splitlines())
    ranking = model.rank(query, documents)
    assert [(r["line"], r["score"], r["layers"]) for r in shown] == [
        (2 * ranked.index + 1, ranked.score, 4) for ranked in ranking
    ]
    assert summary["summary"]["layers"] == {"1": 4, "3": 4}
    assert main(["score", str(folder), str(pairs), "--output", str(out), *words]) == 0
    scores = [json.loads(line)["score"] for line in out.read_text().splitlines()]
    assert scores == model.score(WHOLE).tolist()


def test_commands_of_layers(
    reranker_case: Callable[[str], Case], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = reranker_case("bge-gemma2-lightweight")
    query, documents = PAIRS[0][0], ["a panda", "it was " * 9]
    source, pairs, out = tmp_path / "documents.txt", tmp_path / "pairs.jsonl", tmp_path / "out"
    source.write_text("\n".join(documents))
    pairs.write_text("".join(json.dumps({"query": q, "document": d}) + "\n" for q, d in WHOLE))
    words = ["--compress-ratio", "4", "--compress-layers", "2,1", "--head-index", "layer"]
    words += ["--cutoff-layer", "3"]
    ranked_by = ["--query", query, "--documents", str(source), "--json", "--summary"]
    capsys.readouterr()
    assert main(["rank", str(case.folder), *ranked_by, *words]) == 0
    *shown, summary = map(json.loads, capsys.readouterr().out.splitlines())
    model = Reranker(case.folder, compress_ratio=4, compress_layers=[1, 2], head_index="layer")
    ranking = model.rank(query, documents, cutoff_layer=3)
    assert [(r["line"] - 1, r["score"], r["layers"]) for r in shown] == [
        (ranked.index, ranked.score, 3) for ranked in ranking
    ]
    work = summary["summary"]["token_layers"]
    assert work.pop("total") + work.pop("recomputed", 0) == sum(work.values())
    assert work["saved_by_compression"] > 0 < work["saved_by_prefix"]
    assert main(["score", str(case.folder), str(pairs), "--output", str(out), *words]) == 0
    scores = [json.loads(line)["score"] for line in out.read_text().splitlines()]
    assert scores == model.score(WHOLE, cutoff_layers=3).tolist()


@pytest.mark.parametrize(
    ("command", "words", "sentence"),
    [
        ("rank", ["--cutoff-layer", "1"], "cutoff_layer is 1, and the model has heads after 2 to"),
        ("score", ["--cutoff-layer", "1"], "is 1, and the model has heads after 2 to 5 layers"),
        ("rank", ["--exit", "calibrated"], "exit needs top_k"),
        (
            "rank",
            ["--exit", "calibrated", "--top-k", "1"],
            "elsewhere (exit=FILE, --exit FILE)",
        ),
        ("rank", ["--template", "qwen4"], "template is 'qwen4', expected one of"),
        ("rank", ["--instruction", "x"], "the model's prompt has no place for an instruction"),
        ("rank", ["--compress-ratio", "3"], "compress_ratio is 3, expected one of 1, 2, 4, 8"),
        ("rank", ["--compress-ratio", "2"], "compress_ratio is for bge-reranker-v2.5-gemma2-light"),
        ("rank", ["--max-length", "1"], "max_length is 1, which the prompt leaves no token of"),
    ],
)
def test_options_that_make_no_sense(
    reranker_case: Callable[[str], Case],
    command: str,
    words: list[str],
    sentence: str,
    tmp_path: Path,
    one_sentence: Callable[..., None],
) -> None:
    source = tmp_path / "source"
    source.write_text('{"query": "a", "document": "b", "text": "c"}\n')
    files = [str(source), "--output", str(tmp_path / "out")]
    if command == "rank":
        files = ["--query", "a", "--documents", str(source)]
    folder = reranker_case("bge-minicpm-layerwise").folder
    assert main([command, str(folder), *files, *words]) == 2
    one_sentence(sentence)
    assert not (tmp_path / "out").exists()
