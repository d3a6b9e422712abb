"""Runner with a toy model that echoes what it is given, so that every misplaced row shows."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from packrank.errors import InputError
from packrank.request import Int32, Pack, Sequence
from packrank.runtime.runner import Runner


class Echo:
    """Logits: length and first id of a sequence. State of a token: its id, type, number of keys."""

    num_labels = 2
    device = torch.device("cpu")
    config = SimpleNamespace(max_length=20, vocab_size=1000, type_vocab_size=2)

    def __init__(self) -> None:
        self.packs: list[Pack] = []

    def logits(self, pack: Pack) -> Tensor:
        self.packs.append(pack)
        first = pack.token_ids[pack.cu_seqlens[:-1]]
        return torch.from_numpy(np.stack([np.diff(pack.cu_seqlens), first], axis=1)).float()

    def hidden_states(
        self, pack: Pack, num_keys: Int32 | None = None, rows: Int32 | None = None
    ) -> Tensor:
        lengths = np.diff(pack.cu_seqlens)
        keys = np.repeat(lengths if num_keys is None else num_keys, lengths)
        return torch.from_numpy(np.stack([pack.token_ids, pack.token_types, keys], axis=1))


def sequence(length: int, first: int = 0, token_type: int = 0) -> Sequence:
    return Sequence(
        token_ids=np.arange(first, first + length, dtype=np.int32),
        token_types=np.full(length, token_type, dtype=np.int32),
    )


LENGTHS = [3, 20, 1, 7, 7, 2, 19, 1]
SEQUENCES = [sequence(length, 100 * i, i % 2) for i, length in enumerate(LENGTHS)]


@pytest.mark.parametrize("budget_tokens", [1, 8, 21, 1000])
def test_rows_come_back_in_input_order(budget_tokens: int) -> None:
    model = Echo()
    runner = Runner(model, budget_tokens)
    logits = runner.logits(SEQUENCES)
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, [[n, 100 * i] for i, n in enumerate(LENGTHS)])
    for pack in model.packs:
        assert len(pack.token_ids) <= budget_tokens or pack.num_sequences == 1
    num_keys = np.arange(len(LENGTHS), dtype=np.int32)
    for keys in (None, num_keys):
        states = runner.hidden_states(SEQUENCES, keys)
        for i, (rows, given) in enumerate(zip(states, SEQUENCES, strict=True)):
            assert rows[:, 0].tolist() == given.token_ids.tolist()
            assert rows[:, 1].tolist() == given.token_types.tolist()
            assert set(rows[:, 2].tolist()) == {LENGTHS[i] if keys is None else i}


def test_nothing_in_nothing_out() -> None:
    runner = Runner(Echo(), 8)
    assert runner.logits([]).shape == (0, 2)
    assert runner.hidden_states([]) == []


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (sequence(0), "sequence 1 has 0 tokens, the model takes 1 to 20"),
        (sequence(21), "sequence 1 has 21 tokens, the model takes 1 to 20"),
        (sequence(2, 999), "token id 1000 is not among the model's 1000"),
        (sequence(2, -1), "token id -1 is not among the model's 1000"),
        (sequence(2, token_type=2), "token type 2 is not among the model's 2"),
    ],
)
def test_what_the_model_cannot_take_is_refused(bad: Sequence, message: str) -> None:
    runner = Runner(Echo(), 100)
    for run in (runner.logits, runner.hidden_states):
        with pytest.raises(InputError, match=message):
            run([sequence(5), bad])


def test_threads_share_a_runner() -> None:
    runner = Runner(Echo(), 8)
    orders = [np.random.default_rng(i).permutation(len(SEQUENCES)) for i in range(16)]
    expected = runner.logits(SEQUENCES)
    with ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda order: runner.logits([SEQUENCES[i] for i in order]), orders)
        for order, logits in zip(orders, results, strict=True):
            np.testing.assert_array_equal(logits, expected[order])


# As torch has it of a device and of the machine, and the kernels of the latter; and a driver, which
# keeps code and graphs in memory of its own.
FULL = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
]


class Cramped(Echo):
    """Has room for `room` tokens at a time."""

    def __init__(self, room: int, full: Exception = FULL[0]) -> None:
        super().__init__()
        self.room, self.full = room, full

    def logits(self, pack: Pack) -> Tensor:
        if len(pack.token_ids) > self.room:
            raise self.full
        return super().logits(pack)

    def hidden_states(
        self, pack: Pack, num_keys: Int32 | None = None, rows: Int32 | None = None
    ) -> Tensor:
        if len(pack.token_ids) > self.room:
            raise self.full
        return super().hidden_states(pack, num_keys, rows)


@pytest.mark.parametrize("full", FULL, ids=str)
def test_out_of_memory_halves_the_budget_and_goes_on(full: Exception) -> None:
    runner = Runner(Cramped(25, full), 1000)
    np.testing.assert_array_equal(runner.logits(SEQUENCES), Runner(Echo(), 9).logits(SEQUENCES))
    assert 25 / 2 <= runner.budget_tokens <= 25
    states = Runner(Cramped(25, full), 1000).hidden_states(SEQUENCES)
    assert [rows[0, 0] for rows in states] == [100 * i for i in range(len(LENGTHS))]


def test_another_error_is_told() -> None:
    with pytest.raises(RuntimeError, match="broken"):
        Runner(Cramped(25, RuntimeError("broken")), 1000).logits(SEQUENCES)


def test_out_of_memory_with_shared_prefixes() -> None:
    """The budget halves what a pack really had, prefixes once, so that it falls each time."""

    class Small(Echo):
        def logits(self, pack: Pack) -> Tensor:
            assert pack.shared is not None
            if 15 + int((pack.lengths - pack.shared).sum()) > 40:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().logits(pack)

    whole = Pack.of([sequence(18, 30 * i) for i in range(30)])
    same = np.zeros(30, dtype=np.int32)
    runner = Runner(Small(), 10_000)
    logits = runner.logits(replace(whole, queries=same, shared=same + np.int32(15)))
    np.testing.assert_array_equal(logits[:, 1], np.arange(30) * 30)
    assert 20 <= runner.budget_tokens <= 40


def test_a_sequence_without_room_fails_alone() -> None:
    runner = Runner(Cramped(19), 1000)
    pending = runner.submit(SEQUENCES)
    assert pending.failures == {1: "its 20 tokens do not fit in the memory of cpu"}
    logits = pending.result()
    assert np.isnan(logits[1]).all()
    rest = [i for i in range(len(LENGTHS)) if i != 1]
    np.testing.assert_array_equal(logits[rest], Runner(Echo(), 9).logits(SEQUENCES)[rest])
    with pytest.raises(InputError, match="sequence 1: its 20 tokens do not fit in the memory"):
        Runner(Cramped(19), 1000).hidden_states(SEQUENCES)


def test_a_passing_want_of_memory_fails_nothing() -> None:
    model = Cramped(0)
    model.scoring = model.logits  # type: ignore[attr-defined]
    runner = Runner(model, 1000)
    runner.graphs = SimpleNamespace(  # type: ignore[assignment]
        submit=lambda logits: logits.numpy, clear=lambda: setattr(model, "room", 25)
    )
    pending = runner.submit([sequence(5)])
    assert (pending.result().tolist(), pending.failures) == ([[5, 0]], {})
    assert runner.budget_tokens == 1000


def test_another_error_is_not_taken_for_want_of_memory() -> None:
    model = Echo()
    model.logits = lambda pack: 1 / 0  # type: ignore[method-assign,assignment]
    with pytest.raises(ZeroDivisionError):
        Runner(model, 8).logits(SEQUENCES)
