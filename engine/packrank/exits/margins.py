"""Margins of exits: what they were measured for and how well they did, and the file of them."""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from packrank.arguments import listed
from packrank.errors import InputError
from packrank.output_file import is_stdout, replacing

FILE = "packrank_exits.json"
VERSION = 1
# In simulation margins kept a recall of 0.99 among twice the candidates that they were fitted to,
# and of 0.96 to 0.99 among 10 to 50 times as many.
_MOST_CANDIDATES = 2


@dataclass(frozen=True)
class Margins:
    """Margins for exit layers, what they were measured for, and how well they did there.

    "Held out" is the half of the queries that they were not fitted to.

    What they were measured for are model, settings, top_k and final_layer. The dtype is not part of
    it: scores of the same weights in float32, bfloat16 and float16 differ by roundings, which are
    small beside margins. The recall that is told was measured in one of them.

    Attributes:
        model: its name, for messages.
        fingerprint: of its files, see `fingerprint.fingerprint`.
        settings: what else changes scores, such as the template; values as JSON has them.
        top_k: how many candidates are wanted in the end.
        final_layer: after which scores count; at most the model's last.
        layers: exit layers before it, ascending.
        margins: for each of them, at least 0; infinity drops nothing.
        recall: the share of the final top k that was asked for, below 1.
        held_out_recall: the share that was achieved, a mean over queries.
        held_out_low: where its 95 % interval begins.
        held_out_high: where it ends.
        dropped: for each of `layers`, the share of held-out candidates that are gone after it.
        saved: share of layers that held-out candidates did not run.
        num_fitted: queries that the margins were fitted to.
        num_held_out: queries of the other half.
        num_left_out: queries of no more than top_k candidates, which tell nothing.
        num_candidates: the 90th percentile of the candidates of a fitted query. Among more
            candidates more overtake a member of the top k for a while, so that margins keep less;
            among fewer they keep as much.
        extrapolated: the fitted queries were too few to show the recall with any margins, and
            margins are larger than what all of them need by a factor, see `calibration`.
    """

    model: str
    fingerprint: str
    settings: dict[str, Any]
    top_k: int
    final_layer: int
    layers: tuple[int, ...]
    margins: tuple[float, ...]
    recall: float
    held_out_recall: float
    held_out_low: float
    held_out_high: float
    dropped: tuple[float, ...]
    saved: float
    num_fitted: int
    num_held_out: int
    num_left_out: int
    num_candidates: int
    extrapolated: bool

    def __post_init__(self) -> None:
        for name in ("layers", "margins", "dropped"):
            object.__setattr__(self, name, tuple(listed(name, getattr(self, name), "numbers")))
        for name, values in (
            ("top_k", [self.top_k]),
            ("final_layer", [self.final_layer]),
            ("num_candidates", [self.num_candidates]),
            ("layers", self.layers),
        ):
            for value in values:
                if type(value) is not int or value < 1:
                    raise InputError(f"{name}: {value!r} is not a whole number of at least 1")
        object.__setattr__(self, "settings", _as_json(self.settings))
        if not all(a < b for a, b in pairwise((0, *self.layers, self.final_layer))):
            raise InputError(
                f"exit layers are {list(self.layers)} before layer {self.final_layer}, expected "
                "ascending ones"
            )
        sound = all(isinstance(one, int | float) and one >= 0 for one in self.margins)
        if len(self.margins) != len(self.layers) or not sound:
            raise InputError(
                f"margins are {list(self.margins)} for layers {list(self.layers)}, expected one of "
                "at least 0 for each"
            )

    @property
    def most_candidates(self) -> int:
        """Candidates of a request up to which margins may be used."""
        return _MOST_CANDIDATES * self.num_candidates

    def check(
        self, *, fingerprint: str, top_k: int, final_layer: int, settings: Mapping[str, Any]
    ) -> None:
        """Raise InputError, saying what the margins were measured for, if it was something else."""
        mine, asked = self._conditions(), _conditions(fingerprint, top_k, final_layer, settings)
        differing = [name for name in mine | asked if mine.get(name) != asked.get(name)]
        if "fingerprint" in differing:
            raise InputError(
                f"the margins were measured for {self.model}, and this is another model, or its "
                "files have changed; measure its own with packrank calibrate"
            )
        if differing:
            known, wanted = (
                ", ".join(f"{name} {_brief(of.get(name))}" for name in differing)
                for of in (mine, asked)
            )
            raise InputError(
                f"the margins for the best {self.top_k} of {self.model} were measured with "
                f"{known}, not with {wanted}; measure those with packrank calibrate"
            )

    def _conditions(self) -> dict[str, Any]:
        return _conditions(self.fingerprint, self.top_k, self.final_layer, self.settings)


