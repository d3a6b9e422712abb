"""Rows to tables: `report.py FILE...` prints benchmarks/results/README.md."""

import json
import sys
from pathlib import Path
from typing import Any

HEADER = """# Results

Made by `python benchmarks/report.py FILE...` from the files beside this one; nobody types a number.
Contestants take turns within a round and are compared by the median of the rounds' ratios. Peers
run at their best: sorted by length, on the same threads. To run: `make bench`, `make quality`.
"""


def speed(report: dict[str, Any]) -> None:
    machine, versions = report["machine"], report["versions"]
    known = ", ".join(f"{key} {value}" for key, value in versions.items() if value)
    print(
        f"{machine['processor']}, {machine['threads']} threads, backend {machine['backend']}; "
        f"{report['date']}, commit {report['commit']}; {known}.\n"
    )
    print("| benchmark | case | contestant | rate | packrank is faster by |")
    print("|---|---|---|--:|--:|")
    for row in report["rows"]:
        ours = row["contestant"] == "packrank"
        ratio = "" if ours else f"{row['packrank_is_faster']:.2f}x"
        rate = f"{row['rate']:.4g} {row['unit']}"
        print(f"| {row['bench']} | {row['case']} | {row['contestant']} | {rate} | {ratio} |")
    print()


def quality(rows: list[dict[str, Any]]) -> None:
    first = rows[0]
    print(
        f"{first['model']} by late interaction over the BM25 top 100, nDCG@10; "
        f"{first['processor']}, {first['threads']} threads; {first['date']}.\n"
    )
    print("| set | queries | candidates | BM25 | reranked | change |")
    print("|---|--:|--:|--:|--:|--:|")
    for row in rows:
        change = row["reranked"] - row["bm25"]
        print(
            f"| {row['name']} | {row['queries']} | {row['candidates']} | {row['bm25']:.4f} | "
            f"{row['reranked']:.4f} | {change:+.4f} |"
        )
    print()


def main() -> None:
    print(HEADER)
    for name in sys.argv[1:]:
        path = Path(name)
        report = json.loads(path.read_text())
        print(f"## {path.parent.name}: {path.stem}\n")
        (quality if isinstance(report, list) else speed)(report)


if __name__ == "__main__":
    main()
