"""GPUs answer what their driver knows, and nothing where there is none."""

import sys
from types import SimpleNamespace

import pytest
import torch
from fake_nvml import FakeNvml, busy

from packrank.bench.watch.nvml import gpus, ids_of

H200 = {
    ("Name",): "NVIDIA H200",
    ("TotalEnergyConsumption",): 12_500,
    ("PowerUsage",): 350_000,
    ("ClockInfo", 1): 1980,
    ("Temperature", 0): 61,
    ("UtilizationRates",): busy(7),
    ("CurrentClocksThrottleReasons",): 0x4 | 0x20 | 0x80,
}


def test_a_gpu_answers_in_units_of_si(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(a={}, b=H200))
    mute, gpu = gpus(["a", "b"])
    assert gpu.name == "NVIDIA H200"
    assert (gpu.joules(), gpu.watts(), gpu.clock_hz()) == (12.5, 350.0, 1.98e9)
    assert (gpu.celsius(), gpu.busy(), gpu.is_power_limited()) == (61.0, 0.07, True)
    assert gpu.slowed_by() == ["temperature", "the power supply's brake"]
    assert (mute.name, mute.joules(), mute.watts(), mute.clock_hz()) == ("GPU", None, None, None)
    assert (mute.celsius(), mute.busy(), mute.is_power_limited()) == (None, None, False)
    assert mute.slowed_by() == []


def test_an_older_package_knows_less(monkeypatch: pytest.MonkeyPatch) -> None:
    class Older(FakeNvml):
        def __getattr__(self, question: str) -> object:
            if question == "nvmlDeviceGetTotalEnergyConsumption":
                raise AttributeError(question)
            return super().__getattr__(question)

    monkeypatch.setitem(sys.modules, "pynvml", Older(b=H200))
    [gpu] = gpus(["b"])
    assert (gpu.joules(), gpu.watts()) == (None, 350.0)


def test_without_package_driver_or_device_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpus(["a"]) == []
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    assert gpus(["a"]) == []
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(a={}))
    assert gpus(["a", "b"]) == []
    assert len(gpus(["a"])) == 1


def test_of_a_cpu_no_driver_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(a={})
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert gpus(ids_of(torch.device("cpu"))) == []
    assert nvml.started == 0


@pytest.mark.parametrize(("torchs", "drivers"), [("1-2", "GPU-1-2"), ("MIG-3", "MIG-3")])
def test_only_the_device_that_is_used_counts(
    monkeypatch: pytest.MonkeyPatch, torchs: str, drivers: str
) -> None:
    properties = {0: "other", 1: torchs}

    def of(device: torch.device) -> SimpleNamespace:
        return SimpleNamespace(uuid=properties[device.index])

    nvml = FakeNvml(**{drivers: {("Name",): b"old"}, "GPU-other": {}})
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", of)
    assert [gpu.name for gpu in gpus(ids_of(torch.device("cuda:1")))] == ["old"]
