"""config.json of ModernBERT: how each layer attends, in old spellings and new ones."""

import re
from typing import Any

import pytest

from packrank.checkpoint.modernbert_config import LayerAttention
from packrank.errors import ModelError

MODERNBERT = {
    "architectures": ["ModernBertModel"],
    "hidden_size": 12,
    "num_attention_heads": 3,
    "num_hidden_layers": 5,
    "intermediate_size": 7,
    "vocab_size": 11,
    "max_position_embeddings": 514,
}
FULL, SLIDING = LayerAttention(160_000.0, None), LayerAttention(10_000.0, 64)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [FULL, SLIDING, SLIDING, FULL, SLIDING]),
        ({"global_attn_every_n_layers": 2}, [FULL, SLIDING, FULL, SLIDING, FULL]),
        ({"layer_types": ["sliding_attention"] * 4 + ["full_attention"]}, [SLIDING] * 4 + [FULL]),
        (
            {"local_attention": 9, "local_rope_theta": 7.0, "global_rope_theta": 8},
            [LayerAttention(8.0, None), *[LayerAttention(7.0, 4)] * 2] * 2,
        ),
        (
            {"rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 7}}},
            [FULL, LayerAttention(7.0, 64), LayerAttention(7.0, 64), FULL, LayerAttention(7.0, 64)],
        ),
        (
            {"global_rope_theta": 8.0, "local_rope_theta": None},
            [LayerAttention(8.0, None), *[LayerAttention(8.0, 64)] * 2] * 2,
        ),
    ],
)
def test_modernbert_layers(load: Any, options: dict[str, Any], expected: list[Any]) -> None:
    modernbert = load(MODERNBERT | options).modernbert
    assert list(modernbert.attention) == expected[:5]


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
    config = load(MODERNBERT | {"hidden_activation": name, "classifier_activation": name})
    assert config.activation == config.modernbert.head_activation == expected


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"classifier_pooling": "max"}, "classifier_pooling 'max' is neither cls nor mean"),
    ({"hidden_activation": "mish"}, "hidden_activation 'mish' is not supported"),
    ({"classifier_activation": "mish"}, "classifier_activation 'mish' is not supported"),
    ({"layer_types": ["full_attention"]}, "layer_types is ['full_attention'], expected 5 of"),
    ({"layer_types": ["chunked"] * 5}, "expected 5 of ['full_attention', 'sliding_attention']"),
    ({"rope_scaling": {"type": "ntk"}}, "rope scaling {'type': 'ntk'} is not supported"),
    ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope scaling"),
    ({"rope_parameters": {"full_attention": {"rope_theta": "x"}}}, "rope_theta is 'x', expected"),
    ({"hidden_size": 9}, "hidden_size 9 gives heads of odd size 3"),
]


WRONG_TYPES: list[tuple[str, Any]] = [
    ("norm_eps", "small"),
    ("hidden_activation", 3),
    ("classifier_activation", ["gelu"]),
    ("classifier_pooling", ["cls"]),
    ("norm_bias", 1),
    ("attention_bias", "false"),
    ("mlp_bias", {}),
    ("classifier_bias", 0),
    ("layer_types", 3),
    ("layer_types", [["full_attention"]] * 5),
    ("layer_types", [{}] * 5),
    ("global_attn_every_n_layers", "3"),
    ("local_attention", 128.0),
    ("global_rope_theta", "x"),
    ("local_rope_theta", float("nan")),
    ("rope_parameters", [1]),
    ("rope_parameters", {"full_attention": 3}),
    ("rope_parameters", {"full_attention": {"rope_theta": "x"}}),
    ("rope_scaling", 3),
]


@pytest.mark.parametrize(("key", "value"), WRONG_TYPES)
def test_every_key_of_the_wrong_type_is_named(load: Any, key: str, value: Any) -> None:
    with pytest.raises(ModelError) as raised:
        load(MODERNBERT | {key: value})
    message = str(raised.value)
    last = "rope_theta" if "rope_theta is" in message else key
    assert last.removesuffix("s").replace("_scaling", " scaling") in message
    assert "\n" not in message


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_refusals(load: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=re.escape(message)) as raised:
        load(MODERNBERT | options)
    assert "\n" not in str(raised.value)
