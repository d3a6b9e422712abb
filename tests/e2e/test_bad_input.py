"""Bad input ends in one sentence and an exit status, and costs no more than what is bad."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from packrank import InputError, LateInteraction, PairError, Reranker
from packrank.commands.cli import main

WORDS = "red blue fox owl"
OneSentence = Callable[..., None]

LONG = "red " * 60  # the models of these tests take 40 tokens


def rank(model: Path | str, documents: Path, *options: str) -> int:
    arguments = ["--query", "red owl", "--documents", str(documents), *options]
    return main(["rank", str(model), *arguments])


def edit_config(model: Path, **changes: Any) -> None:
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(model: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = model / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


# Models: nothing is done, status 2


def test_the_sound_model_is_sound(model: Path, documents: Path) -> None:
    assert rank(model, documents) == 0


def test_scores_are_never_written_over_their_pairs(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"query": "a", "document": "b"}\n')
    (tmp_path / "link").symlink_to(pairs)
    for output in (pairs, tmp_path / "link"):
        assert main(["score", str(model), str(pairs), "--output", str(output)]) == 2
        assert "is a file that is read; name another one to write" in capsys.readouterr().err
    assert pairs.read_text() == '{"query": "a", "document": "b"}\n'


def unknown_architecture(model: Path) -> None:
    edit_config(model, architectures=["BartForConditionalGeneration"])


def config_not_json(model: Path) -> None:
    (model / "config.json").write_text("{")


def no_config(model: Path) -> None:
    (model / "config.json").unlink()


def missing_tensor(model: Path) -> None:
    edit_weights(model, lambda tensors: tensors.pop("classifier.weight"))


def other_shape(model: Path) -> None:
    edit_weights(model, lambda tensors: tensors.update({"classifier.weight": torch.zeros(1, 59)}))


def nan_weights(model: Path) -> None:
    name = "bert.encoder.layer.1.output.dense.weight"
    edit_weights(model, lambda tensors: tensors[name][3, 4].fill_(float("nan")))


def corrupt_weights(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def pickled_weights(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def no_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()


def no_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()


def tokenizer_not_json(model: Path) -> None:
    (model / "tokenizer.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (unknown_architecture, ["BartForConditionalGeneration", "ModernBert"]),
        (config_not_json, ["config.json"]),
        (no_config, ["config.json"]),
        (missing_tensor, ["classifier.weight"]),
        (other_shape, ["classifier.weight", "[1, 59]", "[1, 60]"]),
        (nan_weights, ["bert.encoder.layer.1.output.dense.weight", "NaN"]),
        (corrupt_weights, ["model.safetensors"]),
        (pickled_weights, ["pytorch_model.bin", "python -c"]),
        (no_weights, ["model.safetensors"]),
        (no_tokenizer, ["tokenizer.json"]),
        (tokenizer_not_json, ["tokenizer.json"]),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_an_unusable_model(
    damage: Callable[[Path], None],
    words: list[str],
    model: Path,
    documents: Path,
    one_sentence: OneSentence,
) -> None:
    damage(model)
    assert rank(model, documents) == 2
    one_sentence(*words)


def test_the_conversion_command_converts(
    model: Path, documents: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rank(model, documents) == 0
    expected = capsys.readouterr().out
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    no_weights(model)
    assert rank(model, documents) == 2
    command = capsys.readouterr().err.partition("python -c")[2].strip()
    subprocess.run(f"{sys.executable} -c {command}", shell=True, check=True, timeout=120)
    assert rank(model, documents) == 0
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("name", ["no/such-model", "./no/such/folder", "two words", ""])
def test_a_name_that_is_neither_folder_nor_at_hand(
    name: str, documents: Path, one_sentence: OneSentence
) -> None:
    assert rank(name, documents) == 2
    one_sentence(name, "folder")


# Arguments: nothing is done, status 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--device", "gpu"], ["'gpu'", "cpu"]),
        (["--device", "cuda:99"], ["cuda:99"]),
        (["--max-length", "41"], ["41", "40"]),
        (["--max-length", "2"], ["2", "3 special tokens"]),
    ],
)
def test_an_option_that_cannot_be_had(
    options: list[str],
    words: list[str],
    model: Path,
    documents: Path,
    one_sentence: OneSentence,
) -> None:
    assert rank(model, documents, *options) == 2
    one_sentence(*words)


@pytest.mark.parametrize(
    "options",
    [
        ["--top-k", "0"],
        ["--top-k", "9" * 5000],
        ["--threads", "x"],
        ["--threads", "0"],
        ["--threads", "4096"],
        ["--threads", "99999999999"],
        ["--truncation", "left"],
        ["--query", "\udcff"],
    ],
)
def test_an_option_that_makes_no_sense(
    options: list[str], model: Path, documents: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        rank(model, documents, *options)
    assert stop.value.code == 2
    assert options[0] in capsys.readouterr().err.splitlines()[-1]


def test_a_ranking_by_several_labels(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path: Path,
    documents: Path,
    one_sentence: OneSentence,
) -> None:
    folder = tmp_path / "labels"
    shutil.copytree(checkpoint("Bert", num_labels=3), folder)
    save_tokenizer(folder, WORDS)
    assert rank(folder, documents) == 2
    one_sentence("3 labels")


def test_options_of_the_other_kind_of_model(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path: Path,
    documents: Path,
    one_sentence: OneSentence,
) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(checkpoint("Bert", "Model"), folder)
    save_tokenizer(folder, WORDS)
    assert rank(folder, documents, "--activation", "sigmoid") == 2
    one_sentence("--activation", "late interaction")


def test_no_document_that_can_be_ranked(
    model: Path, tmp_path: Path, one_sentence: OneSentence
) -> None:
    path = tmp_path / "documents.jsonl"
    path.write_text('{"text": "\\ud800"}\nnonsense\n')
    assert rank(model, path) == 2
    one_sentence(str(path), "no usable document", "line 1: the text holds a lone surrogate")
    path.write_text("\nnonsense\n")
    assert rank(model, path) == 2
    one_sentence(str(path), "no usable document", "line 2: not valid JSON")


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_file_of_no_documents(
    content: str, model: Path, documents: Path, one_sentence: OneSentence
) -> None:
    documents.write_text(content)
    assert rank(model, documents) == 2
    one_sentence(str(documents), "no document")


def test_files_that_cannot_be_opened(
    model: Path, tmp_path: Path, one_sentence: OneSentence
) -> None:
    absent = tmp_path / "absent.jsonl"
    assert rank(model, absent) == 2
    one_sentence(str(absent), "No such file")
    (tmp_path / "empty").mkdir()
    assert rank(model, tmp_path / "empty") == 2
    one_sentence(str(tmp_path), "holds no file")
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"query": "red", "document": "fox"}\n')
    for out in (tmp_path, absent / "out.jsonl", tmp_path / ("x" * 256)):
        assert main(["score", str(model), str(pairs), "--output", str(out)]) == 2
        one_sentence(str(out))


def test_an_empty_list_ranks_to_an_empty_list(model: Path) -> None:
    reranker = Reranker(model)
    assert reranker.rank("red", []) == []
    assert reranker.score([]).shape == (0,)


@pytest.mark.parametrize("documents", ["red", None, ["red", None], ["red", b"fox"], [3]])
def test_documents_that_are_no_strings(
    model: Path, checkpoint: Callable[..., Path], documents: Any
) -> None:
    encoder = model.with_name("encoder")
    shutil.copytree(checkpoint("Bert", "Model"), encoder)
    shutil.copy(model / "tokenizer.json", encoder)
    for ranks in (Reranker(model), LateInteraction(encoder)):
        with pytest.raises(InputError) as error:
            ranks.rank("red", documents)
        assert "\n" not in str(error.value)


# Lines: what is bad is left out, the rest is scored, status 1


def test_bad_documents_are_left_out_by_number(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "documents.jsonl"
    path.write_bytes(
        b'{"text": "red fox"}\n'
        b'{"text": "red \xff fox"}\n'
        b'{"text": "blue owl"\n'
        b'{"title": "blue owl"}\n'
        b'{"text": ["blue owl"]}\n'
        b'{"text": "\\ud800"}\n' + json.dumps({"text": LONG}).encode() + b'\n{"text": "blue owl"}\n'
    )
    assert rank(model, path, "--truncation", "off", "--json", "--summary") == 1
    captured = capsys.readouterr()
    *rows, last = [json.loads(line) for line in captured.out.splitlines()]
    assert last["summary"]["layers"] == {"1": 3, "6": 0, "7": 0, "8": 3}
    expected = Reranker(model).rank("red owl", ["red fox", "blue owl"])
    assert [(row["text"], row["score"]) for row in rows] == [
        (r.document, r.score) for r in expected
    ]
    assert {row["line"] for row in rows} == {1, 8}
    reasons = ["0xff", "JSON", 'no "text"', "expected a string", "surrogate", "40"]
    lines = captured.err.splitlines()
    for number, (line, reason) in enumerate(zip(lines, reasons, strict=True), start=2):
        assert line.startswith(f"packrank: line {number} ")
        assert reason in line


def test_bad_pairs_fail_in_their_places(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "pairs.jsonl", tmp_path / "out.jsonl"
    path.write_bytes(
        b'{"query": "red", "document": "fox"}\n'
        b"nonsense\n"
        b'\xff{"query": "red", "document": "fox"}\n'
        b'{"id": 7, "query": "red"}\n'
        + json.dumps({"id": 8, "query": LONG, "document": LONG}).encode()
        + b'\n{"query": "", "document": ""}\n'
    )
    arguments = ["score", str(model), str(path), "--output", str(out), "--truncation", "off"]
    assert main(arguments) == 1
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row.get("id") for row in rows] == [None, None, None, 7, 8, None]
    [good] = Reranker(model).score([("red", "fox")]).tolist()
    assert rows[0]["score"] == good
    reasons = ["JSON", "0xff", '"document"', "40", "empty"]
    for row, reason in zip(rows[1:], reasons, strict=True):
        assert reason in row["error"]
        assert row["score"] is None
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" was")[0] for line in lines[:5]] == [
        f"packrank: line {number}" for number in (2, 3, 4, 5, 6)
    ]
    assert lines[5].startswith("pairs scored: 1, rows: 6, failed: 5")


def test_whatever_the_ids_are_no_score_is_lost(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "pairs.jsonl", tmp_path / "out.jsonl"
    texts = '"query": "red", "document": "fox", "text": "fox"'
    ids = ['"\\ud800"', "1e999", "[-1e999]", "NaN", '{"é": "\\udfff"}', "1" * 5000, "null"]
    path.write_text("".join(f'{{"id": {i}, {texts}}}\n' for i in ids), "utf-8")
    assert main(["score", str(model), str(path), "--output", str(out), "--quiet"]) == 1
    rows = [json.loads(line) for line in out.read_text("ascii").splitlines()]
    assert len(rows) == 7
    good = [row["id"] for row in rows if row["score"] is not None]
    assert good == ["\ud800", {"é": "\udfff"}, None]
    assert '"1e999" is no number that can be held' in rows[1]["error"]
    capsys.readouterr()
    assert rank(model, path, "--json") == 1
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(row["line"] for row in shown) == [1, 5, 7]
    assert {json.dumps(row["id"]) for row in shown} == {json.dumps(i) for i in good}


def test_a_pair_too_long_fails_by_name(model: Path) -> None:
    reranker = Reranker(model, truncation="off")
    with pytest.raises(PairError, match="40") as error:
        reranker.rank("red", ["fox", LONG])
    assert error.value.index == 1
    scores, reasons = reranker.try_score([("red", LONG), ("red", "fox")])
    assert list(reasons) == [0]
    assert scores[1] == reranker.score([("red", "fox")])[0]
