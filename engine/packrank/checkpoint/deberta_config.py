"""What only the config.json of DeBERTa-v2 and v3 says."""

from dataclasses import dataclass

from packrank.checkpoint.config_values import ConfigValues
from packrank.checkpoint.files import shown
from packrank.errors import ModelError

_TERMS = ("c2p", "p2c")


@dataclass(frozen=True)
class Convolution:
    """Over neighbouring tokens, of what the first layer reads.

    Attributes:
        size: tokens that one sees, itself in the middle.
        groups: of channels.
        activation: a key of the kernels' activations.
    """

    size: int
    groups: int
    activation: str


@dataclass(frozen=True)
class DebertaOptions:
    """What only DeBERTa's config says.

    Attributes:
        is_relative: whether distances count in attention.
        buckets: of distances, on either side; 0: each is its own.
        most_positions: which distance the last bucket holds, or how many there are.
        terms: of distances, "c2p" and "p2c"; the scale hangs on them even where distances do not.
        shares_projections: distances are projected by those of queries and keys.
        norms_distances: whether embeddings of distances are normed.
        has_positions: whether there is a table of positions too.
        convolution: or None.
        pooler_activation: a key of the kernels' activations.
    """

    is_relative: bool
    buckets: int
    most_positions: int
    terms: tuple[str, ...]
    shares_projections: bool
    norms_distances: bool
    has_positions: bool
    convolution: Convolution | None
    pooler_activation: str

    @property
    def span(self) -> int:
        """Distances to either side that have an embedding."""
        return self.buckets or self.most_positions


def read_deberta(config: ConfigValues) -> DebertaOptions:
    """The options of a DeBERTa-v2.

    Raises:
        ModelError: the config asks for what is not supported, or makes no sense.
    """
    for key, whole in (
        ("attention_head_size", config.size("hidden_size") // config.size("num_attention_heads")),
        ("pooler_hidden_size", config.size("hidden_size")),
    ):
        if config.size(key, whole) != whole:
            raise ModelError(f"config.json: {key} is {config.size(key)}, and the model has {whole}")
    is_relative = config.flag("relative_attention")
    buckets = max(int(config.field("position_buckets", int, -1)), 0)
    given = int(config.field("max_relative_positions", int, -1))
    most = config.size("max_relative_positions" if given > 0 else "max_position_embeddings")
    if is_relative and buckets and not 0 < buckets // 2 < most - 1:
        raise ModelError(
            f"config.json: position_buckets is {shown(buckets)}, and there are {most} positions to "
            "share them out to"
        )
    return DebertaOptions(
        is_relative=is_relative,
        buckets=buckets,
        most_positions=most,
        terms=_terms(config),
        shares_projections=config.flag("share_att_key"),
        norms_distances=_norms_distances(config),
        has_positions=config.flag("position_biased_input", True),
        convolution=_convolution(config),
        pooler_activation=config.activation("pooler_hidden_act"),
    )


def _terms(config: ConfigValues) -> tuple[str, ...]:
    given = config.raw.get("pos_att_type")
    if isinstance(given, str):
        given = [term.strip() for term in given.lower().split("|")]
    given = [] if given is None else given
    if not isinstance(given, list) or not all(term in _TERMS for term in given):
        raise ModelError(
            f"config.json: pos_att_type is {shown(given)}, expected some of {', '.join(_TERMS)}"
        )
    return tuple(term for term in _TERMS if term in given)


def _norms_distances(config: ConfigValues) -> bool:
    given = config.field("norm_rel_ebd", str, "none")
    norms = {part.strip() for part in given.lower().split("|")}
    if not norms <= {"none", "layer_norm"}:
        raise ModelError(
            f"config.json: norm_rel_ebd is {shown(given)}, expected layer_norm or none"
        )
    return "layer_norm" in norms


def _convolution(config: ConfigValues) -> Convolution | None:
    size = config.number("conv_kernel_size", 0)
    if not size:
        return None
    groups, hidden = config.size("conv_groups", 1), config.size("hidden_size")
    if size % 2 == 0:
        raise ModelError(f"config.json: conv_kernel_size is {size}, which has no middle")
    if hidden % groups:
        raise ModelError(
            f"config.json: hidden_size {hidden} is not a multiple of {groups} conv_groups"
        )
    return Convolution(size, groups, config.activation("conv_act", "tanh"))
