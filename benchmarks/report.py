"""Rows to tables: `report.py FILE...` prints benchmarks/results/README.md."""

import json
import sys
from pathlib import Path
from typing import Any

HEADER = """# Results

Made by `python benchmarks/report.py FILE...` from the files beside this one; nobody types a number.
Contestants take turns within a round and are compared by the median of the rounds' ratios. Peers
run at their best: sorted by length, on the same threads. To run: `make bench`, `make quality`.

Beside the folders: what `make proofs` ran last ([proofs.md](proofs.md)), and hashes of scores that
were the same before and after files moved ([score-bits.json](score-bits.json)).
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


def device(report: dict[str, Any]) -> None:
    """What `make gpu` wrote: what the device can do, then each benchmark by its own columns."""
    machine, versions = report["machine"], report["versions"]
    known = ", ".join(f"{key} {value}" for key, value in versions.items() if value)
    driver = machine.get("as_found", {}).get("driver_version", "unknown")
    print(
        f"{machine.get('gpu', 'no device')}, driver {driver}, CUDA {machine.get('cuda')}, "
        f"{machine.get('cores')} cores; {report['date']}, commit {report['commit']}; {known}.\n"
    )
    for headline in report["headlines"]:
        print(f"- {headline}")
    rows = report["rows"]
    timed = [row for row in rows if "contestant" in row and "rate" in row]
    if timed:
        print(
            "\n| benchmark | case | contestant | time | rate | of possible | packrank faster by |"
        )
        print("|---|---|---|--:|--:|--:|--:|")
    for row in timed:
        ours = row["contestant"] == "packrank" or "packrank_is_faster" not in row
        ratio = "" if ours else f"{row['packrank_is_faster']:.2f}x"
        name = row["contestant"] + (f" ({row['backend']})" if row.get("backend") else "")
        print(
            f"| {row['bench']} | {row['case']} | {name} | {row['median_s'] * 1e6:.4g} us | "
            f"{row['rate']:.4g} {row['unit']} | {_share(row)} | {ratio} |"
        )
    for row in rows:
        if "note" in row:
            print(f"| {row['bench']} | {row['case']} | {row['contestant']} | {row['note']} | | | |")
    token_scores(timed)
    ops = [row for row in rows if row["bench"] == "profile"]
    if ops:
        print("\n| one forward | op | calls | time | share | possible | of possible | bound by |")
        print("|---|---|--:|--:|--:|--:|--:|---|")
    for row in ops:
        possible = f"{row['possible_s'] * 1e6:.4g} us" if "possible_s" in row else ""
        print(
            f"| {row['case']} | {row['op']} | {row['calls']} | {row['seconds'] * 1e6:.4g} us | "
            f"{row['share_of_time']:.1%} | {possible} | {_share(row)} | {row.get('bound_by', '')} |"
        )
    print("\n| step | ended | seconds | note |")
    print("|---|---|--:|---|")
    for name, step in {**report["checks"], **report["steps"]}.items():
        note = step["note"].replace("|", "/")
        print(f"| {name} | {step['status']} | {step['seconds']:.1f} | {note} |")
    print()


def token_scores(timed: list[dict[str, Any]]) -> None:
    """MaxSim moves bytes and multiplies: both rates, and how far its goal is."""
    rows = [row for row in timed if "moved_bytes" in row and "operations" in row]
    if rows:
        print("\n| scores of tokens | case | contestant | time | GB/s | TFLOP/s | goal | of it |")
        print("|---|---|---|--:|--:|--:|--:|--:|")
    for row in rows:
        seconds, goal = row["median_s"], row.get("goal_s")
        met = " | " if goal is None else f"{goal * 1e6:.4g} us | {goal / seconds:.1%}"
        name = row["contestant"] + (f" ({row['backend']})" if row.get("backend") else "")
        print(
            f"| {row['bench']} | {row['case']} | {name} | {seconds * 1e6:.4g} us | "
            f"{row['moved_bytes'] / seconds / 1e9:.4g} | {row['operations'] / seconds / 1e12:.4g} "
            f"| {met} |"
        )


def _share(row: dict[str, Any]) -> str:
    return f"{row['share_of_ceiling']:.1%}" if "share_of_ceiling" in row else ""


def quality(rows: list[dict[str, Any]]) -> None:
    first = rows[0]
    print(
        f"{first['model']} by late interaction over the BM25 top 100, nDCG@10; "
        f"{first['processor']}, {first['threads']} threads; {first['date']}.\n"
    )
    if len({row.get("format") for row in rows}) > 1:
        formats(rows)
        return
    print("| set | queries | candidates | BM25 | reranked | change |")
    print("|---|--:|--:|--:|--:|--:|")
    for row in rows:
        change = row["reranked"] - row["bm25"]
        print(
            f"| {row['name']} | {row['queries']} | {row['candidates']} | {row['bm25']:.4f} | "
            f"{row['reranked']:.4f} | {change:+.4f} |"
        )
    print()


def formats(rows: list[dict[str, Any]]) -> None:
    """What storing vectors in fewer bytes does to the order."""
    exact = any(row.get("exact") is not None for row in rows)
    more = " exact | decoded, float64 |" if exact else ""
    print(f"| set | queries | BM25 | format | bytes a token | reranked | against float32 |{more}")
    print(f"|---|--:|--:|---|--:|--:|--:|{'--:|--:|' if exact else ''}")
    full = {row["name"]: row["reranked"] for row in rows if row["format"] == "float32"}
    for row in rows:
        name = row["name"]
        change = f"{row['reranked'] - full[name]:+.4f}" if name in full else ""
        more = f" {row['exact']:.4f} | {row['decoded']:.4f} |" if exact else ""
        print(
            f"| {name} | {row['queries']} | {row['bm25']:.4f} | {row['format']} | "
            f"{row['bytes_per_token']:g} | {row['reranked']:.4f} | {change} |{more}"
        )
    print()


def main() -> None:
    print(HEADER)
    for name in sys.argv[1:]:
        path = Path(name)
        report = json.loads(path.read_text())
        print(f"## {path.parent.name}: {path.stem}\n")
        if isinstance(report, list):
            quality(report)
        else:
            (device if "steps" in report else speed)(report)


if __name__ == "__main__":
    main()
