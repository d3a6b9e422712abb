"""SingleStream of several models in turns: one query at a time, what a request waits."""

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


@dataclass
class Streamed:
    """A model and what its queries took.

    Attributes:
        subject: the model.
        result: samples are latencies, round by round.
    """

    subject: Subject
    result: Result

    @classmethod
    def of(cls, subject: Subject, candidates: int) -> "Streamed":
        """None yet."""
        result = subject.result("SingleStream", "latency", "s")
        result.facts = {"candidates": candidates, "rounds": []}
        return cls(subject, result)

    def sum_up(self) -> None:
        """Facts that follow from the samples."""
        latencies = self.result.samples
        self.result.facts |= percentiles(latencies)
        self.result.facts["queries_per_s"] = len(latencies) / sum(latencies)


def stream(every: list[Streamed], seconds_of: list[float], yardstick: Yardstick, seed: int) -> None:
    """Rounds in which each has queries one after the other, for its share of its seconds.

    Queries that fail end it: an error of the engine is no latency.

    Raises:
        RuntimeError: a query was not answered.
    """
    requests = [_drawn(one, seed) for one in every]
    for number in range(ROUNDS):
        for one, seconds, asked in zip(every, seconds_of, requests, strict=True):
            found, looks = Stream(), list[Rates]()
            warm_up_s = _WARM_UP_S[one.subject.device.type]

            def look(looks: list[Rates] = looks) -> None:
                looks.append(yardstick.look())

            try:
                with Queue(one.subject) as queue:
                    single_stream(queue, asked, seconds=seconds / ROUNDS, least_count=LEAST_A_ROUND,
                                  warm_up_s=0.0 if number else warm_up_s, found=found,
                                  between=look)  # fmt: skip
            finally:
                one.result.samples += found.latencies
                one.result.facts["rounds"].append(len(found.latencies))
                for before, after in pairwise(looks):
                    keep(one.result, before, after)
            if found.failures:
                raise RuntimeError(f"a query was not answered: {found.failures[0]}")
            asked.append(asked.pop(0))
    for one in every:
        one.sum_up()


def _drawn(one: Streamed, seed: int) -> list[Request]:
    count = one.result.facts["candidates"]
    return [one.subject.texts.request(count, seed + n) for n in range(_REQUESTS)]
