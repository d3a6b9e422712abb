"""What is done to a text before its tokens: blanks dropped, letters lowered, and shown so."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from colbert_folders import save_colbert
from sentence_transformers import SentenceTransformer
from torch.nn.functional import normalize

from packrank import InputError, LateInteraction

TRANSFORMER = "sentence_transformers.models.Transformer"
TEXTS = [
    "  the Sea\n",
    "\u3000Red\u2009fox\x1c",
    "",
    " \t",
    "THE [MASK] \u03a3\u039f\u03a3 fox",
    "\u0130stanbul saw it",
    " [SEP] sea [MASK] ",
    "the Red fox Saw it " * 4,
]


@pytest.fixture(scope="module")
def save(
    checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """save("XLMRoberta", PyLate's keys): blanks count, and letters have a case."""

    def make(name: str, lowers: bool, **config: Any) -> Path:
        made = tmp_path_factory.mktemp("texts") / "made"
        save_colbert(checkpoint(name, "Model"), made, name)
        folder = shutil.copytree(checkpoint(name, "Model"), made.with_name("model"))
        raw = json.loads((made / "tokenizer.json").read_text())
        raw["normalizer"] = None
        (folder / "tokenizer.json").write_text(json.dumps(raw))
        shutil.copy(made / "tokenizer_config.json", folder)
        write(folder / "sentence_bert_config.json", {"do_lower_case": lowers, "max_seq_length": 40})
        write(folder / "modules.json", [{"name": "0", "path": "", "type": TRANSFORMER}])
        if config:
            write(folder / "config_sentence_transformers.json", config)
        return folder

    return make


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("lowers", [False, True])
@pytest.mark.parametrize("prompt", ["", "  say "])
def test_pylate_strips_prompt_and_text_together(
    save: Callable[..., Path], lowers: bool, prompt: str
) -> None:
    folder = save(
        "XLMRoberta",
        lowers,
        model_type="ColBERT",
        query_prefix="",
        document_prefix="",
        do_query_expansion=False,
        query_length=40,
        document_length=40,
        skiplist_words=[],
        prompts={"x": prompt},
        default_prompt_name="x",
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    body = transformers.AutoModel.from_pretrained(folder).eval()
    model = LateInteraction(folder, device="cpu")
    ours = zip(model.encode_queries(TEXTS), model.encode_documents(TEXTS), strict=True)
    for text, pair in zip(TEXTS, ours, strict=True):
        whole = (prompt + text).strip()
        whole = whole.lower() if lowers else whole
        inputs = tokenizer(whole, truncation=True, max_length=40, return_tensors="pt")
        with torch.no_grad():
            states = body(inputs["input_ids"]).last_hidden_state[0]
        for found in pair:
            torch.testing.assert_close(found, normalize(states, dim=1), rtol=0, atol=2e-5)


@pytest.mark.parametrize("lowers", [False, True])
@pytest.mark.parametrize("name", ["Bert", "XLMRoberta"])
def test_an_encoder_lowers_as_sentence_transformers_does(
    save: Callable[..., Path], name: str, lowers: bool
) -> None:
    folder = save(name, lowers)
    oracle = SentenceTransformer(str(folder), device="cpu")
    model = LateInteraction(folder, device="cpu")
    found = model.encode_documents(TEXTS)
    for a, b in zip(found, oracle.encode(TEXTS, output_value="token_embeddings"), strict=True):
        torch.testing.assert_close(a, normalize(b, dim=1), rtol=0, atol=2e-5)


def test_a_bi_encoders_prompts_come_first(save: Callable[..., Path], tmp_path: Path) -> None:
    """As sentence-transformers puts them, whose default prompt counts for neither side."""
    source = save("Bert", False)
    prompts = {"query": "the fox ", "passage": "it ", "document": "sea: ", "x": "saw "}
    saved = SentenceTransformer(str(source), device="cpu", prompts=prompts, default_prompt_name="x")
    saved.save(str(tmp_path))
    model, oracle = LateInteraction(tmp_path, device="cpu"), SentenceTransformer(str(tmp_path))
    for ours, theirs in (
        (model.encode_queries, oracle.encode_query),
        (model.encode_documents, oracle.encode_document),
    ):
        wanted = theirs(TEXTS, output_value="token_embeddings")
        for a, b in zip(ours(TEXTS), wanted, strict=True):
            torch.testing.assert_close(a, normalize(b.cpu(), dim=1), rtol=0, atol=2e-5)


@pytest.mark.parametrize("lowers", [False, True])
def test_tokens_stand_where_the_text_has_them(save: Callable[..., Path], lowers: bool) -> None:
    """Whatever was dropped before them or became several characters."""
    options = {"document_prefix": "", "query_prefix": "", "do_query_expansion": False}
    folder = save("Bert", lowers, model_type="ColBERT", document_length=40, **options)
    model = LateInteraction(folder, device="cpu")
    text = " \n\u0130\u0130 THE fox, \u0130 Sea saw \t"
    found = model.explain("fox", text)
    spelled = [text[t.start : t.stop] for t in found.document_tokens if t.kind == "text"]
    assert [word for word in spelled if word.strip("\u0130")] == ["THE", "fox", ",", "Sea", "saw"]
    assert "".join(spelled).replace("\u0130", "") == "THEfox,Seasaw"


def test_lengths_and_what_was_cut(save: Callable[..., Path]) -> None:
    options = {"document_prefix": "", "query_prefix": "", "skiplist_words": []}
    folder = save("Bert", False, model_type="ColBERT", query_length=8, **options)
    model = LateInteraction(folder, device="cpu", document_length=6)
    assert (model.num_cut_queries, model.num_cut_documents) == (0, 0)
    assert [len(v) for v in model.encode_documents(["the sea", "the sea " * 9])] == [4, 6]
    ranked = model.rank(
        "sea " * 7, ["the sea saw it", "the sea saw it fox", "the"] + ["sea " * 5] * 3
    )
    assert len(ranked) == 6
    assert (model.num_cut_queries, model.num_cut_documents) == (1, 1 + 4)
    found = model.explain("sea " * 7, "the sea saw it fox")
    assert (found.query_cut, found.document_cut) == (1, 1)
    assert found.summary.endswith(
        "; 1 tokens of the query were left out; 1 tokens of the document were left out"
    )
    assert model.explain("sea", "the sea").document_cut == 0
    longer = LateInteraction(folder, device="cpu", query_length=20, document_length=40)
    assert [len(v) for v in longer.encode_queries(["sea"])] == [20]
    for options, message in (
        ({"document_length": 41}, "document_length is 41, and the model takes 40 tokens"),
        ({"query_length": 2}, "query_length is 2, but 2 tokens are special ones"),
        ({"query_length": 0}, "query_length is 0, expected a whole number"),
        ({"document_length": True}, "document_length is True"),
    ):
        with pytest.raises(InputError, match=message):
            LateInteraction(folder, device="cpu", **options)
