"""Modules from hidden states to scores: what is read of them, and what is refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from packrank.checkpoint.modules import Module
from packrank.checkpoint.scoring_modules import ScoringModules, read_scoring_modules
from packrank.errors import ModelError

Chain = list[tuple[str, dict[str, Any]]]
POOLING = ("Pooling", {"embedding_dimension": 8, "pooling_mode": "mean", "include_prompt": True})
SCORES = ("Dense", {"in_features": 8, "out_features": 2, "module_output_name": "scores"})


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., ScoringModules]:
    """read(modules): the chain of these classes and their config.json, after 8 hidden units."""

    def make(*chain: tuple[str, dict[str, Any]]) -> ScoringModules:
        modules = []
        for place, (name, config) in enumerate(chain, 1):
            folder = tmp_path / f"{place}_{name}"
            folder.mkdir(exist_ok=True)
            (folder / "config.json").write_text(json.dumps(config))
            modules.append(Module(folder, f"sentence_transformers.models.{name}"))
        return read_scoring_modules(modules, 8)

    return make


def pooling(**config: Any) -> tuple[str, dict[str, Any]]:
    return "Pooling", {"word_embedding_dimension": 8} | config


def test_defaults_are_those_of_sentence_transformers(read: Any) -> None:
    modules = read(pooling(), SCORES)
    assert (modules.tokens, modules.pooling, modules.num_labels) == ((), ("mean",), 2)
    assert (modules.includes_prompt, modules.skipped) == (True, 0)
    [dense] = modules.vectors
    assert (dense.bias, dense.activation, dense.residual) == (True, "Tanh", False)
    assert (dense.source, dense.target) == ("sentence_embedding", "scores")


@pytest.mark.parametrize(
    ("config", "modes"),
    [
        ({"pooling_mode": ["max"]}, ("max",)),
        ({"pooling_mode": ["mean", "cls"]}, ("mean", "cls")),
        ({"pooling_mode_lasttoken": True, "pooling_mode_cls_token": True}, ("cls", "lasttoken")),
        ({"pooling_mode_mean_tokens": False}, ("mean",)),
        ({"pooling_mode": "cls", "pooling_mode_mean_tokens": True}, ("cls",)),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, ("mean_sqrt_len_tokens",)),
        ({"pooling_mode_weightedmean_tokens": True}, ("weightedmean",)),
    ],
)
def test_poolings(read: Any, config: dict[str, Any], modes: tuple[str, ...]) -> None:
    scores = ("Dense", SCORES[1] | {"in_features": 8 * len(modes)})
    assert read(pooling(**config), scores).pooling == modes


def test_what_does_nothing_is_left_out(read: Any) -> None:
    normalize = ("Normalize", {"module_input_name": "nothing"})
    dropout = ("Dropout", {"dropout": 0.1})
    assert len(read(("Normalize", {}), POOLING, normalize, dropout, SCORES).vectors) == 1


def dense(**config: Any) -> tuple[str, dict[str, Any]]:
    return "Dense", SCORES[1] | config


@pytest.mark.parametrize(
    ("chain", "sentence"),
    [
        ([POOLING], "none of which gives scores; a cross-encoder ends in a Dense whose module_ou"),
        ([SCORES], "works on sentence_embedding, which no module before it gives"),
        ([POOLING, POOLING, SCORES], "2_Pooling/config.json: a second Pooling is not supported"),
        ([("LSTM", {}), POOLING, SCORES], "is a LSTM, which is not supported; of a cross-encoder"),
        ([pooling(pooling_mode="median"), SCORES], r"pooling_mode is \['median'\], expected som"),
        ([pooling(pooling_mode=[]), SCORES], r"pooling_mode is \[\], expected some of cls, max"),
        ([pooling(window=3), SCORES], "window is not supported; is it a Pooling"),
        ([pooling(include_prompt="no"), SCORES], "include_prompt is 'no', expected true or false"),
        ([POOLING, dense(in_features=9)], "reads vectors of size 9, and those before it have 8"),
        ([POOLING, dense(out_features=0)], "out_features is 0, expected a number of at least 1"),
        ([POOLING, dense(bias="yes")], "bias is 'yes', expected true or false"),
        ([POOLING, dense(bias=None)], "bias is null, expected true or false"),
        ([POOLING, dense(module_input_name=None)], "module_input_name is null, expected a name"),
        ([POOLING, dense(module_input_name="x")], "works on x, which no module before it gives"),
        ([POOLING, dense(module_output_name="y")], "none of which gives scores"),
        ([POOLING, dense(activation_function="mine.GELU")], "is 'mine.GELU', expected a class of"),
        ([POOLING, dense(activation_function=None)], "activation_function is None, expected a cl"),
        ([POOLING, dense(activation_function="torch.nn.GLU")], "is 'torch.nn.GLU', expected a cl"),
        ([POOLING, dense(activation_function="torch.nn.functional.gelu")], "functional.gelu', ex"),
        ([dense(module_input_name="token_embeddings")], "before a Pooling it works on token_embe"),
        ([POOLING, ("LayerNorm", {"dimension": 7}), SCORES], "of size 7, and those before it hav"),
        ([POOLING, ("LayerNorm", {}), SCORES], "dimension is None, expected a number of at least"),
        (
            [
                dense(
                    out_features=8,
                    module_input_name="token_embeddings",
                    module_output_name="token_embeddings",
                    activation_function="torch.nn.Softmax",
                ),
                POOLING,
                SCORES,
            ],
            "Softmax of token vectors is not supported",
        ),
        (
            [POOLING, dense(module_output_name="token_embeddings"), SCORES],
            "after the Pooling it gives token_embeddings, which nothing reads",
        ),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_what_is_refused(read: Any, chain: Chain, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        read(*chain)
