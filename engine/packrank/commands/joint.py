"""Models that judge several documents at a time, opened as a command line asks for them."""

import argparse
from pathlib import Path
from typing import Any

from packrank.checkpoint.kind import kind_of
from packrank.commands.joint_options import OF_METHODS
from packrank.errors import InputError
from packrank.listwise import Listwise
from packrank.ordering.joint_ranker import JointRanker
from packrank.ordering.opening import method_of
from packrank.pairwise import Pairwise
from packrank.setwise import Setwise

_POINTWISE = "pointwise"
# Options of a reranker that reads one document at a time.
_POINTWISE_ONLY = (
    *("max_length", "truncation", "activation", "template", "compress_ratio", "compress_layers"),
    *("head_index", "label", "cutoff_layer", "exit", "long_documents"),
)
_DOORS: dict[str, type[JointRanker]] = {
    "listwise": Listwise,
    "first": Listwise,
    "pairwise": Pairwise,
    "setwise": Setwise,
}


def open_joint(args: argparse.Namespace, folder: Path) -> JointRanker | None:
    """What ranks by several documents at a time; None: the model reads one at a time.

    Raises:
        InputError: an option is of another method.
        ModelError: the folder cannot be used so.
    """
    method = _method(args, folder)
    for name, methods in OF_METHODS.items():
        if getattr(args, name) is not None and method not in methods:
            raise InputError(
                f"{_option(name)} is for --method {' and '.join(methods)}, and this is {method}"
            )
    if method == _POINTWISE:
        return None
    for name in _POINTWISE_ONLY:
        if getattr(args, name) is not None:
            raise InputError(
                f"{_option(name)} is for models that read one document at a time, and this is "
                f"--method {method}"
            )
    if args.store is not None:
        raise InputError(f"--store is for late interaction, and this is --method {method}")
    devices = args.device.split(",") if "," in args.device else args.device
    given: dict[str, Any] = {"device": devices, "dtype": args.dtype}
    names = [name for name, methods in OF_METHODS.items() if method in methods]
    for name in (*names, "query_length", "document_length", "instruction"):
        if getattr(args, name) is not None:
            given[name] = getattr(args, name)
    if method in ("pairwise", "setwise"):
        if "instruction" in given:
            raise InputError(f"--instruction has no place in the prompts of --method {method}")
        if "order" in given:
            given["method"] = given.pop("order")
    elif method == "first" or (args.method is not None and kind_of(folder) != "listwise"):
        given["method"] = method
    return _DOORS[method](folder, **given)


def _method(args: argparse.Namespace, folder: Path) -> str:
    """What is asked for; else what the model is known for."""
    if args.method is not None:
        return str(args.method)
    kind = kind_of(folder)
    if kind == "listwise":
        return "listwise"
    known = method_of(folder, args.model) if kind in ("decoder", "encoder-decoder") else None
    return known or _POINTWISE


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
