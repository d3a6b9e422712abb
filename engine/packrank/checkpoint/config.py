"""What a model folder says about itself: config.json as one checked, frozen object."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from packrank.checkpoint.activation_names import Activation, activation_named
from packrank.checkpoint.adapter import read_config
from packrank.checkpoint.architectures import (
    ARCHITECTURES,
    BOTH_WAYS,
    CLASSIFIER,
    FAMILIES,
    LAYERWISE,
    MARKED,
    architecture_of,
)
from packrank.checkpoint.causal_config import (
    DecoderOptions,
    decoder_activation,
    decoder_pad,
    decoder_pooling,
    read_decoder,
)
from packrank.checkpoint.config_keys import check_keys
from packrank.checkpoint.config_values import LONGEST, ConfigValues, known_activation
from packrank.checkpoint.deberta_config import DebertaOptions, read_deberta
from packrank.checkpoint.files import field, shown
from packrank.checkpoint.gte_config import GteOptions, read_gte
from packrank.checkpoint.modernbert_config import (
    ModernBertOptions,
    modernbert_pooling,
    read_modernbert,
)
from packrank.checkpoint.scoring_modules import ScoringModules
from packrank.checkpoint.t5_config import SPELLING, T5Options, read_t5, t5_activation
from packrank.errors import ModelError

__all__ = [
    "ARCHITECTURES",
    "Activation",
    "ModelConfig",
    "Pooling",
    "activation_named",
    "load_config",
]

Pooling = Literal["cls", "mean", "last", "all"]

# Where a family spells a size otherwise than BERT does: the first key that is there counts.
_SPELLINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "distilbert": {
        "hidden_size": ("hidden_size", "dim"),
        "num_hidden_layers": ("num_hidden_layers", "n_layers"),
        "num_attention_heads": ("num_attention_heads", "n_heads"),
        "intermediate_size": ("hidden_dim",),
        "hidden_act": ("activation",),
    },
    "modernbert": {"hidden_act": ("hidden_activation",), "layer_norm_eps": ("norm_eps",)},
    "t5": SPELLING,
    "mt5": SPELLING,
}
_NORM_EPS = {"modernbert": 1e-5, "deberta-v2": 1e-7}
_PAD_TOKEN_IDS = {"roberta": 1, "gte": 1, "modernbert": 50283}
_TABLES = ("bert", "roberta", "electra", "distilbert")  # families with a table of positions


@dataclass(frozen=True)
class ModelConfig:
    """A model's architecture and sizes.

    Attributes:
        architecture: as config.json names it; a key of `ARCHITECTURES`.
        family: which implementation runs it.
        embedding_size: columns of the embedding tables; hidden_size but for some ELECTRAs.
        norm_eps: added to the variance in every LayerNorm.
        activation: of the MLP; a key of the kernels' activations.
        max_position_embeddings: rows of the table of positions, unusable ones included; where
            there is none, positions that the model was trained on.
        type_vocab_size: rows of the token type table; 0 where there is none.
        pad_token_id: RoBERTa's positions hang on it, and what a decoder's classifier reads; or -1.
        pooling: what the head reads: the first token, the mean of all, a decoder's last, or all.
        saved_activation: dotted path of what turns logits into scores, unless
            sentence-transformers' own file or the caller says otherwise; None: by the labels.
        labels: their names; empty where the checkpoint names none.
        inner_exits: of encoders: after how many layers there are heads of their own, ascending, the
            last layer left out; "exit_layers" in config.json.
        modernbert: options of ModernBERT; None for every other family. Likewise deberta
            and gte.
        decoder: options of decoders; None for encoders.
        t5: options of encoder-decoders; None for both.
    """

    architecture: str
    family: str
    vocab_size: int
    hidden_size: int
    embedding_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    norm_eps: float
    activation: str
    max_position_embeddings: int
    type_vocab_size: int
    pad_token_id: int
    num_labels: int
    pooling: Pooling
    saved_activation: str | None = None
    labels: tuple[str, ...] = ()
    inner_exits: tuple[int, ...] = ()
    modernbert: ModernBertOptions | None = None
    deberta: DebertaOptions | None = None
    gte: GteOptions | None = None
    decoder: DecoderOptions | None = None
    t5: T5Options | None = None

    @property
    def exit_layers(self) -> tuple[int, ...]:
        """After how many layers there is a head, ascending; all layers come last."""
        if self.decoder is not None:
            return self.decoder.exit_layers(self.num_layers)
        return (*self.inner_exits, self.num_layers)

    def scored_by(self, modules: ScoringModules) -> "ModelConfig":
        """The same body under sentence-transformers' modules instead of a head of its own.

        Raises:
            ModelError: it has heads at inner layers, or a decoder beside its encoder.
        """
        if self.t5 is not None:
            raise ModelError(f"modules.json's head is not supported over a {self.architecture}")
        if self.inner_exits:
            raise ModelError("config.json: exit_layers are not supported under modules.json's head")
        chosen = ("cls",) if self.decoder is None else ("lasttoken",)
        alone: Pooling = "cls" if self.decoder is None else "last"
        pooling = alone if modules.pooling == chosen and not modules.skipped else "all"
        decoder = self.decoder and replace(self.decoder, logit_softcap=None)
        return replace(
            self, num_labels=modules.num_labels, labels=(), pooling=pooling, decoder=decoder
        )

    @property
    def shares_prefixes(self) -> bool:
        """Whether what several sequences begin with can be computed once."""
        return self.decoder is not None and self.decoder.causal and self.pooling == "last"

    @property
    def reads_prompts(self) -> bool:
        """Whether pairs may go into a prompt, and tokens of the vocabulary score."""
        return self.decoder is not None or self.t5 is not None

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels, those of transformers where they have none."""
        return self.labels or tuple(f"LABEL_{place}" for place in range(self.num_labels))

    @property
    def default_activation(self) -> str:
        """What turns logits into scores where sentence-transformers' own file does not say."""
        named = activation_named(self.saved_activation)
        return named or ("sigmoid" if self.num_labels == 1 else "identity")

    @property
    def is_classifier(self) -> bool:
        """Whether the checkpoint has a scoring head."""
        return self.architecture.endswith(CLASSIFIER)

    @property
    def is_body(self) -> bool:
        """Whether the checkpoint is a decoder without any head."""
        return self.decoder is not None and self.architecture.endswith("Model")

    @property
    def has_position_table(self) -> bool:
        """Whether no token can stand past `max_position_embeddings`."""
        return self.family in _TABLES or (self.deberta is not None and self.deberta.has_positions)

    @property
    def max_length(self) -> int:
        """Most tokens of one sequence, special tokens included, whoever asks for them."""
        return self.usual_length if self.has_position_table else LONGEST

    @property
    def usual_length(self) -> int:
        """The same where neither a file nor the caller says otherwise; at most `max_length`."""
        if self.family == "roberta":
            return self.max_position_embeddings - self.pad_token_id - 1
        return min(self.max_position_embeddings, LONGEST)


