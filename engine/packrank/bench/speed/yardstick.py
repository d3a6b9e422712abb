"""Fixed work beside what is measured, by which a machine's moods are told from the work's own.

On a shared machine a rate may wander by a tenth within seconds, and the mean of more rounds wanders
as much (1/f noise). What wanders is the machine: a fixed product and a copy, run right before and
after, wander with it, and what they leave unexplained is white.
"""

from dataclasses import dataclass, field

import torch

from packrank.bench.report import Result
from packrank.bench.speed.ceilings import Measured, Repeated, copy, product
from packrank.bench.timing import clock_of

SAMPLE_S = 0.02  # each of the two
# Rows, columns in and columns out of the product; bytes that are read and written again. The same
# in every version: reports are compared by them.
_PRODUCT = {"cpu": (1024, 384, 1536), "cuda": (8192, 4096, 4096)}
_COPIED = {"cpu": 1 << 25, "cuda": 1 << 28}


Rates = dict[str, float]


@dataclass
class Yardstick:
    """A product in float32 by torch, and a copy in memory.

    Attributes:
        works: the two, by name.
        latest: rates of the last look, by name.
    """

    works: dict[str, Repeated]
    latest: Rates = field(default_factory=dict)

    @classmethod
    def of(cls, device: torch.device) -> "Yardstick":
        """Where the work runs that is measured."""
        by_torch = product(device, "float32", *_PRODUCT[device.type])[0]
        works: dict[str, Measured] = {
            "product": by_torch,
            "copy": copy(device, "memory", _COPIED[device.type]),
        }
        clock = clock_of(device)
        return cls({name: Repeated.of(one, clock, SAMPLE_S) for name, one in works.items()})

    def look(self) -> Rates:
        """Measure both."""
        for work in self.works.values():
            work.run()
        self.latest = {name: work.ceiling.samples[-1] for name, work in self.works.items()}
        return self.latest


def keep(result: Result, before: Rates, after: Rates) -> None:
    """Note beside the next sample of a result what was right before and after it."""
    for name in before:
        result.beside.setdefault(name, []).append((before[name] * after[name]) ** 0.5)
