"""Which template, head and activation a folder gets, from config.json, its name and the caller."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from packrank.checkpoint.config import load_config
from packrank.errors import InputError, ModelError
from packrank.scoring.recognition import Scoring, recognise
from packrank.scoring.sentence_transformers import LogitScore
from packrank.text.chat_template import ChatLayout
from packrank.text.pairs import TokenizerLayout
from packrank.text.prompt import PromptLayout
from packrank.text.templates import TEMPLATES
from packrank.text.tokenizer import Tokenizer

SIZES = {
    "hidden_size": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 10,
    "intermediate_size": 8,
    "vocab_size": 400,
    "max_position_embeddings": 3000,
    "pad_token_id": 0,
}
ONE_LABEL = {"id2label": {"0": "LABEL_0"}}


def tokenizer_file() -> tokenizers.Tokenizer:
    """Bytes, the tokens that templates need, and <s> before each text of a pair."""
    pieces = ["<|im_start|>", "<|im_end|>", "<s>", "Yes", "yes", "no"]
    vocab = {p: i for i, p in enumerate([*pieces, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = tokenizers.Tokenizer(models.BPE(vocab, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(pieces[:3])
    backend.add_tokens(pieces[3:])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 2)]
    )
    return backend


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write("Qwen2ForCausalLM", folder="x", hidden_size=896): a folder without weights."""

    def make(architecture: str, folder: str = "model", **values: Any) -> Path:
        path = tmp_path / folder
        path.mkdir(parents=True)
        raw = SIZES | {"architectures": [architecture]} | values
        (path / "config.json").write_text(json.dumps(raw))
        tokenizer_file().save(str(path / "tokenizer.json"))
        return path

    return make


def ask(folder: Path, **options: Any) -> Scoring:
    return recognise(folder, load_config(folder), Tokenizer.from_folder(folder), **options)


def template_of(scoring: Scoring) -> str | None:
    found = [name for name, template in TEMPLATES.items() if template is scoring.template]
    return found[0] if found else None


@pytest.mark.parametrize(
    ("architecture", "name", "template", "tokens"),
    [
        ("GemmaForCausalLM", "bge-reranker-v2-gemma", "bge-gemma", LogitScore(3)),
        ("Qwen2ForCausalLM", "mxbai-rerank-base-v2", "mxbai-v2", LogitScore(22, 21)),
        ("Qwen3ForCausalLM", "Qwen3-Reranker-0.6B", "qwen3", LogitScore(4, 5)),
        ("Qwen3ForCausalLM", "my-QWEN3-reranker", "qwen3", LogitScore(4, 5)),
    ],
)
def test_by_name(
    write: Callable[..., Path],
    architecture: str,
    name: str,
    template: str,
    tokens: LogitScore,
) -> None:
    """The folder's, that which the user gave, that of config.json, the hub's cache."""
    backend = tokenizer_file()
    if tokens.false_token_id == 21:
        tokens = LogitScore(backend.token_to_id("1"), backend.token_to_id("0"))
    plain = write(architecture)
    for scoring in (
        ask(write(architecture, name)),
        ask(write(architecture, f"models--maker--{name}/snapshots/0a1b")),
        ask(plain, name=f"maker/{name}"),
        ask(plain, name=f"/models/{name}/"),
        ask(write(architecture, "saved", _name_or_path=f"maker/{name}")),
    ):
        assert template_of(scoring) == template
        assert scoring.head == "tokens"
        assert scoring.tokens == tokens
    with pytest.raises(ModelError, match=f"is a {architecture} and does not say what makes it a"):
        ask(plain)
    # A folder around it names nothing.
    with pytest.raises(ModelError, match=r"pass template= \(--template\), one of 'bge-gemma',"):
        ask(write(architecture, f"{name}/other"), name=f"{name}/other")


def test_a_name_is_not_enough(write: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="does not say what makes it a reranker"):
        ask(write("LlamaForCausalLM", "Qwen3-Reranker-0.6B"))
    with pytest.raises(ModelError, match="does not say what makes it a reranker"):
        ask(write("Qwen2ForCausalLM", "Qwen3-Reranker-4B"))


