"""The pictures of README, into docs/pictures: `pictures.py` (speed.svg is of committed rows)."""

import io
import json
import re
import shlex
import subprocess
import sys
from html import escape
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
ROWS = ROOT / "benchmarks/results/zen4-2-cores/2026-11-22-cross-encoder.json"
COLORS = {"packrank": "#1a7f5a", "OpenVINO": "#8aa4b8", "sentence-transformers": "#c3ccd3"}
WIDTH, LEFT, BAR = 760, 290, 22
SHOWN = (
    """packrank rank default --query "how do snakes find prey" --documents passages.txt --top-k 3"""
)
PASSAGES = """Pit vipers sense the heat of a warm animal with an organ of their own.
Python 3.12 reports where in the line a syntax error is.
A barn owl hears a mouse under snow.
Many snakes smell with the tongue.
"""


def speed() -> str:
    """Bars of pairs a second, a group a case, each on a scale of its own."""
    report = json.loads(ROWS.read_text(encoding="utf-8"))
    body, y = io.StringIO(), 16
    for case, group in groupby(report["rows"], key=lambda row: row["case"]):
        rows = list(group)
        most = max(row["rate"] for row in rows)
        body.write(f'<text x="8" y="{y}" class="case">{escape(case)}</text>\n')
        for row in rows:
            y += BAR
            name = row["contestant"]
            color = next(color for key, color in COLORS.items() if name.startswith(key))
            length = (WIDTH - LEFT - 110) * row["rate"] / most
            said = f"{row['rate']:.3g} {row['unit']}"
            body.write(
                f'<text x="{LEFT - 8}" y="{y}" class="name">{escape(name)}</text>'
                f'<rect x="{LEFT}" y="{y - 12}" width="{length:.0f}" height="15" fill="{color}"/>'
                f'<text x="{LEFT + length + 6:.0f}" y="{y}">{said}</text>\n'
            )
        y += BAR + 14
    machine = report["machine"]
    body.write(
        f'<text x="8" y="{y}" class="note">{machine["processor"]}, {machine["threads"]} threads, '
        f"{machine['backend']}; {report['date']}; texts in, scores out; random weights</text>\n"
    )
    style = (
        "text{font:13px system-ui,sans-serif;fill:#222}.case{font-weight:600}"
        ".name{text-anchor:end}.note{font-size:11px;fill:#666}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 10}" role="img" '
        f'aria-label="Pairs a second of Packrank and others"><style>{style}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>\n{body.getvalue()}</svg>\n'
    )


def terminal() -> str:
    """What the command prints, as a terminal shows it."""
    from rich.console import Console
    from rich.text import Text

    found = subprocess.run(
        [sys.executable, "-m", *shlex.split(SHOWN)],
        input=PASSAGES,
        capture_output=True,
        text=True,
        check=True,
        cwd=_passages(),
        env={"COLUMNS": "96", "PATH": ""},
    )
    console = Console(record=True, width=100, file=io.StringIO(), color_system=None)
    console.print(Text(f"$ {SHOWN}"))
    console.print(Text(found.stdout.rstrip()))
    picture = console.export_svg(title="packrank", unique_id="packrank")
    return re.sub(r"@font-face \{.*?\}\n", "", picture, flags=re.DOTALL)  # fetched from elsewhere


def _passages() -> Path:
    folder = ROOT / "build" / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "passages.txt").write_text(PASSAGES, encoding="utf-8")
    return folder


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    for name, make in (("speed", speed), ("terminal", terminal)):
        (PICTURES / f"{name}.svg").write_text(make(), encoding="utf-8")
        print(PICTURES / f"{name}.svg")
