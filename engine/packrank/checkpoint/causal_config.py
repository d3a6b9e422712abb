"""What a decoder's config.json says beyond the sizes that every model has."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from packrank.checkpoint.config_values import ConfigValues, positive
from packrank.checkpoint.files import field, shown
from packrank.errors import ModelError

CAUSAL_FAMILIES = {
    "Llama": "llama",
    "Mistral": "mistral",
    "Qwen2": "qwen2",
    "Qwen3": "qwen3",
    "Gemma": "gemma",
    "Gemma2": "gemma2",
}
# Models of FlagEmbedding whose code transformers has not: a head at each of several layers.
LAYERWISE = {"LayerWiseMiniCPMForCausalLM": "minicpm", "CostWiseGemmaForCausalLM": "gemma2"}

# Architecture, as config.json names it -> family.
CAUSAL_ARCHITECTURES: dict[str, str] = {
    f"{name}{suffix}": family
    for name, family in (CAUSAL_FAMILIES | {"MiniCPM": "minicpm"}).items()
    for suffix in ("ForSequenceClassification", "ForCausalLM", "Model")
} | LAYERWISE

# Where transformers' defaults differ; config.json leaves out what equals them.
_HEAD_SIZES = {"qwen3": 128, "gemma": 256, "gemma2": 256}
_KEY_HEADS = {"mistral": 8, "gemma2": 4}
_WHERE = "config.json"


@dataclass(frozen=True)
class Rope:
    """Rotary positions.

    Attributes:
        theta: base of the frequencies.
        kind: "default"; "linear", all frequencies divided by `factor`; or "llama3", only the long
            waves.
        factor: of linear and llama3.
        low: llama3: waves longer than original / low are divided.
        high: llama3: waves shorter than original / high are left.
        original: llama3: positions of the model before it was stretched.
    """

    theta: float
    kind: Literal["default", "linear", "llama3"] = "default"
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original: float = 8192.0


@dataclass(frozen=True)
class DecoderOptions:
    """How a family of decoders departs from Llama's.

    Attributes:
        num_key_heads: heads of keys and values; divides the heads of queries.
        head_size: D; independent of hidden_size / heads.
        rope: rotary positions.
        windows: of each layer, how far a query sees, itself excluded; None: to the end.
        attention_scale: factor on the dot products.
        causal: a token sees what comes before it alone, else what follows too.
        attention_softcap: s becomes cap * tanh(s / cap); None: it does not.
        logit_softcap: the same of the final logits.
        qkv_bias: whether the projections of queries, keys and values have one; likewise of the
            attention's output and of the MLP.
        head_norms: whether queries and keys are normalised head by head before they are rotated.
        unit_offset: a norm's factor is 1 + weight.
        outer_norms: a norm after attention and MLP too, before the sum.
        embedding_scale: factor on the embeddings.
        rounds_embedding_scale: the factor is rounded to the dtype of the embeddings first.
        residual_scale: factor on what attention and MLP add.
        wide_range: hidden states are known to leave float16's range.
        first_exit: layerwise models: layers run before the first head; None: one head, at the end.
        exit_step: layers between one head and the next.
        one_exit_head: layerwise models: all layers share one head.
        tied: of a causal model: the head is the embedding.
    """

    num_key_heads: int
    head_size: int
    rope: Rope
    windows: tuple[int | None, ...]
    attention_scale: float
    causal: bool = True
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    head_norms: bool = False
    unit_offset: bool = False
    outer_norms: bool = False
    embedding_scale: float = 1.0
    rounds_embedding_scale: bool = False
    residual_scale: float = 1.0
    wide_range: bool = False
    first_exit: int | None = None
    exit_step: int = 1
    one_exit_head: bool = False
    tied: bool = False

    def exit_layers(self, num_layers: int) -> tuple[int, ...]:
        """After how many layers there is a head; the last is always among them."""
        if self.first_exit is None:
            return (num_layers,)
        return tuple(range(self.first_exit, num_layers + 1, self.exit_step))


def read_decoder(raw: dict[str, Any], architecture: str) -> DecoderOptions:
    """The options of a decoder.

    Args:
        raw: config.json.
        architecture: a key of `CAUSAL_ARCHITECTURES`.

    Raises:
        ModelError: the config asks for what is not supported, or makes no sense.
    """
    family = CAUSAL_ARCHITECTURES[architecture]
    read = _Options(raw)
    hidden, heads = read.size("hidden_size"), read.size("num_attention_heads")
    layers = read.size("num_hidden_layers")
    head_size = read.size("head_dim", _HEAD_SIZES.get(family, hidden // heads))
    key_heads = read.size("num_key_value_heads", min(heads, _KEY_HEADS.get(family, heads)))
    if heads % key_heads:
        raise ModelError(f"{_WHERE}: {heads} heads cannot share {key_heads} heads of keys")
    if head_size % 2:
        raise ModelError(
            f"{_WHERE}: heads have the odd size {head_size}, which rotary positions cannot halve"
        )
    causal = read.causal(architecture)
    bias = read.flag("attention_bias")
    options: dict[str, Any] = {
        "num_key_heads": key_heads,
        "head_size": head_size,
        "rope": read.rope(),
        "causal": causal,
        # As transformers has it: a window of n is n - 1 tokens back, or n to either side.
        "windows": read.windows(family, layers, 1 if causal else 0),
        "attention_scale": head_size**-0.5,
        "qkv_bias": family == "qwen2" or (bias and family != "mistral"),
        "out_bias": bias and family not in ("qwen2", "mistral"),
        "mlp_bias": family == "llama" and read.flag("mlp_bias"),
        "head_norms": family == "qwen3",
        "tied": read.flag("tie_word_embeddings", family in ("gemma", "gemma2")),
    }
    if family in ("gemma", "gemma2"):
        options |= {
            "unit_offset": True,
            "embedding_scale": math.sqrt(hidden),
            "rounds_embedding_scale": True,
            "wide_range": True,
        }
    if family == "gemma2":
        options |= {
            "outer_norms": True,
            "attention_scale": read.real("query_pre_attn_scalar", 256.0) ** -0.5,
            "attention_softcap": read.cap("attn_logit_softcapping", 50.0),
        }
        if architecture.endswith("ForCausalLM"):
            options["logit_softcap"] = read.cap("final_logit_softcapping", 30.0)
    if family == "minicpm":
        options |= {
            "embedding_scale": read.real("scale_emb", 1.0),
            "residual_scale": read.real("scale_depth", 1.0) / math.sqrt(layers),
        }
    if architecture in LAYERWISE:
        options |= read.exits(layers)
    elif family == "minicpm":
        raise ModelError(
            f"{architecture} is not supported; of MiniCPM there is LayerWiseMiniCPMForCausalLM"
        )
    return DecoderOptions(**options)


def decoder_activation(raw: dict[str, Any], architecture: str) -> str:
    """The MLP's activation as transformers names it; Gemma's "gelu" means the tanh form.

    Args:
        raw: config.json.
        architecture: a key of `CAUSAL_ARCHITECTURES`.
    """
    config, family = ConfigValues(raw), CAUSAL_ARCHITECTURES[architecture]
    if family in ("gemma", "gemma2"):
        usual = "gelu_pytorch_tanh"
        old = config.field("hidden_act", str, usual) if family == "gemma" else usual
        name = config.field("hidden_activation", str, old)
        return usual if name == "gelu" and family == "gemma" else str(name)
    return str(config.field("hidden_act", str, "silu"))


def decoder_pad(raw: dict[str, Any], architecture: str) -> int:
    """The padding token, which Gemma has by default; -1: none.

    Args:
        raw: config.json.
        architecture: a key of `CAUSAL_ARCHITECTURES`.
    """
    usual = 0 if CAUSAL_ARCHITECTURES[architecture] in ("gemma", "gemma2") else -1
    if "pad_token_id" in raw and raw["pad_token_id"] is None:
        return -1
    return int(field(raw, "pad_token_id", int, usual, _WHERE))


class _Options(ConfigValues):
    """What only decoders say, one value at a time."""

    def flag(self, key: str, default: bool = False) -> bool:
        return bool(self.field(key, bool, default))

    def size(self, key: str, default: int | None = None) -> int:
        value = self.field(key, int, default)
        if value is None or value < 1:
            raise ModelError(f"{_WHERE}: {key} is {value}, expected a number of at least 1")
        return int(value)

    def cap(self, key: str, default: float) -> float | None:
        """A number; None where the config says null."""
        if key in self.raw and self.raw[key] is None:
            return None
        return self.real(key, default)

    def rope(self) -> Rope:
        """rope_parameters since transformers 5; rope_theta and rope_scaling before."""
        found = self.field("rope_parameters", dict, None)
        scaling = self.field("rope_scaling", dict, {})
        if found is not None and scaling and not scaling.items() <= found.items():
            raise ModelError(
                f"{_WHERE}: rope_scaling {shown(scaling)} and rope_parameters {shown(found)} do "
                "not say the same; remove one"
            )
        if found is None:
            found = {"rope_theta": self.field("rope_theta", float, 10_000.0)} | scaling
        kind = found.get("rope_type", found.get("type", "default"))
        # MiniCPM's rope_scaling of null and transformers' "default" are one.
        known = {"default": (), "linear": ("factor",), "llama3": _LLAMA3}
        nested = any(isinstance(value, dict) for value in found.values())
        partial = found.get("partial_rotary_factor", 1.0) != 1.0
        if nested or partial or kind not in list(known):
            raise ModelError(f"{_WHERE}: rope scaling {shown(found)} is not supported")
        where = f"{_WHERE}: rope_parameters"
        theta = field(found, "rope_theta", float, self.field("rope_theta", float, 1e4), where)
        values = {"theta": positive("rope_theta", theta)}
        for key in known[kind]:
            value = field(found, key, float, None, where)
            if value is None and key == "original_max_position_embeddings":
                value = float(self.size("max_position_embeddings"))
            if value is None:
                raise ModelError(f"{where} has no {key}, which rope_type {kind!r} needs")
            values[_ROPE_NAMES[key]] = positive(key, value)
        return Rope(kind=kind, **values)

    def causal(self, architecture: str) -> bool:
        """Whether attention is causal; transformers runs it both ways where is_causal is false."""
        if "is_causal" in self.raw and self.raw["is_causal"] is None:
            raise ModelError(f"{_WHERE}: is_causal is null, expected true or false")
        causal = bool(self.field("is_causal", bool, True))
        if causal and self.raw.get("use_bidirectional_attention"):
            raise ModelError(
                f"{_WHERE}: use_bidirectional_attention of {architecture} is read in one way by "
                'some releases of transformers and not by others; write "is_causal": false where '
                "attention runs both ways, and remove it where it does not"
            )
        if not causal and architecture in LAYERWISE:
            raise ModelError(f"{_WHERE}: is_causal is false, which {architecture} knows nothing of")
        return causal

    def windows(self, family: str, layers: int, itself: int) -> tuple[int | None, ...]:
        width = self.field("sliding_window", int, None)
        if family == "mistral" and "sliding_window" not in self.raw:
            width = 4096
        if family == "gemma2" and width is None:
            width = 4096
        uses = {
            "mistral": width is not None,
            "qwen2": self.flag("use_sliding_window"),
            "qwen3": self.flag("use_sliding_window"),
            "gemma2": True,
        }
        if not uses.get(family, False) or width is None:
            return (None,) * layers
        if width < 1:
            raise ModelError(f"{_WHERE}: sliding_window is {width}, expected at least 1")
        # Of Mistral transformers ignores layer_types: all its layers slide.
        kinds = None if family == "mistral" else self.field("layer_types", list, None)
        if kinds is None:
            first = self.field("max_window_layers", int, 28)
            slides = {
                "mistral": [True] * layers,
                "gemma2": [i % 2 == 0 for i in range(layers)],
            }.get(family, [i >= first for i in range(layers)])
            kinds = ["sliding_attention" if one else "full_attention" for one in slides]
        names = ("full_attention", "sliding_attention")
        if len(kinds) != layers or not all(kind in names for kind in kinds):
            raise ModelError(
                f"{_WHERE}: layer_types is {shown(kinds)}, expected {layers} of {list(names)}"
            )
        return tuple(width - itself if kind == names[1] else None for kind in kinds)

    def exits(self, layers: int) -> dict[str, Any]:
        kind = self.field("head_type", str, "simple")
        if kind != "simple":
            raise ModelError(
                f"{_WHERE}: head_type {kind!r} is not supported; there is 'simple', a score a layer"
            )
        if self.raw.get("layer_wise", True) is not True:
            raise ModelError(f"{_WHERE}: layer_wise is {shown(self.raw['layer_wise'])}, not true")
        first, step = self.size("start_layer", 8), self.size("layer_sep", 1)
        if first > layers or (layers - first) % step:
            raise ModelError(
                f"{_WHERE}: heads from layer {first} on, every {step}, do not end at layer {layers}"
            )
        return {
            "first_exit": first,
            "exit_step": step,
            "one_exit_head": self.raw.get("head_multi", True) is False,
        }


_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
_ROPE_NAMES = dict(zip(_LLAMA3, ("factor", "low", "high", "original"), strict=True))
