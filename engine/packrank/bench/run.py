"""A run, from the machine's ceilings to what each model makes of them."""

import math
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import torch

from packrank.bench import machine
from packrank.bench.budget import Budget
from packrank.bench.load.queue import Queue
from packrank.bench.load.search import Search, highest_rate
from packrank.bench.load.server import LEAST_FOR_P99, Server, Terms
from packrank.bench.load.stream_rounds import LEAST_A_ROUND, Streamed, stream
from packrank.bench.load.stream_rounds import ROUNDS as STREAM_ROUNDS
from packrank.bench.peers.racing import beside
from packrank.bench.plan import Case, Settings, room
from packrank.bench.report import Report, Result
from packrank.bench.shown.words import time
from packrank.bench.speed import ceilings, maxsim, offline
from packrank.bench.speed.offline import Offline, Racer
from packrank.bench.speed.roofs import Roofs
from packrank.bench.speed.yardstick import Yardstick
from packrank.bench.subjects.checkpoints import made_whole, write_checkpoint
from packrank.bench.subjects.shapes import SHAPES
from packrank.bench.subjects.subject import Subject, free
from packrank.bench.timing import clock_of
from packrank.bench.watch.energy import Meter, cost_per_million
from packrank.bench.watch.nvml import gpus, ids_of
from packrank.bench.watch.validity import Watch
from packrank.errors import InputError

Say = Callable[[str], None]

SEED = 0
# Of what is left when its turn comes; the last gets all.
_ROUNDS, _APART, _STREAM = 0.36, 0.2, 0.3
_MAXSIM_S, _OFFLINE_CALL_S, _CURVES_S, _APART_S = 15.0, 0.4, 6.0, 10.0
_STREAM_S = 15.0
_POINTS, _LEAST_WINDOW_S, _WARMED_UP = 6, 5.0, 1.3
_TRIED = 5  # queries before a search, to know what one takes
# Of the time for all searches: one that is worth something, not two that are not.
_FIRST_SERVED = 0.6
_BUSY = 0.6  # of a server's time, at the first rate of a search
_USUAL_LIMIT = 4.0  # times what one query takes alone
_REQUESTS = 64  # drawn ahead, and taken in turn
_FEWER = (1, 4, 10, 25)  # times fewer candidates, where a search with all would take too long


