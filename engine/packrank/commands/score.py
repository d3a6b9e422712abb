"""packrank score: a file of pairs to a file of scores."""

import argparse

from packrank.commands.messages import progress, report, say
from packrank.commands.scorer import check_no_source, open_model, report_cut, sink_of
from packrank.jobs.score import score_records
from packrank.output_file import Discarded
from packrank.records.file import RecordFile, nothing_in
from packrank.records.record import PAIRS


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    check_no_source(args.output, args.pairs)
    with RecordFile(args.pairs, PAIRS, args.input_format) as file, sink_of(args.output) as sink:
        model = open_model(args)
        with progress(file.num_lines(), "pairs", args.quiet) as bar:
            records = file.records()
            totals = score_records(model, records, sink, bar, cutoff_layer=args.cutoff_layer)
        if not totals.readable:
            raise Discarded(nothing_in(file, totals.failures))
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
