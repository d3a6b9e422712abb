"""Fields of results are read whatever they hold; units are those of people."""

import math
from typing import Any

import pytest
from bench_reports import odd, offline

from packrank.bench.report import Result
from packrank.bench.shown.facts import bottleneck, curve, items, number, ops, parts, points
from packrank.bench.shown.words import amount, memory, money, percent, tick


def result(**facts: Any) -> Result:
    return Result("Offline", "m", "float32", "long", "rate", "candidates/s", [1.0], facts=facts)


@pytest.mark.parametrize("value", [None, "7", True, math.nan, math.inf, [1.0], {}])
def test_what_is_no_number_is_unknown(value: object) -> None:
    assert number({"x": value}, "x") is None
    assert number({}, "x") is None
    assert number({"x": 7}, "x") == 7.0


@pytest.mark.parametrize("value", [None, 7, "words", {"a": 1}, [None, 1, "x"]])
def test_what_is_no_list_is_empty(value: object) -> None:
    assert items({"x": value}, "x") == []
    wrong = result(parts=value, ops=value, points=value, by_length=value)
    assert ops(wrong) == points(wrong) == curve(wrong, "by_length", "tokens") == []
    wrong = result(parts=[value], ops=value)
    assert parts(wrong) == {}
    assert bottleneck(wrong) == ""


def test_parts_come_in_order() -> None:
    found = result(parts={"extra": 3, "host": 1.0, "products": 2.0, "attention": -1.0, "x": "y"})
    assert list(parts(found).items()) == [("products", 2.0), ("host", 1.0), ("extra", 3.0)]


def test_what_takes_the_most_beyond_the_ceilings() -> None:
    # 10 s on the device were measured as 5 s of ops: 2 s of a product and 2 s of attention too many
    # by the ceilings are 4 s and 3 s of a candidate; the tokenizer takes 3.5 s.
    measured = [
        {"op": "linear", "seconds": 3.0, "possible_s": 1.0},
        {"op": "attention", "seconds": 2.0, "possible_s": 0.5},
    ]
    known = {"products": 6.0, "attention": 4.0, "tokenizer": 3.5}
    assert bottleneck(result(parts=known, ops=measured)) == "linear"
    assert bottleneck(result(parts=known | {"tokenizer": 4.5}, ops=measured)) == "tokenizer"
    # Where no op is known, products are taken for what must be.
    assert bottleneck(result(parts=known)) == "attention"
    assert bottleneck(result(parts={"products": 1.0})) == ""


def test_curves_are_in_order_and_have_positive_numbers() -> None:
    rows = [{"tokens": 9, "rate": 1}, {"tokens": 3, "rate": 2.5}, {"tokens": 4}, {"tokens": 0}]
    assert curve(result(by_length=rows), "by_length", "tokens") == [(3.0, 2.5), (9.0, 1.0)]


def test_an_op_without_bytes_has_no_intensity() -> None:
    intensities = [op.intensity for op in ops(odd()[1])]
    assert intensities == [None, None, pytest.approx(30.0)]
    assert all(op.intensity or op.name == "embedding" for op in ops(offline("base", "float32")))


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (812.4, "candidates/s", "812 candidates/s"),
        (39775.0, "", "39,775"),
        (12.345, "queries/s", "12.3 queries/s"),
        (9.996, "", "10.0"),
        (0.0314, "", "0.031"),
        (0.0, "W", "0 W"),
        (23.4e9, "B/s", "23.4 GB/s"),
        (1.5e12, "op/s", "1.50 Top/s"),
        (0.00125, "s", "1.25 ms"),
        (75.0, "s", "75.0 s"),
        (3e-10, "s", "0.30 ns"),
        (None, "s", ""),
    ],
)
def test_amounts(value: float | None, unit: str, shown: str) -> None:
    assert amount(value, unit) == shown


def test_other_numbers() -> None:
    assert [memory(value) for value in (None, 0, 1536, 3 * 2**30)] == [
        *("", "0 B", "1.50 KiB", "3.00 GiB")
    ]
    assert [percent(value) for value in (None, 0.614, 0.0123)] == ["", "61 %", "1.2 %"]
    assert [money(value) for value in (None, 1234.5, 0.119, 0.0123)] == [
        *("", "1,234.50", "0.12", "0.012")
    ]
    assert [tick(2e-1, "s"), tick(1.0, "s"), tick(5e11, "op/s"), tick(5e3, "")] == [
        *("200 ms", "1 s", "500 G", "5,000")
    ]
