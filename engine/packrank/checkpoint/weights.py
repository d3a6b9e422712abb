"""Tensors of a checkpoint by name: safetensors only, every name, shape and value checked."""

import dataclasses
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from packrank.checkpoint.adapter import ADAPTER_WEIGHTS, base_folder
from packrank.checkpoint.files import field, inside, read_object
from packrank.checkpoint.headers import Header, read_headers, unreadable
from packrank.checkpoint.lora import Lora, plain, read_lora
from packrank.checkpoint.quantized import refuse_quantized
from packrank.errors import ModelError, RangeError

# LayerNorm parameters as checkpoints converted from TensorFlow name them.
_OLD_NAMES = {"weight": "gamma", "bias": "beta"}
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_CONVERT = (
    "import glob, sys, torch, safetensors.torch as s; s.save_file("
    "{k: v.contiguous().clone() for f in glob.glob(sys.argv[1] + '/PICKLES') "
    "for k, v in torch.load(f, map_location='cpu', weights_only=True).items()}, "
    "sys.argv[1] + '/SAFETENSORS')"
)


@dataclass(frozen=True)
class Weights:
    """The tensors of a folder, those of an adapter merged in; none is read before it is taken.

    Attributes:
        files: name of a tensor -> the file that holds it.
        headers: name of a tensor -> its dtype and shape.
        lora: what an adapter makes of them; None: there is none.
    """

    files: dict[str, Path]
    headers: dict[str, Header] = dataclasses.field(default_factory=dict)
    lora: Lora | None = None
    _taken: set[str] = dataclasses.field(default_factory=set, compare=False)

    @classmethod
    def open(cls, folder: Path) -> "Weights":
        """Find model.safetensors, or the shards of model.safetensors.index.json.

        Of an adapter's folder those of its base, and adapter_model.safetensors.

        Raises:
            ModelError: neither is there, a file is missing or damaged, or holds what is not
                supported: quantized weights, adapters that are no LoRA.
        """
        _refuse_pickle(folder, "adapter_model.bin", ADAPTER_WEIGHTS)
        base = base_folder(folder)
        stored, headers = _stored(base)
        refuse_quantized(base, headers)
        lora = read_lora(folder, stored)
        if lora is not None:
            own = _checked(lora.path)
            stored |= dict.fromkeys(lora.whole, lora.path)
            headers |= {name: own[key] for name, key in lora.whole.items()}
        return cls(stored, headers, lora)

    def __contains__(self, name: str) -> bool:
        return self._found(name) is not None

    def adapts(self, name: str) -> bool:
        """Whether an adapter changes a tensor."""
        return self.replaces(name) or (self.lora is not None and name in self.lora.changes)

    def replaces(self, name: str) -> bool:
        """Whether an adapter has a tensor of its own in place of this one."""
        return self.lora is not None and name in self.lora.whole

    def take(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> Tensor:
        """One tensor, copied out of its file.

        Args:
            name: in the checkpoint; LayerNorms named gamma and beta answer to weight and bias.
            shape: what it must be.
            dtype: what it is rounded to.
            device: where it goes; on "meta" only its name and shape are checked. None: the CPU.

        Raises:
            ModelError: no such tensor, another shape, not floating point, or NaN or infinity in it.
            RangeError: a value is larger than `dtype` can hold.
        """
        stored = self._stored_name(name)
        self._check_shape(stored, shape)
        if device is not None and device.type == "meta":
            return torch.empty(shape, dtype=dtype, device=device)
        # Opened anew for each tensor: the mapping, and with it the file's resident pages, goes
        # when the copy is made, so that a load peaks near one copy of the model.
        with _reading(self.files[stored]) as file:
            tensor = self._merged(stored, file.get_tensor(self._key(stored)))
            largest = max(abs(float(extreme)) for extreme in _extremes(stored, tensor))
            if largest > torch.finfo(dtype).max:
                raise RangeError(
                    f"{stored} holds {largest:.3g}, more than {dtype} can; use another dtype"
                )
            return tensor.to(dtype, copy=True).to(device)

    def stored(self, name: str) -> Tensor:
        """One tensor of `files` in its own dtype and shape, whatever they are.

        Raises:
            ModelError: the file cannot be read.
        """
        with _reading(self.files[name]) as file:
            return self._merged(name, file.get_tensor(self._key(name)))

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
        self._check_shape(stored, shape)
        with _reading(self.files[stored]) as file:
            part = file.get_slice(self._key(stored))
            found = torch.cat([part[row : row + 1] for row in rows])
        found = self._merged(stored, found, rows)
        _extremes(stored, found)
        return found.to(torch.float32, copy=True)

    def check_taken(self) -> None:
        """Raise ModelError if an adapter holds a tensor that nothing has a place for.

        To be called when the model has taken all that it reads.
        """
        if self.lora is None:
            return
        for name, key in self.lora.whole.items():
            if name not in self._taken and name not in self.lora.of_base:
                raise ModelError(
                    f"{self.lora.path} holds {key}, for which the model has no place; is the "
                    "adapter of another architecture or task?"
                )

    def _key(self, stored: str) -> str:
        """What the file calls a tensor."""
        return stored if self.lora is None else self.lora.whole.get(stored, stored)

    def _check_shape(self, stored: str, shape: tuple[int, ...]) -> None:
        found = self.headers[stored].shape
        if found != shape:
            raise ModelError(f"{stored} has shape {list(found)}, config.json implies {list(shape)}")

    def _merged(self, stored: str, tensor: Tensor, rows: list[int] | None = None) -> Tensor:
        """The tensor, or those rows of it, as the adapter has it."""
        self._taken.add(stored)
        change = None if self.lora is None else self.lora.changes.get(stored)
        if self.lora is None or change is None:
            return tensor
        _extremes(stored, tensor)
        with _reading(self.lora.path) as file:

            def read(name: str) -> Tensor:
                part: Tensor = file.get_tensor(name)
                _extremes(name, part)
                return part

            return change.merged(tensor, read, rows)

    def _stored_name(self, name: str) -> str:
        found = self._found(name)
        if found is None:
            raise ModelError(f"the checkpoint has no tensor {name}; is it of another architecture?")
        return found

    def _found(self, name: str) -> str | None:
        stem, _, last = name.rpartition(".")
        for candidate in (name, f"{stem}.{_OLD_NAMES.get(last, last)}"):
            if candidate in self.files:
                return candidate
        if self.lora is None:
            return None
        # The adapter may be of another class than its base.
        return next((stored for stored in self.files if plain(stored) == plain(name)), None)


def _extremes(name: str, tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Its least and its largest value; ModelError unless they are finite floating point."""
    if tensor.dtype not in _FLOATS:
        raise ModelError(
            f"{name} is {tensor.dtype}, expected a floating-point dtype; quantized weights are not "
            "supported"
        )
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
        raise unreadable(path, error) from error


def _stored(folder: Path) -> tuple[dict[str, Path], dict[str, Header]]:
    """The files of the tensors in a folder, and their headers, by name."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        headers = _checked(single)
        return dict.fromkeys(headers, single), headers
    if not index.exists():
        _refuse_pickle(folder, "pytorch_model*.bin", "model.safetensors")
        if any(folder.glob("*.gguf")):
            raise ModelError(f"{folder} has GGUF weights; pass the model that they were made from")
        raise ModelError(f"{folder} has no model.safetensors; pass a folder that holds the weights")
    shards = field(read_object(index), "weight_map", dict, {}, index)
    if not shards:
        raise ModelError(f"{index} names no shard in weight_map")
    where = f"{index}: weight_map"
    named = {name: field(shards, name, str, None, where) for name in shards}
    if None in named.values():
        raise ModelError(f"{index}: weight_map names no file for a tensor")
    held = {name: _checked(inside(folder, name, where)) for name in sorted({*named.values()})}
    for name, shard in named.items():
        if name not in held[shard]:
            raise ModelError(f"{where} says that {shard} holds {name}, which it does not")
    # A tensor in several shards is the one that the map names; one that it does not name counts.
    for shard, headers in held.items():
        named = dict.fromkeys(headers, shard) | named
    return (
        {name: folder / shard for name, shard in named.items()},
        {name: held[shard][name] for name, shard in named.items()},
    )


def _checked(path: Path) -> dict[str, Header]:
    """The headers of a file that the safetensors library can open."""
    headers = read_headers(path)
    with _reading(path):
        return headers


def _refuse_pickle(folder: Path, pickles: str, safetensors: str) -> None:
    """Raise ModelError where weights are pickled alone, with the command that converts them."""
    if any(folder.glob(pickles)) and not (folder / safetensors).exists():
        code = _CONVERT.replace("PICKLES", pickles).replace("SAFETENSORS", safetensors)
        command = f'python -c "{code}" {shlex.quote(str(folder))}'
        name = pickles.replace("*", "")
        raise ModelError(f"{folder} has only {name}; convert it once with: {command}")
