"""Uploads, results and graphs against a fake of torch.cuda that knows what nothing orders."""

import contextlib
import gc
import warnings
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import fake_cuda
import numpy as np
import pytest
import torch
from fake_cuda import DEVICE, FakeCuda, Race, Tracked
from torch import Tensor

from packrank.models.program import Array, Extent, Program
from packrank.request import Int32, Pack
from packrank.runtime import capture, graphs, streams, transfer
from packrank.runtime.graphs import PATIENCE, Graphs
from packrank.runtime.transfer import Uploads, fetch


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    made = FakeCuda()
    for module in (capture, graphs, streams, transfer):
        monkeypatch.setattr(module, "torch", made)
    monkeypatch.setattr(streams, "_made", {})
    monkeypatch.setattr(capture, "_broken", None)
    with torch.inference_mode():  # so that a view is a tensor of its own
        yield made


class Model:
    """Logits that are the sums of a pack's ids, by a kernel of the fake's."""

    def __init__(self, fake: FakeCuda) -> None:
        self.device = DEVICE
        self.config = SimpleNamespace(max_length=64)
        self.fake = fake
        self.within: Callable[[], None] = lambda: None

    def scoring(self, pack: Pack) -> Program:
        arrays = {
            "token_ids": Array(pack.token_ids, "token"),
            "cu_seqlens": Array(pack.cu_seqlens, "start"),
        }
        own = slice(pack.num_sequences)
        return Program(("logits",), arrays, Extent.of(pack), self.forward, own)

    def forward(self, there: dict[str, Tensor], extent: Extent) -> Tracked:
        ids, starts = there["token_ids"], there["cu_seqlens"]
        assert isinstance(ids, Tracked) and isinstance(starts, Tracked)
        out = self.fake.empty((len(starts) - 1, 1), dtype=torch.float32, device=DEVICE)

        def run() -> None:
            for n, (start, stop) in enumerate(zip(starts.plain, starts.plain[1:], strict=False)):
                out.plain[n] = ids.plain[int(start) : int(stop)].sum()

        self.fake.launch(run, [ids, starts], [out])
        self.within()
        return out


def pack_of(*lengths: int, seed: int = 0) -> Pack:
    ids = np.random.default_rng(seed).integers(1, 9, sum(lengths), dtype=np.int32)
    return Pack(ids, ids, np.append(0, np.cumsum(lengths)).astype(np.int32))


def sums(pack: Pack) -> list[float]:
    bounds = zip(pack.cu_seqlens, pack.cu_seqlens[1:], strict=False)
    return [float(pack.token_ids[a:b].sum()) for a, b in bounds]


PACKS = [pack_of(*lengths, seed=n) for n, lengths in enumerate([(3, 9), (40, 1, 30), (5,), (8, 2)])]


def submit(runner: Graphs, pack: Pack) -> Callable[[], list[float]]:
    wait = runner.submit(runner.model.scoring(pack))
    return lambda: wait()[:, 0].tolist()


def test_the_fake_sees_what_nothing_orders(fake: FakeCuda) -> None:
    """Each of the three kinds, and none where there is an order."""
    side = fake.cuda.Stream()
    host = fake.empty(4, dtype=torch.int32, device="cpu", pin_memory=True)
    there = fake.empty(4, dtype=torch.int32, device=DEVICE)
    host.numpy()[:] = 7
    with fake.cuda.stream(side):
        there.copy_(host, non_blocking=True)
        copied = side.record_event()
    with pytest.raises(Race, match="host writes pinned memory that stream 1 has read"):
        host.numpy()
    with pytest.raises(Race, match="default reads device memory that stream 1 has written"):
        fake.empty(4, dtype=torch.int32, device=DEVICE).copy_(there)
    with pytest.raises(Race, match="default writes device memory that stream 1 has written"):
        there.copy_(host, non_blocking=True)
    fake.cuda.current_stream().wait_event(copied)
    copied.synchronize()
    result = fetch(there.copy_(host, non_blocking=True).view(torch.float32))
    assert result().view(np.int32).tolist() == [7] * 4


