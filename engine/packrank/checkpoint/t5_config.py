"""What only the config.json of an encoder-decoder says: T5, Flan-T5, UL2, monoT5, mT5."""

from dataclasses import dataclass

from packrank.checkpoint.config_values import ConfigValues, known_activation
from packrank.checkpoint.files import shown
from packrank.errors import ModelError

# The names that T5 gives to what BERT's config says; transformers takes both, and BERT's counts.
SPELLING = {
    "hidden_size": ("hidden_size", "d_model"),
    "num_hidden_layers": ("num_hidden_layers", "num_layers"),
    "num_attention_heads": ("num_attention_heads", "num_heads"),
    "intermediate_size": ("d_ff",),
    "head_dim": ("head_dim", "d_kv"),
}
_LAYERS = {"t5": 6, "mt5": 8}  # transformers' defaults, which the decoder falls back on
_PROJECTIONS = {"t5": "relu", "mt5": "gated-gelu"}


@dataclass(frozen=True)
class T5Options:
    """What only T5's config says.

    Attributes:
        head_size: D; independent of hidden_size / heads.
        num_decoder_layers: those of the encoder are `ModelConfig.num_layers`.
        buckets: of distances; an encoder has half of them to either side.
        most_distance: from which on all are in the last bucket.
        gated: whether the MLP is.
        tied: whether the embedding may stand for the head.
        scaled: whether what the head reads is scaled by hidden_size ** -0.5.
        decoder_start: the token that the decoder begins with.
    """

    head_size: int
    num_decoder_layers: int
    buckets: int
    most_distance: int
    gated: bool
    tied: bool
    scaled: bool
    decoder_start: int


def read_t5(config: ConfigValues, model_type: str) -> T5Options:
    """The options of an encoder-decoder.

    Raises:
        ModelError: the config asks for what is not supported, or makes no sense.
    """
    buckets = config.size("relative_attention_num_buckets", 32)
    most = config.size("relative_attention_max_distance", 128)
    if buckets < 4:
        raise ModelError(
            f"config.json: relative_attention_num_buckets is {buckets}, expected at least 4"
        )
    if most <= buckets // 2:
        raise ModelError(
            f"config.json: relative_attention_max_distance is {most}, expected more than half of "
            f"the {buckets} buckets"
        )
    layers = config.size("num_layers", _LAYERS[model_type])
    tied = config.flag("tie_word_embeddings", True)
    return T5Options(
        head_size=config.size("head_dim"),
        num_decoder_layers=config.num_layers("num_decoder_layers", layers),
        buckets=buckets,
        most_distance=most,
        gated=config.flag("is_gated_act", _projection(config, model_type)[0]),
        tied=tied,
        # What transformers 5 saves says so by itself; before, whether the head is tied did.
        scaled=model_type == "t5" and config.flag("scale_decoder_outputs", tied),
        decoder_start=_decoder_start(config),
    )


def t5_activation(config: ConfigValues, model_type: str) -> str:
    """The kernels' name of the MLP's activation; "gated-gelu" means the tanh form."""
    if config.raw.get("dense_act_fn") is not None:
        return config.activation("dense_act_fn")
    return known_activation("feed_forward_proj", _projection(config, model_type)[1])


def _projection(config: ConfigValues, model_type: str) -> tuple[bool, str]:
    """Whether the MLP is gated, and transformers' name of its activation."""
    given = config.field("feed_forward_proj", str, _PROJECTIONS[model_type])
    gate, _, name = given.rpartition("-")
    if gate not in ("", "gated"):
        raise ModelError(
            f"config.json: feed_forward_proj is {shown(given)}, expected an activation, or gated- "
            "and one"
        )
    return gate == "gated", "gelu_new" if given == "gated-gelu" else name


def _decoder_start(config: ConfigValues) -> int:
    """decoder_start_token_id; T5 begins with its padding where nothing else is said."""
    start = config.field("decoder_start_token_id", int, None)
    if start is None:
        start = config.field("pad_token_id", int, 0)
    vocabulary = config.size("vocab_size")
    if not 0 <= start < vocabulary:
        raise ModelError(
            f"config.json: decoder_start_token_id is {shown(start)}, and the vocabulary has "
            f"{vocabulary} tokens"
        )
    return int(start)
