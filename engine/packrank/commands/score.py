"""packrank score: a file of pairs to a file of scores."""

import argparse
import os
import stat
import sys

from tqdm import tqdm

from packrank.commands.messages import hides_bar, report, say
from packrank.commands.scorer import open_model, report_cut
from packrank.errors import InputError
from packrank.jobs.score import score_records
from packrank.output_file import replacing
from packrank.records.file import RecordFile, nothing_in
from packrank.records.record import PAIRS


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    if os.path.exists(args.output) and _is_source(args.pairs, args.output):
        raise InputError(f"{args.output} is the file of pairs; write the scores to another one")
    with RecordFile(args.pairs, PAIRS, args.format) as file, replacing(args.output) as sink:
        model = open_model(args)
        total, hidden = file.num_lines(), hides_bar(args.quiet)
        with tqdm(total=total, unit="pair", unit_scale=True, disable=hidden) as bar:
            records = file.records()
            totals = score_records(model, records, sink, bar, cutoff_layer=args.cutoff_layer)
        if not totals.readable:
            raise InputError(nothing_in(file, totals.failures))
    report(totals.failures, file.part)
    if totals.num_failed > len(totals.failures):
        left = totals.num_failed - len(totals.failures)
        say(f"packrank: and {left} more {file.part}s; see {args.output}")
    if not args.quiet:
        report_cut(model)
        say(
            f"pairs scored: {totals.pairs}, {file.part}s failed: {totals.num_failed}, "
            f"{totals.seconds:.1f} s, {totals.pairs / totals.seconds:,.0f} pairs/s, "
            f"{totals.tokens / totals.seconds:,.0f} tokens/s"
        )
    return 1 if totals.num_failed else 0


def _is_source(pairs: str, output: str) -> bool:
    """Whether the output is the file that pairs are read from, by whatever name."""
    if pairs != "-":
        return os.path.isfile(pairs) and os.path.samefile(pairs, output)
    try:
        source = os.fstat(sys.stdin.fileno())
    except (AttributeError, OSError, ValueError):  # closed, or not of the system
        return False
    return stat.S_ISREG(source.st_mode) and os.path.samestat(source, os.stat(output))