def test_memory_that_is_handed_out_again_is_not_written_early(fake: FakeCuda) -> None:
    there = fake.empty(4, dtype=torch.int32, device=DEVICE)
    fake.launch(lambda: None, [], [there])
    del there
    again = fake.empty(4, dtype=torch.int32, device=DEVICE)
    with fake.cuda.stream(fake.cuda.Stream()), pytest.raises(Race, match="default has written"):
        fake.launch(lambda: None, [], [again])


def test_uploads_of_any_size_arrive_in_their_order(fake: FakeCuda) -> None:
    uploads, random = Uploads(DEVICE), np.random.default_rng(0)
    for size in [3, 3, 1, 9, 4, 30, 30, 2, 100, 99]:
        values = random.integers(99, size=size, dtype=np.int32)
        target = fake.empty(size, dtype=torch.int32, device=DEVICE)
        uploads.send(lambda host, values=values: np.copyto(host, values), target)
        fake.launch(lambda t=target, v=values: check(t, v), [target], [])


def test_a_buffer_that_grows_takes_over_no_memory_in_use(fake: FakeCuda) -> None:
    """A freed block's last kernel may still run when another stream is to copy there."""
    uploads, values = Uploads(DEVICE), np.arange(3, dtype=np.int32)
    target = fake.empty(3, dtype=torch.int32, device=DEVICE)
    for _ in range(2):
        used = fake.empty(2 * 3, dtype=torch.int32, device=DEVICE)
        fake.launch(lambda: None, [], [used])
        del used
        uploads.send(lambda host: np.copyto(host, values), target)


def test_many_models_copy_on_no_stream_that_is_captured(fake: FakeCuda) -> None:
    """torch has 32 streams of a priority; another thread may copy while one is captured."""
    captured = {capture.Capture(DEVICE)._stream for _ in range(40)}
    assert len(captured) == 1
    assert all(Uploads(DEVICE)._stream not in captured for _ in range(40))
    # Two captured on one stream share cuBLAS' workspace.
    assert len({Graphs(Model(fake))._stream for _ in range(40)} | captured) == 2


def check(target: Tracked, values: Int32) -> None:
    assert target.plain.tolist() == values.tolist()


def test_graphs_say_what_was_sent(fake: FakeCuda) -> None:
    runner = Graphs(Model(fake))  # type: ignore[arg-type]
    for turn in range(2 * PATIENCE + 2):
        waiting = [(pack, submit(runner, pack)) for pack in PACKS]
        for pack, wait in waiting[:: 1 if turn % 2 else -1]:
            assert wait() == sums(pack)
    assert runner.num_graphs == 2
    assert capture.broken() is None and not fake.allocating_to


def test_what_is_kept_of_a_graph_outlives_the_next(fake: FakeCuda) -> None:
    """And whoever asked for it may read it at once, on a stream of its own."""
    model = Model(fake)
    runner = Graphs(model)  # type: ignore[arg-type]
    held: list[tuple[Tracked, Pack]] = []
    for turn in range(2 * PATIENCE + 2):
        pack = PACKS[(0, 3)[turn % 2]]  # of one bucket
        with fake.cuda.stream(fake.cuda.Stream()) if turn % 3 else contextlib.nullcontext():
            kept = runner.run(model.scoring(pack))
            assert isinstance(kept, Tracked)
            fake.launch(lambda: None, [kept], [])
        held.append((kept, pack))
    assert runner.num_graphs == 1
    for kept, pack in held:
        assert kept.plain[:, 0].tolist() == sums(pack)


def test_a_result_given_back_during_a_capture_fails_nobody(fake: FakeCuda) -> None:
    """As another thread may, which has read it."""
    model = Model(fake)
    runner = Graphs(model)  # type: ignore[arg-type]
    held: list[Any] = []

    def give_back() -> None:
        if fake.cuda.current_stream().graph is not None:
            held.clear()

    model.within = give_back
    for _ in range(2 * PATIENCE):
        wait = runner.submit(model.scoring(PACKS[0]))
        assert wait()[:, 0].tolist() == sums(PACKS[0])
        held.append(wait)
        del wait
        gc.collect()
    assert runner.num_graphs == 1 and fake.num_captured_events == 0


