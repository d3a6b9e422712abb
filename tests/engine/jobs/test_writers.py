"""Rows to Parquet: what its columns cannot hold is told, and nothing else is lost."""

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from packrank.errors import InputError
from packrank.jobs import writers
from packrank.jobs.writers import Parquet, schema_of


def written(writer: Parquet, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    sink = io.BytesIO()
    writer.write(rows, sink)
    found: list[dict[str, Any]] = pq.read_table(io.BytesIO(sink.getvalue())).to_pylist()
    return found


def test_columns_are_told_by_the_first_rows() -> None:
    first = [{"a": 1, "b": "x", "c": None, "d": [1], "e": 1, "f": {"x": 1}}, {"a": 2.5, "e": "x"}]
    schema, mixed = schema_of([*first, "no row"])
    assert mixed == {"c", "e", "f"}
    writer = Parquet(schema, {"score": pa.float32()}, mixed)
    [one, two] = written(writer, [{**row, "score": 0.5} for row in first])
    assert one == {
        "a": 1.0,
        "b": "x",
        "c": None,
        "d": [1],
        "e": "1",
        "f": '{"x": 1}',
        "score": 0.5,
        "error": None,
    }
    assert two["a"] == 2.5 and two["e"] == "x" and two["d"] is None


def test_a_name_that_no_table_has_is_refused_unless_it_is_not_kept() -> None:
    rows = [{"n": 1, "\ud800": 2}]
    with pytest.raises(InputError, match="lone surrogate"):
        schema_of(rows)
    assert schema_of(rows, {"n"})[0].names == ["n"]


def test_what_does_not_fit_is_an_error_of_its_row_alone() -> None:
    schema, mixed = schema_of([{"n": 1}])
    writer = Parquet(schema, {"score": pa.float32()}, mixed)
    rows = [{"n": 1, "score": 1.0}, {"n": "x", "score": 2.0}, {"n": 2, "m": 3, "error": "bad"}]
    one, two, three = written(writer, rows)
    assert one == {"n": 1, "score": 1.0, "error": None}
    assert two["n"] is None and two["score"] == 2.0
    assert two["error"] == '"n" is "x", and its column holds int64'
    assert three["error"] == "bad; the first rows have no 'm', so no column holds it"


def test_what_is_nested_deeply_is_text() -> None:
    """As JSON may be, deeper than Python calls itself."""
    deep: list[Any] = []
    for _ in range(600):
        deep = [deep]
    schema, mixed = schema_of([{"n": deep}])
    [row] = written(Parquet(schema, {}, mixed), [{"n": deep}])
    assert row["n"] == "[" * 601 + "]" * 601


def test_the_same_rows_give_the_same_bytes(monkeypatch: Any) -> None:
    monkeypatch.setattr(writers, "_ROWS", 7)
    schema, mixed = schema_of([{"n": 1}])
    rows = [{"n": n, "score": n / 3} for n in range(30)]
    sinks = [io.BytesIO(), io.BytesIO()]
    for sink in sinks:
        Parquet(schema, {"score": pa.float32()}, mixed).write(iter(rows), sink)
    assert sinks[0].getvalue() == sinks[1].getvalue()
    assert pq.ParquetFile(sinks[0]).metadata.num_row_groups == 5
