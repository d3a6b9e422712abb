"""What a caller hands over, tensors or arrays, numbers or masks, as the kernels take it."""

from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from packrank.arguments import listed
from packrank.errors import InputError
from packrank_kernels import TokenEmbeddings

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def queries_of(values: Any) -> Tensor | list[Tensor]:
    """One query [Q, D], or several.

    Args:
        values: [Q, D] or [M, Q, D], a tensor or an array; or M of [Q, D].

    Raises:
        InputError: it is something else.
    """
    if not isinstance(values, Tensor | np.ndarray):
        return list(_each("queries", values))
    whole = _floats("queries", values)
    if whole.ndim not in (2, 3):
        raise InputError(f"queries are of shape {list(whole.shape)}, expected [Q, D] or [M, Q, D]")
    return whole if whole.ndim == 2 else list(whole)


def documents_of(values: Any, mask: Any, size: int) -> TokenEmbeddings:
    """Token embeddings of documents that are given as tensors or arrays.

    Args:
        values: [N, L, D], or N of [L, D], of one dtype and on one device.
        mask: [N, L] booleans, or N of [L]: which rows are tokens; None: all of them.
        size: D where there are no documents.

    Raises:
        InputError: shapes or dtypes disagree; or there is no mask, and a document begins or ends
            with a row of zeros, as one that was filled up to the length of others.
    """
    if isinstance(values, Tensor | np.ndarray):
        whole = _floats("documents", values)
        if whole.ndim != 3:
            raise InputError(
                f"documents are of shape {list(whole.shape)}, expected [N, L, D] or N of [L, D]"
            )
        every = list(whole)
    else:
        every = list(_each("documents", values))
    if not every:
        return TokenEmbeddings.encode([torch.empty(0, size)], "float32").slice(0, 0)
    if len({(x.dtype, x.device, x.shape[1]) for x in every}) > 1:
        raise InputError("documents differ in dtype, device or dimension")
    if mask is not None:
        every = _masked(every, mask)
    else:
        wanted = "pass mask= to say which rows are tokens, else a mask that is true everywhere"
        _refuse_filled(every, wanted)
    return TokenEmbeddings.encode(every, str(every[0].dtype).removeprefix("torch."))


def vectors_of(values: Any, lengths: Any) -> list[Tensor]:
    """Documents [L, D] that are to be stored.

    Args:
        values: N of [L, D] on one device; or [T, D], with lengths.
        lengths: [N] whole numbers; None with N of [L, D].

    Raises:
        InputError: shapes or dtypes do not fit; or there are no lengths, and a document begins or
            ends with a row of zeros, as one that was filled up to the length of others.
    """
    if lengths is not None:
        whole = _floats("documents", values)
        if whole.ndim != 2:
            raise InputError(f"documents are of shape {list(whole.shape)}, with lengths [T, D]")
        counts = _counts("lengths", lengths)
        if sum(counts) != len(whole):
            raise InputError(
                f"lengths add up to {sum(counts)}, and documents have {len(whole)} rows"
            )
        return list(torch.split(whole, counts))
    if getattr(values, "ndim", 3) != 3:
        raise InputError(
            f"documents are of shape {list(values.shape)}, expected N of [L, D]; with [T, D] give "
            "lengths="
        )
    every = list(_each("documents", values))
    if len({x.device for x in every}) > 1:
        raise InputError("documents are on several devices; bring them to one")
    for place, x in enumerate(every):
        if x.shape[1] != every[0].shape[1]:
            raise InputError(
                f"documents[{place}] is of {x.shape[1]} dimensions, and documents[0] of "
                f"{every[0].shape[1]}"
            )
    _refuse_filled(every, "leave those rows out, else give [T, D] and lengths=")
    return every


def sample_of(values: Any) -> Tensor:
    """Token vectors [T, D] as float32 on the CPU, a copy.

    Raises:
        InputError: they are something else, none, or not finite.
    """
    rows = _floats("sample", values)
    if rows.ndim != 2 or not len(rows):
        raise InputError(f"sample is of shape {list(rows.shape)}, expected [T, D], T at least 1")
    if not rows.isfinite().all():
        raise InputError("sample holds a number that is not finite")
    return rows.to("cpu", torch.float32, copy=True)