def find(
    path: Path,
    *,
    fingerprint: str,
    top_k: int,
    final_layer: int,
    settings: Mapping[str, Any],
) -> Margins:
    """The margins of a file that were measured for exactly this.

    Args:
        path: of the file; `FILE` beside a model.
        fingerprint: of the model's files, see `fingerprint.fingerprint`.
        top_k: how many candidates are wanted in the end.
        final_layer: after which scores count.
        settings: what else changes scores.

    Raises:
        InputError: there are none; or as `load`.
    """
    asked = _conditions(fingerprint, top_k, final_layer, settings)

    def distance(margins: Margins) -> int:
        mine = margins._conditions()
        return sum(mine.get(name) != asked.get(name) for name in mine | asked)

    closest = min(load(path), key=distance)
    closest.check(fingerprint=fingerprint, top_k=top_k, final_layer=final_layer, settings=settings)
    return closest


def counts(
    path: Path, *, fingerprint: str, final_layer: int, settings: Mapping[str, Any]
) -> list[int]:
    """The `top_k` that `find` has margins for, ascending.

    Args:
        path: see `find`; likewise fingerprint, final_layer and settings.
        fingerprint: see there.
        final_layer: see there.
        settings: see there.

    Raises:
        InputError: as `load`.
    """

    def holds(margins: Margins) -> bool:
        asked = _conditions(fingerprint, margins.top_k, final_layer, settings)
        return margins._conditions() == asked

    return sorted(margins.top_k for margins in load(path) if holds(margins))


def load(path: Path) -> list[Margins]:
    """All margins of a file, at least one.

    Raises:
        InputError: the file is missing, cannot be read, is damaged or of a newer version.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputError(
            f"there are no margins in {path}; measure them with packrank calibrate"
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # such as a null byte in the name
        raise InputError(f"{str(path)!r} cannot be read: {error}") from None
    if b'"packrank_exits"' not in raw:
        raise InputError(
            f"{path} is no file of margins; name the one that packrank calibrate wrote"
        )
    damaged = InputError(
        f"{path} is a damaged file of margins; run packrank calibrate again, into another file"
    )
    try:
        fields = json.loads(raw)
        version = fields["packrank_exits"]
        every = [_load_one(entry) for entry in fields["entries"]] if version == VERSION else []
        is_whole = bool(every) and _dump(every) == raw
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise damaged from None
    if isinstance(version, int) and version > VERSION:
        raise InputError(
            f"{path} is of version {version} of the format, and this Packrank reads version "
            f"{VERSION}; use the Packrank that wrote it, or a newer one"
        )
    if not is_whole:
        raise damaged
    return every


def save(path: Path, margins: Margins) -> None:
    """Put margins into a file, in place of those that were measured for the same.

    The file is replaced whole or not at all; it is made if it is not there. Standard output ("-")
    is written as it is.

    Raises:
        InputError: the file cannot be written; or is there, and as of `load`.
    """
    every = [] if is_stdout(str(path)) or not path.exists() else load(path)
    others = [other for other in every if other._conditions() != margins._conditions()]
    with replacing(path) as sink:
        sink.write(_dump([*others, margins]).decode())


def _conditions(
    fingerprint: str, top_k: int, final_layer: int, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What margins hold for; they are the same ones where this is."""
    known = {"top_k": top_k, "cutoff_layer": final_layer, "fingerprint": fingerprint}
    return known | _as_json(settings)


def _as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As they come back from JSON: a tuple as a list."""
    fields: dict[str, Any] = json.loads(json.dumps(dict(settings), allow_nan=False))
    return fields


def _brief(value: object) -> str:
    """A value for a message, cut to a length that fits one."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:20]}..."


def _dump(every: Sequence[Margins]) -> bytes:
    """The content of the file, which ends in a checksum of itself."""
    fields: dict[str, Any] = {"packrank_exits": VERSION, "entries": []}
    for margins in every:
        # JSON has no spelling for infinity.
        finite = [None if margin == np.inf else margin for margin in margins.margins]
        fields["entries"].append({**asdict(margins), "margins": finite})
    text = json.dumps(fields, indent=2, allow_nan=False)
    fields["crc32"] = zlib.crc32(text.encode())
    return json.dumps(fields, indent=2).encode() + b"\n"


def _load_one(entry: dict[str, Any]) -> Margins:
    margins = [np.inf if margin is None else margin for margin in entry["margins"]]
    return Margins(**{**entry, "margins": margins})
