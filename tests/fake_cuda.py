"""torch.cuda on a CPU, with what a device does not promise: order between streams.

Streams, events and the host are vector clocks (Mattern, "Virtual Time and Global States of
Distributed Systems", 1989): an access to memory has happened before another if the other's clock
knows of it. One that has not, and that writes, is a `Race`. Pinned blocks remember which streams
used them, and record an event on each when they are given back, as torch's host allocator does;
freed device blocks are handed out again, with what was done to them. Graphs record what a stream
is told, and do it when they are replayed. Only the thread that made it may use one.
"""

import contextlib
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch

DEVICE = torch.device("cuda", 0)
_RealTensor = torch.Tensor


class Race(AssertionError):
    """Two accesses to one block, one of them a write, that nothing orders."""


class Clock(dict[str, int]):
    """What an agent knows: of each, how many of its steps have happened."""

    def join(self, other: dict[str, int]) -> None:
        for agent, steps in other.items():
            self[agent] = max(self.get(agent, 0), steps)

    def step(self, agent: str) -> None:
        self[agent] = self.get(agent, 0) + 1


class Block:
    """Memory, who has read and written it and when."""

    def __init__(self, fake: "FakeCuda", kind: str, size: int, stream: "Stream | None") -> None:
        self.kind, self.size = kind, size
        self.stream = stream
        self.streams: set[Stream] = set()
        self.reads: list[tuple[str, int]] = []
        self.writes: list[tuple[str, int]] = []
        self._fake = fake

    def touch(self, agent: str, clock: Clock, writes: bool) -> None:
        for what, accesses in (("written", self.writes), ("read", self.reads if writes else [])):
            for other, step in accesses:
                if clock.get(other, 0) < step:
                    verb = "writes" if writes else "reads"
                    raise Race(f"{agent} {verb} {self.kind} memory that {other} has {what}")
        (self.writes if writes else self.reads).append((agent, clock[agent]))

    def __del__(self) -> None:
        self._fake.freed(self)


class Stream:
    """A queue of work, which is done at once: what counts is what it knows of others."""

    def __init__(self, fake: "FakeCuda", name: str) -> None:
        self.fake, self.name, self.device_index = fake, name, DEVICE.index
        self.clock = Clock()
        self.graph: Graph | None = None  # that is being recorded
        self.invalid = False

    def launch(self, run: Callable[[], None], reads: list[Block], writes: list[Block]) -> None:
        if self.graph is not None:
            self.graph.nodes.append((run, reads, writes))
            return
        self.clock.join(self.fake.host)
        self.clock.step(self.name)
        for blocks, write in ((reads, False), (writes, True)):
            for block in blocks:
                block.streams.add(self)
                block.touch(self.name, self.clock, write)
        run()

    def wait_event(self, event: "Event") -> None:
        self.clock.join(event.clock)

    def wait_stream(self, other: "Stream") -> None:
        self.clock.join(other.clock)

    def synchronize(self) -> None:
        self.fake.wait(self.clock)

    def record_event(self) -> "Event":
        event = Event(self.fake)
        event.record(self)
        return event


class Event:
    """What a stream had done when it was recorded."""

    def __init__(self, fake: "FakeCuda") -> None:
        self.fake = fake
        self.clock = Clock()

    def record(self, stream: Stream) -> None:
        self.clock = Clock(stream.clock)

    def synchronize(self) -> None:
        self.fake.wait(self.clock)


class Graph:
    """What a stream was told while it was recorded."""

    def __init__(self, fake: "FakeCuda") -> None:
        self.fake = fake
        self.nodes: list[tuple[Callable[[], None], list[Block], list[Block]]] = []

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
        stream = self.fake.current_stream()
        assert stream.name != "default" and stream.graph is None
        self.fake.hold(pool, self)
        self.fake.allocating_to.append(pool)
        stream.graph, stream.invalid = self, False

    def capture_end(self) -> None:
        stream = self.fake.current_stream()
        if stream.graph is not self:
            raise RuntimeError("Capture must end on the same stream it began on")
        stream.graph = None
        if stream.invalid:  # torch up to 2.11 leaves its allocator as it is here
            raise RuntimeError("CUDA error: operation failed due to a previous error")
        self.fake.allocating_to.pop()

    def replay(self) -> None:
        for run, reads, writes in self.nodes:
            self.fake.current_stream().launch(run, reads, writes)


