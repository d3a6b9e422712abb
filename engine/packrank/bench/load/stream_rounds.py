"""SingleStream of several models in turns: one query at a time, what a request waits."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from packrank.bench.load.queue import Queue
from packrank.bench.load.target import Request
from packrank.bench.load.workloads import Stream, percentiles, single_stream
from packrank.bench.report import Result
from packrank.bench.speed.yardstick import Rates, Yardstick, keep
from packrank.bench.subjects.subject import Subject

ROUNDS = 7
LEAST_A_ROUND = 1  # queries
_REQUESTS = 64  # drawn ahead, and taken in turn
# Before the first round: a query, or until graphs of most lengths are captured.
_WARM_UP_S = {"cpu": 1e-9, "cuda": 1.0}


class _Unanswered(Exception):
    """A query failed: an error of the engine is no latency."""


@dataclass
class Streamed:
    """A model and what its queries took.

    Attributes:
        subject: the model.
        result: samples are latencies, round by round.
        requests: in the order in which they are sent.
        failure: why it has no more rounds; the others go on.
    """

    subject: Subject
    result: Result
    requests: list[Request]
    failure: str | None = None

    @classmethod
    def of(cls, subject: Subject, candidates: int, seed: int) -> "Streamed":
        """None yet."""
        result = subject.result("SingleStream", "latency", "s")
        result.facts = {"candidates": candidates, "rounds": []}
        drawn: list[Request] = [
            subject.texts.request(candidates, seed + n) for n in range(_REQUESTS)
        ]
        return cls(subject, result, drawn)

    def run(self, seconds: float, yardstick: Yardstick) -> None:
        """A round: queries for so many seconds, with fixed work before and after each."""
        if self.failure is not None:
            return
        rounds: list[int] = self.result.facts["rounds"]
        found, looks = Stream(), list[Rates]()

        def look() -> None:
            if found.failures:
                raise _Unanswered(found.failures[0])
            looks.append(yardstick.look())

        try:
            with Queue(self.subject) as queue:
                single_stream(
                    queue, self.requests, seconds=seconds, least_count=LEAST_A_ROUND, found=found,
                    warm_up_s=0.0 if rounds else _WARM_UP_S[self.subject.device.type], between=look,
                )  # fmt: skip
        except _Unanswered as error:
            self.failure = str(error)
        finally:
            beside = list(pairwise(looks))
            self.result.samples += found.latencies[: len(beside)]
            rounds.append(len(beside))
            for before, after in beside:
                keep(self.result, before, after)
        self.requests.append(self.requests.pop(0))

    def sum_up(self) -> None:
        """Facts that follow from the samples."""
        latencies = self.result.samples
        self.result.facts |= percentiles(latencies)
        self.result.facts["queries_per_s"] = len(latencies) / sum(latencies)


def stream(every: Sequence[Streamed], seconds_of: Sequence[float], yardstick: Yardstick) -> None:
    """Rounds in which each has queries one after the other, for its share of its seconds."""
    try:
        for _ in range(ROUNDS):
            for one, seconds in zip(every, seconds_of, strict=True):
                one.run(seconds / ROUNDS, yardstick)
    finally:
        for one in every:
            if one.result.samples:
                one.sum_up()
