"""packrank bench: what this machine can do with rerankers, and what holds it back."""

import argparse
import sys
from contextlib import suppress
from datetime import datetime
from functools import partial

from packrank.bench.plan import checked
from packrank.bench.report import Report
from packrank.bench.run import Run
from packrank.bench.shown import compare, page, table, terminal
from packrank.commands.messages import check_stdout, say
from packrank.commands.signals import Stopped, keep
from packrank.errors import PackrankError
from packrank.output_file import Discarded, is_stdout, replacing
from packrank.screen import Screen


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    check_stdout()
    return _compare(args) if args.action == "compare" else _measure(args)


def _measure(args: argparse.Namespace) -> int:
    outputs = [path for path in (args.output, args.csv, args.html) if path is not None]
    for path in outputs:
        _check_writable(path)
    if args.html is not None:
        page.check_installed()
    settings = checked(
        models=args.models,
        dtypes=args.dtypes,
        lengths=args.lengths,
        full=args.full,
        device=args.device,
        candidates=args.candidates,
        limit_s=None if args.p99_limit is None else args.p99_limit / 1000,
        price_per_hour=args.price_per_hour,
        peers=args.peers,
        **({} if args.seconds is None else {"seconds": args.seconds}),
    )
    measured = Run(settings, (lambda line: None) if args.quiet else _progress)
    ended: BaseException | None = None
    keep()
    try:
        measured.run()
    except (KeyboardInterrupt, Stopped, PackrankError) as error:
        if not measured.report.ceilings:
            raise
        ended = error
    name = args.output or f"packrank-bench-{datetime.now():%Y-%m-%d-%H%M%S}.json"
    _write(measured.report, name, args)
    if ended is not None:
        say("packrank: what was measured until then is in the report, which says it is partial")
        raise ended
    return 0


def _write(report: Report, name: str, args: argparse.Namespace) -> None:
    """All outputs; one that cannot be written keeps none of the others back."""
    failed: list[PackrankError | OSError] = []
    for path, write in (
        (name, report.write),
        (args.csv, partial(_write_table, report)),
        (args.html, partial(_write_page, report)),
    ):
        if path is None:
            continue
        try:
            write(path)
        except (PackrankError, OSError) as error:
            failed.append(error)
        else:
            if not is_stdout(path):
                say(f"packrank: written to {path}")
    if not any(is_stdout(path) for path in (name, args.csv or "", args.html or "")):
        for line in terminal.lines(report, Screen.of(sys.stdout)):
            print(line)
    if failed:
        raise failed[0]


def _write_table(report: Report, path: str) -> None:
    with replacing(path) as sink:
        table.write(report, sink)


def _write_page(report: Report, path: str) -> None:
    content = page.page(report)
    with replacing(path) as sink:
        sink.write(content)


def _compare(args: argparse.Namespace) -> int:
    found = compare.compare(Report.read(args.a), Report.read(args.b))
    if args.output_format == "json":
        print(compare.as_json(found))
    else:
        for line in compare.lines(found, Screen.of(sys.stdout)):
            print(line)
    return 0


def _progress(line: str) -> None:
    say(f"packrank: {line}")


def _check_writable(path: str) -> None:
    """Raise InputError now rather than after minutes of measuring."""
    if not is_stdout(path):
        with suppress(Discarded), replacing(path):
            raise Discarded("")