class Run:
    """One run; what it has found so far is in its report, whatever ends it.

    Attributes:
        report: growing.
    """

    def __init__(self, settings: Settings, say: Say) -> None:
        self.settings, self._say = settings, say
        begun = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._whole = self._budget = Budget(settings.seconds)  # of the run, and of its group
        self._device = torch.device(settings.device)
        described = machine.describe(settings.device)
        self.report = Report(begun, described, settings.shown | {"seed": SEED})
        self._budget = Budget(settings.seconds)
        self._gpus = gpus(ids_of(self._device))
        self._watch = Watch(gpus=self._gpus)
        self._clock = clock_of(self._device)
        self._yardstick = Yardstick.of(self._device)
        self._rounds: list[list[list[float]]] = []
        self._made = Path()
        self._has_maxsim = self._has_opened = self._has_model = False
        self._failures: list[str] = []

    def run(self) -> None:
        """Measure all that was asked for, as far as time goes.

        Raises:
            InputError: no model could be measured, and why.
        """
        report, is_cuda = self.report, self._device.type == "cuda"
        report.left_out += [one for texts in self.settings.texts for one in texts.left_out]
        # What has a device from nowhere else (a graph, a trace) takes the one that is current.
        current = torch.cuda.device(self._device) if is_cuda else nullcontext()
        try:
            with current:
                self._run()
            if self._failures and not self._has_model:
                raise InputError(self._failures[0])
            report.complete = True
        finally:
            report.seconds, report.seen = self._whole.spent, self._watch.seen
            shares = [one.facts.get("share_of_ceiling", 0.0) for one in report.results]
            report.verdict = self._watch.verdict(self._rounds, shares)

    def _run(self) -> None:
        self._say("what the machine can do")
        for some in (ceilings.memory, ceilings.products, ceilings.launches):
            self.report.ceilings += ceilings.measure(some(self._device), clock=self._clock)
            self._watch.look()
        with tempfile.TemporaryDirectory(prefix="packrank-bench-") as folder:
            self._made = Path(folder)
            groups = self._groups()
            for place, cases in enumerate(groups):
                self._budget = self._whole.part(len(groups) - place)
                with self._opened(cases) as subjects:
                    self._measure(subjects)

    def _measure(self, subjects: list[Subject]) -> None:
        """All workloads of models that are open."""
        prepared = self._prepared(subjects)
        if not prepared:
            return
        ready = self._race(prepared)
        self._take_apart(ready)
        alone = self._stream(ready)
        for place, (one, alone_s) in enumerate(alone):
            self._say(f"{_named(one.subject)}: Server")
            with self._leaving_out(f"Server of {_named(one.subject)}"):
                spare = max(self._budget.left - _CURVES_S * len(ready), 0.0)
                share = max(spare / (len(alone) - place), _FIRST_SERVED * spare)
                self._serve(one, alone_s, share, spare)
        for place, one in enumerate(ready):
            what = f"{_named(one.subject)}, by length and by number of candidates"
            self._say(what)
            with self._leaving_out(what):
                most = self._budget.share(1 / (len(ready) - place), _CURVES_S)
                if slow := offline.curves(one, most, SEED):
                    self._leave_out(what, f"no time was left for {slow}")

    def _prepared(self, subjects: list[Subject]) -> list[Offline]:
        """Pairs for each model, and ceilings that hang on them."""
        ready: list[Offline] = []
        for subject in subjects:
            if ready and not self._has_time(_named(subject)):
                continue
            self._say(f"{_named(subject)}: getting ready")
            call_s = self._budget.share(_ROUNDS / (len(subjects) * offline.ROUNDS), _OFFLINE_CALL_S)
            with self._leaving_out(_named(subject)):
                meter, count = Meter(gpus=self._gpus), self.settings.candidates
                ready.append(offline.prepare(subject, count, call_s, meter, SEED))
                self._has_model = True
        first: dict[Path, Subject] = {}
        for one in ready:
            first.setdefault(one.subject.folder, one.subject)
        for subject in first.values():
            pairs = subject.texts.pairs(ceilings.PAIRS, self.settings.candidates, SEED)
            found = ceilings.tokenization(subject.tokenizer, pairs, subject.name)
            self.report.ceilings += ceilings.measure(found, rounds=5)
        return ready

    def _race(self, ready: list[Offline]) -> list[Offline]:
        """Offline of all in turns, and products of their shapes, as ceilings; those that ended."""
        self._say("Offline, in rounds of all models")
        racers = [one.racer for one in ready] + self._peers(ready)
        products = [ceilings.Repeated.of(one, self._clock) for one in offline.own_products(ready)]
        self.report.ceilings += [one.ceiling for one in products]
        self._rounds.append([one.result.samples for one in ready])

        def between() -> None:
            self._watch.look()
            for one in products:
                one.run()

        try:
            self._in_rounds(racers, self._budget.share(_ROUNDS, math.inf), between)
        finally:
            for one in ready:
                self._price(one.result)
        return [one for one in ready if one.racer.failure is None]

    def _in_rounds(self, racers: list[Racer], most_s: float, between: Callable[[], object]) -> None:
        """Race, keep what comes of it however it ends, and say who ended on the way."""
        self.report.results += [one.result for one in racers]
        try:
            offline.race(racers, most_s, self._yardstick, between)
        finally:
            self._drop_empty()
        for racer in racers:
            self._say_failed(racer)

    def _say_failed(self, one: Racer | Streamed) -> None:
        if one.failure is not None:
            why = " ".join(one.failure.split())[:300]
            self._leave_out(f"further rounds of {one.result.id}", why)

    def _take_apart(self, ready: list[Offline]) -> None:
        roofs = Roofs.of(self.report.ceilings)
        for place, one in enumerate(ready):
            self._price(one.result)
            what = f"{_named(one.subject)}, where the time goes"
            if not self._has_time(what):
                continue
            self._say(what)
            with self._leaving_out(what):
                most = self._budget.share(_APART / (len(ready) - place), _APART_S)
                offline.take_apart(one, roofs, most)
        if not self._has_maxsim and self._has_time("MaxSim"):
            self._has_maxsim = True
            with self._leaving_out("MaxSim"):
                self._race_maxsim(roofs)

    def _race_maxsim(self, roofs: Roofs) -> None:
        self._say("MaxSim")
        most, meter = self._budget.share(0.15, _MAXSIM_S), partial(Meter, gpus=self._gpus)
        racers, sentences = maxsim.racers(self._device, roofs, meter, peers=self.settings.peers)
        self.report.left_out += sentences
        self._in_rounds(racers, most, self._watch.look)

    def _peers(self, ready: list[Offline]) -> list[Racer]:
        """Other packages on the pairs of each model, where they are asked for."""
        groups: dict[tuple[str, str], list[Offline]] = {}
        for one in ready if self.settings.peers else ():
            groups.setdefault((one.subject.name, one.subject.texts.name), []).append(one)
        racers: list[Racer] = []
        for (model, texts), ours in groups.items():
            if not self._has_time(f"peers of {model}, {texts}"):
                continue
            self._say(f"{model}, {texts}: peers")
            case = next(case for case in self.settings.cases if case.name == model)
            with self._leaving_out(f"peers of {model}, {texts}"):
                if case.layer is not None:
                    raise InputError("no other package stops a model at a layer that is asked for")
                folder, meter = self._where(case), partial(Meter, gpus=self._gpus)
                found, sentences = beside(ours, folder, meter)
                racers += found
                self.report.left_out += [f"{model}, {texts}: {one}" for one in sentences]
        return racers

    def _stream(self, ready: list[Offline]) -> list[tuple[Offline, float]]:
        """SingleStream; those that had time for it, fast ones first, and seconds of a query."""
        count, chosen = self.settings.candidates, list[tuple[Offline, Streamed]]()
        seconds_of: list[float] = []
        whole = self._budget.left * _STREAM
        for one in sorted(ready, key=lambda one: -one.result.value):
            takes = count / one.result.value * (LEAST_A_ROUND * STREAM_ROUNDS + 1)
            most = max(takes, min(whole / len(ready), _STREAM_S))
            left = max(whole - sum(seconds_of), 0.0)
            if most > left:
                self._leave_out(
                    f"SingleStream and Server of {_named(one.subject)}",
                    f"a few queries take {time(takes)}, and {time(left)} are left for them",
                )
                continue
            chosen.append((one, Streamed.of(one.subject, count, SEED)))
            seconds_of.append(most)
        if chosen:
            self._say("SingleStream, in rounds of all models")
        every = [streamed for _, streamed in chosen]
        self.report.results += [streamed.result for streamed in every]
        try:
            stream(every, seconds_of, self._yardstick)
        finally:
            self._drop_empty()
        for streamed in every:
            self._say_failed(streamed)
        return [(one, each.result.value) for one, each in chosen if each.failure is None]

    def _drop_empty(self) -> None:
        self.report.results = [one for one in self.report.results if one.samples]

    def _serve(self, one: Offline, alone_s: float, share_s: float, most_s: float) -> None:
        """The highest rate that keeps the limit, with fewer candidates where time is short.

        Args:
            one: the model.
            alone_s: seconds of a query with all candidates.
            share_s: seconds that a search may take, so that others have as much.
            most_s: seconds that it may take where it could not be done otherwise.
        """
        subject = one.subject
        for fewer in _FEWER:
            count = max(self.settings.candidates // fewer, 1)
            takes = _window(alone_s / fewer) * _WARMED_UP * _POINTS
            if takes <= (share_s if fewer != _FEWER[-1] else most_s):
                break
        else:
            self._leave_out(
                f"Server of {_named(subject)}",
                f"a search takes {time(takes)}, and {time(most_s)} are left for it",
            )
            return
        requests = [subject.texts.request(count, SEED + n) for n in range(_REQUESTS)]
        subject.warm_up(partial(subject.rank, *requests[0]))
        # A few candidates take longer than their share of many.
        times = [subject.clock(partial(subject.rank, *requests[n])) for n in range(_TRIED)]
        expected = statistics.median(times)
        window, limit = _window(expected), self.settings.limit_s or _USUAL_LIMIT * expected
        found = Search()
        terms = Terms(limit, window, most_seconds=2 * window, warm_up_s=window / 5,
                      patience_s=2 * window, seed=SEED)  # fmt: skip
        with Queue(subject) as queue:
            server = Server(queue, requests, terms)
            try:
                highest_rate(server.point, limit, _BUSY / expected, precision=0.1,
                             most_points=_POINTS, most_seconds=most_s, found=found)  # fmt: skip
            finally:
                self._keep(subject, found, server, count, limit)

    def _keep(
        self, subject: Subject, found: Search, server: Server, count: int, limit: float
    ) -> None:
        points = server.points
        if found.rate is None:
            why = f"at none of {len(points)} rates the p99 was within {time(limit)}"
            if points and not any(point.valid for point in points):
                why = f"at none of {len(points)} rates it could be measured: {points[-1].reason}"
            self._leave_out(f"Server of {_named(subject)}", why)
            return
        result = subject.result("Server", "rate", "queries/s")
        result.samples, every = [found.rate], [asdict(point) for point in points]
        result.facts = {"candidates": count, "limit_s": limit, "points": every,
                        "unsettled": found.unsettled}  # fmt: skip
        self.report.results.append(result)

    def _price(self, result: Result) -> None:
        price = self.settings.price_per_hour
        if price is not None and result.samples:
            result.facts["cost_per_million"] = cost_per_million(price, result.value)

    def _groups(self) -> list[list[Case]]:
        """Models that are open at the same time: all, where memory holds them, or one by one."""
        cases = list(self.settings.cases)
        together = self.settings.bytes <= room(self._device)
        return [cases] if together else [[case] for case in cases]

    @contextmanager
    def _opened(self, cases: list[Case]) -> Iterator[list[Subject]]:
        subjects: list[Subject] = []
        for case in cases:
            self._say(f"{case.name}: opening")
            with self._leaving_out(case.name):
                where = self._where(case)
                for dtype in self.settings.dtypes:
                    subjects += self._subjects(case, where, dtype)
        try:
            yield subjects
        finally:
            subjects.clear()
            free()

    def _where(self, case: Case) -> Path:
        """The folder of a model; of a named shape written when it is first asked for."""
        given = self.settings.folders.get(case.model)
        if given is not None:
            return given
        folder, shape = self._made / case.model, SHAPES[case.model]
        return folder if folder.exists() else made_whole(write_checkpoint, shape, folder)

    def _subjects(self, case: Case, folder: Path, dtype: str) -> Iterator[Subject]:
        """One a distribution of lengths; those that cut alike share the model."""
        opened: dict[int | None, Subject] = {}
        for texts in self.settings.texts:
            name = f"{case.name}, {dtype}, {texts.name}"
            if not self._has_time(name):
                continue
            with self._leaving_out(name):
                known = opened.get(texts.max_length)
                if known is None:
                    known = Subject.open(
                        folder, case.name, str(self._device), dtype, texts, case.layer
                    )
                    opened[texts.max_length] = known
                self._has_opened = True
                yield replace(known, texts=texts)

    @contextmanager
    def _leaving_out(self, what: str) -> Iterator[None]:
        """Go on without what cannot be measured, and say why."""
        try:
            yield
        except Exception as error:  # such as of safetensors where a disk is full
            self._leave_out(what, " ".join(str(error).split())[:300] or type(error).__name__)
            self._failures.append(self.report.left_out[-1])

    def _has_time(self, what: str) -> bool:
        """Whether any is left; what there is none for is left out, but for the first model."""
        if not self._has_opened or self._budget.left:
            return True
        self._leave_out(what, "no time was left for it")
        return False

    def _leave_out(self, what: str, why: str) -> None:
        sentence = f"{what}: {why}"
        self._say(f"left out, {sentence}")
        self.report.left_out.append(sentence)


def _window(alone_s: float) -> float:
    """Seconds of a point in which so many queries come as a p99 needs."""
    return max(_LEAST_WINDOW_S, LEAST_FOR_P99 * alone_s / _BUSY)


def _named(subject: Subject) -> str:
    return f"{subject.name}, {subject.dtype}, {subject.texts.name}"
