"""What other libraries' constructors take, in Packrank's words, or refused."""

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, TypeVar, cast

import torch

from packrank.errors import InputError

_Method = TypeVar("_Method", bound=Callable[..., Any])

# Of the keywords that go to transformers: what is taken, and what changes no score here.
_TAKEN: dict[str, tuple[str, ...]] = {
    "model_kwargs": ("dtype", "torch_dtype", "device_map"),
    "processor_kwargs": ("model_max_length",),
    "config_kwargs": ("num_labels",),
}
_HARMLESS: dict[str, tuple[str, ...]] = {
    "model_kwargs": ("attn_implementation", "low_cpu_mem_usage", "use_safetensors"),
    "processor_kwargs": ("use_fast", "clean_up_tokenization_spaces"),
    "config_kwargs": (),
}


def renaming(older: Mapping[str, str], dropped: Iterable[str] = ()) -> Callable[[_Method], _Method]:
    """A decorator of methods that take arguments by older names too.

    Args:
        older: name -> the one that the method has.
        dropped: names that have no meaning any more.
    """

    def decorate(method: _Method) -> _Method:
        @wraps(method)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            for old in [name for name in kwargs if name in older]:
                if older[old] in kwargs:
                    raise TypeError(f"{old} is an older name of {older[old]}; give one of them")
                kwargs[older[old]] = kwargs.pop(old)
            for name in dropped:
                kwargs.pop(name, None)
            return method(self, *args, **kwargs)

        return cast(_Method, call)

    return decorate


def taken_keywords(name: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Those of transformers' keywords that count here.

    Args:
        name: "model_kwargs", "processor_kwargs" or "config_kwargs".
        given: the caller's.

    Raises:
        InputError: one of them might change scores and is not taken.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InputError(f"{name} is a {type(given).__name__}, expected a dict")
    for key in given:
        if key not in _TAKEN[name] + _HARMLESS[name]:
            known = ", ".join(_TAKEN[name])
            raise InputError(
                f"{name} holds {key!r}, which Packrank does not take (it takes {known}); leave it "
                "out, or save the model with it"
            )
    return {key: value for key, value in given.items() if key in _TAKEN[name]}


def refuse_remote_code(trust_remote_code: Any) -> None:
    """Raise InputError where a model's own code should run."""
    if trust_remote_code:
        raise InputError(
            "trust_remote_code is set, and Packrank runs no code of a model's: what it supports it "
            "has code of its own for; leave it out"
        )


def device_names(devices: Any) -> Any:
    """Devices as `Reranker` takes them.

    Args:
        devices: a name, a number of a CUDA device, torch's own object, or a list of these; None:
            whichever there is; "auto" of `device_map` likewise.
    """
    if devices is None:
        return "auto"
    if isinstance(devices, list | tuple):
        names = [device_names(device) for device in devices]
        return names[0] if len(set(names)) == 1 else names
    if isinstance(devices, int) and not isinstance(devices, bool):
        return f"cuda:{devices}"
    if isinstance(devices, Mapping):
        raise InputError("device_map lays a model out over devices; name one, or several by device")
    return str(devices) if isinstance(devices, torch.device) else devices
