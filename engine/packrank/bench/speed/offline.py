"""Offline: everything at once. The rate in rounds of all models in turn, and what is behind it."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import numpy as np

from packrank.bench.report import Result
from packrank.bench.speed.arithmetic import PRODUCTS
from packrank.bench.speed.ceilings import Measured, product
from packrank.bench.speed.profile import Op, counted
from packrank.bench.speed.roofs import Roofs
from packrank.bench.speed.yardstick import Yardstick, keep
from packrank.bench.subjects.subject import Subject, padding_shares
from packrank.bench.subjects.texts import Pairs
from packrank.bench.timing import Clock, by_host, turns
from packrank.bench.watch.energy import Meter

ROUNDS, LEAST_ROUNDS = 48, 5
_BETWEEN_EVERY = 5  # rounds
CALIBRATED = 16  # pairs of the first calls, and the least of any
_PADDED_BATCH, _LEAST_PADDED = 32, 512  # pairs: few are all in one batch, sorted or not
_ROWS = 2048  # of products of a model's shapes
_LENGTHS = (32, 64, 128, 256, 512, 1024)
_BATCHES = (1, 4, 16, 64, 256)
_MOST = 8192  # pairs of a call


@dataclass
class Racer:
    """Whoever scores the pairs of a case, once a round.

    Attributes:
        result: what was found; its samples come with the rounds.
        score: scores them.
        pairs: how many.
        meter: of energy.
        clock: that times it.
        joules: of each round, where they can be known.
        failure: why it runs no more; the others go on.
    """

    result: Result
    score: Callable[[], object]
    pairs: int
    meter: Meter
    clock: Clock = by_host
    joules: list[float] = field(default_factory=list)
    failure: str | None = None

    def run(self, yardstick: Yardstick) -> None:
        """One round; its sample is there even where the next is interrupted."""
        if self.failure is not None:
            return
        before = yardstick.latest
        try:
            with self.meter:
                taken = self.clock(self.score)
        except Exception as error:  # whatever another package raises
            self.failure = f"{type(error).__name__}: {error}"
            return
        after = yardstick.look()
        self.result.samples.append(self.pairs / taken)
        keep(self.result, before, after)
        if self.meter.joules is not None:
            self.joules.append(self.meter.joules)

    def sum_up(self) -> None:
        """Facts that follow from the samples."""
        rate, facts = self.result.value, self.result.facts
        facts["tokens_per_s"] = rate * facts["tokens_per_candidate"]
        if "possible_s" in facts:
            facts["share_of_ceiling"] = facts["possible_s"] * rate / facts["candidates"]
        if self.joules:
            # The mean: a GPU's counter moves in steps that may be as long as a round.
            facts["joules_per_1000"] = 1000 * float(np.mean(self.joules)) / self.pairs
            facts["watts"] = rate * facts["joules_per_1000"] / 1000


@dataclass
class Offline:
    """A subject, its pairs, and the racer that scores them.

    Attributes:
        subject: the model.
        pairs: of every call.
        racer: for the rounds.
    """

    subject: Subject
    pairs: Pairs
    racer: Racer

    @property
    def result(self) -> Result:
        """Of the racer."""
        return self.racer.result


def prepare(
    subject: Subject, candidates: int, seconds_a_call: float, meter: Meter, seed: int
) -> Offline:
    """Pairs for calls of about so many seconds.

    Raises:
        ValueError: scores are not finite, so that nothing of this model is worth timing.
    """
    few = subject.texts.pairs(CALIBRATED // 2, candidates, seed)
    if not np.isfinite(subject.score(few)).all():
        raise ValueError(f"{subject.name} in {subject.dtype} gives scores that are not finite")
    pairs = _pairs_for(subject, candidates, seconds_a_call, seed)
    subject.warm_up(partial(subject.score, pairs))
    lengths = subject.lengths(pairs)
    several = subject.texts.pairs(max(len(pairs), _LEAST_PADDED), candidates, seed)
    sorted_share, unsorted_share = padding_shares(subject.lengths(several), _PADDED_BATCH)
    result = subject.result("Offline", "rate", "candidates/s")
    result.facts = {
        "candidates": len(pairs),
        "tokens_per_candidate": sum(int(some.sum()) for some in lengths) / len(pairs),
        "padding_share": sorted_share,
        "padding_share_unsorted": unsorted_share,
    }
    racer = Racer(result, partial(subject.score, pairs), len(pairs), meter, subject.clock)
    return Offline(subject, pairs, racer)


def _pairs_for(subject: Subject, candidates: int, seconds: float, seed: int) -> Pairs:
    """Pairs whose scores take about so many seconds, by calls that grow.

    Of a few pairs a device would spend most of the time on what any call costs.
    """
    count = CALIBRATED
    while True:
        pairs = subject.texts.pairs(count, candidates, seed)
        taken = max(min(subject.clock(partial(subject.score, pairs)) for _ in range(2)), 1e-9)
        if taken >= seconds / 4 or count >= _MOST:
            break
        count = min(count * max(2, min(int(seconds / taken / 2), 64)), _MOST)
    count = int(min(max(count * seconds / taken, CALIBRATED), _MOST)) // CALIBRATED * CALIBRATED
    return subject.texts.pairs(count, candidates, seed)


def race(
    racers: list[Racer], most_s: float, yardstick: Yardstick, between: Callable[[], object]
) -> None:
    """Rounds in which each has its turn, and now and then, between two, whatever else is to do."""
    rounds = count()

    def begin() -> None:
        if next(rounds) % _BETWEEN_EVERY == 0:
            between()
        yardstick.look()

    calls: dict[str, Callable[[], object]] = {"": begin}
    calls |= {str(n): partial(racer.run, yardstick) for n, racer in enumerate(racers)}
    try:
        turns(calls, rounds=ROUNDS, least_rounds=LEAST_ROUNDS, seconds=most_s, warm_up=False)
    finally:
        for racer in racers:
            if racer.result.samples:
                racer.sum_up()


def take_apart(one: Offline, roofs: Roofs, most_s: float) -> None:
    """Where the time of a call goes, and what share of the possible that is."""
    subject, facts = one.subject, one.result.facts
    rate = one.result.value
    # Seven calls: one for memory, two as they are, four by the profile.
    count = int(min(max(rate * most_s / 7, CALIBRATED), len(one.pairs)))
    some = one.pairs[:count]
    score = partial(subject.score, some)
    facts["memory_bytes"] = subject.memory(score)
    whole = min(subject.clock(score) for _ in range(2))
    profile = subject.profile(some)
    facts["parts"] = {name: taken / count for name, taken in profile.parts.items()}
    facts["whole_s"] = whole / count
    ops, possible, by = held_against(profile.ops, roofs, subject.dtype)
    facts["ops"] = ops
    if possible:  # of the rate, as it was over all rounds
        facts["share_of_ceiling"] = possible / count * rate
        facts["bound_by"] = by


def held_against(
    ops: list[Op], roofs: Roofs, dtype: str
) -> tuple[list[dict[str, object]], float, str]:
    """Ops with their bounds; the least seconds of all of them, and what sets most of those."""
    rows: list[dict[str, object]] = []
    limits = {"operations": 0.0, "bytes": 0.0}
    for op in ops:
        kind = "float32" if op.name == "score_head" else dtype
        bound = roofs.bound(kind, op.operations, op.moved, op.calls)
        row: dict[str, object] = {
            "op": op.name, "part": op.part, "calls": op.calls, "seconds": op.seconds,
            "operations": op.operations, "bytes": op.moved,
        }  # fmt: skip
        if bound is not None:
            row |= {"possible_s": bound.seconds, "bound_by": bound.by}
            limits[bound.by] += bound.seconds
        rows.append(row)
    # What is not known to be bounded at all says nothing of a ceiling.
    known = any(op.part == PRODUCTS for op in ops) and dtype in roofs.operations
    total = sum(limits.values()) if known else 0.0
    return rows, total, max(limits, key=lambda by: limits[by])


def own_products(every: list[Offline]) -> list[Measured]:
    """Products of each model's shapes, by torch and by the kernels here."""
    found: dict[str, Measured] = {}
    for one in every:
        subject = one.subject
        rows = min(_ROWS, int(one.result.facts["tokens_per_candidate"] * len(one.pairs)))
        for inputs, outputs in product_shapes(one):
            of = (subject.device, subject.dtype, rows, inputs, outputs, subject.name)
            found |= {each.name: each for each in product(*of)}
    return list(found.values())


