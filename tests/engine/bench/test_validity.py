"""Doubts about a run, from made-up files of a system: one each, and none without its cause."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_nvml import FakeNvml, busy

from packrank.bench.load.clock import VirtualClock
from packrank.bench.watch.nvml import Gpu, gpus
from packrank.bench.watch.system import System
from packrank.bench.watch.validity import Watch, drift

HZ = os.sysconf("SC_CLK_TCK")
CPU = "sys/devices/system/cpu"


class Machine:
    """Four CPUs, of which the process may use the first two, and 100 seconds of a run."""

    def __init__(self, root: Path) -> None:
        self.root, self.clock = root, VirtualClock()
        self.busy, self.steal = [500.0, 700.0, 0.0, 0.0], [3.0, 4.0, 0.0, 0.0]
        self.processes = {40: (1, 100.0, 50.0), 7: (1, 9.0, 0.0)}
        self.write("proc/loadavg", "0.10 3.00 3.00 1/99 4321")
        self.write("proc/self/stat", "")
        self.show()

    def write(self, path: str, text: object) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def show(self) -> None:
        """All that is counted, as the kernel writes it: in ticks."""
        lines = ["cpu  1 2 3 4 5 6 7 8 9 10"]
        for number, (busy_s, steal_s) in enumerate(zip(self.busy, self.steal, strict=True)):
            # user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice
            ran = [busy_s * HZ * share for share in (0.4, 0.1, 0.2, 0.2, 0.1)]
            fields = [*ran[:3], 12345, 678, *ran[3:], steal_s * HZ, ran[0], 0]
            lines.append(f"cpu{number} " + " ".join(str(round(field)) for field in fields))
        self.write("proc/stat", "\n".join([*lines, "intr 1 2 3", "ctxt 99", "", "btime 1"]))
        for pid, (parent, own, ended) in self.processes.items():
            times = [own * HZ * 0.75, own * HZ * 0.25, ended * HZ * 0.5, ended * HZ * 0.5]
            shown = " ".join(str(round(time)) for time in times)
            stat = f"{pid} (a (b) c) S {parent} 1 1 0 -1 4194560 1 2 3 4 {shown} 20 0 1 0 99"
            self.write(f"proc/{pid}/stat", stat)
            if pid == 40:
                self.write("proc/self/stat", stat)

    def watch(self, gpus: list[Gpu] | None = None) -> Watch:
        return Watch(System(self.root), gpus or [], [0, 1], self.clock)

    def passes(self, seconds: float) -> None:
        self.clock.sleep_until(self.clock.now() + seconds)
        self.show()

    def runs(self, pid: int, seconds: float, cpu: int = 0) -> None:
        parent, own, ended = self.processes[pid]
        self.processes[pid] = parent, own + seconds, ended
        self.busy[cpu] += seconds


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def said(watch: Watch) -> list[str]:
    verdict = watch.verdict()
    assert verdict.valid == (not verdict.reasons)
    return verdict.reasons


def test_what_the_run_does_itself_is_no_doubt(machine: Machine) -> None:
    """Nor what its descendants do, whether they have ended or not."""
    machine.processes |= {50: (40, 0.0, 0.0), 60: (50, 1.0, 0.0)}
    watch = machine.watch()
    machine.runs(40, 80.0)
    machine.runs(50, 30.0, 1)
    machine.runs(60, 40.0, 1)
    machine.passes(100.0)
    assert said(watch) == []
    del machine.processes[60]  # its parent has waited for it
    (machine.root / "proc/60/stat").unlink()
    machine.processes[50] = 40, 30.0, 41.0
    machine.show()
    assert said(watch) == []


@pytest.mark.parametrize(("seconds", "reasons"), [(9.0, []), (24.0, ["12%"])])
def test_others_are_told_by_their_share(
    machine: Machine, seconds: float, reasons: list[str]
) -> None:
    watch = machine.watch()
    machine.runs(40, 100.0)
    machine.runs(7, seconds, 1)
    machine.passes(100.0)
    assert said(watch) == [f"other processes took {share} of the CPUs' time" for share in reasons]


def test_cpus_that_may_not_be_used_do_not_count(machine: Machine) -> None:
    watch = machine.watch()
    machine.runs(7, 90.0, 2)
    machine.steal[3] += 90.0
    machine.passes(100.0)
    assert said(watch) == []


@pytest.mark.parametrize(("seconds", "reasons"), [(3.0, []), (6.0, ["3%"])])
def test_so_is_the_hypervisor(machine: Machine, seconds: float, reasons: list[str]) -> None:
    watch = machine.watch()
    machine.steal[1] += seconds
    machine.passes(100.0)
    assert said(watch) == [f"the hypervisor took {share} of the CPUs' time" for share in reasons]


def test_the_load_counts_before_it_begins_where_nothing_better_is_known(machine: Machine) -> None:
    machine.write("proc/loadavg", "9.00 9.00 9.00 1/99 4321")
    assert said(machine.watch()) == []
    machine.write("proc/stat", "")
    machine.write("proc/loadavg", "0.10 9.00 9.00 1/99 4321")
    watch = machine.watch()
    machine.write("proc/loadavg", "9.00 9.00 9.00 1/99 4321")
    assert said(watch) == []
    assert said(machine.watch()) == ["the load was 9 on 2 CPUs before it began"]
    machine.write("proc/loadavg", "1.00 9.00 9.00 1/99 4321")
    assert said(machine.watch()) == []


def test_heat_is_counted(machine: Machine) -> None:
    for cpu, count in enumerate((0, 0, 5, 5)):
        machine.write(f"{CPU}/cpu{cpu}/thermal_throttle/core_throttle_count", count)
    watch = machine.watch()
    machine.write(f"{CPU}/cpu2/thermal_throttle/core_throttle_count", 6)
    assert said(watch) == []
    machine.write(f"{CPU}/cpu0/thermal_throttle/core_throttle_count", 1)
    machine.write(f"{CPU}/cpu1/thermal_throttle/core_throttle_count", 2)
    assert said(watch) == ["the CPUs slowed down 3 times, being hot"]


@pytest.mark.parametrize("by", ["cpufreq", "cpuinfo"])
@pytest.mark.parametrize(
    ("gigahertz", "fell"),
    [
        ([3.4, 3.4, 3.1, 3.1], None),
        ([3.4, 3.4, 3.4, 2.9, 2.9, 2.9], "from 3.40 to 2.90"),
        ([3.4, 3.4, 2.9], "from 3.40 to 2.90"),  # the look in the middle is of neither half
        ([2.9, 3.4], None),
        ([3.4], None),
        ([3.4, 1.0, 3.4, 3.4, 3.4, 3.4, 1.0, 3.4], None),  # two looks at idle CPUs
    ],
)
def test_a_clock_that_falls_is_told(
    machine: Machine, by: str, gigahertz: list[float], fell: str | None
) -> None:
    watch = machine.watch()
    for clock in gigahertz:
        if by == "cpufreq":
            machine.write(f"{CPU}/cpu0/cpufreq/scaling_cur_freq", 400_000)
            machine.write(f"{CPU}/cpu1/cpufreq/scaling_cur_freq", round(clock * 1e6))
            machine.write(f"{CPU}/cpu2/cpufreq/scaling_cur_freq", 9_000_000)
        else:
            clocks = f"processor\t: 0\ncpu MHz\t\t: 400.0\n\ncpu MHz\t\t: {clock * 1e3}\n"
            machine.write("proc/cpuinfo", clocks)
        watch.look()
    assert said(watch) == ([f"the CPUs' clock fell {fell} GHz"] if fell else [])


def test_of_gpus_only_what_should_not_be_is_doubted(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    throttle = ("CurrentClocksThrottleReasons",)
    device = {("Name",): "H200", ("UtilizationRates",): busy(0), throttle: 0x4}
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(a=device))
    watch = machine.watch(gpus(["a"]))
    for look in range(20):
        device[throttle] = 0x24 if look in (3, 4, 5) else 0x4C if look == 9 else 0x4
        watch.look()
    device[("UtilizationRates",)] = busy(100)
    assert said(watch) == ["H200 was slowed by temperature at 3 of 20 looks"]
    assert watch.seen == {"GPU 0 at its power limit, share": [1.0] * 20}  # the device says no more
    assert said(machine.watch(gpus(["a"]))) == ["H200 was 100% busy before it began"]


def test_clocks_temperature_and_power_are_kept_look_by_look(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = {("ClockInfo", 1): 1980, ("PowerUsage",): 350_000, ("Temperature", 0): 61}
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(a=device))
    machine.write(f"{CPU}/cpu0/cpufreq/scaling_cur_freq", 3_100_000)
    watch = machine.watch(gpus(["a"]))
    watch.look()
    device |= {("ClockInfo", 1): 1700, ("Temperature", 0): 70}
    watch.look()
    assert watch.seen == {
        "CPU clock, Hz": [3.1e9, 3.1e9],
        "GPU 0 clock, Hz": [1.98e9, 1.7e9],
        "GPU 0 temperature, C": [61.0, 70.0],
        "GPU 0 power, W": [350.0, 350.0],
        "GPU 0 at its power limit, share": [0.0, 0.0],
    }


def test_what_is_not_told_is_no_doubt(tmp_path: Path) -> None:
    clock = VirtualClock()
    watch = Watch(System(tmp_path), [], [0, 1], clock)
    clock.sleep_until(10.0)
    watch.look()
    assert said(watch) == []


def test_nor_is_what_may_not_be_read(machine: Machine) -> None:
    for path in ("proc/stat", "proc/loadavg", "proc/cpuinfo", "proc/self/stat", "proc/40/stat"):
        (machine.root / path).unlink(missing_ok=True)
        (machine.root / path).mkdir()  # even root may not read a folder
    watch = Watch(System(machine.root), [], [0, 1], machine.clock)
    machine.clock.sleep_until(10.0)
    watch.look()
    assert said(watch) == []


def test_this_machine_can_be_watched() -> None:
    """Whatever it says."""
    watch = Watch()
    watch.look()
    assert isinstance(watch.verdict([[[1.0] * 8]]).valid, bool)


def test_drift_is_part_of_the_verdict(machine: Machine) -> None:
    """Of each race by itself: models that were measured at other times had other rounds."""
    steady = [[100.0, 101.0, 99.0, 100.0, 100.0, 101.0, 99.0, 100.0]]
    fallen = [[100.0, 101.0, 99.0, 100.0, 90.0, 91.0, 89.0, 90.0]]
    assert machine.watch().verdict([steady, fallen, steady]).reasons == [
        "rates fell by 10% from the first half of the rounds to the second"
    ]


def test_nothing_is_faster_than_what_can_be(machine: Machine) -> None:
    assert machine.watch().verdict([], [0.7, 1.04]).valid
    assert machine.watch().verdict([], [0.7, 1.04, 1.06]).reasons == [
        "1 of 3 measurements came above their ceilings, which were measured while less was possible"
    ]


@pytest.mark.parametrize(("rise", "expected"), [(-0.1, -0.1), (0.2, 0.2), (0.03, None)])
@pytest.mark.parametrize("count", [4, 5, 12])
def test_drift_is_what_measurements_have_in_common(
    rise: float, expected: float | None, count: int
) -> None:
    first = np.arange(count) < count // 2
    rounds = [(scale * np.where(first, 1.0, 1.0 + rise)).tolist() for scale in (1.0, 50.0, 900.0)]
    if count % 2:  # the one in the middle is of neither half
        for each in rounds:
            each[count // 2] *= 3
    rounds.append([5.0] * count)  # one that shows nothing
    rounds.append([5.0, 9.0])  # too short to say
    rounds.append([0.0] * count)  # failed
    found = drift(rounds)
    assert found == (None if expected is None else pytest.approx(expected))


def test_noise_is_seldom_taken_for_drift_and_drift_is_found() -> None:
    generator = np.random.default_rng(3)

    def doubts(rise: float) -> int:
        found = 0
        for _ in range(500):
            noise = np.exp(0.03 * generator.standard_normal((6, 8)) ** 2)
            rates = noise * np.where(np.arange(8) < 4, 1.0, 1.0 + rise)
            found += drift(rates.tolist()) is not None
        return found

    assert doubts(0.0) <= 10
    assert doubts(-0.12) >= 450
    alone = np.exp(0.1 * generator.standard_normal((500, 8)))  # one measurement, and a noisy one
    assert sum(drift([rates]) is not None for rates in alone.tolist()) <= 25


def test_without_enough_rounds_there_is_no_drift() -> None:
    assert drift([]) is None
    assert drift([[1.0, 2.0, 3.0]]) is None
