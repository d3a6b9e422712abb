"""Every key of config.json changed in every way, before transformers and before Packrank."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import decoders
import encoder_decoders
import numpy as np
import torch
import transformers
from safetensors.torch import load_file

from packrank.checkpoint.architectures import DECODERS, ENCODER_DECODERS, ENCODERS
from packrank.checkpoint.config import load_config
from packrank.checkpoint.config_keys import KEYS
from packrank.errors import ModelError
from packrank.models import T5Settings, load_model
from packrank.request import Pack, Sequence

_OF_OTHERS = ("minicpm", "new")  # which transformers has not
_NAMES = ENCODERS | DECODERS | ENCODER_DECODERS
FAMILIES = {key: name for key, name in _NAMES.items() if key not in _OF_OTHERS}
# What is swept: each family, and of DeBERTa, whose own defaults are of neither, two.
_DEBERTA = ("deberta-v2 as v2", "deberta-v2 as v3")
BASES = [*(name for name in FAMILIES if name != "deberta-v2"), *_DEBERTA]
ABSENT = object()

# Longer than every window and the positions that a llama3 was made for, shorter than any table.
_LENGTHS = (9, 34)
_ENCODER = {
    "hidden_size": 24,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "intermediate_size": 20,
    "vocab_size": 53,
    "max_position_embeddings": 40,
    "num_labels": 2,
    "pad_token_id": 1,
    "initializer_range": 0.4,
}
_PECULIAR: dict[str, dict[str, Any]] = {
    "electra": {"embedding_size": 12},
    _DEBERTA[0]: {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "max_relative_positions": 12,
        "position_biased_input": True,
        "share_att_key": False,
        "norm_rel_ebd": "none",
        "type_vocab_size": 2,
        "conv_kernel_size": 3,
        "conv_act": "gelu",
        "conv_groups": 2,
        "embedding_size": 12,
    },
    _DEBERTA[1]: {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 8,
        "position_biased_input": False,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "type_vocab_size": 0,
    },
    "distilbert": {
        "dim": 24,
        "n_heads": 3,
        "n_layers": 2,
        "hidden_dim": 20,
    },
    "modernbert": {
        "local_attention": 8,
        "global_attn_every_n_layers": 2,
        **dict.fromkeys(("bos_token_id", "cls_token_id"), 2),
        **dict.fromkeys(("eos_token_id", "sep_token_id"), 3),
    },
}
_ENCODER_DECODER = {"d_model": 24, "d_kv": 8, "d_ff": 20, "num_heads": 3, "num_layers": 2}
_SCORED = (3, 7)  # tokens of an encoder-decoder
_DECODER = {"num_hidden_layers": 2, "vocab_size": 53, "num_labels": 2, "pad_token_id": 1}

# What else to try of a key, beside other values of its type: what a config might well say.
_ROPES: list[Any] = [
    {},
    {"rope_type": "default", "rope_theta": 300.0},
    {"type": "default", "rope_theta": 300.0},
    {"rope_theta": 300.0},
    {"rope_type": "linear", "factor": 2.0},
    {"type": "linear", "factor": 2.0, "rope_theta": 300.0},
    {"rope_type": "linear", "type": "dynamic", "factor": 2.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16},
    {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
    {
        "rope_type": "llama3",
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0},
    {"rope_type": "default", "partial_rotary_factor": 0.5},
    {"rope_type": "default", "factor": 3.0},
    {"rope_theta": None},
    {"full_attention": {"rope_theta": 300.0}, "sliding_attention": {"rope_theta": 40.0}},
    {"full_attention": {"rope_type": "linear", "factor": 2.0}},
    {"full_attention": None},
    {"full_attention": {"rope_theta": 300.0, "partial_rotary_factor": 0.5}},
    {"sliding_attention": {"type": "default", "rope_theta": 40.0}},
]
_ACTIVATIONS = [
    *("gelu", "gelu_10", "gelu_fast", "gelu_new", "gelu_python", "gelu_pytorch_tanh", "relu"),
    *("gelu_python_tanh", "gelu_accurate", "quick_gelu", "silu", "swish", "tanh", "mish", "relu2"),
    *("linear", "leaky_relu", "sigmoid", "hardswish", "relu6", "laplace", "GELU"),
]
_BOTH = [True, False]
_SPECIAL: dict[str, list[Any]] = {
    "rope_parameters": _ROPES,
    "rope_scaling": _ROPES,
    "hidden_act": _ACTIVATIONS,
    "hidden_activation": _ACTIVATIONS,
    "activation": _ACTIVATIONS,
    "dense_act_fn": _ACTIVATIONS,
    "feed_forward_proj": [*_ACTIVATIONS, *(f"gated-{name}" for name in _ACTIVATIONS), "gated", "-"],
    "num_decoder_layers": [1, 3],
    **dict.fromkeys(("scale_decoder_outputs", "is_encoder_decoder"), _BOTH),
    "classifier_activation": _ACTIVATIONS,
    "classifier_pooling": ["cls", "mean", "max"],
    "position_embedding_type": ["absolute", "relative_key", "alibi"],
    "architectures": [
        ["BertForSequenceClassification"],
        [],
        ["XLMRobertaForSequenceClassification"],
    ],
    "model_type": [*FAMILIES, "nomic_bert", "ministral"],
    "problem_type": ["regression", "multi_label_classification"],
    "id2label": [{}, {"0": "a"}, {"0": "a", "1": "b"}, {"0": "a", "1": "b", "2": "c"}],
    "num_labels": [1, 2, 3],
    "layer_types": [
        ["full_attention"] * 2,
        ["sliding_attention"] * 2,
        ["full_attention", "sliding_attention"],
        ["sliding_attention", "full_attention"],
        ["attention", "full_attention"],
        ["chunked_attention"] * 2,
        ["full_attention"],
    ],
    "quantization_config": [{"quant_method": "gptq", "bits": 4}, {"load_in_8bit": True}, {}],
    "per_layer_config": [{"0": {"intermediate_size": 8}}, {}],
    "pruned_heads": [{}, {"0": [1]}],
    "auto_map": [{"AutoModel": "modeling.Mine"}, {"AutoConfig": "configuration.Mine"}, {}],
    "attribute_map": [{}, {"hidden_act": "hidden_size"}],
    "text_config": [{"hidden_size": 8}],
    "dtype": ["float16", "bfloat16", "float32"],
    "torch_dtype": ["float16", "bfloat16"],
    "attn_implementation": ["eager", "sdpa"],
    "_attn_implementation": ["eager", "sdpa"],
    "default_theta": [50.0],
    "sliding_window": [3, 6],
    "head_dim": [8, 4],
    "partial_rotary_factor": [0.5, 1.0],
    "rope_theta": [300, 300.0],
    "local_attention": [4, 5],
    "local_rope_theta": [40.0],
    "global_rope_theta": [300.0],
    "global_attn_every_n_layers": [1, 2],
    "max_window_layers": [0, 1, 5],
    "original_max_position_embeddings": [8, 16],
    "exit_layers": [],
    "chunk_size_feed_forward": [1],
    **dict.fromkeys(("is_causal", "use_sliding_window", "tie_word_embeddings"), _BOTH),
    "type_vocab_size": [1, 2, 3],
    "pos_att_type": [
        *([], ["c2p"], ["p2c"], ["c2p", "c2p"], ["p2p"], ["C2P"], ["c2p|p2c"]),
        *("c2p|p2c", "P2C|C2P", "p2c | c2p", "c2p", "", "none"),
    ],
    "norm_rel_ebd": ["none", "layer_norm", "LAYER_NORM", "layer_norm|none", "", "layer_norm | x"],
    "position_buckets": [-1, 0, 1, 2, 3, 4, 5, 7, 40, 79, 80, 256],
    "max_relative_positions": [-1, 0, 3, 5, 8, 20, 512],
    "conv_kernel_size": [0, 1, 2, 3, 4, 5, 7, -1],
    "conv_groups": [1, 2, 3, 4, 24],
    "conv_act": _ACTIVATIONS,
    "pooler_hidden_act": _ACTIVATIONS,
    "embedding_size": [12, 24, 10],
    "attention_head_size": [8, 4],
    "pooler_hidden_size": [24, 20],
    **dict.fromkeys(("share_att_key", "relative_attention", "position_biased_input"), _BOTH),
}
# What transformers is not asked: it would take the memory or the hours.
_WIDTHS = {
    *("local_attention", "sliding_window", "max_window_layers", "query_pre_attn_scalar"),
    "relative_attention_max_distance",
}
_SHARED_OUT = ("max_position_embeddings", "max_relative_positions")
HUGE = [10**9, 10**18, 10**30, int("7" * 400), 1e300]
BROKEN: list[Any] = [float("inf"), float("-inf"), float("nan"), "\ud800", [[]], {"a": {}}]


@dataclass(frozen=True)
class Change:
    """Values of keys, and whether transformers can be asked what becomes of them."""

    values: dict[str, Any]
    ask: bool = True

    def of(self, raw: dict[str, Any]) -> dict[str, Any]:
        changed = raw | self.values
        return {key: value for key, value in changed.items() if value is not ABSENT}


def build(folder: Path, base: str) -> str:
    """A small classifier with seeded weights, none of which is left at what it starts with.

    Args:
        folder: to be made.
        base: one of `BASES`.

    Returns:
        Its model_type.
    """
    model_type = base.partition(" ")[0]
    name, torch_seed = FAMILIES[model_type], 3
    torch.manual_seed(torch_seed)
    if model_type in DECODERS:
        model = decoders.make(name, **_DECODER)
    elif model_type in ENCODER_DECODERS:
        kind = "mt5" if model_type == "mt5" else "relu"
        sizes = _ENCODER_DECODER | {"vocab_size": 53, "num_decoder_layers": 2}
        model = encoder_decoders.make(kind, **sizes)
    else:
        sizes = _ENCODER | _PECULIAR.get(base, {})
        config = getattr(transformers, f"{name}Config")(**sizes)
        model = getattr(transformers, f"{name}ForSequenceClassification")(config)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.2 * torch.randn_like(weight))
    model.save_pretrained(folder)
    return model_type


def keys_of(model_type: str) -> list[tuple[str, bool]]:
    """Keys of this family's table, or of transformers' config of it; and those of others alone."""
    config = getattr(transformers, f"{FAMILIES[model_type]}Config")()
    every = {key for keys in KEYS.values() for key in (*keys.applied, *keys.harmless, *keys.only)}
    own = KEYS[model_type]
    mine = {*own.applied, *own.harmless, *own.only, *config.to_dict(), "unheard_of"}
    return [(key, key in mine) for key in sorted(every | mine)]


def changes(model_type: str, raw: dict[str, Any]) -> Iterator[Change]:
    """Every change of one key of a family's config.json, and of pairs that go together."""
    for key, is_own in keys_of(model_type):
        value = raw.get(key)
        if not is_own:
            yield from (Change({key: one}) for one in [*_SPECIAL.get(key, [3, True])][:4])
            continue
        others: list[Any] = [None, ABSENT, *_SPECIAL.get(key, ())]
        if isinstance(value, bool) or value is None:
            others += [True, False, "x", 1]
        if isinstance(value, int) and not isinstance(value, bool):
            others += [value + 1, value - 1, 0, -1, 2 * value, value + 0.5, str(value), [value]]
        if isinstance(value, float):
            others += [value * 2, value / 2, 0.0, -1.0, 1, str(value), [value]]
        if isinstance(value, str):
            others += ["x", 3, [value]]
        if isinstance(value, list | dict):
            others += ["x", 3, [], {}]
        yield from (Change({key: one}) for one in others)
        is_size = (type(value) is int or key == "num_hidden_layers") and key not in _WIDTHS
        # By such a one DeBERTa shares distances out, as it does by any other.
        huge = HUGE[1:] if model_type == "deberta-v2" and key in _SHARED_OUT else HUGE
        yield from (Change({key: one}, ask=not is_size) for one in huge)
        yield from (Change({key: one}, ask=False) for one in BROKEN)
    for scaling in _ROPES:
        yield Change({"rope_scaling": scaling, "rope_theta": 77.0, "rope_parameters": ABSENT})
        yield Change({"rope_scaling": scaling, "rope_theta": 77.0})
        yield Change(
            {
                "rope_scaling": scaling,
                "rope_parameters": ABSENT,
                "original_max_position_embeddings": 8,
            }
        )
    yield Change({"id2label": ABSENT, "label2id": ABSENT, "num_labels": 2})
    yield Change({"id2label": {"0": "a"}, "num_labels": 2})
    for types in _SPECIAL["layer_types"]:
        for width in (None, 3, ABSENT):
            for uses in (True, False):
                yield Change(
                    {"layer_types": types, "sliding_window": width, "use_sliding_window": uses}
                )
    yield Change({"architectures": ABSENT})
    yield Change({"architectures": ABSENT, "model_type": ABSENT})