@pytest.mark.parametrize(
    ("architecture", "name", "template"),
    [
        ("Qwen2", "mxbai-rerank-v2", "mxbai-v2"),
        ("Qwen2", "mxbai-rerank-large-v2", "mxbai-v2"),
        ("Qwen2", "Mxbai-Rerank-base-v2-seq", "mxbai-v2"),
        ("Qwen2", "mxbai-rerank-base-v1", None),
        ("Qwen2", "mxbai-rerank-large-v3", None),
        ("Qwen2", "mxbai-rerank-v20", None),
        ("Qwen2", "mxbai-rerank-large-v2.5", None),
        ("Qwen2", "mxbai-rerank", None),
        ("Qwen3", "ctxl-rerank-v2-instruct-multilingual-1b", "contextual"),
        ("Qwen3", "ctxl-rerank-v2.5-instruct", None),
        ("Qwen3", "ctxl-rerank-v21", None),
        ("Qwen3", "Qwen3-Reranker-0.6B", "qwen3"),
        ("Qwen3", "Qwen3-Reranker2-0.6B", None),
        ("Qwen3", "Qwen3.5-Reranker-0.8B", None),
        ("Gemma", "bge-reranker-v2-gemma", "bge-gemma"),
        ("Gemma", "bge-reranker-v2-gemma2", None),
        ("Gemma", "bge-reranker-v2.5-gemma2-lightweight", None),
    ],
)
def test_another_version_is_another_model(
    write: Callable[..., Path], architecture: str, name: str, template: str | None
) -> None:
    folder = write(f"{architecture}ForCausalLM", name)
    if template is None:
        with pytest.raises(ModelError, match="does not say what makes it a reranker"):
            ask(folder)
    else:
        assert template_of(ask(folder)) == template


@pytest.mark.parametrize(
    ("architecture", "template"),
    [
        ("LayerWiseMiniCPMForCausalLM", "bge-minicpm-layerwise"),
        ("CostWiseGemmaForCausalLM", "bge-gemma2-lightweight"),
    ],
)
def test_layerwise(write: Callable[..., Path], architecture: str, template: str) -> None:
    layers = {"start_layer": 8, "layer_sep": 1, "layer_wise": True}
    scoring = ask(write(architecture, "Qwen3-Reranker-0.6B", **layers))
    assert (template_of(scoring), scoring.head) == (template, "layerwise")
    assert (scoring.activation, scoring.max_length, scoring.tokens) == ("identity", 512, None)


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen2", "Gemma", "Gemma2", "Qwen3"])
@pytest.mark.parametrize("num_labels", [1, 3])
def test_classifiers_read_plain_pairs(
    write: Callable[..., Path], family: str, num_labels: int
) -> None:
    labels = {str(i): f"LABEL_{i}" for i in range(num_labels)}
    folder = write(f"{family}ForSequenceClassification", id2label=labels)
    options = {"template": "pair"} if (family, num_labels) == ("Qwen3", 1) else {}
    scoring = ask(folder, **options)
    assert (scoring.head, scoring.template, scoring.chat) == ("classifier", None, None)
    assert scoring.activation == ("sigmoid" if num_labels == 1 else "identity")
    assert scoring.max_length == 3000
    layout = scoring.layout(Tokenizer.from_folder(folder), load_config(folder))
    assert isinstance(layout, TokenizerLayout)
    pack, _ = layout.lay_out([("ab", "c"), ("ab", "cde")])
    assert pack.lengths.tolist() == [5, 7]
    assert pack.shared is not None
    assert pack.shared.tolist() == [4, 4]


@pytest.mark.parametrize(
    ("family", "name", "template", "original"),
    [
        ("Gemma", "bge-reranker-v2-gemma", "bge-gemma", "bge-reranker-v2-gemma"),
        ("Qwen2", "mxbai-rerank-base-v2", "mxbai-v2", "mxbai-rerank-v2"),
        ("Qwen3", "Qwen3-Reranker-8B", "qwen3", "Qwen3-Reranker"),
    ],
)
def test_conversions_by_name(
    write: Callable[..., Path], family: str, name: str, template: str, original: str
) -> None:
    architecture = f"{family}ForSequenceClassification"
    scoring = ask(write(architecture, f"{name}-seq-cls", **ONE_LABEL))
    assert (template_of(scoring), scoring.head) == (template, "classifier")
    assert (scoring.activation, scoring.tokens) == ("sigmoid", None)
    folder = write(architecture, name, id2label={"0": "no", "1": "yes"})
    sentence = (
        f"is a {architecture}, of 2 labels where a {original} has one, and does not say how its "
        f'pairs are laid out; pass template="{template}" (--template) if it was made from a '
        f"{original}, "
        'template="pair" if it was trained on query and document alone'
    )
    with pytest.raises(ModelError, match=re.escape(sentence)):
        ask(folder)
    assert ask(folder, template="pair").template is None
    assert template_of(ask(folder, template=template)) == template


