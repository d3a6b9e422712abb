"""config.json of decoders: transformers' own configs and rotary tables say what it means."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from packrank.checkpoint.architectures import DECODERS
from packrank.checkpoint.causal_config import DecoderOptions, Rope
from packrank.checkpoint.config import load_config
from packrank.errors import ModelError
from packrank.models.decoder_layers import rotary_table

SIZES = {
    "hidden_size": 96,
    "num_attention_heads": 8,
    "num_hidden_layers": 6,
    "intermediate_size": 8,
    "vocab_size": 11,
    "max_position_embeddings": 50,
}
LAYERWISE = {"architectures": ["LayerWiseMiniCPMForCausalLM"], "start_layer": 2}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 20,
}
COST_WISE: dict[str, Any] = {
    "architectures": ["CostWiseGemmaForCausalLM"],
    "start_layer": 2,
    "layer_sep": 1,
    "layer_wise": True,
}


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """read(head_dim=10): the options of a Llama, or of another of `architectures`."""

    def write_and_read(**values: Any) -> DecoderOptions:
        raw = SIZES | {"architectures": ["LlamaForCausalLM"]} | values
        (tmp_path / "config.json").write_text(json.dumps(raw))
        options = load_config(tmp_path).decoder
        assert options is not None
        return options

    return write_and_read


def windows_of(family: str, config: Any) -> tuple[int | None, ...]:
    """transformers hides keys at a distance of sliding_window and more.

    A Mistral that has layer_types is a Ministral to its AutoModel, and obeys them.
    """
    width, count = getattr(config, "sliding_window", None), config.num_hidden_layers
    if family == "Mistral" and not hasattr(config, "layer_types"):
        return ((width and width - 1) or None,) * count
    if family in ("Llama", "Gemma"):
        return (None,) * count
    return tuple(width - 1 if "sliding" in kind else None for kind in config.layer_types)


# Heads of keys where the config does not say, in a model of 8.
HEADS = {"Llama": 8, "Mistral": 8, "Gemma2": 4}
WINDOWS: list[dict[str, Any]] = [
    {},
    {"sliding_window": None},
    {"sliding_window": 7, "max_window_layers": 4},
    {"use_sliding_window": True, "sliding_window": 7},
    {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 4},
    {"use_sliding_window": True},
    {
        "use_sliding_window": True,
        "sliding_window": 7,
        "layer_types": ["full_attention", "sliding_attention"] * 3,
    },
]


# Such models transformers has not.
UNKNOWN = {"Gemma2": {"sliding_window": None}}


@pytest.mark.parametrize(
    ("family", "values"),
    [
        (family, values)
        for family in DECODERS.values()
        for values in WINDOWS
        if family != "MiniCPM" and UNKNOWN.get(family) != values
    ],
    ids=str,
)
@pytest.mark.parametrize("whole", [False, True], ids=["brief", "whole"])
def test_what_is_left_out_is_transformers_default(
    read: Any, family: str, values: dict[str, Any], whole: bool
) -> None:
    values = values | ({} if family in HEADS else {"num_key_value_heads": 4})
    theirs = getattr(transformers, f"{family}Config")(**SIZES | values)
    raw = json.loads(theirs.to_json_string(use_diff=False)) if whole else values
    ours = read(**raw | {"architectures": [f"{family}ForSequenceClassification"]})
    assert ours.windows == windows_of(family, theirs)
    assert ours.num_key_heads == theirs.num_key_value_heads == HEADS.get(family, 4)
    assert ours.head_size == (getattr(theirs, "head_dim", None) or 12)
    assert ours.rope == Rope(theirs.rope_parameters["rope_theta"])
    if family == "Gemma2":
        assert ours.attention_softcap == theirs.attn_logit_softcapping
        assert ours.attention_scale == theirs.query_pre_attn_scalar**-0.5
        assert ours.logit_softcap is None  # a classifier's head has none
        ours = read(**raw | {"architectures": ["Gemma2ForCausalLM"]})
        assert ours.logit_softcap == theirs.final_logit_softcapping


ROPES: list[dict[str, Any]] = [
    {},
    {"rope_theta": 500.0},
    {"rope_theta": 500.0, "rope_scaling": None},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 3.0}},
    {"rope_theta": 500.0, "rope_scaling": {"rope_type": "linear", "factor": 3}},
    {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0}},
    *(
        {"rope_theta": theta, "rope_scaling": stretched}
        if old
        else {"rope_parameters": stretched | {"rope_theta": theta}}
        for old in (True, False)
        for theta in (100.0, 500_000.0)
        for stretched in [dict(LLAMA3)]
    ),
]


@pytest.mark.parametrize("values", ROPES, ids=str)
@pytest.mark.parametrize("head_size", [12, 34])
def test_rotary_tables_are_those_of_transformers(
    read: Any, values: dict[str, Any], head_size: int
) -> None:
    theirs = transformers.LlamaConfig(**SIZES | {"head_dim": head_size} | values)
    embedding = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(theirs)
    want = embedding(torch.zeros(1), torch.arange(50)[None])
    options = read(head_dim=head_size, **values)
    got = rotary_table(options.rope, options.head_size, torch.device("cpu")).upto(50)
    for table, expected in zip(got, want, strict=True):
        assert table.dtype == torch.float32
        # theirs repeats the half that both halves of a head are turned by
        np.testing.assert_allclose(table[:50], expected[0, :, : head_size // 2], rtol=0, atol=4e-6)
    kinds = {"llama3", "linear", "default"}
    named = {
        str(word) for value in values.values() if isinstance(value, dict) for word in value.values()
    }
    assert options.rope.kind == next(iter(kinds & named), "default")


def test_scalings_differ() -> None:
    """Or the test above would show nothing."""
    ropes = [Rope(500.0), Rope(500.0, "linear", 3.0), Rope(500.0, "llama3", 8.0, 1.0, 4.0, 20.0)]
    tables = [rotary_table(rope, 12, torch.device("cpu")).upto(50)[0] for rope in ropes]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (tables[one] - tables[other]).abs().max() > 0.1


def test_minicpm(read: Any) -> None:
    options = read(**LAYERWISE, scale_emb=12, scale_depth=1.4, rope_scaling=None)
    assert options.embedding_scale == 12.0
    assert options.residual_scale == pytest.approx(1.4 / np.sqrt(6))
    assert (options.first_exit, options.exit_step, options.one_exit_head) == (2, 1, False)
    assert options.exit_layers(6) == (2, 3, 4, 5, 6)
    assert not options.rounds_embedding_scale
    assert read(**LAYERWISE, head_multi=False).one_exit_head
    assert read(**LAYERWISE, layer_sep=2).exit_layers(6) == (2, 3, 4, 5, 6)  # it reads no such key
    assert read(architectures=LAYERWISE["architectures"], num_hidden_layers=9).exit_layers(9) == (
        8,
        9,
    )
    assert read().exit_layers(6) == (6,)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"rope_scaling": {"type": "yarn", "factor": 4.0}},
            "rope scaling {'type': 'yarn', 'factor': 4.0}",
        ),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, "is not supported"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope scaling {'rope_type': 'longrope'}"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "is not supported"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "is not supported"),
        ({"rope_scaling": {"type": "linear"}}, "has no factor, which rope_type 'linear' needs"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor is 0"),
        ({"rope_scaling": {"type": "llama3", "factor": 8.0}}, "has no low_freq_factor, which rope"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear', expected an object"),
        ({"rope_theta": -1.0}, "rope_theta is -1.0, expected a positive number"),
        ({"rope_theta": "x"}, "rope_theta is 'x', expected a number"),
        ({"rope_parameters": {"rope_theta": 0}}, "rope_theta is 0"),
        ({"head_dim": 13}, "heads have the odd size 13, which rotary positions cannot halve"),
        ({"num_attention_heads": 32}, "heads have the odd size 3, which"),
        ({"num_attention_heads": 200}, "hidden_size 96 is less than 200 heads can share"),
        ({"num_key_value_heads": 3}, "8 heads cannot share 3 heads of keys"),
        ({"num_key_value_heads": 16}, "8 heads cannot share 16 heads of keys"),
        ({"num_key_value_heads": 0}, "num_key_value_heads is 0, expected at least 1"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"hidden_size": None}, "hidden_size is null"),
        ({"attention_bias": 1}, "attention_bias is 1, expected"),
        ({"hidden_act": "laplace"}, "the MLP's activation 'laplace' is not supported"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0, expected a positive number"),
        (LAYERWISE | {"head_type": "raw"}, "head_type 'raw' is not supported; there is 'simple'"),
        (LAYERWISE | {"head_type": "complex"}, "head_type 'complex' is not supported"),
        (COST_WISE | {"layer_wise": False}, "layer_wise is False, not true"),
        (COST_WISE | {"layer_wise": None}, "layer_wise is null; give it a value, or take it out"),
        (COST_WISE | {"start_layer": 28}, "heads from layer 28 on, every 1, do not end at lay"),
        (COST_WISE | {"layer_sep": 28}, "heads from layer 2 on, every 28, do not end at layer 6"),
        (LAYERWISE | {"start_layer": 7}, "heads from layer 7 on, every 1, do not end at layer 6"),
        (LAYERWISE | {"start_layer": 0}, "start_layer is 0, expected at least 1"),
        (COST_WISE | {"layer_sep": 3}, "heads from layer 2 on, every 3, do not end at layer 6"),
        (LAYERWISE | {"scale_depth": 0}, "scale_depth is 0, expected a positive number"),
        (
            {"architectures": ["MiniCPMForCausalLM"]},
            "of MiniCPM there is LayerWiseMiniCPMFor",
        ),
        (
            {"architectures": ["MistralForCausalLM"], "sliding_window": 0},
            "sliding_window is 0, expected at least 1",
        ),
        (
            {"architectures": ["Gemma2ForCausalLM"], "layer_types": ["full_attention"]},
            "layer_types is ['full_attention'], expected 6 of ['full_attention', 'sliding_attenti",
        ),
        (
            {"architectures": ["Gemma2ForCausalLM"], "layer_types": ["chunked_attention"] * 6},
            "layer_types is ['chunked_attention',",
        ),
        (
            {"architectures": ["Gemma2ForCausalLM"], "attn_logit_softcapping": 0},
            "attn_logit_softcapping is 0, expected a positive number",
        ),
        (
            {"architectures": ["GemmaForCausalLM"], "use_bidirectional_attention": True},
            "of GemmaForCausalLM is read in one way by some releases of transformers and n",
        ),
        (
            {"architectures": ["LlamaBidirectionalModel"]},
            "architecture LlamaBidirectionalModel is not supported",
        ),
        ({"is_causal": None}, "is_causal is null, expected true or false"),
        ({"is_causal": 0}, "is_causal is 0, expected true or false"),
        (
            {"architectures": ["Phi3ForCausalLM"]},
            "architecture Phi3ForCausalLM is not supported; there are",
        ),
    ],
    ids=lambda value: re.sub(r"\W+", "-", value)[:40] if isinstance(value, str) else None,
)
def test_what_cannot_be_run_is_named(read: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as raised:
        read(**values)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("family", "values", "expected"),
    [
        ("Gemma", {"hidden_activation": "silu"}, "gelu_tanh"),
        ("Gemma", {"hidden_activation": "relu", "hidden_act": "gelu"}, "gelu_tanh"),
        ("Gemma", {"hidden_act": "silu"}, "silu"),
        ("Gemma2", {"hidden_activation": "silu"}, "silu"),
        ("Gemma2", {"hidden_activation": "gelu"}, "gelu"),
        ("Gemma2", {"hidden_act": "silu"}, "gelu_tanh"),
    ],
)
def test_each_gemma_reads_one_key_of_activations(
    tmp_path: Path, family: str, values: dict[str, Any], expected: str
) -> None:
    raw = SIZES | {"architectures": [f"{family}ForCausalLM"]} | values
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert load_config(tmp_path).activation == expected
    theirs = getattr(transformers, f"{family}Config")(**SIZES | values)
    name = theirs.hidden_act if family == "Gemma" else theirs.hidden_activation
    ours = {"gelu_pytorch_tanh": "gelu_tanh"}
    assert ours.get(name, name) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"rope_parameters": {"rope_theta": 9.0}, "rope_theta": 5.0}, Rope(9.0)),
        ({"rope_parameters": {}, "rope_theta": 5.0}, Rope(5.0)),
        (
            {
                "rope_scaling": {"rope_type": "linear", "factor": 2.0},
                "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
            },
            Rope(1e4, "linear", 2.0),
        ),
        # transformers drops the base that lies within rope_parameters where both are there.
        (
            {
                "rope_scaling": {"rope_type": "linear", "factor": 2.0},
                "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 9.0},
            },
            "do not say the same; remove one",
        ),
        (
            {"rope_scaling": LLAMA3, "original_max_position_embeddings": 8},
            Rope(1e4, "llama3", 8.0, 1.0, 4.0, 8.0),
        ),
        (
            {"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0}},
            "low_freq_factor 4.0 is not below high_freq_factor 4.0",
        ),
        ({"rope_parameters": {"rope_theta": None}}, "is not supported"),
    ],
)
def test_which_of_two_words_on_rotary_positions_counts(
    read: Any, values: dict[str, Any], expected: Any
) -> None:
    if isinstance(expected, str):
        with pytest.raises(ModelError, match=expected):
            read(**values)
    else:
        assert read(**values).rope == expected


def test_windows_that_are_on_by_default(read: Any) -> None:
    """Of Qwen's that says that they are, and nothing else."""
    options = read(architectures=["Qwen2ForCausalLM"], use_sliding_window=True, max_window_layers=3)
    assert options.windows == (None,) * 3 + (4095,) * 3


def test_caps_may_be_left_off(read: Any) -> None:
    caps = {"attn_logit_softcapping": None, "final_logit_softcapping": None}
    options = read(architectures=["Gemma2ForCausalLM"], **caps)
    assert (options.attention_softcap, options.logit_softcap) == (None, None)
