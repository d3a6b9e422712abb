"""Which steps fit into the time that there is, and how much of it each may take."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from visit.processes import GRACE_S, Done

REPORT_S = 10.0  # for the tables, the summary and the last packing


@dataclass(frozen=True)
class Step:
    """One thing that is asked of the machine.

    Attributes:
        name: of its log and in the report.
        wanted: seconds that it takes with room to spare.
        least: seconds below which it would not answer what it is there for.
        run: (visit, seconds) -> how it ended.
        extra: whether it may take only what no other step would have.
    """

    name: str
    wanted: float
    least: float
    run: Callable[[Any, float], Done]
    extra: bool = False


@dataclass(frozen=True)
class Slot:
    """A step and the seconds that are its own; those that steps leave go to the next."""

    step: Step
    seconds: float


def plan(steps: list[Step], total: float) -> tuple[list[Slot], list[Step]]:
    """The steps that fit and those that are left out, in their order, which is of importance.

    What is planned adds up to no more than `total`: each step's seconds, the grace of each should
    it have to be ended, and the report. What is left after every step's least is shared out by how
    much more each would have, and what is left then goes to extra steps. Most end early: those left
    out have another chance.
    """
    left = total - REPORT_S
    fitting = []
    for step in steps:
        if not step.extra and step.least + GRACE_S <= left:
            fitting.append(step)
            left -= step.least + GRACE_S
    more = sum(step.wanted - step.least for step in fitting)
    share = min(left / more, 1.0) if more else 1.0
    slots = [Slot(step, step.least + share * (step.wanted - step.least)) for step in fitting]
    left -= share * more
    for step in steps:
        if step.extra and step.wanted + GRACE_S <= left:
            slots.append(Slot(step, step.wanted))
            left -= step.wanted + GRACE_S
    planned = [slot.step for slot in slots]
    return slots, [step for step in steps if step not in planned]


def fits(step: Step, left: float) -> bool:
    """Whether a step that was left out can run after all, so long before the end."""
    return step.least + GRACE_S + REPORT_S <= left