def pack() -> Pack:
    """Sequences within every family's positions; of all token types where there are some."""
    random = np.random.default_rng(5)
    return Pack.of(
        Sequence(random.integers(2, 53, n, dtype=np.int32), np.zeros(n, dtype=np.int32))
        for n in _LENGTHS
    )


class Unsaid(Exception):
    """transformers fails, or makes weights at random: nothing says what is right."""


def theirs(folder: Path) -> np.ndarray:
    """Logits of `pack` by transformers."""
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
        is_pair = config.model_type in ENCODER_DECODERS
        kind = "Seq2SeqLM" if is_pair else "SequenceClassification"
        model = (
            getattr(transformers, f"AutoModelFor{kind}")
            .from_config(config, dtype=torch.float32, attn_implementation="eager")
            .eval()
        )
        missing = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)[0]
        if missing and config.model_type == "gte":  # saved under its authors' names
            model, found = transformers.AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
            )
            missing = found["missing_keys"]
        if is_pair:  # of tied tables one alone is there
            loaded = type(model).from_pretrained(folder, config=config, attn_implementation="eager")
            loaded.eval()
            return encoder_decoders.their_logits(loaded, pack(), (0,), _SCORED)
        if missing:
            raise Unsaid(f"no {missing}")
        whole = pack()
        with torch.no_grad():
            rows = [
                model(torch.from_numpy(whole.token_ids[a:b])[None].long()).logits[0]
                for a, b in zip(whole.cu_seqlens, whole.cu_seqlens[1:], strict=False)
            ]
        return torch.stack(rows).float().numpy()
    except Unsaid:
        raise
    except Exception as error:
        raise Unsaid(repr(error)) from error


