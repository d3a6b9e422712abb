"""Which encoder-decoders score pairs: those that are named so, and what the caller says."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from reranker_folders import PAIRS, Case, monot5

from packrank import LateInteraction, Reranker
from packrank.checkpoint.config import load_config
from packrank.errors import InputError, ModelError
from packrank.models import T5Settings
from packrank.scoring.assembly import Options, assemble, check_weights

WORDS = ("false", "true")


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return monot5(tmp_path_factory.mktemp("named"))


@pytest.fixture
def unnamed(case: Case, tmp_path: Path) -> Path:
    return shutil.copytree(case.folder, tmp_path / "t5")


def write(folder: Path, name: str, **values: object) -> Path:
    path = folder / name
    raw = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(raw | values))
    return path


@pytest.mark.parametrize("name", ["monot5-base", "castorini/monoT5-3b-msmarco-10k", "mono-t5"])
def test_by_name(unnamed: Path, name: str) -> None:
    found = assemble(unnamed, name, Options())
    assert (found.template, found.activation) == ("monot5", "sigmoid")
    vocabulary = found.tokenizer
    false, true = (vocabulary.token_id(f"▁{word}") for word in WORDS)
    assert found.causal == T5Settings((0,), (true, false), difference=True)  # type: ignore[arg-type]
    assert found.layout.max_length == 512 and found.labels == ("LABEL_0",)
    check_weights(found.folder, found.config, found.scoring)
    with pytest.raises(InputError, match="the model has one head, after all its layers"):
        found.check_exits()


@pytest.mark.parametrize("name", ["t5", "flan-t5-xl", "duot5-base-msmarco", "mt5-base"])
def test_any_other_name_says_nothing(unnamed: Path, name: str) -> None:
    sentence = (
        'trained to score pairs; if it was, pass template="monot5" (--template) or a JSON file'
    )
    with pytest.raises(ModelError, match=re.escape(sentence)) as raised:
        assemble(unnamed, name, Options())
    assert str(raised.value).endswith("else compare documents with Pairwise or Setwise")
    assert assemble(unnamed, name, Options(template="monot5")).template == "monot5"


def test_a_score_is_the_probability_of_true(case: Case) -> None:
    logits = np.array([float(case.want(*pair)) for pair in PAIRS[:6]])
    odds = np.exp(np.stack([np.zeros_like(logits), logits]))
    np.testing.assert_allclose(case.open().score(PAIRS[:6]), (odds / odds.sum(0))[1], atol=1e-4)


def test_a_template_of_ones_own(unnamed: Path, tmp_path: Path) -> None:
    given = {
        "query": "Query: {query}",
        "document": " Document: {document}",
        "tail": [" Relevant:", "</s>"],
        "true_token": "true",
        "false_token": "false",
        "activation": "sigmoid",
        "one_string": True,
        "budget": "whole",
        "max_length": 512,
    }
    path = write(tmp_path, "mine.json", **given)
    want = Reranker(unnamed, template="monot5").score(PAIRS)
    np.testing.assert_array_equal(Reranker(unnamed, template=str(path)).score(PAIRS), want)
    # As unicamp's mT5: other words; and a score that is one logit.
    path = write(tmp_path, "mine.json", true_token="yes", false_token="no")
    assert not np.array_equal(Reranker(unnamed, template=str(path)).score(PAIRS), want)
    path.write_text(json.dumps({k: v for k, v in given.items() if k != "false_token"}))
    model = Reranker(unnamed, template=str(path))
    assert model._assembly.causal == T5Settings(
        (0,), (model._assembly.tokenizer.token_id("▁true"),)
    )
    assert np.isfinite(model.score(PAIRS)).all()
    path.write_text(json.dumps({k: v for k, v in given.items() if "token" not in k}))
    with pytest.raises(InputError, match="names no token that scores, and T5ForConditionalGener"):
        Reranker(unnamed, template=str(path))


def test_what_is_refused(unnamed: Path) -> None:
    with pytest.raises(InputError, match='template "pair" does not say which tokens score'):
        Reranker(unnamed, template="pair")
    with pytest.raises(ModelError, match=r"the tokenizer has no token '<\|im_start\|>'"):
        Reranker(unnamed, template="qwen3")
    with pytest.raises(
        ModelError,
        match="holds an encoder-decoder; Pairwise and Setwise rank with it",
    ):
        LateInteraction(unnamed)
    with pytest.raises(InputError, match="compress_ratio is for bge-reranker-v2"):
        Reranker(unnamed, template="monot5", compress_ratio=2)


def test_what_sentence_transformers_saved_beside_it_is_refused(unnamed: Path) -> None:
    module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    (unnamed / "modules.json").write_text(json.dumps([module]))
    write(unnamed, "config_sentence_transformers.json", model_type="CrossEncoder")
    with pytest.raises(ModelError) as raised:
        Reranker(unnamed, template="monot5")
    assert "name both model_type CrossEncoder and T5ForConditionalGeneration" in str(raised.value)


def test_the_work_of_a_ranking(case: Case) -> None:
    """Every token of the encoder, none of which several candidates share."""
    assert not load_config(case.folder).shares_prefixes
    documents = ["a", "the document"]
    ranking = case.open().rank("is it", documents)
    assert ranking.work.computed == ranking.work.total
    layers = load_config(case.folder).num_layers
    assert ranking.num_layers.tolist() == [layers] * 2