def not_finite(documents: Iterable[Tensor], format: str) -> list[int]:
    """Which of documents [L, D] have a value that is not finite in a format, rising."""
    dtype = torch.float16 if format == "float16" else torch.float32
    sound = [x.to(dtype).isfinite().all() for x in documents]
    return [] if not sound else (~torch.stack(sound)).nonzero().flatten().tolist()


def check_finite(documents: Sequence[Tensor], format: str) -> None:
    """Raise InputError if a value of documents [L, D] is not finite in a format."""
    for place in not_finite(documents, format):
        if documents[place].isfinite().all():
            raise InputError(
                f"documents[{place}] holds a number that {format} cannot; take another format"
            )
        raise InputError(f"documents[{place}] holds a number that is not finite; leave it out")


def candidates_of(values: Any, num_documents: int) -> Tensor | list[Tensor] | None:
    """Places of documents, [K] int64 on the device they are on, or several such; or None.

    Args:
        values: None; whole numbers, in a tensor, an array, a range or any sequence; a mask of
            `num_documents` booleans; or, one a query, several of these.
        num_documents: N.

    Raises:
        InputError: it is something else.
    """
    if values is None:
        return None
    if isinstance(values, Tensor | np.ndarray) and values.ndim == 2:
        return [_places(f"candidates[{n}]", row, num_documents) for n, row in enumerate(values)]
    if not isinstance(values, Tensor | np.ndarray | range):
        values = listed("candidates", values, "places of documents")
        if any(hasattr(one, "__iter__") and getattr(one, "ndim", 1) for one in values):
            return [_places(f"candidates[{n}]", one, num_documents) for n, one in enumerate(values)]
    return _places("candidates", values, num_documents)


def _places(name: str, values: Any, num_documents: int) -> Tensor:
    if isinstance(values, range):
        for place in (values[0], values[-1]) if values else ():
            if not 0 <= place < num_documents:
                raise InputError(f"candidate {place} is not among {num_documents} documents")
        values = np.arange(values.start, values.stop, values.step, dtype=np.int64)
    elif not isinstance(values, Tensor | np.ndarray):
        values = _numbers(name, listed(name, values, "places of documents"))
    if isinstance(values, Tensor):
        _check_plain(name, values)
    if values.ndim != 1:
        raise InputError(f"{name} is of shape {list(values.shape)}, expected [K]")
    found = torch.from_numpy(_checked(name, values)) if isinstance(values, np.ndarray) else values
    if found.dtype == torch.bool:
        if len(found) != num_documents:
            raise InputError(
                f"{name} is a mask of {len(found)} booleans, and there are {num_documents} "
                "documents; give a mask of all of them, or numbers"
            )
        return found.nonzero().flatten()
    if found.is_floating_point() or found.is_complex():
        raise InputError(f"{name} is of dtype {found.dtype}, expected whole numbers or a mask")
    return found.to(torch.int64)


def _numbers(name: str, values: list[Any]) -> Any:
    """A list of Python's or numpy's numbers or booleans, as an array."""
    flags = [isinstance(value, bool | np.bool_) for value in values]
    if values and all(flags):
        return np.array(values, dtype=np.bool_)
    for place, value in enumerate(values):
        # A tensor of one number counts as one.
        if isinstance(value, Tensor) and value.ndim == 0 and value.dtype != torch.bool:
            value = values[place] = value.item()
        if flags[place] or not isinstance(value, Integral):
            raise InputError(
                f"{name}[{place}] is a {type(value).__name__}, expected a whole number"
            )
        if not -(2**63) <= int(value) < 2**63:
            raise InputError(f"{name}[{place}] is past 2^63, which is no place of a document")
    return np.array([int(value) for value in values], dtype=np.int64)


def _checked(name: str, values: Any) -> Any:
    """An array of numbers of Python's, or of a type that torch has."""
    values = _unmasked(name, values)
    if values.dtype.kind not in "biuf":
        raise InputError(f"{name} is of dtype {values.dtype}, expected whole numbers or a mask")
    if values.dtype.kind == "u" and values.size and int(values.max()) >= 2**63:
        raise InputError(f"{name} holds {values.max()}, which is no place of a document")
    if values.dtype.kind in "iu":
        return np.ascontiguousarray(values, dtype=np.int64)
    return np.ascontiguousarray(values)


