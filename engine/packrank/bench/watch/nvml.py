"""NVIDIA's GPUs as their driver sees them, by nvidia-ml-py where it is installed."""

from collections.abc import Sequence
from typing import Any

import torch

# Why a clock is lower than it might be: bits of nvmlClocksEventReason.
_POWER_LIMIT = 0x4
_DOUBTFUL = {
    0x8: "the hardware's slowdown",
    0x20: "temperature",
    0x40: "temperature, by the hardware",
    0x80: "the power supply's brake",
}
_SM_CLOCK, _GPU_TEMPERATURE = 1, 0


class Gpu:
    """One device; what its driver does not say is None.

    Attributes:
        name: that nvidia-smi has for it.
    """

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        name = self._asked("nvmlDeviceGetName")
        self.name = name.decode() if isinstance(name, bytes) else str(name or "GPU")

    def joules(self) -> float | None:
        """Energy that it has taken since its driver was loaded."""
        millijoules = self._asked("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else millijoules / 1e3

    def watts(self) -> float | None:
        """Power that it takes now."""
        milliwatts = self._asked("nvmlDeviceGetPowerUsage")
        return None if milliwatts is None else milliwatts / 1e3

    def clock_hz(self) -> float | None:
        """Of its multiprocessors."""
        megahertz = self._asked("nvmlDeviceGetClockInfo", _SM_CLOCK)
        return None if megahertz is None else megahertz * 1e6

    def celsius(self) -> float | None:
        """Its temperature."""
        degrees = self._asked("nvmlDeviceGetTemperature", _GPU_TEMPERATURE)
        return None if degrees is None else float(degrees)

    def busy(self) -> float | None:
        """The share of the last moment in which anything ran on it."""
        rates = self._asked("nvmlDeviceGetUtilizationRates")
        return None if rates is None else rates.gpu / 100

    def is_power_limited(self) -> bool:
        """Whether its power limit holds the clock down, as it may under any full load."""
        return bool(self._reasons() & _POWER_LIMIT)

    def slowed_by(self) -> list[str]:
        """What else holds the clock down, and should not."""
        reasons = self._reasons()
        return [said for bit, said in _DOUBTFUL.items() if reasons & bit]

    def _reasons(self) -> int:
        return int(self._asked("nvmlDeviceGetCurrentClocksThrottleReasons") or 0)

    def _asked(self, question: str, *arguments: int) -> Any:
        try:
            return getattr(self._nvml, question)(self._handle, *arguments)
        except (self._nvml.NVMLError, AttributeError):  # older packages and drivers know less
            return None


def gpus(ids: Sequence[str]) -> list[Gpu]:
    """Devices by the driver's ids, such as "GPU-...".

    Empty where nvidia-ml-py, the driver or a device is missing.
    """
    if not ids:
        return []
    try:
        import pynvml
    except ImportError:
        return []
    found = []
    try:
        pynvml.nvmlInit()  # for as long as the process
        for id in ids:
            found.append(Gpu(pynvml, pynvml.nvmlDeviceGetHandleByUUID(id)))
    except pynvml.NVMLError:
        return []
    return found


def ids_of(device: torch.device) -> list[str]:
    """The driver's id of one of torch's devices, whose numbers follow CUDA_VISIBLE_DEVICES.

    None of a CPU.
    """
    if device.type != "cuda":
        return []
    id = str(torch.cuda.get_device_properties(device).uuid)
    return [id if id.startswith(("GPU-", "MIG-")) else f"GPU-{id}"]
