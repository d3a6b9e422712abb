"""Folders that would open, and then give one score to all pairs, or none."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from packrank import InputError, ModelError, Reranker
from packrank.commands.cli import main

PAIRS = [("red", "blue fox"), ("owl", "red")]
SOFTMAX = {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Softmax"}}


def edit(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_softmax_of_one_label(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(model, **SOFTMAX)
    with pytest.raises(
        ModelError, match=r"a softmax makes 1\.0 of every score .* pass activation="
    ):
        Reranker(model)
    assert main(["info", str(model)]) == 0
    assert "activation       none: a softmax makes 1.0" in capsys.readouterr().out
    said = Reranker(model, activation="sigmoid")
    assert len(set(said.score(PAIRS).tolist())) == 2
    for ask in (
        lambda: Reranker(model, activation="softmax"),
        lambda: said.score(PAIRS, activation="softmax"),
        lambda: said.scores(said.score(PAIRS)[:, None], "softmax"),
    ):
        with pytest.raises(InputError, match="activation is 'softmax', and a softmax makes"):
            ask()


def test_a_softmax_of_several_labels(
    checkpoint: Callable[..., Path], save_tokenizer: Callable[..., None], tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint("Bert", num_labels=3), tmp_path / "three")
    save_tokenizer(folder, "red blue fox owl")
    edit(folder, **SOFTMAX)
    assert Reranker(folder).score(PAIRS).sum(1) == pytest.approx([1.0, 1.0])


def test_more_token_types_than_the_model_has(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = shutil.copytree(checkpoint("Gte", num_labels=1), tmp_path / "gte")
    save_tokenizer(folder, "red blue fox owl")
    sentence = "the tokenizer gives pairs 2 token types, and the model knows 1 (type_vocab_size)"
    with pytest.raises(ModelError) as raised:
        Reranker(folder)
    assert sentence in str(raised.value)
    assert main(["info", str(folder)]) == 2
    assert sentence in capsys.readouterr().err
    untold = {"model_input_names": ["input_ids", "attention_mask"]}
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | untold))
    assert Reranker(folder).score(PAIRS).shape == (2,)
