"""nvidia-ml-py, made up: devices that answer what they are told, and refuse the rest."""

from types import ModuleType, SimpleNamespace
from typing import Any


class NVMLError(Exception):
    """As there."""


class FakeNvml(ModuleType):
    """The module, with devices by their ids.

    Attributes:
        devices: what each answers, by the question; what is missing is refused.
        started: how often it was.
    """

    NVMLError = NVMLError

    def __init__(self, **devices: Any) -> None:
        super().__init__("pynvml")
        self.devices: dict[str, Any] = devices
        self.started = 0

    def nvmlInit(self) -> None:
        self.started += 1
        if not self.devices:
            raise NVMLError("driver not loaded")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any:
        if uuid not in self.devices:
            raise NVMLError("not found")
        return self.devices[uuid]

    def __getattr__(self, question: str) -> Any:
        if not question.startswith("nvmlDeviceGet"):
            raise AttributeError(question)

        def asked(device: dict[Any, Any], *arguments: int) -> Any:
            key = (question.removeprefix("nvmlDeviceGet"), *arguments)
            if key not in device:
                raise NVMLError("not supported")
            return device[key]

        return asked


def busy(percent: int) -> SimpleNamespace:
    return SimpleNamespace(gpu=percent, memory=0)
