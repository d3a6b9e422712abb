"""What only ModernBERT's config.json says."""

from dataclasses import dataclass
from typing import Literal

from packrank.checkpoint.config_values import ConfigValues, positive
from packrank.checkpoint.files import field, shown
from packrank.errors import ModelError

# Of rotary positions: what leaves them as they are.
_UNSCALED = {"rope_type": "default", "type": "default", "partial_rotary_factor": 1}


@dataclass(frozen=True)
class LayerAttention:
    """How one ModernBERT layer attends.

    Attributes:
        theta: base of the rotary frequencies.
        window: a key is visible up to this distance, inclusive; None: every key is.
    """

    theta: float
    window: int | None


@dataclass(frozen=True)
class ModernBertOptions:
    """What only ModernBERT's config says.

    Attributes:
        attention: one entry a layer.
        head_activation: a key of the kernels' activations.
        norm_bias: whether LayerNorms have a bias; likewise for attention, MLP and head.dense.
    """

    attention: tuple[LayerAttention, ...]
    head_activation: str
    norm_bias: bool
    attention_bias: bool
    mlp_bias: bool
    classifier_bias: bool


def read_modernbert(config: ConfigValues) -> ModernBertOptions:
    """The options of a ModernBERT.

    Raises:
        ModelError: the config asks for what is not supported, or makes no sense.
    """
    return ModernBertOptions(
        attention=_layer_attention(config),
        head_activation=config.activation("classifier_activation"),
        norm_bias=config.flag("norm_bias"),
        attention_bias=config.flag("attention_bias"),
        mlp_bias=config.flag("mlp_bias"),
        classifier_bias=config.flag("classifier_bias"),
    )


def modernbert_pooling(config: ConfigValues) -> Literal["cls", "mean"]:
    """What the head reads: the first token, or the mean of all."""
    pooling = config.field("classifier_pooling", str, "cls")
    if pooling not in ("cls", "mean"):
        raise ModelError(
            f"config.json: classifier_pooling {shown(pooling)} is neither cls nor mean"
        )
    return "mean" if pooling == "mean" else "cls"


def _layer_attention(config: ConfigValues) -> tuple[LayerAttention, ...]:
    head_size = config.size("hidden_size") // config.size("num_attention_heads")
    if head_size % 2:
        raise ModelError(
            f"config.json: hidden_size {config.size('hidden_size')} gives heads of odd size "
            f"{head_size}, which rotary positions cannot halve"
        )
    if config.size("head_dim", head_size) != head_size:
        raise ModelError(
            f"config.json: head_dim is {config.size('head_dim')}, but hidden_size and heads make "
            f"it {head_size}"
        )
    if config.raw.get("sliding_window", 0) is None:
        raise ModelError("config.json: sliding_window is null; give it a value, or take it out")
    full_theta = _theta(config, "full_attention", "global_rope_theta", 160_000.0)
    # A null, as transformers 4 read it: what the full layers have.
    default = 10_000.0 if config.raw.get("local_rope_theta", 0) is not None else full_theta
    full = LayerAttention(full_theta, None)
    sliding = LayerAttention(
        _theta(config, "sliding_attention", "local_rope_theta", default),
        # transformers knows the half window by a name of its own too, which it takes first.
        config.number("sliding_window", config.number("local_attention", 128) // 2),
    )
    num_layers = config.num_layers()
    kinds = config.field("layer_types", list, None)
    if kinds is None:
        every = config.size("global_attn_every_n_layers", 3)
        return tuple(sliding if i % every else full for i in range(num_layers))
    by_name = {"full_attention": full, "sliding_attention": sliding}
    if len(kinds) != num_layers or not all(kind in list(by_name) for kind in kinds):
        raise ModelError(
            f"config.json: layer_types is {shown(kinds)}, expected {num_layers} of {list(by_name)}"
        )
    return tuple(by_name[kind] for kind in kinds)


def _theta(config: ConfigValues, kind: str, old_key: str, default: float) -> float:
    """The rotary base of a kind of layer: rope_parameters since transformers 5, else a key."""
    by_kind = config.field("rope_parameters", dict, {})
    parameters = field(by_kind, kind, dict, {}, "config.json: rope_parameters")
    scaling = config.raw.get("rope_scaling")
    unknown = by_kind.keys() - {"full_attention", "sliding_attention"}
    unknown |= {
        key
        for key, value in parameters.items()
        if value is None or value != _UNSCALED.get(key, value)
    }
    if scaling is not None or unknown:
        raise ModelError(f"config.json: rope scaling {shown(scaling or by_kind)} is not supported")
    theta = field(parameters, "rope_theta", float, None, "config.json")
    return config.real(old_key, default) if theta is None else positive("rope_theta", theta)
