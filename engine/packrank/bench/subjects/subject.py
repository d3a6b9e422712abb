"""A model that is measured: opened, with texts, and taken apart."""

import ctypes
import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from packrank.bench.report import Result
from packrank.bench.speed.device_trace import traced
from packrank.bench.speed.profile import Profile, counted, fastest, profiled
from packrank.bench.subjects.texts import Pairs, Texts
from packrank.bench.timing import Clock, clock_of
from packrank.checkpoint.kind import LATE, RERANKERS, expect
from packrank.checkpoint.weights import Weights
from packrank.errors import InputError
from packrank.late.encoder import runner_of, tokenizer_of
from packrank.late_interaction import LateInteraction
from packrank.request import Pack
from packrank.reranker import Reranker, scorer_of
from packrank.runtime.graphs import PATIENCE
from packrank.runtime.runner import Runner
from packrank.text.pairs import Window
from packrank.text.tokenizer import Tokenizer

_TRACED = 256  # pairs of late interaction


@dataclass
class Subject:
    """A model, open on a device, in one dtype, at one distribution of lengths.

    Attributes:
        folder: of the model.
        name: of the model.
        dtype: as it was asked for.
        texts: what it reads.
        model: open.
        cutoff_layer: layers to run; None: all.
    """

    folder: Path
    name: str
    dtype: str
    texts: Texts
    model: Reranker | LateInteraction
    cutoff_layer: int | None = None

    @classmethod
    def open(
        cls,
        folder: Path,
        name: str,
        device: str,
        dtype: str,
        texts: Texts,
        layer: int | None = None,
    ) -> "Subject":
        """Open the model of a folder.

        Raises:
            ModelError: the folder cannot be used.
            InputError: the model has no head after so many layers, or fewer positions than texts
                are to have tokens.
        """
        if expect(folder, RERANKERS + LATE) in LATE:
            if texts.max_length is not None:
                raise InputError(
                    f"{texts.name} is a length of pairs, and {name} reads query and document apart"
                )
            late = LateInteraction(folder, device=device, dtype=dtype)
            return cls(folder, name, dtype, texts, late)
        model = Reranker(folder, device=device, dtype=dtype, max_length=texts.max_length)
        if layer is not None and layer not in model.exit_layers:
            raise InputError(f"{name} has no head after {layer} layers")
        return cls(folder, name, dtype, texts, model, layer)

    def result(self, workload: str, quantity: str, unit: str) -> Result:
        """An empty one of this model."""
        return Result(workload, self.name, self.dtype, self.texts.name, quantity, unit, [])

    def score(self, pairs: Pairs) -> NDArray[np.float32]:
        """Scores, texts in; of whatever the model is."""
        if isinstance(self.model, LateInteraction):
            return self.model.score(pairs)
        return self.model.score(pairs, cutoff_layers=self.cutoff_layer)

    def logits(self, pairs: Pairs) -> NDArray[np.float32]:
        """The same before any activation, of one label."""
        if isinstance(self.model, LateInteraction):
            return self.model.score(pairs)
        found = self.model.score(pairs, cutoff_layers=self.cutoff_layer, activation="identity")
        return found.reshape(len(pairs), -1)[:, 0]

    def rank(self, query: str, documents: Sequence[str]) -> object:
        """A ranking, as a caller asks for one."""
        if isinstance(self.model, LateInteraction):
            return self.model.rank(query, documents)
        return self.model.rank(query, documents, cutoff_layer=self.cutoff_layer)

    def tokenize(self, pairs: Pairs) -> list[Pack]:
        """The sequences of pairs, a window each; of a reranker."""
        assert isinstance(self.model, Reranker)
        windows = scorer_of(self.model).reader.windows(pairs)
        return [window.sequences for window in windows]

    def lengths(self, pairs: Pairs) -> list[NDArray[np.int64]]:
        """How many tokens each sequence has that the model runs for pairs.

        A pair is one; of late interaction each text is, once, queries and documents apart.
        """
        if isinstance(self.model, LateInteraction):
            read, (query, document) = self.model.token_ids, pairs[0]
            queries, documents = (dict.fromkeys(side) for side in zip(*pairs, strict=True))
            return [
                np.array([len(read(text, document)[0]) for text in queries]),
                np.array([len(read(query, text)[1]) for text in documents]),
            ]
        return [np.concatenate([pack.lengths for pack in self.tokenize(pairs)]).astype(np.int64)]

    def forward(self, packs: list[Pack]) -> None:
        """The model alone, on sequences of `tokenize`."""
        for pending in [self.runner.submit(pack, self._layers) for pack in packs]:
            pending.result()

    def first(self, packs: list[Pack]) -> Pack:
        """Of their sequences as many as the model runs at once."""
        fitting = np.searchsorted(packs[0].cu_seqlens, self.runner.budget_tokens, side="right") - 1
        return packs[0].take(np.arange(max(int(fitting), 1)))

    def random_packs(self, length: int, tokens: int, seed: int) -> list[Pack] | None:
        """About so many tokens of random ids, as sequences of one length.

        None where the model was made for no such sequences, or is late interaction.
        """
        config = self.runner.model.config
        if isinstance(self.model, LateInteraction) or length > config.usual_length:
            return None
        count = max(tokens // length, 1)
        vocabulary = config.vocab_size
        ids = np.random.default_rng(seed).integers(5, vocabulary, count * length, dtype=np.int32)
        starts = np.arange(count + 1, dtype=np.int32) * np.int32(length)
        return [Pack(ids, np.zeros_like(ids), starts)]

    def profile(self, pairs: Pairs) -> Profile:
        """Scores of pairs, texts in, taken apart."""
        late = isinstance(self.model, LateInteraction)
        call = self._encoded(pairs) if late else self._read_and_scored(pairs)
        return profiled(call) if self.device.type == "cpu" else self.profile_on_device(call, pairs)

    def profile_on_device(self, call: Callable[[], float], pairs: Pairs) -> Profile:
        """The same by the device's own events: of some of the pairs, launched op by op.

        Args:
            call: scores the pairs, as they always are; returns for how long it waited for tokens.
            pairs: of the call.
        """
        if isinstance(self.model, LateInteraction):
            some = pairs[:_TRACED]
            launch: Callable[[], object] = partial(self.score, some)
            share, forward = len(pairs) / len(some), 0.0
        else:
            packs = self.tokenize(pairs)
            part = self.first(packs)
            launch = partial(self.forward, [part])
            share = sum(len(pack.token_ids) for pack in packs) / len(part.token_ids)
            forward, _ = fastest(partial(self.forward, packs))
        with self.op_by_op():
            ops = traced(launch, counted(launch))
        for op in ops:
            op.calls = round(op.calls * share)
            op.seconds, op.operations, op.moved = (
                amount * share for amount in (op.seconds, op.operations, op.moved)
            )
        return Profile.on_device(ops, *fastest(call), forward)

    def _encoded(self, pairs: Pairs) -> Callable[[], float]:
        """Scores by late interaction, which tokenizes while nothing else runs on the host."""
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        alone, _ = fastest(partial(self.tokenizer.try_encode, texts))

        def call() -> float:
            self.score(pairs)
            return alone

        return call

    def _read_and_scored(self, pairs: Pairs) -> Callable[[], float]:
        """Scores of a reranker, with a stopwatch on its reader."""
        assert isinstance(self.model, Reranker)
        scorer, waited = scorer_of(self.model), 0.0

        def timed(windows: Iterator[Window]) -> Iterator[Window]:
            nonlocal waited
            while True:
                start = time.perf_counter()
                window = next(windows, None)
                waited += time.perf_counter() - start
                if window is None:
                    return
                yield window

        def call() -> float:
            nonlocal waited
            waited = 0.0
            with closing(scorer.reader.windows(pairs)) as windows:
                for _ in scorer.finished(timed(windows), self._layers):
                    pass
            return waited

        return call

    @property
    def clock(self) -> Clock:
        """That times what it does."""
        return clock_of(self.device)

    def warm_up(self, call: Callable[[], object]) -> None:
        """Make a call as often as it takes until it compiles and captures nothing any more."""
        for _ in range(1 if self.runner.graphs is None else PATIENCE + 1):
            call()

    @contextmanager
    def op_by_op(self) -> Iterator[None]:
        """Nothing runs from a graph, which shows none of its ops, nor is one captured.

        A capture breaks where what looks at an op waits for its device.
        """
        graphs, self.runner.graphs = self.runner.graphs, None
        try:
            yield
        finally:
            self.runner.graphs = graphs

    @property
    def runner(self) -> Runner:
        """The model on its device."""
        if isinstance(self.model, LateInteraction):
            return runner_of(self.model)
        found = scorer_of(self.model).runner
        assert isinstance(found, Runner)
        return found

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the model."""
        if isinstance(self.model, LateInteraction):
            return tokenizer_of(self.model)
        return scorer_of(self.model).assembly.tokenizer

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        if isinstance(self.model, LateInteraction):
            return self.model.device
        return self.model.devices[0]

    def memory(self, call: Callable[[], object]) -> int | None:
        """Bytes of the weights, of what graphs hold on to, and most that a call takes besides.

        None where the system does not let it be seen.
        """
        graphs, added = self.runner.graphs, added_memory(call, self.device)
        held = 0 if graphs is None else graphs.num_bytes
        return None if added is None else self.weights_bytes + held + added

    @property
    def weights_bytes(self) -> int:
        """Of all weights in the model's files, in its dtype."""
        stored = Weights.open(self.folder).headers.values()
        width = torch.empty(0, dtype=getattr(torch, self.dtype)).element_size()
        return width * sum(math.prod(header.shape) for header in stored)

    @property
    def _layers(self) -> tuple[int, ...] | None:
        return None if self.cutoff_layer is None else (self.cutoff_layer,)


def padding_shares(lengths: list[NDArray[np.int64]], batch: int) -> tuple[float, float]:
    """What share of its tokens an engine that pads would have computed for nothing.

    Args:
        lengths: of sequences in the order they come; those of each array have batches of their own.
        batch: sequences that it pads to the longest of them.

    Returns:
        Where it sorts by length first, and where it does not.
    """
    tokens = sum(int(some.sum()) for some in lengths)
    padded = (
        sum(_padded(order(some), batch) for some in lengths) for order in (np.sort, np.asarray)
    )
    by_length, as_they_come = (1.0 - tokens / total for total in padded)
    return by_length, as_they_come


def _padded(lengths: NDArray[np.int64], batch: int) -> int:
    batches = [lengths[start : start + batch] for start in range(0, len(lengths), batch)]
    return sum(len(one) * int(one.max()) for one in batches)


def added_memory(call: Callable[[], Any], device: torch.device) -> int | None:
    """Most bytes that a call took beside those in use before: the device's, or the process's.

    None where the system does not let it be seen.
    """
    free()  # else what an earlier call let go of would be used again, and not counted
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        call()
        return max(_status("VmHWM") - before, 0)
    except (OSError, KeyError):
        return None


def _status(name: str) -> int:
    """Bytes, by a name of the process's status."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(dict(line.split(":", 1) for line in lines)[name].split()[0]) << 10


def free() -> None:
    """Give memory back that nobody holds."""
    gc.collect()
    with suppress(AttributeError):  # of another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
