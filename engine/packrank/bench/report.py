"""What `packrank bench` found, as one JSON document: written whole, read back checked."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from packrank.bench.typed import typed
from packrank.errors import InputError
from packrank.output_file import replacing

SCHEMA, VERSION = "packrank bench", 1
WORKLOADS = ("Offline", "Server", "SingleStream")


@dataclass
class Ceiling:
    """What the machine itself can do.

    Attributes:
        name: such as "memory read, L2", "product, bfloat16", "tokenizer, all cores".
        kind: "bandwidth", "products", "tokenizer" or "launch".
        unit: "B/s", "op/s", "pairs/s" or "s".
        samples: in that unit, one a round.
        facts: sizes and whose code it was.
    """

    name: str
    kind: str
    unit: str
    samples: list[float]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The best that was seen: what else runs on a machine only takes away."""
        return min(self.samples) if self.unit == "s" else max(self.samples)


@dataclass
class Result:
    """One workload on one model.

    Attributes:
        workload: one of `WORKLOADS`.
        model: its name or folder.
        dtype: of weights and activations.
        lengths: the name of the distribution of lengths.
        quantity: what the samples are: "rate", or "latency".
        unit: "candidates/s", "queries/s" or "s".
        samples: raw, in that unit: of Offline one a round, of SingleStream one a query, of Server
            the highest rate found, one a search.
        by: whose engine; "packrank" or a peer's name.
        facts: what else was found; docs/bench.md has the fields.
        beside: rates of fixed work right before and after each sample, by name; see `Yardstick`.
    """

    workload: str
    model: str
    dtype: str
    lengths: str
    quantity: str
    unit: str
    samples: list[float]
    by: str = "packrank"
    facts: dict[str, Any] = field(default_factory=dict)
    beside: dict[str, list[float]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """What it has in common with the same measurement of another run."""
        return ", ".join((self.workload, self.model, self.dtype, self.lengths, self.by))

    @property
    def accompanied(self) -> bool:
        """Whether each sample has its fixed work beside it."""
        count = len(self.samples)
        return bool(self.beside) and all(
            len(rates) == count and all(rate > 0 for rate in rates)
            for rates in self.beside.values()
        )

    @property
    def by_round(self) -> list[float]:
        """A sample a round: queries of one round had the same neighbours, and count as one."""
        counts = self.facts.get("rounds")
        if not isinstance(counts, list) or not all(type(n) is int and n >= 0 for n in counts):
            return self.samples
        if sum(counts) != len(self.samples):
            return self.samples
        parts = np.split(self.samples, np.cumsum(counts)[:-1])
        return [float(np.median(part)) for part in parts if len(part)]

    @property
    def value(self) -> float:
        """The median of the samples."""
        return float(np.median(self.samples))


@dataclass
class Verdict:
    """Whether a run may be relied upon; a reason for each doubt."""

    valid: bool = True
    reasons: list[str] = field(default_factory=list)


@dataclass
class Report:
    """All of a run.

    Attributes:
        begun: the date and time, ISO 8601, UTC.
        machine: what it ran on, by `machine.describe`.
        settings: what was asked for.
        seconds: that it took.
        complete: False where it was interrupted.
        left_out: what was asked for and not measured, each with the reason.
        seen: clocks, temperature and power, look by look, by what it is and its unit.
    """

    begun: str
    machine: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    complete: bool = False
    ceilings: list[Ceiling] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    verdict: Verdict = field(default_factory=Verdict)
    left_out: list[str] = field(default_factory=list)
    seen: dict[str, list[float]] = field(default_factory=dict)

    def write(self, path: str | Path) -> None:
        """Write it as JSON, whole or not at all; "-" is standard output."""
        document = {"schema": SCHEMA, "version": VERSION, **asdict(self)}
        for shown, one in zip(document["results"], self.results, strict=True):
            shown["id"], shown["value"] = one.id, one.value
        for shown, each in zip(document["ceilings"], self.ceilings, strict=True):
            shown["value"] = each.value
        with replacing(path) as file:
            file.write(json.dumps(document, indent=1) + "\n")

    @classmethod
    def read(cls, path: str | Path) -> "Report":
        """Read what `write` wrote.

        Raises:
            InputError: it is no report, or of a version that this one does not know.
        """
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is no JSON: {error}") from None
        if not isinstance(document, dict) or document.pop("schema", None) != SCHEMA:
            raise InputError(f"{path} is no report of packrank bench")
        if (version := document.pop("version", None)) != VERSION:
            raise InputError(f"{path} is of version {version}, this is version {VERSION}")
        for name in ("ceilings", "results"):
            measured = document.get(name)
            for shown in measured if isinstance(measured, list) else ():
                if isinstance(shown, dict):  # what follows from the rest
                    shown.pop("id", None)
                    shown.pop("value", None)
        try:
            report: Report = typed(cls, document, "report")
        except ValueError as error:
            raise InputError(f"{path} cannot be read: {error}") from None
        measurements: list[Any] = [*report.ceilings, *report.results]
        if not all(one.samples for one in measurements):
            raise InputError(f"{path} has a measurement without samples")
        return report