def test_conversions_of_qwen3(write: Callable[..., Path]) -> None:
    architecture = "Qwen3ForSequenceClassification"
    folder = write(architecture, "converted", **ONE_LABEL)
    sentence = (
        'pass template="qwen3" (--template) if it was made from a Qwen3-Reranker, template="pair" '
        "if it was trained on query and document alone"
    )
    with pytest.raises(ModelError, match=re.escape(sentence)):
        ask(folder)
    for scoring in (
        ask(folder, template="qwen3"),
        ask(folder, name="x/Qwen3-Reranker-0.6B-seq-cls"),
        ask(write(architecture, "Qwen3-Reranker-4B-seq-cls", **ONE_LABEL)),
    ):
        assert (template_of(scoring), scoring.head) == ("qwen3", "classifier")
        assert (scoring.activation, scoring.tokens) == ("sigmoid", None)
    identity = {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}
    folder = write(architecture, "other", **ONE_LABEL, **identity)
    assert ask(folder, template="qwen3").activation == "identity"


def test_what_the_caller_says_comes_first(write: Callable[..., Path]) -> None:
    folder = write("Qwen3ForCausalLM", "Qwen3-Reranker-0.6B")
    for name in ("qwen3-chat", "bge-gemma", "mxbai-v2"):
        assert template_of(ask(folder, template=name)) == name
    layerwise = write("LayerWiseMiniCPMForCausalLM")
    scoring = ask(layerwise, template="bge-gemma")
    assert (template_of(scoring), scoring.head, scoring.tokens) == ("bge-gemma", "layerwise", None)
    with pytest.raises(InputError, match="template is 'qwen4', expected one of 'bge-gemma', "):
        ask(folder, template="qwen4")
    with pytest.raises(InputError, match='template "pair" does not say which tokens score'):
        ask(folder, template="pair")
    with pytest.raises(InputError, match="names no token that scores, and Qwen3For"):
        ask(folder, template="bge-minicpm-layerwise")


def test_an_encoder_has_no_template(write: Callable[..., Path]) -> None:
    folder = write("BertForSequenceClassification", **ONE_LABEL)
    for options in ({}, {"template": "pair"}):
        scoring = ask(folder, **options)
        assert (scoring.head, scoring.activation) == ("classifier", "sigmoid")
        layout = scoring.layout(Tokenizer.from_folder(folder), load_config(folder))
        assert layout.lay_out([("a", "b")])[0].queries is None
    with pytest.raises(InputError, match="is for decoders, and BertForSequenceClassification is"):
        ask(folder, template="qwen3")
    with pytest.raises(InputError, match="takes no instruction"):
        ask(folder).layout(Tokenizer.from_folder(folder), load_config(folder), instruction="x")


@pytest.mark.parametrize(("hidden_size", "shift"), [(896, 4.5), (1536, 6.0)])
def test_normalisation(write: Callable[..., Path], hidden_size: int, shift: float) -> None:
    """mxbai-rerank: sigmoid(x - estimated_max / 2), 9 of the base model and 12 of the large."""
    folder = write("Qwen2ForCausalLM", "mxbai-rerank-v2", hidden_size=hidden_size)
    scoring = ask(folder)
    assert (scoring.activation, scoring.shift, scoring.max_length) == ("identity", shift, 8192)
    assert ask(folder, template="bge-gemma").shift == 0.0
    assert ask(folder, template="qwen3").activation == "sigmoid"


def test_missing_scoring_tokens(write: Callable[..., Path]) -> None:
    folder = write("Qwen3ForCausalLM")
    raw = json.loads((folder / "tokenizer.json").read_text())
    raw["added_tokens"] = [t for t in raw["added_tokens"] if t["content"] not in ("yes", "Yes")]
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    with pytest.raises(ModelError, match="has no token 'yes', which the template needs; is it"):
        ask(folder, template="qwen3")
    with pytest.raises(ModelError, match="has no token 'Yes', which the template needs; is it"):
        ask(folder, template="bge-gemma")


