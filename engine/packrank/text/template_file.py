"""Templates that users write: a JSON file, checked as those are that come with the package."""

import json
import re
from dataclasses import MISSING, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

from packrank.arguments import check_text
from packrank.checkpoint.config import Activation
from packrank.errors import InputError
from packrank.text.templates import Bos, Budget, Template

SUFFIX = ".json"
_WORDS = {"bos": get_args(Bos), "budget": get_args(Budget), "activation": get_args(Activation)}
_LISTS = ("tail", "special_tokens")
_FLAGS = ("document_first", "one_string", "of_classifiers")
_DIGEST = 8  # characters, in its name
_MOST = 1e6  # of numbers
_SIZE = re.compile("[0-9]{1,9}")
_PLACES = ("{query}", "{document}", "{instruction}")


def read_template(path: str | Path) -> tuple[str, Template]:
    """A template and its name, in which its content has a part.

    The keys are the attributes of `Template`; needed are query, document, tail, budget, max_length.

    Raises:
        InputError: no such file, no JSON object, or what it says is no template.
    """
    try:
        raw = Path(path).read_bytes()
        given = json.loads(raw, object_pairs_hook=_once, parse_constant=_refuse)
    except OSError as error:
        raise InputError(f"template {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"template {path} is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise InputError(f"template {path} is no JSON object")
    try:
        template = _template({"source": str(path)} | given)
    except InputError as error:
        raise InputError(f"template {path}: {error}") from None
    return f"{Path(path).stem}@{sha256(raw).hexdigest()[:_DIGEST]}", template


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in it")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _template(given: dict[str, Any]) -> Template:
    known = {field.name: field for field in fields(Template)}
    for key in given:
        if key not in known:
            raise InputError(f"there is no {key!r}; there are {', '.join(known)}")
    for name, field in known.items():
        if name not in given and field.default is MISSING and field.default_factory is MISSING:
            raise InputError(f"{name} is missing")
    template = Template(**{key: _value(key, value) for key, value in given.items()})
    _check_patterns(template)
    _check_scoring(template)
    return template


def _value(key: str, value: Any) -> Any:
    """A value as `Template` has it."""
    if key in _WORDS:
        if value not in _WORDS[key]:
            raise InputError(f"{key} is {value!r}, expected one of {', '.join(_WORDS[key])}")
        return value
    if key in _LISTS:
        if not isinstance(value, list) or not all(isinstance(x, str) and x for x in value):
            raise InputError(f"{key} is {value!r}, expected a list of texts")
        for text in value:
            check_text(text, key)
        return tuple(value)
    if key in _FLAGS:
        if not isinstance(value, bool):
            raise InputError(f"{key} is {value!r}, expected true or false")
        return value
    if key == "max_length":
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _MOST:
            raise InputError(f"{key} is {str(value)[:40]}, expected a whole number from 1")
        return value
    if key == "shift":
        return _number(key, value)
    if key == "shifts":
        known = isinstance(value, dict) and all(_SIZE.fullmatch(size) for size in value)
        if not known:
            raise InputError(f"{key} is {value!r}, expected a number for each hidden size")
        return {int(size): _number(key, shift) for size, shift in value.items()}
    if not isinstance(value, str):
        raise InputError(f"{key} is {value!r}, expected a text")
    check_text(value, key)
    return value


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _MOST:
        raise InputError(f"{key} is {str(value)[:40]!r}, expected a number")
    return float(value)


def _check_patterns(template: Template) -> None:
    for key, pattern in (
        ("query", template.query),
        ("instructed", template.instructed),
        ("document", template.document),
    ):
        if pattern is None:
            continue
        place = "{document}" if key == "document" else "{query}"
        _check_places(key, pattern, (place,) if key == "document" else (place, "{instruction}"))
        if pattern.count(place) != 1:
            raise InputError(f"{key} is {pattern!r}, which does not have {place} once")
    for key in ("head", "separator", "closing", "true_token", "false_token"):
        _check_places(key, getattr(template, key) or "", ())
    for piece in template.tail:
        _check_places("tail", piece, ())
    if ("{instruction}" in template.query) != (template.instruction is not None):
        raise InputError("query has {instruction} where there is a default for it, and only there")
    if template.instructed is not None and "{instruction}" not in template.instructed:
        raise InputError(f"instructed is {template.instructed!r}, which has no {{instruction}}")
    if template.one_string != (template.budget == "whole"):
        raise InputError('one_string is true where budget is "whole", and only there')
    if template.document_first and not template.one_string:
        raise InputError("document_first goes with one_string alone")
    if template.document_first and template.closing:
        raise InputError("closing is given, and document_first leaves no place for it")
    if template.one_string and template.separator:
        raise InputError("separator is given, and one_string leaves no place for it")


def _check_places(key: str, pattern: str, known: tuple[str, ...]) -> None:
    for place in _PLACES:
        if place in pattern and place not in known:
            raise InputError(f"{key} is {pattern!r}, where {place} is not filled in")


def _check_scoring(template: Template) -> None:
    if template.false_token is not None and template.true_token is None:
        raise InputError("false_token is given without true_token")
    if template.true_token is not None and template.true_token == template.false_token:
        raise InputError(f"true_token and false_token are both {template.true_token!r}")
    if template.activation == "softmax" and not template.of_classifiers:
        raise InputError(
            'activation is "softmax", over labels, of which a score of tokens has one: every score '
            "would be 1.0; sigmoid is what a softmax makes of two tokens' logits"
        )
    asked = (template.query, template.instructed or "", template.instruction or "")
    read = (template.separator, template.document, template.closing)
    around = (template.head, *asked, *read, *template.tail)
    for token in template.special_tokens:
        if not any(token in part for part in around):
            raise InputError(f"special_tokens names {token!r}, which stands nowhere in it")
