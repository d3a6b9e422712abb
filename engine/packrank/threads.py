"""Methods for an event loop: the same work in a thread, while the loop goes on."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

_Self = TypeVar("_Self")
_P = ParamSpec("_P")
_Result = TypeVar("_Result")


def in_thread(
    method: Callable[Concatenate[_Self, _P], _Result],
) -> Callable[Concatenate[_Self, _P], Coroutine[Any, Any, _Result]]:
    """A coroutine of a method, named after it, that runs it in a thread of the loop's own.

    It takes and returns what the method does, and raises what it raises. One that is cancelled
    stops waiting; the work itself is finished all the same.
    """
    name = method.__name__

    @wraps(method)
    async def call(*args: Any, **kwargs: Any) -> Any:
        self, *others = args
        return await asyncio.to_thread(getattr(self, name), *others, **kwargs)

    call.__name__ = f"{name}_async"
    call.__qualname__ = f"{method.__qualname__}_async"
    call.__doc__ = f"`{name}` in a thread, so that an event loop goes on: see there."
    return cast(Callable[Concatenate[_Self, _P], Coroutine[Any, Any, _Result]], call)
