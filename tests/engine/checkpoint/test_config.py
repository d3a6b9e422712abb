"""config.json in every spelling, and a sentence for what cannot be run as it was meant."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from packrank.checkpoint.config import ARCHITECTURES, load_config
from packrank.errors import ModelError

BERT = {
    "architectures": ["BertForSequenceClassification"],
    "hidden_size": 12,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "intermediate_size": 7,
    "vocab_size": 11,
    "max_position_embeddings": 514,
}


def test_defaults_are_those_of_transformers(load: Any) -> None:
    config = load(BERT)
    assert (config.family, config.is_classifier) == ("bert", True)
    assert (config.norm_eps, config.activation) == (1e-12, "gelu")
    assert (config.type_vocab_size, config.pad_token_id, config.num_labels) == (2, 0, 2)
    assert (config.embedding_size, config.pooling, config.modernbert) == (12, "cls", None)


@pytest.mark.parametrize(
    ("architecture", "pad_token_id", "expected"),
    [
        ("BertModel", 5, 514),
        ("DistilBertModel", None, 514),
        ("RobertaModel", 1, 512),
        ("XLMRobertaForSequenceClassification", 1, 512),
        ("CamembertForMaskedLM", 5, 508),
    ],
)
def test_max_length(load: Any, architecture: str, pad_token_id: int | None, expected: int) -> None:
    distilbert = {"dim": 12, "n_heads": 3, "n_layers": 2, "hidden_dim": 7}
    raw = BERT | distilbert | {"architectures": [architecture], "pad_token_id": pad_token_id}
    config = load(raw)
    assert config.max_length == config.usual_length == expected and config.has_position_table


@pytest.mark.parametrize(
    ("architecture", "more", "ends"),
    [
        ("GteModel", {}, False),
        ("ModernBertModel", {}, False),
        ("LlamaForSequenceClassification", {}, False),
        ("DebertaV2Model", {"position_biased_input": False}, False),
        ("DebertaV2Model", {"position_biased_input": True}, True),
        ("DebertaV2Model", {}, True),
    ],
)
def test_max_length_without_a_table_of_positions(
    load: Any, architecture: str, more: dict[str, Any], ends: bool
) -> None:
    sizes = {"hidden_size": 12, "num_attention_heads": 3}
    config = load(BERT | sizes | {"architectures": [architecture]} | more)
    assert config.usual_length == 514 and config.has_position_table == ends
    assert config.max_length == (514 if ends else 2**20)


def test_distilbert_spelling(load: Any) -> None:
    raw = {
        "architectures": ["DistilBertForSequenceClassification"],
        "dim": 10,
        "n_heads": 5,
        "n_layers": 4,
        "hidden_dim": 9,
        "activation": "relu",
        "vocab_size": 11,
        "max_position_embeddings": 8,
        "layer_norm_eps": 0.5,
    }
    config = load(raw)
    assert (config.hidden_size, config.num_heads, config.num_layers) == (10, 5, 4)
    assert (config.intermediate_size, config.activation) == (9, "relu")
    assert (config.norm_eps, config.type_vocab_size) == (1e-12, 0)


def test_electra_embedding_size(load: Any) -> None:
    electra = BERT | {"architectures": ["ElectraModel"]}
    assert load(electra | {"embedding_size": 5}).embedding_size == 5
    assert load(electra).embedding_size == 128


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gelu", "gelu"),
        ("gelu_new", "gelu_tanh"),
        ("gelu_pytorch_tanh", "gelu_tanh"),
        ("relu", "relu"),
        ("silu", "silu"),
        ("swish", "silu"),
        ("tanh", "tanh"),
    ],
)
def test_activations(load: Any, name: str, expected: str) -> None:
    assert load(BERT | {"hidden_act": name}).activation == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"id2label": {"0": "LABEL_0"}}, 1),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, 3),
        ({"num_labels": 4}, 4),
        ({"id2label": None, "num_labels": 1}, 1),
    ],
)
def test_num_labels(load: Any, options: dict[str, Any], expected: int) -> None:
    assert load(BERT | options).num_labels == expected


SIGMOID, IDENTITY = "torch.nn.modules.activation.Sigmoid", "torch.nn.modules.linear.Identity"


@pytest.mark.parametrize(
    ("nested", "old", "num_labels", "expected"),
    [
        (None, None, 1, "sigmoid"),
        (None, None, 2, "identity"),
        (None, IDENTITY, 1, "identity"),
        (None, SIGMOID, 2, "sigmoid"),
        (IDENTITY, SIGMOID, 1, "identity"),
        ("mine.Thing", IDENTITY, 1, "sigmoid"),
        ("torch.nn.modules.activation.Tanh", None, 1, "tanh"),
        ("torch.nn.Softmax", None, 3, "softmax"),
        ("torch.nn.modules.activation.ReLU", None, 1, "relu"),
        ("torch.nn.modules.LogSigmoid", None, 1, "logsigmoid"),
        ("torch.nn.modules.activation.Softplus", None, 1, "softplus"),
        ("torch.nn.GELU", None, 1, "torch.nn.GELU"),
        ("torch.sigmoid", None, 1, "torch.sigmoid"),
    ],
)
def test_default_activation(
    load: Any, nested: str, old: str, num_labels: int, expected: str
) -> None:
    raw = BERT | {"num_labels": num_labels, "sbert_ce_default_activation_function": old}
    if nested is not None:
        raw |= {"sentence_transformers": {"activation_fn": nested, "version": "5.0"}}
    assert load(raw).default_activation == expected


def test_labels_are_named_where_every_one_is(load: Any) -> None:
    assert load(BERT | {"num_labels": 2}).labels == ()
    named = {"1": "yes", "0": "no"}
    assert load(BERT | {"id2label": named}).labels == ("no", "yes")
    assert load(BERT | {"id2label": {"0": "no", "2": "yes"}}).labels == ()


def test_every_architecture_has_a_family() -> None:
    assert ARCHITECTURES["XLMRobertaForSequenceClassification"] == "roberta"
    assert ARCHITECTURES["HF_ColBERT"] == "bert"
    assert ARCHITECTURES["Qwen2ForCausalLM"] == "causal"
    assert ARCHITECTURES["JinaForRanking"] == "causal"
    assert ARCHITECTURES["MT5ForConditionalGeneration"] == "t5"
    assert len(ARCHITECTURES) == 10 * 5 + 1 + 7 * 3 + 2 + 1 + 3 + 1


@pytest.mark.parametrize(
    ("model_type", "family"),
    [("bert", "bert"), ("xlm-roberta", "roberta"), ("camembert", "roberta"), ("electra",) * 2],
)
def test_the_body_of_a_colbert_is_what_model_type_says(
    load: Any, model_type: str, family: str
) -> None:
    config = load(BERT | {"architectures": ["HF_ColBERT"], "model_type": model_type})
    assert (config.architecture, config.family) == ("HF_ColBERT", family)


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"architectures": ["HF_ColBERT"]},
        "which says what the body of this HF_ColBERT is",
    ),
    ({"architectures": ["HF_ColBERT"], "model_type": "xmod"}, "model_type 'xmod' is not supported"),
    (
        {
            "architectures": ["HF_ColBERT"],
            "use_flash_attn": True,
            "model_type": "xlm-roberta",
            "position_embedding_type": "rotary",
        },
        "position_embedding_type 'rotary' is not supported in xlm-roberta",
    ),
    ({"architectures": ["T5Model"]}, "architecture T5Model is not supported; there are {Bert, "),
    ({"architectures": []}, "config.json names no architecture; there are {Bert, "),
    ({"architectures": None}, "config.json names no architecture; there are {Bert, "),
    ({"use_flash_attn": True}, "use_flash_attn True is not supported in bert"),
    ({"auto_map": {"AutoModel": "j/other--m.X"}}, "run by code of its own (auto_map names"),
    ({"position_embedding_type": "alibi"}, "position_embedding_type 'alibi' is not supported"),
    ({"is_decoder": True}, "is_decoder True is not supported in bert; it makes a decoder of"),
    ({"hidden_act": "quick_gelu"}, "hidden_act 'quick_gelu' is not supported"),
    ({"hidden_size": 13}, "hidden_size 13 is not a multiple of 3 heads"),
    ({"hidden_size": None}, "hidden_size is null; give it a value, or take it out"),
    ({"vocab_size": "many"}, "vocab_size is 'many', expected a whole number"),
    ({"vocab_size": True}, "vocab_size is True, expected a whole number"),
    ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
    ({"pad_token_id": 11}, "pad_token_id is 11, and the vocabulary has 11 tokens"),
    ({"layer_norm_eps": "x"}, "layer_norm_eps is 'x', expected a number"),
]


WRONG_TYPES: list[tuple[str, Any]] = [
    ("architectures", [{}]),
    ("architectures", [["BertModel"]]),
    ("architectures", "BertModel"),
    ("is_decoder", "no"),
    ("hidden_size", "12"),
    ("num_attention_heads", 3.0),
    ("num_hidden_layers", [2]),
    ("intermediate_size", {}),
    ("vocab_size", True),
    ("max_position_embeddings", "514"),
    ("type_vocab_size", 2.5),
    ("pad_token_id", [0]),
    ("layer_norm_eps", float("nan")),
    ("layer_norm_eps", float("inf")),
    ("layer_norm_eps", True),
    ("hidden_act", ["gelu"]),
    ("hidden_act", {}),
    ("position_embedding_type", ["absolute"]),
    ("id2label", ["a"]),
    ("num_labels", "1"),
    ("sentence_transformers", ["activation_fn"]),
    ("sentence_transformers", {"activation_fn": 3}),
    ("sbert_ce_default_activation_function", ["torch.nn.Sigmoid"]),
]


@pytest.mark.parametrize(
    ("raw", "key"),
    [(BERT | {key: value}, key) for key, value in WRONG_TYPES]
    + [(BERT | {"architectures": ["ElectraModel"], "embedding_size": "5"}, "embedding_size")],
)
def test_every_key_of_the_wrong_type_is_named(load: Any, raw: dict[str, Any], key: str) -> None:
    with pytest.raises(ModelError) as raised:
        load(raw)
    message = str(raised.value)
    assert key.removesuffix("s") in message
    assert "\n" not in message


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_refusals(load: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=re.escape(message)) as raised:
        load(BERT | options)
    assert "\n" not in str(raised.value)


NUMBERS = ["1e400", "-1e400", "7" * 400, "7" * 5000, "NaN", "Infinity", "1e-400", "-0.0"]
ODD = [*NUMBERS, "[" * 400 + "]" * 400, "[" * 100_000, '{"a":' * 100_000, '"\\ud800"', "null"]
NEEDED = ["hidden_size", "vocab_size", "max_position_embeddings", "layer_norm_eps", "hidden_act"]


@pytest.mark.parametrize("value", ODD, ids=lambda value: value[:8])
@pytest.mark.parametrize("key", [*NEEDED, "num_labels", "position_embedding_type", "is_decoder"])
def test_numbers_and_nests_past_all_bounds(tmp_path: Path, key: str, value: str) -> None:
    """Of which a Python float or its own repr may know nothing."""
    text = json.dumps({name: held for name, held in BERT.items() if name != key})
    (tmp_path / "config.json").write_text(f'{text[:-1]}, "{key}": {value}}}')
    if value == "null" and key not in NEEDED:
        assert load_config(tmp_path).num_labels == 2
        return
    with pytest.raises(ModelError) as raised:
        load_config(tmp_path)
    assert len(str(raised.value)) < 350
    str(raised.value).encode()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pad_token_id": 513}, "pad_token_id is 513, and positions up to it are not used: of 514"),
        ({"pad_token_id": 10**30}, "and positions up to it are not used: of 514 none is left for"),
        ({"pad_token_id": -1}, "pad_token_id is -1, expected a whole number"),
        ({"pad_token_id": None}, "pad_token_id is None, expected a whole number"),
        ({"pad_token_id": 11}, "pad_token_id is 11, and the vocabulary has 11 tokens"),
        ({"max_position_embeddings": 2}, "of 2 none is left for a token"),
    ],
)
def test_a_padding_id_that_leaves_no_position(
    load: Any, values: dict[str, Any], message: str
) -> None:
    roberta = BERT | {"architectures": ["RobertaForSequenceClassification"]}
    assert load(roberta).max_length == 512
    with pytest.raises(ModelError, match=re.escape(message)):
        load(roberta | values)


def test_no_config(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load_config(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}", b"[1]"])
def test_damaged_config(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"config\.json (cannot be read as JSON|holds a list)"):
        load_config(tmp_path)
