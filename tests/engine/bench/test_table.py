"""CSV as a spreadsheet reads it: a row a ceiling and a result, empty where nothing is known."""

import csv
import io

import pytest
from bench_reports import EVIL, report

from packrank.bench.shown.table import COLUMNS, write


def test_rows_have_what_the_report_has() -> None:
    one = report()
    sink = io.StringIO()
    write(one, sink)
    rows = list(csv.DictReader(io.StringIO(sink.getvalue())))
    assert tuple(rows[0]) == COLUMNS
    assert len(set(COLUMNS)) == len(COLUMNS)
    assert [row["name"] for row in rows] == [
        *(each.name for each in one.ceilings),
        *(each.id for each in one.results),
    ]
    ceiling = rows[2]
    assert (ceiling["kind"], ceiling["quantity"], ceiling["model"]) == ("ceiling", "bandwidth", "")
    assert float(ceiling["value"]) == max(one.ceilings[2].samples)
    first = rows[len(one.ceilings)]
    assert (first["workload"], first["model"], first["samples"]) == ("Offline", "MiniLM-L6", "8")
    assert float(first["memory_bytes"]) == 512 * 2**20
    assert float(first["share_of_ceiling"]) == 0.78
    assert first["p99"] == ""


def test_odd_values_are_empty_and_texts_are_whole() -> None:
    sink = io.StringIO()
    write(report(), sink)
    *_, once, wrong = csv.DictReader(io.StringIO(sink.getvalue()))
    assert once["model"] == wrong["model"] == EVIL
    assert (once["noise"], once["samples"], once["share_of_ceiling"]) == ("0.0", "1", "")
    assert (wrong["watts"], wrong["memory_bytes"]) == ("", "0.0")


def test_percentiles_of_a_single_stream_come_from_its_samples() -> None:
    one = report()
    [stream] = [each for each in one.results if each.id.startswith("SingleStream, base")]
    stream.samples, stream.facts = [float(n) for n in range(101)], {"p99": 500.0}
    sink = io.StringIO()
    write(one, sink)
    rows = csv.DictReader(io.StringIO(sink.getvalue()))
    [row] = [row for row in rows if row["name"] == stream.id]
    assert (float(row["p50"]), float(row["p95"])) == pytest.approx((50.0, 95.0))
    assert float(row["p99"]) == 500.0
