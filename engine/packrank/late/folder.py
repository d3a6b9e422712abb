"""A late-interaction folder: its files, and what every format of them has in common."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packrank.checkpoint.files import field, read_object, shown
from packrank.checkpoint.modules import Module
from packrank.errors import ModelError
from packrank.late.settings import Dense, Expansion
from packrank.text.tokenizer import Tokenizer

# torch's class names -> the kernels' names.
_ACTIVATIONS = {"Identity": None, "GELU": "gelu", "ReLU": "relu", "SiLU": "silu", "Tanh": "tanh"}


@dataclass(frozen=True)
class Record:
    """A JSON object and the file it stands in. Every getter raises ModelError naming both.

    Attributes:
        raw: the object, empty if there is no such file.
        path: the file.
    """

    raw: dict[str, Any]
    path: Path

    @classmethod
    def read(cls, path: Path) -> "Record":
        """The object in a file, which may be missing."""
        return cls(read_object(path) if path.is_file() else {}, path)

    def text(self, name: str) -> str | None:
        """A string."""
        value: str | None = field(self.raw, name, str, None, self.path)
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        return bool(field(self.raw, name, bool, default, self.path))

    def count(self, name: str) -> int | None:
        """A whole number of at least 1."""
        value: int | None = field(self.raw, name, int, None, self.path)
        if value is not None and value < 1:
            raise ModelError(f"{self.path}: {name} is {value}, expected at least 1")
        return value

    def texts(self, name: str) -> list[str] | None:
        """A list of strings."""
        values: list[Any] | None = field(self.raw, name, list, None, self.path)
        for value in values or ():
            if not isinstance(value, str):
                raise ModelError(f"{self.path}: {name} holds {shown(value)}, expected strings only")
        return values

    def inner(self, name: str) -> "Record":
        """An object inside this one."""
        return Record(field(self.raw, name, dict, {}, self.path), self.path)


@dataclass(frozen=True)
class LateFolder:
    """A model folder, and what its files mean for this encoder and tokenizer.

    Attributes:
        path: as the user names it.
        modules: of modules.json.
        tokenizer: of the encoder.
        hidden_size: of the encoder.
        max_positions: the longest sequence that the encoder takes.
    """

    path: Path
    modules: list[Module]
    tokenizer: Tokenizer
    hidden_size: int
    max_positions: int

    def length(self, asked: int | None) -> int:
        """Tokens of a sequence: what the folder asks for, else the tokenizer, within positions."""
        if asked is None:
            asked = self.tokenizer.model_max_length or self.max_positions
        return min(asked, self.max_positions)

    def token(self, token: str) -> int:
        """The id of a token that must be known."""
        token_id = self.tokenizer.token_id(token)
        if token_id is None:
            raise ModelError(f"the tokenizer of {self.path} has no token {token!r}")
        return token_id

    def known(self, words: Iterable[str]) -> frozenset[int]:
        """Ids of the words that are tokens; the others cannot occur as one."""
        ids = (self.tokenizer.token_id(word) for word in words)
        return frozenset(token_id for token_id in ids if token_id is not None)

    def expansion(self, length: int, token_id: int | None, attend: bool) -> Expansion:
        """Expansion of queries, None for a filler that the tokenizer lacks."""
        if length > self.max_positions:
            raise ModelError(
                f"{self.path} expands queries to {length} tokens, but its encoder takes "
                f"{self.max_positions}"
            )
        if token_id is None:
            raise ModelError(f"{self.path} expands queries, but its tokenizer has no mask token")
        return Expansion(length, token_id, attend)

    def projection(self, modules: Iterable[Module]) -> Iterator[Dense]:
        """The layers of Dense modules, each fed by the one before."""
        size = self.hidden_size
        for module in modules:
            dense = _dense(module)
            if dense.in_features != size:
                raise ModelError(
                    f"{dense.config}: in_features is {dense.in_features}, but what comes before "
                    f"gives vectors of size {size}"
                )
            size = dense.out_features
            yield dense


def _dense(module: Module) -> Dense:
    """A Dense layer; without a word about its activation it is PyLate's or sentence-transformers'.

    Without names of what it works on it works on token vectors, as MultiVectorEncoder has it.
    """
    config = Record.read(module.folder / "config.json")
    in_features, out_features = config.count("in_features"), config.count("out_features")
    if in_features is None or out_features is None:
        raise ModelError(f"{config.path}: in_features or out_features is missing; is it a Dense?")
    names = {config.text(f"module_{end}_name") or "token_embeddings" for end in ("input", "output")}
    if names != {"token_embeddings"}:
        raise ModelError(f"{config.path}: it works on {', '.join(sorted(names))}, not on tokens")
    default = "Identity" if module.type.startswith("pylate.") else "Tanh"
    activation = (config.text("activation_function") or default).rsplit(".", 1)[-1]
    if activation not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise ModelError(
            f"{config.path}: activation_function is {activation}, expected one of {known}"
        )
    return Dense(
        module.folder,
        config.path,
        in_features,
        out_features,
        bias=config.flag("bias", True),
        activation=_ACTIVATIONS[activation],
        residual=config.flag("use_residual", False),
    )
