"""A forward taken apart, on a clock that only ops and waits move."""

import pytest
import torch

from packrank.bench.speed.profile import Op, Profile, profiled
from packrank_kernels import add_layer_norm, attention, linear, observed, pack_linear
from packrank_kernels.testing import cu_seqlens


class Clock:
    """What each op takes, a wait for tokens, and what is between."""

    def __init__(self, **seconds: float) -> None:
        self.now = 0.0
        self.seconds = {"linear": 1.0, "attention": 2.0, "add_layer_norm": 0.5} | seconds

    def __call__(self) -> float:
        return self.now


def forward(clock: Clock, monkeypatch: pytest.MonkeyPatch, between: float, waited: float):
    """A call whose ops move the clock."""
    from packrank_kernels import dispatch

    layer, x, cu = pack_linear(torch.randn(8, 8)), torch.randn(4, 8), cu_seqlens([4])
    seen = dispatch._seen

    def slowed(op: str, backend):
        def run(*args, **options):
            clock.now += clock.seconds[op]
            return backend.run(*args, **options)

        return seen(op, dispatch.dataclasses.replace(backend, run=run))

    monkeypatch.setattr(dispatch, "_seen", slowed)

    def call() -> float:
        clock.now += waited
        y = linear(x, layer)
        clock.now += between
        q = y.view(4, 1, 8)
        attention(q, q, q, cu, cu)
        add_layer_norm(linear(y, layer), y, torch.ones(8), None, 1e-5)
        return waited

    return call


def test_the_parts_of_a_forward_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    profile = profiled(forward(clock, monkeypatch, between=0.25, waited=4.0), clock)
    assert profile.seconds == 4.0 + 1.0 + 0.25 + 2.0 + 1.0 + 0.5
    assert profile.parts == {
        "products": 2.0, "attention": 2.0, "norms and elementwise": 0.5, "launches": 0.0,
        "tokenizer": 4.0, "host": 0.25,
    }  # fmt: skip
    assert sum(profile.parts.values()) == profile.seconds


@pytest.mark.parametrize("slow", ["linear", "attention", "add_layer_norm"])
def test_an_op_that_is_made_slower_comes_first(monkeypatch: pytest.MonkeyPatch, slow: str) -> None:
    clock = Clock(**{slow: 9.0})
    profile = profiled(forward(clock, monkeypatch, between=0.0, waited=0.0), clock)
    assert profile.ops[0].name.startswith(slow)
    assert profile.ops[0].seconds == (18.0 if slow == "linear" else 9.0)


def test_the_fastest_run_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    call, runs = forward(clock, monkeypatch, 0.0, 0.0), iter([0.0, 7.0, 0.0, 7.0])

    def disturbed() -> float:
        clock.now += next(runs)
        return call()

    assert profiled(disturbed, clock).parts["host"] == 0.0


@pytest.mark.parametrize(
    ("whole", "waited", "forward", "launches", "tokenizer", "host"),
    [
        (10.0, 0.5, 4.0, 1.0, 0.5, 5.5),
        (10.0, 9.5, 4.0, 1.0, 6.0, 0.0),  # most of them while the device computed
        (3.5, 3.0, 4.0, 0.5, 0.0, 0.0),
        (10.0, 9.5, 0.0, 0.0, 7.0, 0.0),  # where the forward alone is not known
    ],
)
def test_what_goes_on_at_once_on_a_device_counts_once(
    whole: float, waited: float, forward: float, launches: float, tokenizer: float, host: float
) -> None:
    ops = [Op("linear", "products", 1, 2.0), Op("attention", "attention", 1, 1.0)]
    parts = Profile.on_device(ops, whole, waited, forward).parts
    assert sum(parts.values()) == whole
    assert parts == {"products": 2.0, "attention": 1.0, "launches": launches,
                     "tokenizer": tokenizer, "host": host}  # fmt: skip


def test_nothing_is_observed_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> float:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        profiled(fails)
    with observed(lambda call: None):
        pass
