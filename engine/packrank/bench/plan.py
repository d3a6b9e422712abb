"""What is asked of a run, checked before anything takes time."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from packrank.bench.machine import memory_bytes
from packrank.bench.subjects.shapes import EXITS, SHAPES
from packrank.bench.subjects.texts import NAMED, Texts
from packrank.checkpoint.hub import resolve
from packrank.checkpoint.kind import LATE, RERANKERS, expect
from packrank.demo.model import default_model
from packrank.errors import InputError, ModelError
from packrank.runtime.device import choose_device

DEFAULT_S = 285.0  # for all of it, where nothing else is asked for: five minutes with what is not
CANDIDATES = 100
_USUAL = {"cpu": ("MiniLM-L6", "base"),
          "cuda": ("MiniLM-L6", "base", "large", "ModernBERT-base", "Qwen2.5-0.5B")}  # fmt: skip
_FULL_LENGTHS = (*NAMED, "fixed:128")


@dataclass(frozen=True)
class Case:
    """A model as it is measured.

    Attributes:
        name: of the model, with the layers that are run, if not all.
        model: a key of `SHAPES`, or a folder or hub name.
        layer: layers to run; None: all.
    """

    name: str
    model: str
    layer: int | None = None


@dataclass(frozen=True)
class Settings:
    """What is asked for; see `checked`.

    Attributes:
        cases: models.
        dtypes: of each.
        texts: of each of those.
        device: where.
        candidates: of a query.
        limit_s: of the p99 in Server; None: four times what one query takes.
        price_per_hour: of the machine, in whatever currency; None: not known.
        seconds: for all of it; None: as many as it takes.
        peers: whether other packages run beside.
        folders: of models that have no name here.
    """

    cases: tuple[Case, ...]
    dtypes: tuple[str, ...]
    texts: tuple[Texts, ...]
    device: str
    candidates: int = CANDIDATES
    limit_s: float | None = None
    price_per_hour: float | None = None
    seconds: float | None = DEFAULT_S
    peers: bool = False
    folders: dict[str, Path] = field(default_factory=dict)

    @property
    def bytes(self) -> float:
        """Of the weights of all models, where all are open at the same time."""
        width = sum(4 if dtype == "float32" else 2 for dtype in self.dtypes)
        return sum(self._stored(case) / 2 * width for case in self.cases)

    def _stored(self, case: Case) -> float:
        """Bytes of a model's weights on disk; of a shape in two bytes each."""
        if case.model in SHAPES:
            return 2.0 * SHAPES[case.model].parameters
        folder = self.folders[case.model]
        return float(sum(path.stat().st_size for path in folder.glob("*.safetensors")))

    @property
    def shown(self) -> dict[str, Any]:
        """As the report has it."""
        return {
            "models": [case.name for case in self.cases],
            "dtypes": list(self.dtypes),
            "lengths": [one.name for one in self.texts],
            "device": self.device,
            "candidates": self.candidates,
            "limit_s": self.limit_s,
            "price_per_hour": self.price_per_hour,
            "peers": self.peers,
        }


def checked(
    *,
    models: list[str] | None = None,
    dtypes: list[str] | None = None,
    lengths: list[str] | None = None,
    full: bool = False,
    device: str = "auto",
    **others: Any,
) -> Settings:
    """Settings of what a user names; None: the usual ones of the device.

    Args:
        models: names of `SHAPES`, folders or hub names; "MiniCPM-2B" is measured at several exits.
        dtypes: names of those that the device has.
        lengths: see `Texts.named`.
        full: all of each, where nothing is named.
        device: "auto", "cpu", "cuda" or "cuda:N".
        others: of `Settings`.

    Raises:
        InputError: one of them is unknown, or cannot run here.
        ModelError: a model cannot be found.
    """
    place, _ = choose_device(device, "auto")
    usual = tuple(SHAPES) if full else _USUAL[place.type]
    cases, folders = [], {}
    for name in models or usual:
        if name in SHAPES:
            layers: tuple[int | None, ...] = (None,)
            if SHAPES[name].family == "minicpm":
                layers = EXITS if full or models else EXITS[-1:]
            cases += [Case(name if n is None else f"{name} at {n}", name, n) for n in layers]
            continue
        folders[name] = _folder(name)
        cases.append(Case(name, name))
    kinds = dtypes or _dtypes(place)
    for dtype in kinds:
        choose_device(place, dtype)
    names = lengths or (_FULL_LENGTHS if full else ("msmarco-like",))
    texts = tuple(Texts.named(name) for name in dict.fromkeys(names))
    _check_lengths(cases, texts)
    if full:
        others = {"seconds": None} | others
    return Settings(
        tuple(dict.fromkeys(cases)), tuple(dict.fromkeys(kinds)), texts, str(place),
        folders=folders, **others,
    )  # fmt: skip


def room(device: torch.device) -> float:
    """Bytes that weights may take on a device, so that as much is left for all else."""
    if device.type == "cuda":
        return 0.5 * float(torch.cuda.get_device_properties(device).total_memory)
    return 0.3 * (memory_bytes() or math.inf)


def _check_lengths(cases: list[Case], texts: tuple[Texts, ...]) -> None:
    """Refuse lengths that no model here reads; of several models the others go on without."""
    most = max(SHAPES[case.model].positions if case.model in SHAPES else 1 << 40 for case in cases)
    for one in texts:
        if one.max_length is not None and one.max_length > most:
            raise InputError(
                f"{one.name}: the models that are asked for read {most} tokens at most"
            )


def _dtypes(device: torch.device) -> tuple[str, ...]:
    return ("float32", "bfloat16") if device.type == "cpu" else ("float16", "bfloat16")


def _folder(name: str) -> Path:
    if name == "default":
        return default_model()
    try:
        folder = resolve(name)
    except ModelError as error:
        known = ", ".join(SHAPES)
        raise ModelError(f"{error}; models with a name here: {known}") from None
    expect(folder, RERANKERS + LATE)
    return folder
