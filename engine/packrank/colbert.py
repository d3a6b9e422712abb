"""How a late-interaction model lays out its texts, read once from the files of its folder.

Four kinds of folder, told apart by what they hold:

    Stanford ColBERT         architecture HF_ColBERT, or artifact.metadata
    PyLate                   its keys in config_sentence_transformers.json
    sentence-transformers    model_type MultiVectorEncoder in the same file
    any other encoder        its token vectors as they are
"""

import json
import string
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

from packrank.errors import ModelError
from packrank.tokenizer import Tokenizer

_PYLATE_KEYS = (
    "attend_to_expansion_tokens",
    "do_query_expansion",
    "document_length",
    "document_prefix",
    "query_length",
    "query_prefix",
    "skiplist_words",
)

# torch's class names -> the kernels' names.
_ACTIVATIONS = {"Identity": None, "GELU": "gelu", "ReLU": "relu", "SiLU": "silu", "Tanh": "tanh"}


@dataclass(frozen=True)
class Side:
    """How the texts of one side, queries or documents, become sequences of scored tokens.

    Attributes:
        max_length: most tokens, special ones and the marker included; a text is cut to fit.
        prompt: put before every text.
        marker: the token put after the first one, None if there is none.
        skipped: tokens that are read but not scored.
    """

    max_length: int
    prompt: str = ""
    marker: int | None = None
    skipped: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Expansion:
    """Filling of short queries with one token, whose vectors are scored like the others.

    Attributes:
        length: tokens that a query has at least.
        token_id: what it is filled with.
        attend: whether the other tokens, and themselves, see the fillers as keys.
    """

    length: int
    token_id: int
    attend: bool


@dataclass(frozen=True)
class Dense:
    """One layer of the projection: activation(x weightᵀ + bias), plus the residual if any.

    Attributes:
        folder: holds its weights.
        in_features: size of x.
        out_features: size of the result.
        bias: whether there is one.
        activation: as `packrank_kernels.linear` takes it.
        residual: whether x (times "residual.weight" where the sizes differ) is added.
    """

    folder: Path
    in_features: int
    out_features: int
    bias: bool = False
    activation: str | None = None
    residual: bool = False


@dataclass(frozen=True)
class Settings:
    """All that a late-interaction folder says beyond its encoder.

    Attributes:
        kind: "Stanford ColBERT", "PyLate", "sentence-transformers" or "encoder".
        query: layout of queries.
        document: layout of documents.
        expansion: None where queries keep their length.
        projection: layers applied to every token vector, in order.
        normalize: whether token vectors are brought to length 1.
        mean: whether a score is divided by the number of query tokens.
    """

    kind: str
    query: Side
    document: Side
    expansion: Expansion | None = None
    projection: tuple[Dense, ...] = ()
    normalize: bool = True
    mean: bool = False


def encoder_folder(folder: Path) -> Path:
    """Where encoder and tokenizer lie: the folder itself, or the one that modules.json names."""
    modules = _read_modules(folder)
    return folder / modules[0]["path"] if modules else folder


def read_settings(
    folder: Path, tokenizer: Tokenizer, hidden_size: int, max_positions: int
) -> Settings:
    """The settings of a model folder of any of the four kinds.

    Args:
        folder: as the user names it.
        tokenizer: of `encoder_folder(folder)`.
        hidden_size: of the encoder.
        max_positions: the longest sequence that the encoder takes.

    Raises:
        ModelError: the folder asks for what is not supported, or contradicts itself.
    """
    modules = _read_modules(folder)
    config = _object(folder / "config_sentence_transformers.json")
    reader = _Reader(folder, modules, tokenizer, hidden_size, max_positions)
    model_type = config.get("model_type")
    if model_type == "MultiVectorEncoder" and modules:
        return reader.sentence_transformers(config)
    if model_type == "ColBERT" or any(key in config for key in _PYLATE_KEYS):
        return reader.pylate(config)
    architectures = _object(folder / "config.json").get("architectures") or []
    if "HF_ColBERT" in architectures or (folder / "artifact.metadata").is_file():
        return reader.stanford(_object(folder / "artifact.metadata"))
    return reader.encoder()


