"""A report as CSV: a row a ceiling and a result, for spreadsheets."""

import csv
from typing import TextIO

from packrank.bench.report import Report
from packrank.bench.shown.facts import number, words
from packrank.bench.shown.statistics import spread
from packrank.bench.shown.summary import percentile

_NUMBERS = (
    *("candidates", "tokens_per_candidate", "tokens_per_s", "share_of_ceiling", "padding_share"),
    *("padding_share_unsorted", "memory_bytes", "joules_per_1000", "watts"),
    *("cost_per_million", "limit_s", "queries_per_s"),
)
_PERCENTILES = ("p50", "p90", "p95", "p99")
COLUMNS = (
    *("kind", "name", "workload", "model", "dtype", "lengths", "by", "quantity", "unit"),
    *("value", "noise", "samples", "bound_by", *_NUMBERS, *_PERCENTILES),
)


def write(report: Report, sink: TextIO) -> None:
    """Write it; what is not known, or does not apply, is empty."""
    writer = csv.DictWriter(sink, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for ceiling in report.ceilings:
        writer.writerow(
            {
                "kind": "ceiling",
                "name": ceiling.name,
                "quantity": ceiling.kind,
                "unit": ceiling.unit,
                "value": ceiling.value,
                "noise": spread(ceiling.samples),
                "samples": len(ceiling.samples),
            }
        )
    for one in report.results:
        row: dict[str, object] = {
            "kind": "result",
            "name": one.id,
            "workload": one.workload,
            "model": one.model,
            "dtype": one.dtype,
            "lengths": one.lengths,
            "by": one.by,
            "quantity": one.quantity,
            "unit": one.unit,
            "value": one.value,
            "noise": spread(one.samples),
            "samples": len(one.samples),
            "bound_by": words(one.facts, "bound_by"),
        }
        row |= {name: number(one.facts, name) for name in _NUMBERS}
        if one.quantity == "latency":
            row |= {name: percentile(one, name) for name in _PERCENTILES}
        writer.writerow({name: "" if value is None else value for name, value in row.items()})
