"""What a decoder's config.json says beyond the sizes that every model has."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from packrank.checkpoint.architectures import LANGUAGE_MODEL, LAYERWISE, MODEL_TYPES
from packrank.checkpoint.config_values import MOST, ConfigValues, positive
from packrank.checkpoint.files import field, shown
from packrank.errors import ModelError

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
        temperature: logits are divided by it.
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
    temperature: float = 1.0

    def exit_layers(self, num_layers: int) -> tuple[int, ...]:
        """After how many layers there is a head; the last is always among them."""
        if self.first_exit is None:
            return (num_layers,)
        return tuple(range(self.first_exit, num_layers + 1, self.exit_step))


def read_decoder(raw: dict[str, Any], architecture: str) -> DecoderOptions:
    """The options of a decoder.

    Args:
        raw: config.json.
        architecture: of `MODEL_TYPES`, a decoder's.

    Raises:
        ModelError: the config asks for what is not supported, or makes no sense.
    """
    family, read = _family(architecture), _Options(raw)
    hidden, heads = read.size("hidden_size"), read.size("num_attention_heads")
    layers, head_size = read.num_layers(), hidden // heads
    if family != "minicpm":  # whose code knows no other
        head_size = read.number("head_dim", _HEAD_SIZES.get(family, head_size))
    usual = heads if "num_key_value_heads" in raw else min(heads, _KEY_HEADS.get(family, heads))
    key_heads = read.size("num_key_value_heads", usual)
    if heads % key_heads:
        raise ModelError(f"{_WHERE}: {heads} heads cannot share {key_heads} heads of keys")
    if head_size == 0:
        raise ModelError(f"{_WHERE}: hidden_size {hidden} is less than {heads} heads can share")
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
        if architecture.endswith(LANGUAGE_MODEL):
            options["logit_softcap"] = read.cap("final_logit_softcapping", 30.0)
    if family == "minicpm":
        options |= {
            "embedding_scale": read.real("scale_emb", 1.0),
            "residual_scale": read.real("scale_depth", 1.0) / math.sqrt(layers),
        }
    if MODEL_TYPES[architecture] == "llama_bidirec":
        options["temperature"] = read.real("temperature", 1.0)
    if architecture in LAYERWISE.values():
        options |= read.exits(family, layers)
    elif family == "minicpm":
        raise ModelError(
            f"{architecture} is not supported; of MiniCPM there is LayerWiseMiniCPMForCausalLM"
        )
    return DecoderOptions(**options)


def decoder_activation(raw: dict[str, Any], architecture: str) -> str:
    """The MLP's activation as transformers names it; Gemma's "gelu" means the tanh form.

    Args:
        raw: config.json.
        architecture: of `MODEL_TYPES`, a decoder's.
    """
    config, family = ConfigValues(raw), _family(architecture)
    if family == "gemma2":
        return str(config.field("hidden_activation", str, "gelu_pytorch_tanh"))
    # Gemma's older hidden_activation is read no longer.
    name = config.field("hidden_act", str, "gelu_pytorch_tanh" if family == "gemma" else "silu")
    return "gelu_pytorch_tanh" if name == "gelu" and family == "gemma" else str(name)


def decoder_pad(raw: dict[str, Any], architecture: str) -> int:
    """The padding token, at which a classifier does not read; -1: none.

    Gemma has one by default. llama_bidirec reads by the mask, which is 1 at padding that a text
    spells.

    Args:
        raw: config.json.
        architecture: of `MODEL_TYPES`, a decoder's.
    """
    if MODEL_TYPES[architecture] == "llama_bidirec":
        return -1
    usual = 0 if _family(architecture) in ("gemma", "gemma2") else -1
    if "pad_token_id" in raw and raw["pad_token_id"] is None:
        return -1
    # A token of a negative number, as some configs have it, is none.
    return max(int(field(raw, "pad_token_id", int, usual, _WHERE)), -1)


def decoder_pooling(raw: dict[str, Any], architecture: str) -> Literal["mean", "last"]:
    """What a classifier reads: the last token, or the mean of all.

    Args:
        raw: config.json.
        architecture: of `MODEL_TYPES`, a decoder's.
    """
    if MODEL_TYPES[architecture] != "llama_bidirec":
        return "last"
    pooling = field(raw, "pooling", str, "avg", _WHERE)
    if pooling not in ("avg", "last"):
        raise ModelError(f"{_WHERE}: pooling {shown(pooling)} is neither avg nor last")
    return "mean" if pooling == "avg" else "last"


def _family(architecture: str) -> str:
    """Whose layers an architecture has."""
    model_type = MODEL_TYPES[architecture]
    return {"cost_wise_gemma": "gemma2", "llama_bidirec": "llama"}.get(model_type, model_type)


class _Options(ConfigValues):
    """What only decoders say, one value at a time."""

    def cap(self, key: str, default: float) -> float | None:
        """A number; None where the config says null."""
        if key in self.raw and self.raw[key] is None:
            return None
        return self.real(key, default)

    def rope(self) -> Rope:
        """rope_parameters since transformers 5, rope_scaling before; rope_theta in it or beside."""
        given = {
            key: self.field(key, dict, None) or None for key in ("rope_scaling", "rope_parameters")
        }
        ropes = [self._rope(one) for one in given.values() if one is not None]
        if len(set(ropes)) > 1:
            said = " and ".join(f"{key} {shown(one)}" for key, one in given.items())
            raise ModelError(f"{_WHERE}: {said} do not say the same; remove one")
        return ropes[0] if ropes else self._rope({})

    def _rope(self, given: dict[str, Any]) -> Rope:
        kind = given.get("rope_type", given.get("type", "default"))
        known = {"default": (), "linear": ("factor",), "llama3": _LLAMA3}
        odd = any(value is None or isinstance(value, dict) for value in given.values())
        partial = given.get("partial_rotary_factor", 1.0) != 1.0
        if odd or partial or kind not in list(known):
            raise ModelError(f"{_WHERE}: rope scaling {shown(given)} is not supported")
        where = f"{_WHERE}: rope_parameters"
        theta = field(given, "rope_theta", float, self.field("rope_theta", float, 1e4), where)
        values = {"theta": positive("rope_theta", theta)}
        for key in known[kind]:
            value = field(given, key, float, None, where)
            if key == _ORIGINAL:
                # As transformers: the key beside it first, then within, then all positions.
                value = self.size("max_position_embeddings") if value is None else value
                value = self.field(key, float, value)
            if value is None:
                raise ModelError(f"{where} has no {key}, which rope_type {kind!r} needs")
            values[_ROPE_NAMES[key]] = positive(key, value)
        rope = Rope(kind=kind, **values)
        if rope.original > MOST:
            raise ModelError(f"{where}: {_ORIGINAL} is {rope.original:g}, expected at most {MOST}")
        if kind == "llama3" and rope.low >= rope.high:
            raise ModelError(
                f"{where}: low_freq_factor {rope.low} is not below high_freq_factor {rope.high}"
            )
        return rope

    def causal(self, architecture: str) -> bool:
        """Whether attention is causal; transformers runs it both ways where is_causal is false."""
        if MODEL_TYPES[architecture] == "llama_bidirec":
            return False
        if "is_causal" in self.raw and self.raw["is_causal"] is None:
            raise ModelError(f"{_WHERE}: is_causal is null, expected true or false")
        causal = bool(self.field("is_causal", bool, True))
        if causal and self.raw.get("use_bidirectional_attention"):
            raise ModelError(
                f"{_WHERE}: use_bidirectional_attention of {architecture} is read in one way by "
                'some releases of transformers and not by others; write "is_causal": false where '
                "attention runs both ways, and remove it where it does not"
            )
        if not causal and architecture in LAYERWISE.values():
            raise ModelError(f"{_WHERE}: is_causal is false, which {architecture} knows nothing of")
        return causal

    def windows(self, family: str, layers: int, itself: int) -> tuple[int | None, ...]:
        """How far each layer sees; Mistral's all slide, unless layer_types says which do."""
        slides = {
            "mistral": True,
            "qwen2": self.flag("use_sliding_window"),
            "qwen3": self.flag("use_sliding_window"),
            "gemma2": True,
        }
        if family not in slides:
            return (None,) * layers
        width = self.size("sliding_window", 4096) if slides[family] else None
        if self.raw.get("sliding_window", width) is None:
            width = None
        kinds = self.field("layer_types", list, None)
        needed = family == "gemma2" or (family == "mistral" and kinds is not None)
        if kinds is None:
            first = self.number("max_window_layers", 28) if family.startswith("qwen") else 0
            step = 2 if family == "gemma2" else 1
            chosen = range(first, layers, step) if width or family == "gemma2" else ()
            kinds = [_SLIDING if i in chosen else _FULL for i in range(layers)]
        if len(kinds) != layers or not all(kind in (_FULL, _SLIDING) for kind in kinds):
            raise ModelError(
                f"{_WHERE}: layer_types is {shown(kinds)}, expected {layers} of {[_FULL, _SLIDING]}"
            )
        if width is None and (needed or _SLIDING in kinds):
            raise ModelError(
                f"{_WHERE}: layers are of sliding attention, and sliding_window (with Qwen's "
                "use_sliding_window) gives it no width"
            )
        return tuple(width - itself if width and kind == _SLIDING else None for kind in kinds)

    def exits(self, family: str, layers: int) -> dict[str, Any]:
        """Where layerwise models have their heads; what each leaves out is as its code has it."""
        first, step, one = self.size("start_layer", 8), 1, False
        if family == "minicpm":
            kind, one = (
                self.field("head_type", str, "simple"),
                not self.field("head_multi", bool, True),
            )
            if kind != "simple":
                raise ModelError(
                    f"{_WHERE}: head_type {shown(kind)} is not supported; there is 'simple', a "
                    "score a layer"
                )
        else:
            if not self.flag("layer_wise"):
                raise ModelError(
                    f"{_WHERE}: layer_wise is {shown(self.raw.get('layer_wise'))}, not true"
                )
            first, step = self.size("start_layer", 28), self.size("layer_sep", 28)
        if first > layers or (layers - first) % step:
            raise ModelError(
                f"{_WHERE}: heads from layer {first} on, every {step}, do not end at layer {layers}"
            )
        return {"first_exit": first, "exit_step": step, "one_exit_head": one}


_FULL, _SLIDING = "full_attention", "sliding_attention"
_ORIGINAL = "original_max_position_embeddings"
_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", _ORIGINAL)
_ROPE_NAMES = dict(zip(_LLAMA3, ("factor", "low", "high", "original"), strict=True))