@dataclass(frozen=True)
class _Reader:
    """One method a kind of folder, and what they share."""

    folder: Path
    modules: list[dict[str, Any]]
    tokenizer: Tokenizer
    hidden_size: int
    max_positions: int

    def stanford(self, metadata: dict[str, Any]) -> Settings:
        """Stanford ColBERT; defaults are those of its ColBERTConfig."""
        similarity = metadata.get("similarity") or "cosine"
        interaction = metadata.get("interaction") or "colbert"
        if (similarity, interaction) != ("cosine", "colbert"):
            raise ModelError(
                f"{self.folder} scores by {similarity} similarity and {interaction} interaction; "
                "only cosine and colbert are supported"
            )
        skipped: frozenset[int] = frozenset()
        if metadata.get("mask_punctuation", True):
            encoded = self.tokenizer.encode(list(string.punctuation))
            skipped = frozenset(int(ids[0]) for ids in encoded if len(ids))
        length = metadata.get("query_maxlen") or 32
        return Settings(
            kind="Stanford ColBERT",
            query=Side(
                self._length(length),
                marker=self._token(metadata.get("query_token_id") or "[unused0]"),
            ),
            document=Side(
                self._length(metadata.get("doc_maxlen") or 220),
                marker=self._token(metadata.get("doc_token_id") or "[unused1]"),
                skipped=skipped,
            ),
            expansion=self._expansion(length, metadata.get("attend_to_mask_tokens")),
            projection=(Dense(self.folder, self.hidden_size, metadata.get("dim") or 128),),
        )

    def pylate(self, config: dict[str, Any]) -> Settings:
        """PyLate; defaults are those of its ColBERT class."""
        length = config.get("query_length") or 32
        expands = config.get("do_query_expansion", True)
        attend = config.get("attend_to_expansion_tokens")
        words = config.get("skiplist_words")
        return Settings(
            kind="PyLate",
            query=self._pylate_side(config, "query", length),
            document=replace(
                self._pylate_side(config, "document", config.get("document_length") or 180),
                skipped=self._known(string.punctuation if words is None else words),
            ),
            expansion=self._expansion(length, attend) if expands else None,
            projection=tuple(self._projection(self.modules[1:])),
        )

    def sentence_transformers(self, config: dict[str, Any]) -> Settings:
        """A MultiVectorEncoder of sentence-transformers 6."""
        modules = {_class_name(module): module for module in self.modules[1:]}
        dense = [*takewhile(lambda m: _class_name(m) == "Dense", self.modules[1:])]
        last = {_class_name(module) for module in self.modules[1 + len(dense) :]}
        if last - {"MultiVectorMask", "Normalize"}:
            names = ", ".join(_class_name(module) for module in self.modules)
            raise ModelError(
                f"{self.folder}/modules.json lists {names}; supported are Transformer, any number "
                "of Dense, then MultiVectorMask and Normalize"
            )
        similarity = config.get("similarity_fn_name") or "maxsim"
        if similarity not in ("maxsim", "meanmaxsim"):
            raise ModelError(
                f"{self.folder} scores by {similarity!r}, expected 'maxsim' or 'meanmaxsim'"
            )
        mask = self._module_config(modules.get("MultiVectorMask"))
        if mask.get("keep_only_token_ids"):
            raise ModelError(f"{self.folder} scores image tokens only (keep_only_token_ids)")
        normalizing = self._module_config(modules.get("Normalize"))
        tasks = mask.get("skiplist_tasks") or ["document"]
        skipped = self._known(mask.get("skiplist_words") or ())
        prompts = config.get("prompts") or {}
        roles = ("document", "passage", "corpus")
        transformer = _object(encoder_folder(self.folder) / "sentence_bert_config.json")
        longest, expansion = transformer.get("query_length"), None
        if filling := transformer.get("query_expansion"):
            if "MultiVectorMask" not in last:
                raise ModelError(f"{self.folder} expands queries but has no MultiVectorMask")
            floor, strategy = filling.get("length"), filling.get("strategy")
            if strategy not in ("fixed", "min"):
                raise ModelError(f"{self.folder} expands queries by {strategy!r}, not fixed or min")
            expansion = self._expansion(floor, filling.get("attend"), filling.get("token"))
            longest = floor if strategy == "fixed" else longest and max(longest, floor)
        return Settings(
            kind="sentence-transformers",
            query=Side(
                self._length(longest),
                prompts.get("query") or "",
                skipped=skipped if "query" in tasks else frozenset(),
            ),
            document=Side(
                self._length(transformer.get("document_length")),
                next((prompts[role] for role in roles if prompts.get(role)), ""),
                skipped=skipped if "document" in tasks else frozenset(),
            ),
            expansion=expansion,
            projection=tuple(self._projection(dense)),
            normalize=normalizing.get("module_input_name") == "token_embeddings",
            mean=similarity == "meanmaxsim",
        )

    def encoder(self) -> Settings:
        """An encoder that knows nothing of late interaction: all its vectors, at length 1."""
        transformer = _object(encoder_folder(self.folder) / "sentence_bert_config.json")
        side = Side(self._length(transformer.get("max_seq_length")))
        return Settings(kind="encoder", query=side, document=side)

    def _length(self, asked: int | None) -> int:
        """Tokens of a sequence: what the folder asks for, else the tokenizer, within positions."""
        if asked is None:
            asked = self.tokenizer.model_max_length or self.max_positions
        return min(self._count(asked), self.max_positions)

    def _count(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ModelError(f"{self.folder} has a length of {value!r}, expected a whole number")
        return value

    def _token(self, token: str) -> int:
        token_id = self.tokenizer.token_id(token)
        if token_id is None:
            raise ModelError(f"the tokenizer of {self.folder} has no token {token!r}")
        return token_id

    def _known(self, words: Iterable[str]) -> frozenset[int]:
        """Ids of the words that are tokens; the others cannot occur as one."""
        ids = (self.tokenizer.token_id(word) for word in words)
        return frozenset(token_id for token_id in ids if token_id is not None)

    def _expansion(self, length: Any, attend: bool | None, token: str | None = None) -> Expansion:
        if self._count(length) > self.max_positions:
            raise ModelError(
                f"{self.folder} expands queries to {length} tokens, but its encoder takes "
                f"{self.max_positions}"
            )
        token_id = self._token(token) if token else self.tokenizer.mask_token_id
        if token_id is None:
            raise ModelError(f"{self.folder} expands queries, but its tokenizer has no mask token")
        return Expansion(length, token_id, bool(attend))

    def _pylate_side(self, config: dict[str, Any], role: str, length: int) -> Side:
        """A prefix is one token put after the first, or plain text if there is no such token."""
        prompt = (config.get("prompts") or {}).get(role) or ""
        prefix = config.get(f"{role}_prefix") or ""
        prompt = prompt.removeprefix(prefix)
        for token in (prefix, *prefix.split(maxsplit=1)[:1]):
            if token and (marker := self.tokenizer.token_id(token)) is not None:
                rest = prefix.removeprefix(token)
                return Side(self._length(length), rest.lstrip() + prompt, marker)
        return Side(self._length(length), prefix + prompt)

    def _projection(self, modules: list[dict[str, Any]]) -> Iterator[Dense]:
        size = self.hidden_size
        for module in modules:
            config = self._module_config(module)
            dense = self._dense(module, config)
            if dense.in_features != size:
                raise ModelError(
                    f"{dense.folder} takes vectors of size {dense.in_features}, but what comes "
                    f"before it gives {size}"
                )
            size = dense.out_features
            yield dense

    def _dense(self, module: dict[str, Any], config: dict[str, Any]) -> Dense:
        folder = self.folder / module["path"]
        if _class_name(module) != "Dense" or not {"in_features", "out_features"} <= set(config):
            raise ModelError(f"{self.folder}/modules.json: {module['type']} is no Dense layer")
        names = {
            config.get(f"module_{end}_name") or "token_embeddings" for end in ("input", "output")
        }
        if names != {"token_embeddings"}:
            raise ModelError(f"{folder} works on {', '.join(sorted(names))}, not on token vectors")
        default = "Identity" if str(module["type"]).startswith("pylate.") else "Tanh"
        activation = str(config.get("activation_function") or default).rsplit(".", 1)[-1]
        if activation not in _ACTIVATIONS:
            known = ", ".join(_ACTIVATIONS)
            raise ModelError(f"{folder} has activation {activation}, expected one of {known}")
        return Dense(
            folder,
            config["in_features"],
            config["out_features"],
            bias=config.get("bias", True),
            activation=_ACTIVATIONS[activation],
            residual=config.get("use_residual", False),
        )

    def _module_config(self, module: dict[str, Any] | None) -> dict[str, Any]:
        return _object(self.folder / module["path"] / "config.json") if module else {}


def _class_name(module: dict[str, Any]) -> str:
    return str(module["type"]).rsplit(".", 1)[-1]


def _read_modules(folder: Path) -> list[dict[str, Any]]:
    """The entries of modules.json in order, empty if there is no such file."""
    modules = _read(folder / "modules.json", list)
    if not all(isinstance(module, dict) for module in modules):
        raise ModelError(f"{folder}/modules.json is not a list of modules")
    return [{"path": "", "type": "", **module} for module in modules]


def _object(path: Path) -> dict[str, Any]:
    return _read(path, dict)


_Json = TypeVar("_Json", dict[str, Any], list[Any])


def _read(path: Path, kind: type[_Json]) -> _Json:
    """What a JSON file holds, empty if there is no file."""
    if not path.is_file():
        return kind()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON ({error})") from error
    if not isinstance(content, kind):
        raise ModelError(f"{path} holds a {type(content).__name__}, expected a {kind.__name__}")
    return content