def load_config(folder: Path) -> ModelConfig:
    """Read config.json; of an adapter that of its base, as the class that it was trained in.

    Raises:
        ModelError: no such file, not JSON, or a model that cannot be run as its authors meant it.
    """
    raw = read_config(folder)
    architecture, model_type = architecture_of(raw, folder)
    config = _Reader(raw, _SPELLINGS.get(model_type))
    config.check_code(architecture)
    check_keys(raw, model_type)
    family = FAMILIES[model_type]
    if family == "causal":
        found = config.causal(architecture)
    elif family == "t5":
        found = config.encoder_decoder(model_type)
    else:
        found = config.encoder(family, model_type)
    found = replace(found, architecture=architecture)
    if raw.get("pad_token_id") is not None and found.pad_token_id >= found.vocab_size:
        raise ModelError(
            f"config.json: pad_token_id is {shown(found.pad_token_id)}, and the vocabulary has "
            f"{found.vocab_size} tokens"
        )
    return found


class _Reader(ConfigValues):
    """What a model says of its architecture, its sizes and its scores."""

    def check_code(self, architecture: str) -> None:
        """Refuse models that bring code of their own, which may do anything else."""
        given = self.field("auto_map", dict, {})
        named = next((given[key] for key in given if key.startswith("AutoModel")), None)
        is_flash = "XLMRobertaFlashConfig" in str(given.get("AutoConfig"))
        is_known = (
            is_flash
            or architecture in LAYERWISE.values()
            or architecture in (*BOTH_WAYS.values(), MARKED)
            or architecture.startswith("New")
        )
        if named is not None and not is_known:
            raise ModelError(
                f"config.json: this {architecture} is run by code of its own (auto_map names "
                f"{shown(named)}), and only transformers' own is supported; take auto_map out if "
                "both do the same"
            )

    def encoder(self, family: str, model_type: str) -> ModelConfig:
        hidden_size, num_heads = self.size("hidden_size"), self.size("num_attention_heads")
        if hidden_size % num_heads:
            raise ModelError(
                f"config.json: hidden_size {hidden_size} is not a multiple of {num_heads} heads"
            )
        num_labels, is_modern = self.num_labels(), family == "modernbert"
        return ModelConfig(
            architecture="",
            family=family,
            vocab_size=self.size("vocab_size"),
            hidden_size=hidden_size,
            embedding_size=self.embedding_size(family, hidden_size),
            num_layers=self.num_layers(),
            num_heads=num_heads,
            intermediate_size=self.size("intermediate_size"),
            norm_eps=self.norm_eps(family),
            activation=self.activation("hidden_act"),
            max_position_embeddings=self.size("max_position_embeddings"),
            type_vocab_size=self.type_vocab_size(family),
            pad_token_id=self.pad(family),
            num_labels=num_labels,
            pooling=modernbert_pooling(self) if is_modern else "cls",
            saved_activation=self.saved_activation(),
            labels=self.labels(num_labels),
            inner_exits=self.inner_exits(family),
            modernbert=read_modernbert(self) if is_modern else None,
            deberta=read_deberta(self) if family == "deberta-v2" else None,
            gte=read_gte(self, model_type) if family == "gte" else None,
        )

    def causal(self, architecture: str) -> ModelConfig:
        num_labels = self.num_labels() if architecture.endswith(CLASSIFIER) else 1
        hidden_size = self.size("hidden_size")
        return ModelConfig(
            architecture=architecture,
            family="causal",
            vocab_size=self.size("vocab_size"),
            hidden_size=hidden_size,
            embedding_size=hidden_size,
            num_layers=self.num_layers(),
            num_heads=self.size("num_attention_heads"),
            intermediate_size=self.size("intermediate_size"),
            norm_eps=self.eps("rms_norm_eps", 1e-6),
            activation=known_activation(
                "the MLP's activation", decoder_activation(self.raw, architecture)
            ),
            max_position_embeddings=self.size("max_position_embeddings"),
            type_vocab_size=0,
            pad_token_id=decoder_pad(self.raw, architecture),
            num_labels=num_labels,
            pooling=decoder_pooling(self.raw, architecture),
            saved_activation=self.saved_activation(),
            labels=self.labels(num_labels),
            decoder=read_decoder(self.raw, architecture),
        )

    def encoder_decoder(self, model_type: str) -> ModelConfig:
        hidden_size = self.size("hidden_size")
        return ModelConfig(
            architecture="",
            family="t5",
            vocab_size=self.size("vocab_size"),
            hidden_size=hidden_size,
            embedding_size=hidden_size,
            num_layers=self.num_layers(),
            num_heads=self.size("num_attention_heads"),
            intermediate_size=self.size("intermediate_size"),
            norm_eps=self.eps("layer_norm_epsilon", 1e-6),
            activation=t5_activation(self, model_type),
            max_position_embeddings=LONGEST,
            type_vocab_size=0,
            pad_token_id=self.pad("t5"),
            num_labels=1,
            pooling="all",
            t5=read_t5(self, model_type),
        )

    def embedding_size(self, family: str, hidden_size: int) -> int:
        if family not in ("electra", "deberta-v2"):
            return hidden_size
        return self.size("embedding_size", 128 if family == "electra" else hidden_size)

    def type_vocab_size(self, family: str) -> int:
        if family in ("distilbert", "modernbert"):
            return 0
        if family in ("deberta-v2", "gte"):
            return self.number("type_vocab_size", 0 if family == "deberta-v2" else 1)
        return self.size("type_vocab_size", 2)

    def pad(self, family: str) -> int:
        """The padding token, -1: none. Of RoBERTa the first position hangs on it."""
        pad = int(self.field("pad_token_id", int, _PAD_TOKEN_IDS.get(family, 0)))
        if family != "roberta":
            return max(pad, -1)
        if pad < 0 or self.raw.get("pad_token_id", pad) is None:
            value = shown(self.raw["pad_token_id"])
            raise ModelError(f"config.json: pad_token_id is {value}, expected a whole number")
        positions = self.size("max_position_embeddings")
        if pad + 1 >= positions:
            raise ModelError(
                f"config.json: pad_token_id is {shown(pad)}, and positions up to it are not used: "
                f"of {positions} none is left for a token"
            )
        return pad

    def norm_eps(self, family: str) -> float:
        if family == "distilbert":
            return 1e-12
        return self.eps("layer_norm_eps", _NORM_EPS.get(family, 1e-12))

    def num_labels(self) -> int:
        """As transformers: num_labels, and where it is not there the names of labels."""
        labels = self.field("id2label", dict, None)
        return self.size("num_labels", len(labels) if labels else 2)

    def inner_exits(self, family: str) -> tuple[int, ...]:
        layers, count = self.field("exit_layers", list, []), self.num_layers()
        known = all(type(layer) is int and 0 < layer < count for layer in layers)
        if not known or layers != sorted(set(layers)):
            raise ModelError(
                f"config.json: exit_layers is {shown(layers)}, expected ascending numbers below "
                f"the {count} layers"
            )
        if layers and family == "modernbert":
            raise ModelError("config.json: exit_layers are not supported in ModernBERT")
        return tuple(layers)

    def labels(self, count: int) -> tuple[str, ...]:
        """Names of the labels in their order, as far as id2label names every one."""
        named = self.field("id2label", dict, {})
        if len(named) < count:
            return ()
        names = [named.get(str(place)) for place in range(count)]
        known = [name for name in names if isinstance(name, str)]
        return tuple(known) if len(known) == count else ()

    def saved_activation(self) -> str | None:
        """sentence-transformers' rule: a key of its own, else an older one."""
        nested = self.field("sentence_transformers", dict, {})
        if "activation_fn" in nested:
            where = "config.json: sentence_transformers"
            path: str | None = field(nested, "activation_fn", str, None, where)
        else:
            path = self.field("sbert_ce_default_activation_function", str, None)
        return path
