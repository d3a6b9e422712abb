"""Jinja for chat templates: what they may use, and no more work than a prompt can need.

Each rendering, and compiling, which computes constants, has a budget in characters. Whatever a
template does takes from it before it is done: what it writes, what its operators, filters and
calls can make at most, and a sum for every turn of a loop.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from datetime import datetime
from functools import wraps
from math import prod
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MOST = 1 << 28  # some seconds and some hundred MB
_TURN = 10_000  # of a loop, beside the template's own text; what it does to long texts takes time
_CALL = 10_000
_LIST = 1_000  # gone through to see its size
_ELEMENT = 32  # of a list; and a unit of a number, which may be how many are made
# What makes as much as its arguments' product; others make no more than their sum.
_PRODUCTS = ("join", "indent", "expandtabs", "translate", "tojson", "wordwrap")

_left: ContextVar[int] = ContextVar("left")


class Compiled:
    """A chat template, compiled."""

    def __init__(self, source: str) -> None:
        """Compile it.

        Raises:
            Exception: of any kind, as templates make Python raise it.
        """
        _left.set(_MOST)
        self._template = _Environment(len(source)).from_string(source)

    def render(self, **variables: Any) -> str:
        """The text that it makes of variables; raises as `Compiled` does."""
        _left.set(_MOST)
        return self._template.render(**variables)


class _Generation(Extension):
    """{% generation %} marks what a model is trained to say; it changes no text."""

    tags = {"generation"}  # noqa: RUF012  # as jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """What chat templates may use, as transformers' documentation has it."""

    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def __init__(self, source_size: int) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            finalize=_written,
        )
        self._turn = _TURN + source_size
        self.filters["tojson"] = _to_json
        self.filters = {name: _paid(name, filter) for name, filter in self.filters.items()}
        self.filters |= {"_turns": self._turns, "_concatenated": _concatenated}
        self.globals["raise_exception"] = _raise
        self.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
        del self.globals["lipsum"]

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            loop.iter = _filtered(loop.iter, "_turns")
        for parent in [tree, *tree.find_all(nodes.Node)]:
            for field, value in parent.iter_fields():
                if isinstance(value, list):
                    value[:] = map(_without_concat, value)
                else:
                    setattr(parent, field, _without_concat(value))
        return tree

    def _turns(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            _spend(self._turn)
            yield value

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            _spend(_of_format(left, list(right) if isinstance(right, tuple) else [right]))
        elif operator == "+":
            _spend(_size(left) + _size(right) if not isinstance(left, int | float) else 0)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _spend(left.bit_length() * max(right, 0))
        elif operator == "*":
            numbers = [value for value in (left, right) if isinstance(value, int)]
            if len(numbers) == 1:
                _spend(
                    max(numbers[0], 0) * sum(_size(v) for v in (left, right) if v is not numbers[0])
                )
            elif numbers:
                _spend(sum(number.bit_length() for number in numbers))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        bound = getattr(__obj, "__wrapped__", __obj)  # a sandboxed str.format is wrapped
        receiver = [bound.__self__] if isinstance(getattr(bound, "__self__", None), str) else []
        name = getattr(__obj, "__name__", "")
        _spend(_CALL + _of_call(name, [*receiver, *args, *kwargs.values()]))
        return super().call(__context, __obj, *args, **kwargs)


def _filtered(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _without_concat(node: Any) -> Any:
    """`a ~ b`, which no environment is asked about, as a filter."""
    if not isinstance(node, nodes.Concat):
        return node
    return _filtered(nodes.List(node.nodes, lineno=node.lineno), "_concatenated")


def _paid(name: str, filter: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that takes from the budget what it can make."""

    @wraps(filter)
    def paid(*args: Any, **kwargs: Any) -> Any:
        listed = [list(arg) if isinstance(arg, Iterator) else arg for arg in args]
        values = [arg for arg in listed if not isinstance(arg, Context | jinja2.Environment)]
        values = [value for value in values if not isinstance(value, nodes.EvalContext)]
        _spend(_CALL + _of_call(name, [*values, *kwargs.values()]))
        return filter(*listed, **kwargs)

    return paid


def _concatenated(values: list[Any]) -> str:
    texts = [str(value) for value in values]
    _spend(sum(map(len, texts)))
    return "".join(texts)


def _written(value: Any) -> Any:
    _spend(_size(value) if not isinstance(value, int) else 0)
    return value


def _of_call(name: str, values: list[Any]) -> int:
    """Characters that a call can make of its values, the first of which it is called on."""
    if name == "replace" and len(values) > 2 and all(isinstance(v, str) for v in values[:3]):
        text, old, new = values[:3]
        return len(text) + (len(text) // max(len(old), 1) + 1) * len(new)
    if name in ("format", "format_map") and values and isinstance(values[0], str):
        return _of_format(values[0], values[1:])
    sizes = [_size(value) for value in values]
    return prod(max(size, 1) for size in sizes) if name in _PRODUCTS else sum(sizes)


def _of_format(pattern: str, values: list[Any]) -> int:
    """Characters that formatting can make: fields are no more than the pattern has characters."""
    widths = sum(int(digits[:18]) for digits in re.findall(r"\d+", pattern))
    return len(pattern) * (1 + max(map(_size, values), default=0)) + widths


def _size(value: Any) -> int:
    """Characters of a value; what it takes to see that is taken from the budget too."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, int):
        return _ELEMENT * min(abs(value), _MOST) if not isinstance(value, bool) else 0
    if isinstance(value, range):
        return _ELEMENT * len(value)
    if isinstance(value, dict):
        return _size([*value, *value.values()])
    if not isinstance(value, list | tuple | set | frozenset):
        return 0
    _spend(_LIST + len(value))  # or lists of the same lists would take for ever
    # A number in a list makes its digits.
    return sum(_ELEMENT + (0 if isinstance(one, int) else _size(one)) for one in value)


def _spend(amount: int) -> None:
    left = _left.get() - amount
    if left < 0:
        raise jinja2.TemplateError("it asks for more work than a prompt can need")
    _left.set(left)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, **options: Any) -> str:
    return json.dumps(value, **{"ensure_ascii": False} | options)