def test_a_broken_capture_says_so_once_and_leaves_order(fake: FakeCuda) -> None:
    model = Model(fake)
    runner, other = Graphs(model), Graphs(model)  # type: ignore[arg-type]

    def waits() -> None:
        stream = fake.cuda.current_stream()
        if stream.graph is not None:
            stream.synchronize()

    model.within = waits
    for _ in range(PATIENCE):
        assert submit(runner, PACKS[0])() == sums(PACKS[0])
    with pytest.warns(RuntimeWarning, match="not permitted when stream is capturing.; packs run"):
        assert submit(runner, PACKS[0])() == sums(PACKS[0])
    assert not fake.allocating_to
    for pack in PACKS * 2 * PATIENCE:  # and no other begins
        assert submit(runner, pack)() == submit(other, pack)() == sums(pack)
    assert runner.num_graphs == other.num_graphs == 0
    assert capture.broken() == "operation not permitted when stream is capturing"


@pytest.mark.parametrize("is_cached", [True, False])
def test_want_of_memory_in_a_capture_breaks_nothing(fake: FakeCuda, is_cached: bool) -> None:
    """Caches are emptied once; if that is not enough, another pack may still fit."""
    model = Model(fake)
    runner = Graphs(model)  # type: ignore[arg-type]

    def full() -> None:
        is_full = not (is_cached and fake.num_emptied)
        if is_full and fake.cuda.current_stream().graph is not None:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.within = full
    for _ in range(2 * PATIENCE):
        assert submit(runner, PACKS[0])() == sums(PACKS[0])
    assert (runner.num_graphs, fake.num_emptied) == (is_cached, 1)
    model.within = lambda: None
    for _ in range(2 * PATIENCE):
        assert submit(runner, PACKS[1])() == sums(PACKS[1])
    assert runner.num_graphs == 1 + is_cached
    assert capture.broken() is None and not fake.allocating_to


def test_what_lacked_memory_holds_none_where_it_is_tried_again(fake: FakeCuda) -> None:
    """Neither the activations of the first try nor its graph."""
    model, tries = Model(fake), list[weakref.ref[object]]()
    runner = Graphs(model)  # type: ignore[arg-type]

    def full() -> None:
        graph = fake.cuda.current_stream().graph
        if graph is not None:
            assert all(held() is None for held in tries)
            activations = fake.empty(9, dtype=torch.float32, device=DEVICE)
            tries.extend([weakref.ref(activations), weakref.ref(graph)])
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.within = full
    for _ in range(PATIENCE + 1):
        submit(runner, PACKS[0])
    assert len(tries) == 4


@pytest.mark.parametrize("begun", [True, False])
def test_a_capture_that_cannot_begin_says_so_too(
    fake: FakeCuda, begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether torch's allocator waits for it already or not; also where warnings are errors."""

    def begin(self: fake_cuda.Graph, pool: object, capture_error_mode: str) -> None:
        if begun:
            fake.allocating_to.append(pool)
        raise RuntimeError("CUDA error: stream is capturing")

    monkeypatch.setattr(fake_cuda.Graph, "capture_begin", begin)
    runner = Graphs(Model(fake))  # type: ignore[arg-type]
    for _ in range(PATIENCE):
        submit(runner, PACKS[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="stream is capturing"):
            submit(runner, PACKS[0])
    assert capture.broken() == "CUDA error: stream is capturing" and not fake.allocating_to
    assert submit(runner, PACKS[0])() == sums(PACKS[0])


def test_whether_graphs_work_is_tried(fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    assert capture.why_not(DEVICE) is None
    with monkeypatch.context() as patch:
        patch.setattr(fake_cuda.Graph, "replay", lambda self: None)
        assert capture.why_not(DEVICE) == "a replay gave 0 in place of 1"
    begin = fake_cuda.Graph.capture_begin

    def spoilt(self: fake_cuda.Graph, **options: object) -> None:
        begin(self, **options)  # type: ignore[arg-type]
        self.fake.current_stream().invalid = True

    monkeypatch.setattr(fake_cuda.Graph, "capture_begin", spoilt)
    reason = "CUDA error: operation failed due to a previous error"
    assert capture.why_not(DEVICE) == capture.broken() == reason
    assert not fake.allocating_to
