"""packrank verify: whether a model's scores are those of other packages, and of its authors.

Exit status: 0 all that was compared agrees; 1 something differs, as of cmp and diff, or pairs of
--pairs were left out; 2 nothing could be compared. The last line says which in a sentence.
"""

import argparse
import json
from collections.abc import Iterator

from packrank.checkpoint.kind import LATE, RERANKERS, expect
from packrank.commands.messages import check_stdout, printable, report
from packrank.commands.options import (
    FORMAT_HELP,
    MODEL_HELP,
    RECORDS,
    add_device_options,
    add_length_option,
    folder_of,
    positive,
    valid_text,
)
from packrank.errors import InputError
from packrank.records.file import RecordFile, nothing_in
from packrank.records.formats import FORMATS
from packrank.records.record import PAIRS
from packrank.verify.comparison import Row
from packrank.verify.report import Report
from packrank.verify.verification import verify

_STATUS = {"verified": 0, "differs": 1, "not compared": 2}
_RERANKER = ("template", "instruction", "max_length")
_LATE = ("query_length", "document_length")


def add_verify(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command and its options."""
    parser = commands.add_parser(
        "verify", help="compare a model's scores with sentence-transformers or transformers"
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "--pairs",
        metavar="FILE",
        help=f'{RECORDS} with "query" and "document", in place of those that are built in; - for '
        "standard input",
    )
    parser.add_argument(
        "--format",
        choices=[format for format in FORMATS if format != "text"],
        help=f"of FILE; {FORMAT_HELP}",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object, and no table")
    parser.add_argument("--max-length", type=positive, metavar="N", help="tokens of a pair")
    parser.add_argument(
        "--template", metavar="NAME", help='of a decoder\'s input, or "pair" for none'
    )
    parser.add_argument(
        "--instruction", type=valid_text, metavar="TEXT", help="in place of the template's own"
    )
    add_length_option(parser, "query", "document")
    add_device_options(parser, "auto, cpu, cuda or cuda:N")
    parser.set_defaults(run=_verify)


def _verify(args: argparse.Namespace) -> int:
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
        with RecordFile(args.pairs, PAIRS, args.format) as file:
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
    if args.json:
        print(json.dumps(found.as_json()))
    else:
        for line in _table(found):
            print(printable(line))
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
