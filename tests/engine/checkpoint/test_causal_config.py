"""config.json of decoders: transformers' own configs and rotary tables say what it means."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from packrank.checkpoint.causal_config import CAUSAL_FAMILIES, DecoderOptions, Rope
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
    """transformers hides keys at a distance of sliding_window and more."""
    width, count = getattr(config, "sliding_window", None), config.num_hidden_layers
    if family == "Mistral":
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
        for family in CAUSAL_FAMILIES
        for values in WINDOWS
        if UNKNOWN.get(family) != values
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
        for stretched in [
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 20,
            }
        ]
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
    got = rotary_table(options.rope, options.head_size, 50, torch.device("cpu"))
    for table, expected in zip(got, want, strict=True):
        assert table.dtype == torch.float32
        # theirs repeats the half that both halves of a head are turned by
        np.testing.assert_allclose(table, expected[0, :, : head_size // 2], rtol=0, atol=4e-6)
    kinds = {"llama3", "linear", "default"}
    named = {
        str(word) for value in values.values() if isinstance(value, dict) for word in value.values()
    }
    assert options.rope.kind == next(iter(kinds & named), "default")


def test_scalings_differ() -> None:
    """Or the test above would show nothing."""
    ropes = [Rope(500.0), Rope(500.0, "linear", 3.0), Rope(500.0, "llama3", 8.0, 1.0, 4.0, 20.0)]
    tables = [rotary_table(rope, 12, 50, torch.device("cpu"))[0] for rope in ropes]
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
    assert read(**LAYERWISE, layer_sep=2).exit_layers(6) == (2, 4, 6)
    assert read(architectures=LAYERWISE["architectures"], num_hidden_layers=9).exit_layers(9) == (
        8,
        9,
    )
    assert read().exit_layers(6) == (6,)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope scaling {'rope_theta': 10000.0,"),
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
        ({"num_attention_heads": 200}, "head_dim is 0, expected a number of at least 1"),
        ({"num_key_value_heads": 3}, "8 heads cannot share 3 heads of keys"),
        ({"num_key_value_heads": 16}, "8 heads cannot share 16 heads of keys"),
        ({"num_key_value_heads": 0}, "num_key_value_heads is 0, expected a number of at least 1"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"hidden_size": None}, "hidden_size is None"),
        ({"attention_bias": 1}, "attention_bias is 1, expected"),
        ({"hidden_act": "laplace"}, "the MLP's activation 'laplace' is not supported"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0, expected a positive number"),
        (LAYERWISE | {"head_type": "raw"}, "head_type 'raw' is not supported; there is 'simple'"),
        (LAYERWISE | {"head_type": "complex"}, "head_type 'complex' is not supported"),
        (LAYERWISE | {"layer_wise": False}, "layer_wise is False, not true"),
        (LAYERWISE | {"start_layer": 7}, "heads from layer 7 on, every 1, do not end at layer 6"),
        (LAYERWISE | {"start_layer": 0}, "start_layer is 0, expected a number of at least 1"),
        (LAYERWISE | {"layer_sep": 3}, "heads from layer 2 on, every 3, do not end at layer 6"),
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


def test_caps_may_be_left_off(read: Any) -> None:
    caps = {"attn_logit_softcapping": None, "final_logit_softcapping": None}
    options = read(architectures=["Gemma2ForCausalLM"], **caps)
    assert (options.attention_softcap, options.logit_softcap) == (None, None)
