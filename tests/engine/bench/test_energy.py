"""Joules from made-up counters: they come round, some hold others, and some cannot be read."""

import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from fake_nvml import FakeNvml

from packrank.bench.load.clock import VirtualClock
from packrank.bench.watch.energy import Meter, cost_per_million
from packrank.bench.watch.nvml import Gpu, gpus
from packrank.bench.watch.system import System

RANGE = 1_000_000  # microjoules, after which the counters of these tests begin anew


class Rapl:
    """Two packages, and what is counted beside or twice."""

    def __init__(self, root: Path) -> None:
        self._root = root / "sys/class/powercap"
        for entry, name in (
            ("intel-rapl", None),
            ("intel-rapl:0", "package-0"),
            ("intel-rapl:0:0", "core"),
            ("intel-rapl:0:1", "dram"),
            ("intel-rapl:1", "package-1"),
            ("intel-rapl:1:0", "uncore"),
            ("intel-rapl:2", "psys"),
            ("intel-rapl:2:0", "dram"),
            ("intel-rapl-mmio:0", "package-9"),
            ("dtpm", "dram"),
        ):
            folder = self._root / entry
            folder.mkdir(parents=True)
            if name is not None:
                (folder / "name").write_text(f"{name}\n")
                (folder / "max_energy_range_uj").write_text(f"{RANGE}\n")
                self.set(entry, 900_000)

    def set(self, entry: str, microjoules: int) -> None:
        (self._root / entry / "energy_uj").write_text(f"{microjoules}\n")

    def forbid(self, entry: str) -> None:
        (self._root / entry / "energy_uj").unlink()
        (self._root / entry / "energy_uj").mkdir()  # even root may not read a folder


@pytest.fixture
def rapl(tmp_path: Path) -> Rapl:
    return Rapl(tmp_path)


def test_packages_and_their_memory_add_up_and_nothing_twice(rapl: Rapl, tmp_path: Path) -> None:
    clock = VirtualClock()
    with Meter(System(tmp_path), clock=clock) as meter:
        clock.sleep_until(2.0)
        for entry in ("0", "0:0", "0:1", "1", "1:0", "2", "2:0"):
            rapl.set(f"intel-rapl:{entry}", 910_000 + 1000 * len(entry))
    expected = {"package-0": 0.011, "package-0, dram": 0.013, "package-1": 0.011}
    assert meter.parts == pytest.approx(expected)
    assert meter.joules == pytest.approx(0.035)


def test_a_counter_that_comes_round_loses_nothing(rapl: Rapl, tmp_path: Path) -> None:
    """As often as it does, if it is looked at in between."""
    with Meter(System(tmp_path), clock=VirtualClock()) as meter:
        for microjoules in (999_999, 100_000, 850_000, 0, 500_000, 400_000):
            rapl.set("intel-rapl:1", microjoules)
            meter.look()
    assert meter.parts["package-1"] == pytest.approx((3 * RANGE + 400_000 - 900_000) / 1e6)
    assert meter.parts["package-0"] == 0.0


def test_what_may_not_be_read_is_left_out(rapl: Rapl, tmp_path: Path) -> None:
    rapl.forbid("intel-rapl:0")
    with Meter(System(tmp_path), clock=VirtualClock()) as meter:
        rapl.set("intel-rapl:1", 950_000)
    assert meter.parts == pytest.approx({"package-0, dram": 0.0, "package-1": 0.05})
    with Meter(System(tmp_path), clock=VirtualClock()) as meter:
        rapl.forbid("intel-rapl:1")  # meanwhile
    assert meter.parts == {"package-0, dram": 0.0}


def test_where_nothing_says_there_are_no_joules_and_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    with Meter(System(tmp_path), clock=VirtualClock()) as meter:
        assert threading.active_count() == before
    assert meter.joules is None


def made_up(monkeypatch: pytest.MonkeyPatch, **devices: Any) -> list[Gpu]:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(**devices))
    return gpus(list(devices))


def test_gpus_that_count_and_gpus_that_do_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    counting = {("TotalEnergyConsumption",): 5_000, ("PowerUsage",): 1}
    powered = {("PowerUsage",): 100_000}
    clock = VirtualClock()
    found = made_up(monkeypatch, a=counting, b=powered, c={})
    monkeypatch.setattr("packrank.bench.watch.energy._POWER_S", 1e6)  # the test looks itself
    with Meter(System(tmp_path), found, clock) as meter:
        clock.sleep_until(2.0)
        powered[("PowerUsage",)] = 300_000
        meter.look()
        clock.sleep_until(3.0)
        counting[("TotalEnergyConsumption",)] = 5_750
    assert meter.parts == {"GPU 0": 0.75, "GPU 1": 200.0 * 2 + 300.0}


def test_power_is_looked_at_by_a_thread_that_ends_with_the_block(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    looked = threading.Event()

    class Watched(dict[Any, Any]):
        def __getitem__(self, key: object) -> object:
            if threading.current_thread().name == "packrank meter":
                looked.set()
            return super().__getitem__(key)

    before = threading.active_count()
    found = made_up(monkeypatch, a=Watched({("PowerUsage",): 1000}))
    meter = Meter(System(tmp_path), found)
    for _ in range(2):
        looked.clear()
        with pytest.raises(KeyboardInterrupt), meter:
            assert looked.wait(30.0)
            raise KeyboardInterrupt
        assert threading.active_count() == before
        assert meter.joules is not None


def test_a_meter_may_be_used_again(rapl: Rapl, tmp_path: Path) -> None:
    meter = Meter(System(tmp_path), clock=VirtualClock())
    for round_ in range(2):
        rapl.set("intel-rapl:1", 0)
        with meter:
            rapl.set("intel-rapl:1", 1000 * (round_ + 1))
        assert meter.joules == pytest.approx(0.001 * (round_ + 1))


def test_a_price_by_the_hour_is_one_by_the_million() -> None:
    assert cost_per_million(3.6, 500.0) == pytest.approx(2.0)
    assert cost_per_million(0.0, 500.0) == 0.0
    assert cost_per_million(3.6, 0.0) is None
