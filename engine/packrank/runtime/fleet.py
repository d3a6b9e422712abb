"""Several devices: a process each, and packs shared out among them by tokens."""

import multiprocessing
import os
import signal
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import packrank_kernels
from packrank.checkpoint.scoring_modules import ScoringModules
from packrank.errors import PackrankError
from packrank.models import CausalSettings, T5Settings, load_model
from packrank.request import Pack
from packrank.runtime.runner import Pending, Runner
from packrank.runtime.scheduler import plan

# Packs that a process has started and not yet answered: one runs while the next is copied.
_IN_FLIGHT = 3
_PATIENCE_S = 2.0  # between asking a process to end and ending it


# A pack and, of a decoder, the layers to score after.
_Packed = tuple[Pack, tuple[int, ...] | None]


@dataclass(frozen=True)
class Recipe:
    """What each process loads.

    Attributes:
        folder: of the model.
        dtype: as `load_model` takes it; likewise deterministic.
        deterministic: see `load_model`.
        budget_tokens: most tokens of a pack, None for each device's default.
        causal: see `load_model`; likewise modules.
        num_threads: of the CPU's kernels, in each process.
    """

    folder: Path
    dtype: torch.dtype | None
    deterministic: bool
    budget_tokens: int | None
    causal: CausalSettings | T5Settings | None = None
    modules: ScoringModules | None = None
    num_threads: int = field(default_factory=packrank_kernels.get_num_threads)


class Fleet:
    """What `Runner` is, on several devices. Threads may share it.

    Processes are started anew ("spawn"), so a program that makes a fleet keeps its own work under
    `if __name__ == "__main__":`.

    Args:
        recipe: what each process loads.
        devices: one process each.

    Attributes:
        num_labels: of the model.
        budget_tokens: most tokens of a pack.
        dtype: of the model.

    Raises:
        PackrankError: a process cannot load the model; the message says which and why. Or devices
            differ in the dtype that they take it in.
    """

    def __init__(self, recipe: Recipe, devices: Sequence[torch.device]) -> None:
        self._workers: list[_Worker] = []
        weakref.finalize(self, _stop, self._workers)
        try:
            for device in devices:
                self._workers.append(_Worker(recipe, device))
            loaded = [worker.ready() for worker in self._workers]
        except BaseException:
            _stop(self._workers)
            raise
        self.num_labels = loaded[0][0]
        self.budget_tokens = min(budget for _, budget, _ in loaded)
        self.dtype = loaded[0][2]
        if any(dtype != self.dtype for _, _, dtype in loaded):
            _stop(self._workers)
            raise PackrankError(
                "the devices would take this model in different dtypes, so that a score would hang "
                "on where it is computed; name the dtype"
            )

    def submit(self, whole: Pack, cutoff_layers: tuple[int, ...] | None = None) -> Pending:
        """Share out the sequences; the result, when asked for, waits for every device.

        Args:
            whole: the sequences.
            cutoff_layers: see `Runner.submit`.

        Raises:
            PackrankError: every process has ended.
        """
        pending = Pending(whole.num_sequences, self.num_labels * len(cutoff_layers or (0,)))
        for indices in plan(whole.lengths, self.budget_tokens, whole.queries, whole.shared):
            answer = self._start((whole.take(indices), cutoff_layers))
            pending.packs.append((indices, _Answer(answer, indices, pending)))
        return pending

    def _start(self, pack: "_Packed") -> "Future[Any]":
        """Hand a pack to the process that has least to do, of those that have not ended."""
        while True:
            living = [worker for worker in self._workers if not worker.has_ended]
            # A send may wait for a busy process; which one is best is a guess that may be stale.
            worker = min(living or self._workers, key=lambda worker: worker.num_tokens)
            try:
                return worker.start(pack)
            except PackrankError:
                if not (living and worker.has_ended):  # else another one may live
                    raise

    def warm_up(self, max_seqlens: list[int]) -> None:
        """See `Runner.warm_up`."""
        for answer in [worker.start(max_seqlens) for worker in self._workers]:
            answer.result()


@dataclass(frozen=True)
class _Answer:
    """Logits of a pack once its process has them; failures go to the call they belong to."""

    future: "Future[Any]"
    indices: NDArray[np.int64]
    pending: Pending

    def __call__(self) -> NDArray[np.float32]:
        logits, failures = self.future.result()
        for place, reason in failures.items():
            self.pending.failures[int(self.indices[place])] = reason
        return logits  # type: ignore[no-any-return]


