"""packrank score: a file of pairs to a file of scores."""

import argparse

from packrank.commands.messages import LeftOut, progress, say
from packrank.commands.scorer import check_no_source, open_model, report_cut, sink_of
from packrank.jobs.score import score_records
from packrank.output_file import Discarded
from packrank.records.file import RecordFile, nothing_in
from packrank.records.record import PAIRS, Record


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    check_no_source(args.output, args.pairs)
    with (
        RecordFile(args.pairs, PAIRS, args.input_format) as file,
        LeftOut(f"more {file.part}s; see {args.output}") as left_out,
        sink_of(args.output) as sink,
    ):
        failures: list[tuple[int, str]] = []

        def told(record: Record, reason: str) -> None:
            left_out.add(record.place, reason)
            if not failures:
                failures.append((record.number, reason))

        model = open_model(args)
        with progress(file.num_lines(), "pairs", args.quiet) as bar:
            records = file.records()
            totals = score_records(model, records, sink, bar, told, cutoff_layer=args.cutoff_layer)
        if not totals.readable:
            raise Discarded(nothing_in(file, failures))
    report_cut(model, args.quiet)
    if not args.quiet:
        say(
            f"pairs scored: {totals.pairs}, {file.part}s failed: {left_out.count}, "
            f"{totals.seconds:.1f} s, {totals.pairs / totals.seconds:,.0f} pairs/s, "
            f"{totals.tokens / totals.seconds:,.0f} tokens/s"
        )
    return 1 if left_out.count else 0
