"""`python -m packrank.demo`: the shipped sample, ranked."""

import argparse
import sys
from collections.abc import Sequence

from packrank.demo.model import default_model
from packrank.demo.report import CANDIDATES, Sample, report
from packrank.errors import PackrankError
from packrank.late_interaction import LateInteraction

_HELP = "Rank a sample of passages that ships with Packrank, and measure the order."
_ASCII = str.maketrans({"▲": "+", "▼": "-", "●": "*", "○": "o", "…": "..."})


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; returns the exit status."""
    argparse.ArgumentParser(prog="packrank.demo", description=_HELP).parse_args(argv)
    try:
        model = LateInteraction(default_model())
    except PackrankError as error:
        print(f"packrank: {error}", file=sys.stderr)
        return 2
    sample = Sample.load()
    # The first call pays for what later ones find ready.
    model.rank(next(iter(sample.queries.values())), sample.documents[:1])
    encoding = sys.stdout.encoding or "ascii"
    print(
        f"{len(sample.documents)} passages; BM25 finds {CANDIDATES} for each query, "
        "late interaction over all-MiniLM-L6-v2 reranks them.\n"
    )
    for line in report(model, sample):
        print(_printable(line, encoding))
    return 0


def _printable(line: str, encoding: str) -> str:
    """The line as an output of this encoding can show it."""
    try:
        line.encode(encoding)
        return line
    except UnicodeEncodeError:
        return line.translate(_ASCII).encode(encoding, "replace").decode(encoding)


if __name__ == "__main__":
    sys.exit(main())
