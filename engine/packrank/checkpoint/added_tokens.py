"""Special and added tokens, from all the files of a folder that name any.

Source: transformers 5, PreTrainedTokenizerBase._from_pretrained and TokenizersBackend.__init__.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from packrank.checkpoint.files import field, read_object, shown
from packrank.errors import ModelError

# What a special token may be for; other keys that end in _token name tokens of a model's own.
ROLES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)

Token = str | AddedToken

_CONFIG = "tokenizer_config.json"
_MAP = "special_tokens_map.json"
_ADDED = "added_tokens.json"
_EXTRA = "extra_special_tokens"
_FORMER = "additional_special_tokens"


@dataclass(frozen=True)
class NamedTokens:
    """What the files of a folder say of a tokenizer.

    Attributes:
        arguments: keys and values that its class is built with; tokens among them as in `named`.
        named: special tokens by what they are for, in the order in which they are added.
        extra: other special tokens.
        added: all tokens by their ids that are said to stand outside the vocabulary; the ids order
            them and do no more.
    """

    arguments: dict[str, Any]
    named: dict[str, Token]
    extra: list[Token]
    added: dict[int, AddedToken]

    def add_to(self, backend: Tokenizer) -> None:
        """Add them all; one that the vocabulary has keeps its id, the others come after it."""
        tokens: list[Token] = [token for _, token in sorted(self.added.items())]
        known = {token.content for token in backend.get_added_tokens_decoder().values()}
        known |= {str_of(token) for token in tokens}
        for token in (*self.named.values(), *self.extra):
            if str_of(token) not in known and token not in tokens:
                tokens.append(token)
        names = {str_of(token) for token in self.named.values()}
        for place, token in enumerate(tokens):
            if isinstance(token, str):
                tokens[place] = AddedToken(token, special=True)
            elif token.content in names:
                token.special = True
        if tokens:
            backend.add_tokens(tokens)

    def mark_special(self, backend: Tokenizer) -> None:
        """Make all but those of `added` plain special tokens, whatever the files say of them."""
        tokens = dict.fromkeys(str_of(token) for token in (*self.named.values(), *self.extra))
        backend.add_tokens([AddedToken(token, special=True) for token in tokens])


def str_of(token: Token) -> str:
    """What a token is of characters."""
    return token if isinstance(token, str) else token.content


def read_tokens(
    folder: Path,
    config: dict[str, Any],
    stored: Iterable[tuple[int, AddedToken]],
    usual: Mapping[str, Token],
    usual_extra: Iterable[str],
) -> NamedTokens:
    """Special and added tokens of a folder, and the arguments of its tokenizer.

    Args:
        folder: of the tokenizer.
        config: contents of tokenizer_config.json.
        stored: added tokens of tokenizer.json with their ids.
        usual: special tokens of its class, which files may name otherwise.
        usual_extra: more of them.

    Raises:
        ModelError: a file names what is no token.
    """
    arguments = dict(config)
    if _FORMER in arguments and not arguments.get(_EXTRA):
        arguments[_EXTRA] = arguments.pop(_FORMER)
    own = {name: arguments.pop(name) for name in _names_of_own(arguments, str)}
    if isinstance(arguments.get(_EXTRA), dict):
        own |= arguments.pop(_EXTRA)
    added: dict[int, AddedToken] = {}
    if "added_tokens_decoder" in arguments:
        # Then no other file counts.
        listed = field(arguments, "added_tokens_decoder", dict, {}, _CONFIG)
        for index, token in listed.items():
            added[_index(index)] = _added(token, f"{_CONFIG}: added_tokens_decoder")
    else:
        _merge_map(folder / _MAP, arguments, own)
        added |= _from_encoder(folder / _ADDED, arguments)
        added |= dict(stored)
    arguments = {name: _converted(value, name) for name, value in arguments.items()}
    by_content = {token.content: token for token in added.values()}
    for role in ROLES:
        if isinstance(arguments.get(role), str | AddedToken):
            token = arguments[role]
            arguments[role] = by_content.get(str_of(token), token)
    for role, token in usual.items():
        arguments.setdefault(role, token)
    extra = arguments.get(_EXTRA, arguments.get(_FORMER, list(usual_extra)))
    if isinstance(extra, dict):
        own |= extra
        extra = []
    named = {role: arguments[role] for role in ROLES if arguments.get(role) is not None}
    named |= {name: arguments[name] for name in _names_of_own(arguments, (str, AddedToken))}
    named |= {name: _converted(token, name) for name, token in own.items()}
    for name, token in named.items():
        _check(token, name)
    every = list(extra) if isinstance(extra, list) else [] if extra is None else [extra]
    for token in every:
        _check(token, _EXTRA if _EXTRA in arguments else _FORMER)
    return NamedTokens(arguments, named, every, added)


def _names_of_own(arguments: Mapping[str, Any], kind: Any) -> list[str]:
    return [
        name
        for name, value in arguments.items()
        if name.endswith("_token") and name not in ROLES and isinstance(value, kind)
    ]


def _merge_map(path: Path, arguments: dict[str, Any], own: dict[str, Any]) -> None:
    """special_tokens_map.json, which has the last word."""
    for name, value in read_object(path).items() if path.is_file() else ():
        if isinstance(value, dict) and name != _EXTRA:
            token = {key: value[key] for key in value if key != "special"}
            arguments[name] = _added(token | {"special": True}, f"{_MAP}: {name}")
        elif isinstance(value, list) and name == _EXTRA:
            former = arguments.get(_EXTRA) or []
            where = f"{_MAP}: {name}"
            tokens = [
                _added(x | {"special": True}, where) if isinstance(x, dict) else x for x in value
            ]
            arguments[name] = [*former, *(token for token in tokens if token not in former)]
        else:
            arguments[name] = value
    if isinstance(arguments.get(_EXTRA), dict):
        own |= arguments.pop(_EXTRA)


def _from_encoder(path: Path, arguments: dict[str, Any]) -> dict[int, AddedToken]:
    """added_tokens.json: tokens and ids; those that another file calls special are."""
    if not path.is_file():
        return {}
    special = {str(arguments[role]) for role in ROLES if arguments.get(role)}
    special |= {str(token) for token in arguments.get(_EXTRA) or ()}
    found = {}
    for token, index in read_object(path).items():
        is_special = token in special
        found[_index(index, path)] = AddedToken(
            token, normalized=not is_special, special=is_special
        )
    return found


def _converted(value: Any, name: str) -> Any:
    """A value in which tokens that are spelled out as objects are tokens."""
    if isinstance(value, dict):
        if value.get("__type") == "AddedToken":
            return _added({key: value[key] for key in value if key != "__type"}, name)
        return {key: _converted(inner, name) for key, inner in value.items()}
    if isinstance(value, list):
        return [_converted(inner, name) for inner in value]
    return value


def _added(token: Any, where: str) -> AddedToken:
    if isinstance(token, dict) and isinstance(token.get("content"), str):
        try:
            return AddedToken(**token)
        except TypeError:  # a key that it does not have, or another kind of value
            pass
    raise ModelError(
        f"{where} is {shown(token)}, expected an object with the content of a token; save the "
        "tokenizer with transformers' save_pretrained"
    )


def _check(token: Any, name: str) -> None:
    if not isinstance(token, str | AddedToken):
        raise ModelError(
            f"{_CONFIG}: {name} is {shown(token)}, expected a token, as a string or an object of "
            "the type AddedToken; save the tokenizer with transformers' save_pretrained"
        )


def _index(index: Any, path: Path | str = f"{_CONFIG}: added_tokens_decoder") -> int:
    try:
        return int(index)
    except (TypeError, ValueError):
        raise ModelError(f"{path} has the id {shown(index)}, expected a whole number") from None