def ours(folder: Path) -> np.ndarray:
    """Logits of `pack` by Packrank."""
    is_pair = load_config(folder).t5 is not None
    settings = T5Settings((0,), _SCORED) if is_pair else None
    model = load_model(folder, device="cpu", dtype=torch.float32, causal=settings)
    return model.logits(pack()).numpy()


def fault_of(base: Path, folder: Path, change: Change, before: np.ndarray) -> str | None:
    """What is wrong with what Packrank makes of a change; None: nothing.

    Args:
        base: a folder of `build`.
        folder: its like, whose config.json is overwritten.
        change: of its config.json.
        before: logits of `base`.
    """
    raw = json.loads((base / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(change.of(raw)))
    try:
        # A model is made of its weights and of this alone.
        same = load_config(folder) == load_config(base)
        got = before if same else ours(folder)
    except ModelError as error:
        return f"a message of {len(str(error))} characters" if len(str(error)) > 700 else None
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    right, why = before, ""
    if change.ask:
        try:
            right = theirs(folder)
        except Unsaid as unsaid:
            if "StrictDataclass" in str(unsaid) and any(map(is_number, change.values.values())):
                return None  # 1 for 1.0, or 20.5 for a whole number, is what it says
            why = f" (transformers: {unsaid})"
    if got.shape != right.shape:
        return f"{got.shape} for {right.shape}{why}"
    off = float(np.abs(got - right).max())
    return None if off < 2e-4 * max(1.0, float(np.abs(right).max())) else f"off by {off:.2g}{why}"


def is_number(value: object) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def twin(base: Path, folder: Path) -> Path:
    """A folder with the weights of another."""
    folder.mkdir()
    shutil.copy(base / "model.safetensors", folder)
    return folder
