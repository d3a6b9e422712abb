"""LoRA: what an adapter's tensors make of those of its base, merged in float64.

    W' = W + s B A              of a linear layer, [out, in]
    W' = W + s (B A) transposed of an embedding, [tokens, dimensions]
    W' = m / |W + s B A| (W + s B A), row by row, where the adapter has magnitudes m (DoRA)
    b' = b + s c                where B has a bias c

s is alpha / r, or alpha / sqrt(r) for rank-stabilised ones. Source: Hu et al. 2021; Liu et al. 2024
for magnitudes; peft for the names.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from packrank.checkpoint.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, PREFIX, Adapter, adapter_in
from packrank.checkpoint.headers import read_headers
from packrank.checkpoint.joined import Place, saved_as
from packrank.errors import ModelError

# A name of the adapter -> its part of the change of a tensor.
_PARTS = (
    (re.compile(r"(.+)\.lora_A\.weight"), "down", "weight"),
    (re.compile(r"(.+)\.lora_B\.weight"), "up", "weight"),
    (re.compile(r"(.+)\.lora_embedding_A"), "down_tokens", "weight"),
    (re.compile(r"(.+)\.lora_embedding_B"), "up_tokens", "weight"),
    (re.compile(r"(.+)\.lora_magnitude_vector(?:\.weight)?"), "magnitude", "weight"),
    (re.compile(r"(.+)\.lora_B\.bias"), "offset", "bias"),
)
# Parts that come together.
_LAYERS = (
    {"down", "up"},
    {"down", "up", "magnitude"},
    {"down_tokens", "up_tokens"},
    {"offset"},
)
# In names of what is neither part of a LoRA nor a whole tensor.
_STRANGE = re.compile(r"lora_|modules_to_save|original_module|base_layer\.|token_adapter")
# Copies of modules that are trained whole, of which peft may save biases beside the module itself.
_COPIES = re.compile(r"\.(modules_to_save(\.default)?|original_module)\.")
# Before the names of a body, where the checkpoint is of more than the body.
_BODIES = (*("bert.", "roberta.", "electra.", "distilbert.", "deberta.", "gte.", "new.", "model."),)
# LayerNorm parameters as checkpoints converted from TensorFlow name them.
_OLD_NAMES = {"gamma": "weight", "beta": "bias"}


def plain(name: str) -> str:
    """A tensor's name without what depends on the class that saved it."""
    body = next((body for body in _BODIES if name.startswith(body)), "")
    stem, dot, last = name.removeprefix(body).rpartition(".")
    return f"{stem}{dot}{_OLD_NAMES.get(last, last)}"


@dataclass(frozen=True)
class Change:
    """What becomes of a tensor.

    Attributes:
        scale: s.
        rank: rows of A.
        parts: which part it is -> its name in the adapter.
    """

    scale: float
    rank: int
    parts: dict[str, str]

    def merged(
        self, base: Tensor, read: Callable[[str], Tensor], rows: list[int] | None = None
    ) -> Tensor:
        """The tensor, in float64.

        Args:
            base: of the checkpoint; of a matrix those rows alone, if some are given.
            read: a tensor of the adapter by its name.
            rows: which they are; None: all.

        Raises:
            ModelError: a part has another shape than the base needs.
        """
        wide = base.double()

        def part(name: str, *shape: int | None) -> Tensor:
            found = read(self.parts[name])
            expected = [size for size in shape if size is not None]
            if len(found.shape) != len(shape) or any(
                size not in (None, had) for size, had in zip(shape, found.shape, strict=True)
            ):
                raise ModelError(
                    f"the adapter's {self.parts[name]} has shape {list(found.shape)}, and its base "
                    f"and rank imply {expected}"
                )
            return found.double()

        def some(x: Tensor) -> Tensor:
            return x if rows is None else x[rows]

        height = None if rows is not None else len(wide)
        if "offset" in self.parts:
            return wide + self.scale * some(part("offset", height))
        if "up_tokens" in self.parts:
            tokens = part("down_tokens", self.rank, height)
            return wide + self.scale * (
                some(tokens.T) @ part("up_tokens", wide.shape[1], self.rank).T
            )
        up, down = part("up", height, self.rank), part("down", self.rank, wide.shape[1])
        wide = wide + self.scale * (some(up) @ down)
        if "magnitude" in self.parts:
            norms = torch.linalg.vector_norm(wide, dim=1)
            wide = (some(part("magnitude", height)) / norms)[:, None] * wide
        return wide


@dataclass(frozen=True)
class Whole:
    """A part of a tensor that the adapter holds whole, by its name there."""

    name: str

    def merged(
        self, base: Tensor, read: Callable[[str], Tensor], rows: list[int] | None = None
    ) -> Tensor:
        """See `Change.merged`."""
        found = read(self.name)
        if found.shape != base.shape:
            raise ModelError(
                f"the adapter's {self.name} has shape {list(found.shape)}, and its base implies "
                f"{list(base.shape)}"
            )
        return found.double()


