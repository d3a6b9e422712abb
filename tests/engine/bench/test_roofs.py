"""Bounds of ops by ceilings, worked out by hand."""

from packrank.bench.report import Ceiling
from packrank.bench.speed.roofs import Roofs


def bandwidth(name: str, size: int, rate: float) -> Ceiling:
    return Ceiling(name, "bandwidth", "B/s", [rate, rate / 2], {"bytes": size})


def product(dtype: str, by: str, rate: float) -> Ceiling:
    name = f"product, {dtype}, {by}"
    return Ceiling(name, "products", "op/s", [rate / 2, rate], {"dtype": dtype})


ROOFS = Roofs.of(
    [
        bandwidth("read, L2", 100, 800.0),
        bandwidth("copy, L2", 100, 1000.0),
        bandwidth("read, memory", 10_000, 10.0),
        bandwidth("copy, L1", 10, 500.0),  # on a machine where calls cost more than the cache
        product("float32", "torch", 40.0),
        product("float32", "packrank", 50.0),
    ]
)


def test_the_best_product_and_the_nearest_memory_set_the_bound() -> None:
    assert ROOFS.operations == {"float32": 50.0}
    bound = ROOFS.bound("float32", 100.0, 0.0)
    assert bound is not None
    assert (bound.seconds, bound.by) == (2.0, "operations")
    bound = ROOFS.bound("float32", 100.0, 10_000.0)
    assert bound is not None
    assert (bound.seconds, bound.by) == (1000.0, "bytes")


def test_what_moves_little_at_a_time_moves_at_the_rate_of_a_cache() -> None:
    for moved, calls, seconds in (
        (200.0, 1, 0.2),
        (200.0, 10, 0.2),
        (400.0, 1, 40.0),
        (400.0, 2, 0.4),
    ):
        bound = ROOFS.bound("float32", 0.0, moved, calls)
        assert bound is not None
        assert bound.seconds == seconds


def test_what_is_moved_in_turn_comes_from_where_all_of_it_lies() -> None:
    for held, seconds in ((100.0, 0.2), (200.0, 0.2), (201.0, 20.0)):
        bound = ROOFS.bound("float32", 0.0, 200.0, held=held)
        assert bound is not None
        assert bound.seconds == seconds


def test_nothing_is_known_of_another_dtype_or_of_no_work() -> None:
    assert ROOFS.bound("bfloat16", 10.0, 0.0) is None
    assert ROOFS.bound("float32", 0.0, 0.0) is None
    assert Roofs.of([]).bound("float32", 1.0, 1.0) is None


def test_a_dtype_that_nothing_multiplies_fast_is_multiplied_in_float32() -> None:
    slow = [product("float16", "torch", 20.0), product("bfloat16", "torch", 90.0)]
    found = Roofs.of([*slow, product("float32", "torch", 50.0)]).operations
    assert found == {"float32": 50.0, "float16": 50.0, "bfloat16": 90.0}
    assert Roofs.of(slow).operations == {"float16": 20.0, "bfloat16": 90.0}