def _counts(name: str, values: Any) -> list[int]:
    """Whole numbers that are not negative, in a tensor, an array or any sequence."""
    if isinstance(values, Tensor | np.ndarray) and values.ndim:
        values = values.tolist()
    numbers = listed(name, values, "whole numbers")
    for place, value in enumerate(numbers):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 0:
            raise InputError(f"{name}[{place}] is {value!r}, expected a whole number, 0 or more")
    return [int(value) for value in numbers]


def _each(name: str, values: Any) -> Iterator[Tensor]:
    for place, value in enumerate(listed(name, values, "tensors or arrays")):
        found = _floats(f"{name}[{place}]", value)
        if found.ndim != 2:
            raise InputError(f"{name}[{place}] is of shape {list(found.shape)}, expected [., D]")
        yield found


def _floats(name: str, values: Any) -> Tensor:
    """A tensor or an array of floating-point numbers, as a plain tensor; float64 in float32."""
    if isinstance(values, np.ndarray):
        values = _unmasked(name, values)
        if values.dtype.kind != "f" or values.dtype.itemsize > 8:
            raise InputError(f"{name} is of dtype {values.dtype}, expected floating point")
        native = values.astype(values.dtype.newbyteorder("="), order="C", copy=False)
        values = torch.from_numpy(native if native.flags.writeable else native.copy())
    if not isinstance(values, Tensor):
        raise InputError(
            f"{name} is of type {type(values).__name__}, neither a tensor nor an array"
        )
    _check_plain(name, values)
    found: Tensor = values.detach().resolve_neg()
    if found.dtype == torch.float64:
        rounded = found.float()
        if not torch.equal(rounded.isfinite(), found.isfinite()):
            raise InputError(f"{name} holds numbers that float32 cannot; scale them")
        return rounded
    if found.dtype not in _FLOATS:
        raise InputError(f"{name} is of dtype {found.dtype}, expected floating point")
    return found


def _check_plain(name: str, values: Tensor) -> None:
    if values.layout != torch.strided or values.device.type == "meta" or values.is_nested:
        raise InputError(f"{name} is a sparse or nested tensor, or one without values")


def _unmasked(name: str, values: Any) -> Any:
    """An array as torch takes it: without numpy's own masks, which say what is left out."""
    if isinstance(values, np.ma.MaskedArray):
        raise InputError(f"{name} is a masked array of numpy; pass its data, and mask= for rows")
    return values.copy() if any(stride < 0 for stride in values.strides) else values


def _masked(documents: list[Tensor], mask: Any) -> list[Tensor]:
    """The rows that are tokens."""
    if not isinstance(mask, Tensor | np.ndarray):
        mask = listed("mask", mask, "booleans")
    if len(mask) != len(documents):
        raise InputError(f"mask is of {len(mask)} documents, and there are {len(documents)}")
    chosen = []
    for place, (rows, flags) in enumerate(zip(documents, mask, strict=True)):
        if not isinstance(flags, Tensor):
            try:
                flags = np.array(_unmasked(f"mask[{place}]", np.asanyarray(flags)))
                flags = torch.from_numpy(np.ascontiguousarray(flags))
            except (TypeError, ValueError):
                flags = torch.empty(0)
        if flags.dtype != torch.bool or flags.shape != rows.shape[:1]:
            raise InputError(
                f"mask[{place}] is {flags.dtype} of shape {list(flags.shape)}, expected a boolean "
                f"for each of {len(rows)} rows"
            )
        chosen.append(rows[flags.to(rows.device)])
    return chosen


def _refuse_filled(documents: Sequence[Tensor], instead: str) -> None:
    """Refuse what looks filled up, at either end: such rows would count, and may score best."""
    ends = [rows[[0, -1]] for rows in documents if len(rows)]
    if not ends:
        return
    filled = ~torch.stack(ends).any(2).all(1)
    if filled.any():
        numbers = [place for place, rows in enumerate(documents) if len(rows)]
        place = numbers[int(filled.nonzero()[0])]
        raise InputError(
            f"documents[{place}] begins or ends with a row of zeros; if it was filled up to that "
            f"length, {instead}"
        )