def test_layouts_get_what_the_caller_asks(write: Callable[..., Path]) -> None:
    folder = write("Qwen3ForCausalLM", "Qwen3-Reranker-0.6B")
    config, tokenizer = load_config(folder), Tokenizer.from_folder(folder)
    scoring = ask(folder)
    layout = scoring.layout(tokenizer, config)
    assert isinstance(layout, PromptLayout)
    assert layout.max_length == 3000  # 8192, but for the positions
    for asked in (700, 5000):
        assert scoring.layout(tokenizer, config, max_length=asked).max_length == asked
    one = [("ab", "c" * 3000)]
    assert len(layout.lay_out(one)[0]) == 1
    assert scoring.layout(tokenizer, config, truncation="off").lay_out(one)[1].keys() == {0}
    told = scoring.layout(tokenizer, config, instruction="xyz").lay_out([("ab", "c")])[0]
    text = tokenizer_file().decode(told.token_ids.tolist(), skip_special_tokens=False)
    assert "<Instruct>: xyz\n<Query>: ab\n<Document>: c<|im_end|>\n" in text


def saved(folder: Path, chat: bool) -> None:
    """As if sentence-transformers had saved a cross-encoder there, of one module."""
    (folder / "modules.json").write_text(
        json.dumps(
            [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.Transformer"}]
        )
    )
    (folder / "config_sentence_transformers.json").write_text('{"model_type": "CrossEncoder"}')
    if chat:
        (folder / "chat_template.jinja").write_text(
            "{% for message in messages %}{{ message.role }}={{ message.content }};{% endfor %}"
        )
        modality = {"method": "forward", "method_output_name": "logits", "format": "flat"}
        (folder / "sentence_bert_config.json").write_text(
            json.dumps({"modality_config": {"message": modality}})
        )


@pytest.mark.parametrize("chat", [True, False])
def test_classifiers_that_sentence_transformers_saved(
    write: Callable[..., Path], chat: bool
) -> None:
    folder = write("Qwen2ForSequenceClassification", **ONE_LABEL)
    saved(folder, chat)
    scoring = ask(folder)
    assert scoring.head == "classifier"
    layout = scoring.layout(Tokenizer.from_folder(folder), load_config(folder))
    assert isinstance(layout, ChatLayout if chat else TokenizerLayout)
    pack, _ = layout.lay_out([("a", "b")])
    text = tokenizer_file().decode(pack.token_ids.tolist(), skip_special_tokens=False)
    assert text == ("query=a;document=b;" if chat else "<s>a<s>b")
    assert ask(folder, template="pair").chat is None
    assert np.array_equal(
        ask(folder, template="pair")
        .layout(Tokenizer.from_folder(folder), load_config(folder))
        .lay_out([("a", "b")])[0]
        .token_ids,
        tokenizer_file().encode("a", "b").ids,
    )


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("Gemma", "bge-reranker-v2-gemma"),
        ("Qwen2", "mxbai-rerank-base-v2"),
        ("Qwen3", "Qwen3-Reranker-4B"),
        ("Qwen3", "mine"),
    ],
)
@pytest.mark.parametrize("num_labels", [1, 2])
def test_a_name_does_not_override_what_sentence_transformers_saved(
    write: Callable[..., Path], family: str, name: str, num_labels: int
) -> None:
    labels = {str(i): f"LABEL_{i}" for i in range(num_labels)}
    folder = write(f"{family}ForSequenceClassification", name, id2label=labels)
    saved(folder, chat=False)
    path = folder / "config_sentence_transformers.json"
    prompts = {"prompts": {"a": "Find: "}, "default_prompt_name": "a"}
    path.write_text(json.dumps({"model_type": "CrossEncoder"} | prompts))
    text = {"method": "forward", "method_output_name": "logits"}
    settings = {"max_seq_length": 12, "modality_config": {"text": text}}
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    scoring = ask(folder)
    assert (scoring.head, scoring.template, scoring.chat) == ("classifier", None, None)
    pack, _ = scoring.layout(Tokenizer.from_folder(folder), load_config(folder)).lay_out(
        [("a", "b"), ("a", "b" * 9)]
    )
    decoded = [
        tokenizer_file().decode(s.token_ids.tolist(), skip_special_tokens=False) for s in pack
    ]
    assert decoded == ["<s>Find: a<s>b", "<s>Find:<s>bbbbb"]
    assert template_of(ask(folder, template="qwen3")) == "qwen3"
    # Without them the name speaks, or has to.
    path.unlink()
    if num_labels == 1 and name != "mine":
        assert ask(folder).template is not None


def test_a_chat_template_that_is_stated_says_how_qwen3_reads(write: Callable[..., Path]) -> None:
    folder = write("Qwen3ForSequenceClassification", "Qwen3-Reranker-seq-cls", **ONE_LABEL)
    saved(folder, chat=True)
    assert ask(folder).chat is not None
    assert template_of(ask(folder, template="qwen3")) == "qwen3"