def product_shapes(one: Offline) -> list[tuple[int, int]]:
    """(columns in, columns out) of the products that a model spends most on, at most four."""
    few = one.pairs[: CALIBRATED // 2]
    found: dict[tuple[int, int], float] = {}
    with one.subject.op_by_op():
        ops = counted(partial(one.subject.score, few))
    for op in ops:
        match = re.match(r"linear (\d+) -> (\d+)(.*)", op.name)
        if match is not None:
            wide = int(match[2]) * (2 if " gated" in match[3] else 1)
            shape = int(match[1]), wide
            found[shape] = found.get(shape, 0.0) + op.operations
    return sorted(found, key=lambda shape: -found[shape])[:4]


def curves(one: Offline, most_s: float, seed: int) -> str:
    """The rate by length, tokens in, and by candidates of a query, texts in.

    Returns:
        What there is no time for, in words; "" where there is for all.
    """
    subject, facts = one.subject, one.result.facts
    per_token = one.result.value * facts["tokens_per_candidate"]
    each = most_s / (len(_LENGTHS) + len(_BATCHES))
    slow: dict[str, list[int]] = {}
    facts["by_length"], facts["by_batch"] = [], []
    for length in _LENGTHS:
        packs = subject.random_packs(length, max(int(per_token * each / 3), length), seed)
        if packs is None:
            continue
        if length / per_token > 2 * each:
            slow.setdefault("tokens", []).append(length)
            continue
        subject.warm_up(partial(subject.forward, [subject.first(packs)]))
        taken = min(subject.clock(partial(subject.forward, packs)) for _ in range(2))
        count = sum(len(pack) for pack in packs)
        facts["by_length"].append({"tokens": length, "rate": count / taken})
    for batch in _BATCHES:
        query, documents = subject.texts.request(batch, seed)
        repeats = max(1, int(one.result.value * each / 2 / batch))
        if batch / one.result.value > 2 * each:
            slow.setdefault("candidates", []).append(batch)
            continue

        def ask(query: str = query, documents: list[str] = documents, times: int = repeats) -> None:
            for _ in range(times):
                subject.rank(query, documents)

        subject.warm_up(partial(ask, times=1))
        rate = repeats * batch / subject.clock(ask)
        facts["by_batch"].append({"candidates": batch, "rate": rate})
    return " and ".join(f"{', '.join(map(str, sizes))} {name}" for name, sizes in slow.items())