@dataclass(frozen=True)
class Joined:
    """What becomes of a tensor that is several of the model, one above the other.

    Attributes:
        count: how many they are, all of as many rows.
        parts: what becomes of each that changes, by its place among them.
    """

    count: int
    parts: dict[int, Change | Whole]

    def merged(
        self, base: Tensor, read: Callable[[str], Tensor], rows: list[int] | None = None
    ) -> Tensor:
        """See `Change.merged`; always of all rows."""
        if rows is not None or len(base) % self.count:
            raise ModelError(f"a tensor of {len(base)} rows is not {self.count} of one size")
        made = base.double()
        for place, part in enumerate(made.chunk(self.count)):
            if place in self.parts:
                part.copy_(self.parts[place].merged(part.clone(), read))
        return made


@dataclass(frozen=True)
class Lora:
    """An adapter's tensors.

    Attributes:
        path: the file that holds them.
        changes: name of a tensor of the base -> what becomes of it.
        whole: name of a tensor -> what takes its place, by its name in the adapter.
        of_base: names that the base has too.
    """

    path: Path
    changes: dict[str, Change | Joined] = field(default_factory=dict)
    whole: dict[str, str] = field(default_factory=dict)
    of_base: frozenset[str] = frozenset()


def read_lora(folder: Path, base: Collection[str]) -> Lora | None:
    """What the adapter in a folder makes of its base; None where there is no adapter.

    Args:
        folder: of the adapter.
        base: names of the base's tensors.

    Raises:
        ModelError: it is no LoRA, or holds what cannot be merged.
    """
    adapter = adapter_in(folder)
    if adapter is None:
        return None
    path = folder / ADAPTER_WEIGHTS
    if not path.exists():
        raise ModelError(
            f"{folder} has {ADAPTER_CONFIG} but no {ADAPTER_WEIGHTS}; add it, or remove the former "
            "if the weights are merged"
        )
    lora, names = Lora(path, of_base=frozenset(base)), read_headers(path)
    known = {plain(name): name for name in base}
    parts: dict[str, dict[str, str]] = {}
    for name in sorted(names):
        own = name.removeprefix(PREFIX)
        copied = _COPIES.sub(".", own)
        if copied != own and (copied in names or PREFIX + copied in names):
            continue
        for pattern, part, end in _PARTS:
            if match := pattern.fullmatch(own):
                parts.setdefault(f"{match[1]}.{end}", {})[part] = name
                break
        else:
            own = re.sub(r"\.base_layer\.(weight|bias)$", r".\1", own)
            if _STRANGE.search(own):
                raise ModelError(f"{path} holds {name}, which is no tensor of a LoRA")
            at = _place(own, base, known)
            if at.count == 1:
                _put(lora, lora.whole, at.name, name)
            else:
                _put_part(lora, at, Whole(name))
    for target, named in parts.items():
        at = _place(target, base, known)
        if at.name not in base and at.name not in lora.whole:
            raise ModelError(
                f"{path} holds {min(named.values())}, and its base has no {target}; is the base "
                "another model, or does it share that tensor with another?"
            )
        change = _change(adapter, target, named, path)
        if at.count == 1:
            _put(lora, lora.changes, at.name, change)
        else:
            _put_part(lora, at, change)
    _check_saved(adapter, lora)
    if not lora.changes and not lora.whole:
        raise ModelError(f"{path} holds no tensor")
    return lora


def _place(name: str, base: Collection[str], known: dict[str, str]) -> Place:
    """Where the base has a tensor that the adapter calls so; if nowhere, its own name."""
    for at in (Place(name), saved_as(name)):
        stored = at.name if at.name in base else known.get(plain(at.name))
        if stored is not None:
            return Place(stored, at.part, at.count)
    return Place(name)


def _put_part(lora: Lora, at: Place, change: Change | Whole) -> None:
    """Note what becomes of a part of a tensor, once."""
    joined = lora.changes.setdefault(at.name, Joined(at.count, {}))
    if not isinstance(joined, Joined) or at.part in joined.parts:
        raise ModelError(f"{lora.path} says twice what becomes of {at.name}")
    joined.parts[at.part] = change


def _put(lora: Lora, into: dict[str, Any], stored: str, value: Any) -> None:
    """Note what becomes of a tensor, once."""
    if stored in into:
        raise ModelError(f"{lora.path} says twice what becomes of {stored}")
    into[stored] = value


def _change(adapter: Adapter, target: str, named: dict[str, str], path: Path) -> Change:
    """The change that these parts make."""
    if set(named) not in _LAYERS:
        raise ModelError(
            f"{path} holds {', '.join(sorted(named.values()))}, which make no whole LoRA layer"
        )
    module = target.rpartition(".")[0]
    why = adapter.why_not(module)
    if "down" in named and ("magnitude" in named) != adapter.field("use_dora", bool, False):
        why = "use_dora"
    if "offset" in named and not adapter.field("lora_bias", bool, False):
        why = "lora_bias"
    if why is not None:
        raise ModelError(
            f"{path} holds {min(named.values())}, and {why} in {ADAPTER_CONFIG} says otherwise; "
            "peft would leave part of the adapter out"
        )
    return Change(adapter.scale(module), adapter.rank(module), named)


def _check_saved(adapter: Adapter, lora: Lora) -> None:
    """Modules that were trained whole must be there, if the base has such."""
    for saved in adapter.field("modules_to_save", list, []):
        in_base = [name for name in lora.of_base if name.rpartition(".")[0].endswith(str(saved))]
        if in_base and not any(name in lora.whole for name in in_base):
            raise ModelError(
                f"{adapter.path}: modules_to_save names {saved!r}, and {ADAPTER_WEIGHTS} does not "
                "hold it; save the adapter again"
            )
