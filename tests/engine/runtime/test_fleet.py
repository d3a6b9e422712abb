"""Processes that share work; the CPU stands for every device."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import packrank.runtime.fleet
from packrank.errors import ModelError, PackrankError, PairError
from packrank.models import load_model
from packrank.request import Pack, Sequence
from packrank.runtime.fleet import Fleet, Recipe, _serve
from packrank.runtime.runner import Pending, Runner

CPU = torch.device("cpu")
LENGTHS = [5, 40, 1, 17, 33, 9, 40, 2, 28, 11] * 3


@pytest.fixture(scope="module")
def folder(checkpoint: Callable[..., Path]) -> Path:
    return checkpoint("Bert", num_labels=3)


@pytest.fixture(scope="module")
def fleet(folder: Path) -> Iterator[Fleet]:
    yield Fleet(Recipe(folder, torch.float32, False, 60), [CPU, CPU])


@pytest.fixture
def whole(make_sequences: Callable[..., list[Sequence]]) -> Pack:
    return Pack.of(make_sequences("Bert", LENGTHS))


@pytest.fixture
def expected(folder: Path, whole: Pack) -> np.ndarray:
    return Runner(load_model(folder, device="cpu", dtype=torch.float32), 1000).logits(whole)


def test_a_fleet_says_what_one_device_says(fleet: Fleet, whole: Pack, expected: np.ndarray) -> None:
    assert (fleet.num_labels, fleet.budget_tokens, fleet.dtype) == (3, 60, torch.float32)
    fleet.warm_up([40])
    waiting = [fleet.submit(whole) for _ in range(3)]
    for pending in waiting:
        np.testing.assert_array_equal(pending.result(), expected)
        assert not pending.failures
    assert [worker.num_tokens for worker in fleet._workers] == [0, 0]


def test_every_process_gets_its_share(
    fleet: Fleet, whole: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = [0, 0]
    for place, worker in enumerate(fleet._workers):

        def start(work: Any, place: int = place, worker: object = worker) -> object:
            shares[place] += len(work[0].token_ids)
            return type(worker).start(worker, work)  # type: ignore[attr-defined]

        monkeypatch.setattr(worker, "start", start)
    fleet.submit(whole).result()
    assert sum(shares) == sum(LENGTHS)
    assert min(shares) > sum(LENGTHS) / 5


def test_threads_share_a_fleet(fleet: Fleet, whole: Pack, expected: np.ndarray) -> None:
    orders = [np.random.default_rng(i).permutation(len(LENGTHS)) for i in range(6)]
    with ThreadPoolExecutor(3) as pool:
        results = pool.map(lambda order: fleet.submit(whole.take(order)).result(), orders)
        for order, logits in zip(orders, results, strict=True):
            np.testing.assert_array_equal(logits, expected[order])


def test_an_error_comes_back_to_its_caller_alone(
    fleet: Fleet, whole: Pack, expected: np.ndarray
) -> None:
    bad = Pack.of([Sequence(np.array([97], np.int32), np.array([0], np.int32))])
    with pytest.raises(PackrankError, match="token id 97 is not among the model's 97"):
        fleet.submit(bad).result()
    np.testing.assert_array_equal(fleet.submit(whole).result(), expected)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_leaves_its_parents_processes_alone(
    fleet: Fleet, whole: Pack, expected: np.ndarray
) -> None:
    """Two that ask one process would get each other's answers."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(30)
            with pytest.raises(PackrankError, match="load the model after the fork"):
                fleet.submit(whole)
            packrank.runtime.fleet._stop(fleet._workers)  # as when it exits
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(fleet.submit(whole).result(), expected)


class Stub:
    """A runner whose warm-up fails."""

    model = SimpleNamespace(num_labels=1, dtype=torch.float16)
    budget_tokens = 100

    def submit(self, pack: Pack, cutoff_layers: None) -> Pending:
        one = np.array([[len(pack.token_ids)]], dtype=np.float32)
        return Pending(1, 1, [(np.array([0]), lambda: one)])

    def warm_up(self, max_seqlens: list[int]) -> None:
        raise PairError(3, "out of memory")


def test_every_piece_of_work_has_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or each would get what belongs to the one before."""
    monkeypatch.setattr(packrank.runtime.fleet, "_load", lambda recipe, device: Stub())
    monkeypatch.setattr(signal, "signal", lambda *args: None)
    ours, theirs = Pipe()
    serving = threading.Thread(target=_serve, args=(theirs, None, CPU))
    serving.start()
    assert ours.recv() == (1, 100, torch.float16)
    ours.send([40])
    for length in (3, 5):
        ids = np.zeros(length, dtype=np.int32)
        ours.send((Pack(ids, ids, np.array([0, length], dtype=np.int32)), None))
    error = ours.recv()
    assert (type(error), error.index, error.reason) == (PairError, 3, "out of memory")
    assert [ours.recv()[0].tolist() for _ in range(2)] == [[[3]], [[5]]]
    ours.close()
    serving.join(10)
    assert not serving.is_alive()


def test_devices_that_differ_in_dtype_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([(1, 60, torch.float16), (1, 60, torch.bfloat16)])
    monkeypatch.setattr(packrank.runtime.fleet._Worker, "ready", lambda worker: next(answers))
    with pytest.raises(PackrankError, match=r"different dtypes.*name the dtype"):
        Fleet(Recipe(folder, None, False, 60), [CPU, CPU])


def test_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        Fleet(Recipe(tmp_path, torch.float32, False, None), [CPU])


def test_who_is_left_goes_on_alone(folder: Path, whole: Pack, expected: np.ndarray) -> None:
    """What the process had that was killed fails; nothing more is given to it."""
    fleet = Fleet(Recipe(folder, torch.float32, False, 60), [CPU, CPU])
    first, second = fleet._workers
    assert first.process.pid is not None and second.process.pid is not None
    os.kill(first.process.pid, signal.SIGSTOP)
    pending = fleet.submit(whole)
    os.kill(first.process.pid, signal.SIGKILL)
    with pytest.raises(PackrankError, match="the process of cpu ended with exit code -9; load"):
        pending.result()
    for _ in range(3):
        np.testing.assert_array_equal(fleet.submit(whole).result(), expected)
    first.has_ended = False  # as where nobody has noticed yet that it has
    np.testing.assert_array_equal(fleet.submit(whole).result(), expected)
    os.kill(second.process.pid, signal.SIGKILL)
    second.process.join(10)
    with pytest.raises(PackrankError, match="ended with exit code -9"):
        for _ in range(3):
            fleet.submit(whole).result()


def test_a_process_that_is_killed(folder: Path, whole: Pack) -> None:
    """What it was to answer, and what it is asked later, raise; nobody waits for ever."""
    fleet = Fleet(Recipe(folder, torch.float32, False, None), [CPU])
    (worker,) = fleet._workers
    assert worker.process.pid is not None
    os.kill(worker.process.pid, signal.SIGSTOP)
    pending = fleet.submit(whole)
    os.kill(worker.process.pid, signal.SIGKILL)
    with pytest.raises(PackrankError, match="the process of cpu ended with exit code -9; load"):
        pending.result()
    with pytest.raises(PackrankError, match="ended with exit code -9"):
        fleet.submit(whole)