class FakeCuda:
    """Stands for `torch` in a module: its `cuda`, and the functions that make tensors.

    Attributes:
        allocating_to: pools that the allocator serves captures from; none after the last.
        num_captured_events: recorded on a stream that was being captured, when memory was freed.
        num_emptied: how often the caches were.
    """

    def __init__(self) -> None:
        self.host = Clock()
        self.allocating_to: list[Any] = []
        self.num_captured_events = self.num_emptied = 0
        self._free: dict[tuple[str, int], list[Block]] = defaultdict(list)
        self._pools: dict[Any, weakref.WeakSet[Graph]] = {}  # and the graphs that hold each
        self._current = [Stream(self, "default")]
        self._streams: dict[int, list[Stream]] = defaultdict(list)  # of each priority, in turn
        self.cuda = SimpleNamespace(
            Stream=self._new_stream,
            Event=lambda: Event(self),
            CUDAGraph=lambda: Graph(self),
            current_stream=self.current_stream,
            stream=self._on,
            graph_pool_handle=object,
            empty_cache=self._empty_cache,
            memory_reserved=lambda device: 0,
            get_device_properties=lambda device: SimpleNamespace(total_memory=1 << 40),
        )
        self._C = SimpleNamespace(
            _cuda_endAllocateToPool=self._end_allocate,
            _cuda_releasePool=lambda index, pool: None,
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def current_stream(self, device: Any = None) -> Stream:
        return self._current[-1]

    def wait(self, clock: Clock) -> None:
        """The host waits, which a stream that is being captured does not survive."""
        for stream in {*self._current}:
            if stream.graph is not None:
                stream.invalid = True
                raise RuntimeError("operation not permitted when stream is capturing")
        self.host.join(clock)

    def empty(
        self, shape: Any, *, dtype: torch.dtype, device: Any = None, pin_memory: bool = False
    ) -> "Tracked":
        """Under torch.set_default_device("cuda"), as it were."""
        place = DEVICE if device is None else torch.device(device)
        if pin_memory and place.type != "cpu":
            raise RuntimeError("only dense CPU tensors can be pinned")
        if pin_memory and self.num_captured_events:
            raise RuntimeError("operation not permitted on an event last recorded in a capture")
        kind = "pinned" if pin_memory else "device" if place.type == "cuda" else "host"
        tensor = torch.full(
            shape if isinstance(shape, tuple | torch.Size) else (shape,),
            torch.nan if dtype.is_floating_point else torch.iinfo(dtype).min,
            dtype=dtype,
        ).as_subclass(Tracked)
        size = tensor.nbytes
        free = self._free[kind, size]
        stream = self.current_stream() if kind == "device" else None
        tensor.block = Block(self, kind, size, stream)
        if kind == "device" and free:
            old = free.pop()
            tensor.block.reads, tensor.block.writes = old.reads, old.writes
        return tensor

    def zeros(self, shape: Any, *, dtype: torch.dtype, device: Any = None) -> "Tracked":
        tensor = self.empty(shape, dtype=dtype, device=device)
        self.launch(lambda: tensor.plain.zero_(), [], [tensor])
        return tensor

    def split(self, tensor: "Tracked", sizes: list[int]) -> tuple[torch.Tensor, ...]:
        return torch.split(tensor, sizes)

    def launch(
        self, run: Callable[[], Any], reads: "list[Tracked]", writes: "list[Tracked]"
    ) -> None:
        """A kernel on the current stream."""
        self.current_stream().launch(run, [x.block for x in reads], [x.block for x in writes])

    def touch_by_host(self, block: Block, writes: bool) -> None:
        self.host.step("host")
        block.touch("host", self.host, writes)

    def freed(self, block: Block) -> None:
        """Pinned memory asks all streams that used it whether they are done."""
        if block.kind == "pinned":
            self.num_captured_events += sum(stream.graph is not None for stream in block.streams)
        elif block.kind == "device":
            copy = Block(_NOBODY, "device", block.size, block.stream)
            copy.reads, copy.writes = block.reads, block.writes
            self._free["device", block.size].append(copy)

    def _new_stream(self, device: Any = None, priority: int = 0) -> Stream:
        """One of 32 of a priority, as torch has it."""
        streams = self._streams[priority]
        number = sum(map(len, self._streams.values())) + 1
        streams.append(Stream(self, f"stream {number}") if len(streams) < 32 else streams.pop(0))
        return streams[-1]

    @contextlib.contextmanager
    def _on(self, stream: Stream) -> Iterator[None]:
        self._current.append(stream)
        try:
            yield
        finally:
            self._current.pop()

    def hold(self, pool: Any, graph: Graph) -> None:
        """torch frees a pool that no graph holds when it likes, and until then refuses it."""
        holders = self._pools.get(pool)
        if holders is None:
            holders = self._pools[pool] = weakref.WeakSet()
        elif not holders:
            raise RuntimeError("it->second->use_count > 0 INTERNAL ASSERT FAILED")
        holders.add(graph)

    def _end_allocate(self, index: int, pool: Any) -> None:
        if pool not in self.allocating_to:
            raise RuntimeError("INTERNAL ASSERT FAILED")
        self.allocating_to.remove(pool)

    def _empty_cache(self) -> None:
        assert not any(stream.graph for stream in self._current), "not within a capture"
        self._free.clear()
        self._pools = {pool: holders for pool, holders in self._pools.items() if holders}
        self.num_emptied += 1


_NOBODY: Any = SimpleNamespace(freed=lambda block: None)


class Tracked(torch.Tensor):
    """A tensor whose copies, and looks at from the host, are known to its block."""

    block: Block

    @property
    def plain(self) -> torch.Tensor:
        """The same memory, as torch knows it."""
        return self.as_subclass(_RealTensor)

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE if self.block.kind == "device" else torch.device("cpu")

    @property
    def fake(self) -> FakeCuda:
        return self.block._fake

    def copy_(self, source: Any, non_blocking: bool = False) -> "Tracked":
        blocks = [source.block] if isinstance(source, Tracked) else []
        plain = source.plain if isinstance(source, Tracked) else source
        if self.block.kind != "device" and all(block.kind != "device" for block in blocks):
            self.fake.touch_by_host(self.block, True)
            self.plain.copy_(plain)
            return self
        assert non_blocking or all(b.kind == "device" for b in blocks), "a copy that waits"
        stream = self.fake.current_stream()
        stream.launch(lambda: self.plain.copy_(plain), blocks, [self.block])
        return self

    def numpy(self) -> Any:  # type: ignore[override]
        assert self.block.kind != "device"
        self.fake.touch_by_host(self.block, True)
        return self.plain.numpy()

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = super().__torch_function__(function, types, args, kwargs or {})
        known = [x for x in args if isinstance(x, Tracked)]
        if known and isinstance(out, tuple | list):
            for one in out:
                if isinstance(one, Tracked):
                    one.block = known[0].block
        elif known and isinstance(out, Tracked) and not hasattr(out, "block"):
            out.block = known[0].block
        return out