class _Worker:
    """A process, as seen from outside. Answers come in the order of what was started."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._device = device
        self.num_tokens = 0
        self._waiting: deque[tuple[Future[Any], int]] = deque()
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self.has_ended = False
        self.process: BaseProcess = context.Process(
            target=_serve, args=(theirs, recipe, device), name=f"packrank-{device}", daemon=True
        )
        self.process.start()
        self._parent = os.getpid()
        theirs.close()
        self._loaded: Future[Any] = Future()
        self._waiting.append((self._loaded, 0))
        threading.Thread(target=self._receive, name=f"packrank-{device}", daemon=True).start()

    def ready(self) -> tuple[int, int, torch.dtype]:
        """Labels of the model, its budget and its dtype, once it is loaded."""
        loaded: tuple[int, int, torch.dtype] = self._loaded.result()
        return loaded

    def start(self, work: "_Packed | list[int]") -> "Future[Any]":
        """Hand work to the process: a pack to score, or lengths to warm up for."""
        if not self.is_ours:  # two that write into one pipe would get each other's scores
            raise PackrankError(
                f"the process of {self._device} belongs to the process that this one was forked "
                "from; load the model after the fork"
            )
        answer: Future[Any] = Future()
        size = len(work[0].token_ids) if isinstance(work, tuple) else 0
        with self._sending:  # so that answers are waited for in the order of the work
            try:
                with self._lock:
                    if self.has_ended:
                        raise self._ended()
                    self._waiting.append((answer, size))
                    self.num_tokens += size
                self._connection.send(work)
            except OSError:
                self.has_ended = True
                raise self._ended() from None
            except KeyboardInterrupt:  # half a message may be sent: nothing after it would be right
                self.stop()
                raise
        return answer

    @property
    def is_ours(self) -> bool:
        """Whether this process started it, and was not forked since."""
        return os.getpid() == self._parent

    def stop(self) -> None:
        """End the process; the thread that listens to it then closes the connection."""
        self.process.terminate()

    def _receive(self) -> None:
        try:
            while True:
                result = self._connection.recv()
                with self._lock:
                    answer, size = self._waiting.popleft()
                    self.num_tokens -= size
                if isinstance(result, BaseException):
                    answer.set_exception(result)
                else:
                    answer.set_result(result)
        except Exception:  # it has ended, or sent what cannot be read
            self.process.terminate()
        with self._lock:
            self.has_ended = True
            for answer, _ in self._waiting:
                answer.set_exception(self._ended())
            self._waiting.clear()
        with self._sending:
            self._connection.close()

    def _ended(self) -> PackrankError:
        self.process.join(1)
        code = self.process.exitcode
        if code == 1 and not self._loaded.done():
            return PackrankError(
                f"the process of {self._device} ended before it had loaded the model; its own "
                "message is above. A program that uses several devices is a file, not standard "
                'input, and its own work stands under if __name__ == "__main__":'
            )
        return PackrankError(
            f"the process of {self._device} ended with exit code {code}; load the model again"
        )


def run_on(devices: Sequence[torch.device], recipe: Recipe) -> Runner | Fleet:
    """The model on one device in this process, or on several in one each."""
    return _runner(recipe, devices[0]) if len(devices) == 1 else Fleet(recipe, devices)


def _stop(workers: list[_Worker]) -> None:
    workers = [worker for worker in workers if worker.is_ours]
    for worker in workers:
        worker.stop()
    for worker in workers:
        worker.process.join(_PATIENCE_S)
        if worker.process.is_alive():
            worker.process.kill()


def _serve(connection: Connection, recipe: Recipe, device: torch.device) -> None:
    """The process of one device; it ends when nobody listens any more."""
    with suppress(BrokenPipeError):
        _answer_all(connection, recipe, device)


def _answer_all(connection: Connection, recipe: Recipe, device: torch.device) -> None:
    """Packs in, logits out, a few packs ahead of the answers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to every process
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        runner = _load(recipe, device)
    except BaseException as error:
        connection.send(error)
        return
    connection.send((runner.model.num_labels, runner.budget_tokens, runner.model.dtype))
    started: deque[Pending | Exception | None] = deque()
    while True:
        if started and (len(started) >= _IN_FLIGHT or not connection.poll()):
            connection.send(_answer(started.popleft()))
            continue
        try:
            work = connection.recv()
        except EOFError:
            return
        try:
            if isinstance(work, tuple):
                started.append(runner.submit(*work))
            else:
                runner.warm_up(work)
                started.append(None)
        except Exception as error:
            started.append(error)


def _load(recipe: Recipe, device: torch.device) -> Runner:
    packrank_kernels.set_num_threads(recipe.num_threads)
    return _runner(recipe, device)


def _runner(recipe: Recipe, device: torch.device) -> Runner:
    model = load_model(
        recipe.folder,
        device=device,
        dtype=recipe.dtype,
        deterministic=recipe.deterministic,
        causal=recipe.causal,
        modules=recipe.modules,
    )
    return Runner(model, recipe.budget_tokens)


def _answer(started: "Pending | Exception | None") -> object:
    if not isinstance(started, Pending):
        return started
    try:
        return started.result(), started.failures
    except Exception as error:
        return error
