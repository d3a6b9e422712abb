"""What the config.json of an encoder-decoder says, and what of it is refused."""

import json
from pathlib import Path
from typing import Any

import encoder_decoders
import pytest
import transformers
from safetensors.torch import load_file, save_file

from packrank.checkpoint.config import ModelConfig, load_config
from packrank.checkpoint.kind import expect, kind_of
from packrank.checkpoint.t5_config import T5Options
from packrank.errors import ModelError

RAW: dict[str, Any] = {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "vocab_size": 97,
    "d_model": 60,
    "d_kv": 12,
    "d_ff": 83,
    "num_layers": 3,
    "num_heads": 4,
}
# flan-t5-base's, as google has it.
FLAN = {
    "d_ff": 2048,
    "d_kv": 64,
    "d_model": 768,
    "num_layers": 12,
    "num_heads": 12,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "vocab_size": 32128,
    "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": True,
    "num_decoder_layers": 12,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "tie_word_embeddings": False,
    "dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-06,
    "n_positions": 512,
    "output_past": True,
    "initializer_factor": 1.0,
    "use_cache": True,
    "task_specific_params": {"summarization": {"max_length": 200}},
}


def read(folder: Path, **values: Any) -> ModelConfig:
    raw = RAW | values
    kept = {key: value for key, value in raw.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(kept))
    return load_config(folder)


def test_what_a_config_of_google_says(tmp_path: Path) -> None:
    found = read(tmp_path, **FLAN)
    assert found.t5 == T5Options(64, 12, 32, 128, True, False, False, 0)
    assert (found.activation, found.intermediate_size, found.num_heads) == ("gelu_tanh", 2048, 12)
    assert (found.norm_eps, found.hidden_size, found.num_layers) == (1e-6, 768, 12)
    assert found.max_length == 2**20 and found.num_labels == 1 and found.reads_prompts
    assert not found.is_classifier and not found.shares_prefixes and found.decoder is None


def test_what_it_leaves_out(tmp_path: Path) -> None:
    assert read(tmp_path).t5 == T5Options(12, 3, 32, 128, False, True, True, 0)
    assert read(tmp_path).activation == "relu"
    options = {"architectures": ["MT5ForConditionalGeneration"], "model_type": "mt5"}
    assert read(tmp_path, **options).t5 == T5Options(12, 3, 32, 128, True, True, False, 0)
    assert read(tmp_path, **options).activation == "gelu_tanh"
    assert read(tmp_path, pad_token_id=5).t5.decoder_start == 5  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("given", "gated", "activation"),
    [
        ({"feed_forward_proj": "relu"}, False, "relu"),
        ({"feed_forward_proj": "gated-gelu"}, True, "gelu_tanh"),
        ({"feed_forward_proj": "gelu"}, False, "gelu"),
        ({"feed_forward_proj": "gated-silu"}, True, "silu"),
        ({"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu"}, True, "gelu"),
        ({"feed_forward_proj": "gated-gelu", "is_gated_act": False}, False, "gelu_tanh"),
    ],
)
def test_the_mlp(given: dict[str, Any], gated: bool, activation: str, tmp_path: Path) -> None:
    """As transformers 5 reads it, which saves the last two keys as well, and lets them count."""
    found = read(tmp_path, **given)
    assert found.t5 is not None and (found.t5.gated, found.activation) == (gated, activation)
    theirs = transformers.T5Config(**given)
    assert theirs.is_gated_act == gated
    assert theirs.dense_act_fn == {"gelu_tanh": "gelu_new"}.get(activation, activation)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"feed_forward_proj": "gated-gelu-new"}, "'gated-gelu-new', expected an activation, or"),
        ({"feed_forward_proj": "gated"}, "feed_forward_proj 'gated' is not supported; there are"),
        ({"feed_forward_proj": "mish"}, "feed_forward_proj 'mish' is not supported; there are"),
        ({"relative_attention_num_buckets": 3}, "num_buckets is 3, expected at least 4"),
        ({"relative_attention_max_distance": 16}, "is 16, expected more than half of the 32"),
        ({"decoder_start_token_id": 97}, "decoder_start_token_id is 97, and the vocabulary has"),
        ({"decoder_start_token_id": -1}, "decoder_start_token_id is -1, and the vocabulary has"),
        ({"is_encoder_decoder": False}, "is_encoder_decoder False is not supported in t5"),
        ({"num_decoder_layers": 5000}, "num_decoder_layers is 5000, expected at most 4096"),
        ({"d_kv": ...}, "d_kv is None, expected a whole number"),
        ({"d_ff": 0}, "d_ff is 0, expected at least 1"),
        ({"layer_norm_epsilon": None}, "layer_norm_epsilon is null"),
        ({"quantization_config": {"quant_method": "gptq"}}, "'gptq' quantization is not support"),
        ({"architectures": ["T5EncoderModel"]}, "architecture T5EncoderModel is not supported; "),
        ({"architectures": ["T5ForSequenceClassification"]}, "T5ForSequenceClassification is not"),
        ({"model_type": "mt5"}, "'T5ForConditionalGeneration', which is no model of model_type"),
        ({"model_type": "umt5"}, "model_type 'umt5' is not supported; there are {Bert"),
        ({"auto_map": {"AutoModel": "modeling.Mine"}}, "is run by code of its own"),
    ],
)
def test_what_is_refused(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as raised:
        read(tmp_path, **values)
    assert message in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["relu", "mt5"])
def test_a_folder_without_a_word_of_its_architecture(kind: str, tmp_path: Path) -> None:
    encoder_decoders.save(tmp_path, kind)
    raw = json.loads((tmp_path / "config.json").read_text())
    [said] = raw.pop("architectures")
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert load_config(tmp_path).architecture == said
    tensors = load_file(tmp_path / "model.safetensors")
    encoder = {name: x for name, x in tensors.items() if not name.startswith("decoder.")}
    save_file(encoder, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="names no architecture, and the tensors beside it are"):
        load_config(tmp_path)


def test_the_name_of_old(tmp_path: Path) -> None:
    assert read(tmp_path, architectures=["T5WithLMHeadModel"]).family == "t5"


def test_what_a_folder_of_it_is(tmp_path: Path) -> None:
    encoder_decoders.save(tmp_path)
    assert kind_of(tmp_path) == "encoder-decoder"
    with pytest.raises(
        ModelError,
        match="holds an encoder-decoder; Pairwise and Setwise rank with it",
    ):
        expect(tmp_path, ("encoder",))
