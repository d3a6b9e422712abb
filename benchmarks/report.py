"""Rows to tables: `report.py FILE...` prints what the README and the results page show."""

import json
import sys
from pathlib import Path


def main() -> None:
    for name in sys.argv[1:]:
        report = json.loads(Path(name).read_text())
        machine, versions = report["machine"], report["versions"]
        known = ", ".join(f"{key} {value}" for key, value in versions.items() if value)
        print(
            f"{machine['processor']} ({machine['backend']}), "
            f"{machine['threads']} threads, {report['date']}, commit {report['commit']}; {known}\n"
        )
        print("| benchmark | case | contestant | rate | packrank is faster by |")
        print("|---|---|---|--:|--:|")
        for row in report["rows"]:
            ours = row["contestant"] == "packrank"
            ratio = "" if ours else f"{row['packrank_is_faster']:.2f}x"
            rate = f"{row['rate']:.4g} {row['unit']}"
            print(f"| {row['bench']} | {row['case']} | {row['contestant']} | {rate} | {ratio} |")
        print()


if __name__ == "__main__":
    main()
