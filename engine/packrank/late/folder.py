"""A late-interaction folder: its files, and what every format of them has in common."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packrank.checkpoint.config_values import LONGEST
from packrank.checkpoint.modules import Module
from packrank.checkpoint.scoring_modules import FUSED, TOKENS, read_dense
from packrank.errors import InputError, ModelError
from packrank.late.settings import Dense, Expansion
from packrank.text.tokenizer import Tokenizer

# Whose modules are known by their names.
_PACKAGES = ("sentence_transformers", "pylate")


@dataclass(frozen=True)
class LateFolder:
    """A model folder, and what its files mean for this encoder and tokenizer.

    Attributes:
        path: as the user names it.
        modules: of modules.json.
        tokenizer: of the encoder.
        hidden_size: of the encoder.
        max_positions: the longest sequence that the encoder takes.
        usual_positions: the longest where nobody asks for more.
        query_length: tokens of a query that the caller asks for; None: what the files say.
        document_length: the same of a document.
    """

    path: Path
    modules: list[Module]
    tokenizer: Tokenizer
    hidden_size: int
    max_positions: int
    usual_positions: int
    query_length: int | None = None
    document_length: int | None = None

    def length(self, asked: int | None) -> int:
        """Tokens of a sequence: what the folder asks for, else the tokenizer, within positions."""
        if asked is None:
            asked = min(self.tokenizer.model_max_length or LONGEST, self.usual_positions)
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

    def converted(self, token: str) -> int | None:
        """The id that transformers makes of a token: of one that is unknown, the unknown token's.

        None where there is no unknown token either.
        """
        token_id = self.tokenizer.token_id(token)
        return self.tokenizer.unk_token_id if token_id is None else token_id

    def check_lengths(self) -> None:
        """Raise InputError unless the encoder takes the lengths that the caller asks for."""
        for name in ("query_length", "document_length"):
            asked = getattr(self, name)
            if asked is not None and asked > self.max_positions:
                raise InputError(
                    f"{name} is {asked}, and the model takes {self.max_positions} tokens"
                )

    def check_room(self, side: str, length: int, marked: bool) -> None:
        """Raise unless a text of this side, "query" or "document", has room for a token."""
        needed = self.tokenizer.num_special_tokens(pair=False) + marked
        if length > needed:
            return
        if getattr(self, f"{side}_length") is not None:
            raise InputError(f"{side}_length is {length}, but {needed} tokens are special ones")
        sides = {"query": "queries", "document": "documents"}
        raise ModelError(
            f"{self.path} cuts {sides[side]} to {length} tokens, but {needed} are special ones"
        )

    def check_modules(self, *supported: str) -> None:
        """Raise unless modules.json lists a Transformer first, then only what is supported."""
        if not self.modules:
            return
        for module in self.modules:
            if module.type.split(".")[0] not in _PACKAGES:
                raise ModelError(
                    f"{self.path}/modules.json lists {module.type}, code of its own, which is not "
                    "run; supported are modules of sentence-transformers and PyLate"
                )
        first, *others = (module.name for module in self.modules)
        if first != "Transformer" or set(others) - set(supported):
            names = ", ".join([first, *others])
            raise ModelError(
                f"{self.path}/modules.json lists {names}; supported are a Transformer, then "
                f"{', '.join(supported)}"
            )

    def expansion(self, length: int, token_id: int | None, attend: bool) -> Expansion:
        """Expansion of queries, None for a filler that the tokenizer lacks."""
        if length > self.max_positions:
            raise ModelError(
                f"{self.path} expands queries to {length} tokens, but its encoder takes "
                f"{self.max_positions}"
            )
        if self.tokenizer.fills_start:
            raise ModelError(
                f"{self.path} expands queries, and padding_side of its tokenizer is 'left', which "
                "puts the fillers before the text; that is not supported"
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
    """A Dense layer of token vectors, as MultiVectorEncoder has it where names are not given.

    Without a word about its activation it is PyLate's or sentence-transformers'.
    """
    usual = "Identity" if module.type.startswith("pylate.") else "Tanh"
    found = read_dense(module.folder, usual=TOKENS, activation=usual)
    path = module.folder / "config.json"
    if (found.source, found.target) != (TOKENS, TOKENS):
        names = ", ".join(sorted({found.source, found.target}))
        raise ModelError(f"{path}: it works on {names}, not on tokens")
    if found.activation not in ("Identity", *FUSED):
        raise ModelError(
            f"{path}: activation_function is {found.activation}, expected one of Identity, "
            f"{', '.join(FUSED)} where it works on tokens"
        )
    return Dense(
        module.folder,
        path,
        found.in_features,
        found.out_features,
        bias=found.bias,
        activation=FUSED.get(found.activation),
        residual=found.residual,
    )
