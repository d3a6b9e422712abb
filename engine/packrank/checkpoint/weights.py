"""Tensors of a checkpoint by name: safetensors only, every name, shape and value checked."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from packrank.checkpoint.files import field, read_object
from packrank.errors import ModelError, RangeError

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# LayerNorm parameters as checkpoints converted from TensorFlow name them.
_OLD_NAMES = {"weight": "gamma", "bias": "beta"}
_CONVERT = (
    "import glob, sys, torch, safetensors.torch as s; s.save_file("
    "{k: v.contiguous().clone() for f in glob.glob(sys.argv[1] + '/pytorch_model*.bin') "
    "for k, v in torch.load(f, map_location='cpu', weights_only=True).items()}, "
    "sys.argv[1] + '/model.safetensors')"
)


@dataclass(frozen=True)
class Weights:
    """The tensors of a folder; none is read before it is taken.

    Attributes:
        files: name of a tensor -> the file that holds it.
    """

    files: dict[str, Path]

    @classmethod
    def open(cls, folder: Path) -> "Weights":
        """Find model.safetensors, or the shards of model.safetensors.index.json.

        Raises:
            ModelError: neither is there, or a file is missing or damaged.
        """
        files: dict[str, Path] = {}
        for path in _shards(folder):
            with _reading(path) as file:
                files.update(dict.fromkeys(file.keys(), path))
        return cls(files)

    def __contains__(self, name: str) -> bool:
        return name in self.files

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """One tensor, copied out of its file.

        Args:
            name: in the checkpoint; LayerNorms named gamma and beta answer to weight and bias.
            shape: what it must be.
            dtype: what it is rounded to.

        Raises:
            ModelError: no such tensor, another shape, not floating point, or NaN or infinity in it.
            RangeError: a value is larger than `dtype` can hold.
        """
        stored = self._stored_name(name)
        # Opened anew for each tensor: the mapping, and with it the file's resident pages, goes
        # when the copy is made, so that a load peaks near one copy of the model.
        with _reading(self.files[stored]) as file:
            tensor: Tensor = file.get_tensor(stored)
            if tuple(tensor.shape) != shape:
                raise ModelError(
                    f"{stored} has shape {list(tensor.shape)}, config.json implies {list(shape)}"
                )
            largest = max(abs(float(extreme)) for extreme in _extremes(stored, tensor))
            if largest > torch.finfo(dtype).max:
                raise RangeError(
                    f"{stored} holds {largest:.3g}, more than {dtype} can; use another dtype"
                )
            return tensor.to(dtype, copy=True)

    def take_rows(self, name: str, rows: list[int], shape: tuple[int, int]) -> Tensor:
        """Some rows of a matrix, float32 [rows, columns]; the others are not read.

        Args:
            name: in the checkpoint.
            rows: each in [0, shape[0]).
            shape: what the whole matrix must be.

        Raises:
            ModelError: as `take`, or a row that is not there.
        """
        stored = self._stored_name(name)
        if max(rows) >= shape[0]:
            raise ModelError(f"token {max(rows)} is not among the {shape[0]} rows of {stored}")
        with _reading(self.files[stored]) as file:
            part = file.get_slice(stored)
            if tuple(part.get_shape()) != shape:
                raise ModelError(
                    f"{stored} has shape {list(part.get_shape())}, config.json implies "
                    f"{list(shape)}"
                )
            found = torch.cat([part[row : row + 1] for row in rows])
        _extremes(stored, found)
        return found.to(torch.float32, copy=True)

    def _stored_name(self, name: str) -> str:
        stem, _, last = name.rpartition(".")
        for candidate in (name, f"{stem}.{_OLD_NAMES.get(last, last)}"):
            if candidate in self.files:
                return candidate
        raise ModelError(f"the checkpoint has no tensor {name}; is it of another architecture?")


def _extremes(name: str, tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Its least and its largest value; ModelError unless they are finite floating point."""
    if tensor.dtype not in _FLOATS:
        raise ModelError(f"{name} is {tensor.dtype}, expected a floating-point dtype")
    least, largest = torch.aminmax(tensor)
    if not (least.isfinite() and largest.isfinite()):
        raise ModelError(f"{name} holds NaN or infinite values; the checkpoint is damaged")
    return least, largest


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read as safetensors ({error})") from error


def _shards(folder: Path) -> list[Path]:
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = field(read_object(index), "weight_map", dict, {}, index)
        if not shards:
            raise ModelError(f"{index} names no shard in weight_map")
        names = {field(shards, name, str, None, f"{index}: weight_map") for name in shards}
        if None in names:
            raise ModelError(f"{index}: weight_map names no file for a tensor")
        return [folder / name for name in sorted(names)]
    if any(folder.glob("pytorch_model*.bin")):
        command = f'python -c "{_CONVERT}" {shlex.quote(str(folder))}'
        raise ModelError(f"{folder} has only pytorch_model.bin; convert it once with: {command}")
    raise ModelError(f"{folder} has no model.safetensors; pass a folder that holds the weights")
