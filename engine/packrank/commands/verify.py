"""packrank verify: whether a model's scores are those of other packages, and of its authors.

Exit status: 0 all that was compared agrees; 1 something differs, as of cmp and diff, or pairs of
--pairs were left out; 2 nothing could be compared. The last line says which in a sentence.
"""

import argparse
import json
import sys
from collections.abc import Iterator

from packrank.checkpoint.kind import LATE, RERANKERS, expect
from packrank.commands.messages import check_stdout, report
from packrank.commands.options import folder_of
from packrank.errors import InputError
from packrank.records.file import RecordFile, nothing_in
from packrank.records.record import PAIRS
from packrank.screen import printable
from packrank.verify.comparison import Row
from packrank.verify.report import Report
from packrank.verify.verification import verify

_STATUS = {"verified": 0, "differs": 1, "not compared": 2}
_RERANKER = ("template", "instruction", "max_length")
_LATE = ("query_length", "document_length")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    check_stdout()
    folder = folder_of(args.model)
    is_reranker = expect(folder, RERANKERS + LATE) in RERANKERS
    known, others = (_RERANKER, _LATE) if is_reranker else (_LATE, _RERANKER)
    for option in others:
        if getattr(args, option) is not None:
            kind = "late interaction" if is_reranker else "rerankers"
            raise InputError(
                f"--{option.replace('_', '-')} is for {kind}, which {args.model} is not; leave it "
                "out"
            )
    options = {name: getattr(args, name) for name in known if getattr(args, name) is not None}
    pairs, numbers, failures, part = None, [], [], "pair"
    if args.pairs is not None:
        with RecordFile(args.pairs, PAIRS, args.input_format) as file:
            records, part = list(file.records()), file.part
        failures = [(record.number, record.error) for record in records if record.error is not None]
        sound = [record for record in records if record.error is None]
        if not sound:
            raise InputError(nothing_in(file, failures))
        pairs = [(record.fields["query"], record.fields["document"]) for record in sound]
        numbers = [record.number for record in sound]
    where = {"device": args.device, "dtype": args.dtype}
    found = verify(folder, args.model, pairs, options, where)
    if pairs is not None:
        failures += [(numbers[place], reason) for place, reason in found.left_out.items()]
    report(sorted(failures), part)
    if args.output_format == "jsonl":
        print(json.dumps(found.as_json()))
    else:
        for line in _table(found):
            print(printable(line, sys.stdout.encoding or "utf-8"))
    return _STATUS[found.verdict] or int(bool(failures))


def _table(found: Report) -> Iterator[str]:
    rows = [*found.rows, *found.published]
    if rows:
        yield f"{'compared':16} {'number':>14}  {'differing':>9}  {'largest':>9}  {'tolerance':>9}"
    for row in rows:
        unit = "queries" if row.what == "order" else "pairs"
        name = "published" if row in found.published else row.what
        counted = f"{row.count} {unit}"
        yield (
            f"{name:16} {counted:>14}  {row.differing:>9}  {_number(row.largest):>9}  "
            f"{_number(row.tolerance):>9}{_whose(row, found)}"
        )
    if found.reference is not None and found.dtype != "float32":
        yield f"{found.dtype} against float32 of {found.reference}{_expected(found)}"
    if found.left_out:
        first = next(iter(found.left_out.values()))
        yield f"left out         {len(found.left_out)} of the pairs, the first: {first}"
    for pair in dict.fromkeys(row.pair for row in rows if row.pair is not None):
        query, document = (repr(text if len(text) <= 60 else f"{text[:57]}...") for text in pair)
        yield f"such a pair      {query}, {document}"
    yield found.sentence


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _whose(row: Row, found: Report) -> str:
    return f"  {row.what}" if row in found.published else ""


def _expected(found: Report) -> str:
    known = [row for row in found.rows if row.what == "scores"] or [
        row for row in found.rows if row.expected is not None
    ]
    if not known or known[0].expected is None:
        return ""
    return f": {known[0].what} are expected to be {known[0].expected:.1e} apart"
