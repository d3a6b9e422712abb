"""Energy that a stretch of work took, by what processors and GPUs count, and what it costs."""

import threading
from collections.abc import Sequence
from types import TracebackType

from packrank.bench.load.clock import Clock, MachineClock
from packrank.bench.watch.nvml import Gpu
from packrank.bench.watch.system import System

_POWERCAP = "sys/class/powercap"
_POWER_S = 0.05  # between two looks at the power of a GPU that does not count its energy
_COUNTER_S = 10.0  # between two looks at counters that come round, the fastest in about a minute


class _Rapl:
    """A processor's counter: microjoules, from 0 again after the most."""

    def __init__(self, system: System, folder: str) -> None:
        self._system, self._file = system, f"{folder}/energy_uj"
        self._range = system.number(f"{folder}/max_energy_range_uj") or 0
        self._last, self._total = system.number(self._file), 0

    def joules(self) -> float | None:
        now = self._system.number(self._file)
        if now is None or self._last is None:
            return None
        self._total += now - self._last + (self._range if now < self._last else 0)
        self._last = now
        return self._total / 1e6


class _CountingGpu:
    def __init__(self, gpu: Gpu) -> None:
        self._gpu, self._first = gpu, gpu.joules()

    def joules(self) -> float | None:
        now = self._gpu.joules()
        return None if now is None or self._first is None else now - self._first


class _PoweredGpu:
    """A GPU that only says its power: between two looks it is taken for the mean of both."""

    def __init__(self, gpu: Gpu, clock: Clock) -> None:
        self._gpu, self._clock = gpu, clock
        self._last, self._at, self._total = gpu.watts(), clock.now(), 0.0

    def joules(self) -> float | None:
        watts, now = self._gpu.watts(), self._clock.now()
        if watts is None or self._last is None:
            return None
        self._total += (watts + self._last) / 2 * (now - self._at)
        self._last, self._at = watts, now
        return self._total


class Meter:
    """Measures the energy of a block; processors, their memory and GPUs, as far as they say it.

    Attributes:
        parts: joules by name, "package-0", "package-0, dram" or "GPU 0"; empty where nothing says.
    """

    def __init__(
        self, system: System | None = None, gpus: Sequence[Gpu] = (), clock: Clock | None = None
    ) -> None:
        """Begin nothing yet.

        Args:
            system: whose files are read.
            gpus: that are used, by `nvml.gpus`.
            clock: the machine's, unless another is given.
        """
        self.parts: dict[str, float] = {}
        self._system, self._gpus = system or System(), list(gpus)
        self._clock = clock or MachineClock()
        self._sources: dict[str, _Rapl | _CountingGpu | _PoweredGpu] = {}
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def joules(self) -> float | None:
        """Of all parts together; None where nothing says."""
        return sum(self.parts.values()) if self.parts else None

    def look(self) -> None:
        """Read every source; a thread does so while the block runs."""
        for name, source in self._sources.items():
            joules = source.joules()
            if joules is None:
                self.parts.pop(name, None)
            else:
                self.parts[name] = joules

    def __enter__(self) -> "Meter":
        self.parts = {}
        self._sources = {
            name: _Rapl(self._system, folder) for name, folder in _domains(self._system).items()
        }
        for number, gpu in enumerate(self._gpus):
            counts = gpu.joules() is not None
            source = _CountingGpu(gpu) if counts else _PoweredGpu(gpu, self._clock)
            self._sources[f"GPU {number}"] = source
        self.look()
        if self.parts:  # else there is nothing to look at
            powered = any(isinstance(one, _PoweredGpu) for one in self._sources.values())
            self._is_over.clear()
            self._thread = threading.Thread(
                target=self._run,
                args=(_POWER_S if powered else _COUNTER_S,),
                name="packrank meter",
                daemon=True,
            )
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.look()

    def _run(self, every: float) -> None:
        while not self._is_over.wait(every):
            self.look()


def _domains(system: System) -> dict[str, str]:
    """Folders of the counters that add up, by name.

    A package's has its cores and its graphics in it, but not its memory; that of the whole board
    ("psys") has packages in it.
    """
    found = {}
    for entry in system.names(_POWERCAP):
        kind, _, number = entry.partition(":")
        name = system.text(f"{_POWERCAP}/{entry}/name") or ""
        package = system.text(f"{_POWERCAP}/{kind}:{number.partition(':')[0]}/name") or ""
        if kind != "intel-rapl" or not package.startswith("package"):
            continue
        if name == package:
            found[name] = f"{_POWERCAP}/{entry}"
        elif name == "dram":
            found[f"{package}, dram"] = f"{_POWERCAP}/{entry}"
    return found


def cost_per_million(price_per_hour: float, pairs_per_s: float) -> float | None:
    """What a million pairs cost on a machine at a price, in its currency."""
    return price_per_hour / 3600 / pairs_per_s * 1e6 if pairs_per_s > 0 else None
