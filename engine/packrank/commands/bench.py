"""packrank bench: what this machine can do with rerankers, and what holds it back."""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path

from packrank.bench.plan import checked
from packrank.bench.report import Report
from packrank.bench.run import Run
from packrank.bench.shown import compare, page, table, terminal
from packrank.commands.messages import check_stdout, say
from packrank.commands.signals import holding, keep
from packrank.errors import InputError, PackrankError
from packrank.output_file import Discarded, is_stdout, replacing
from packrank.screen import Screen


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    check_stdout()
    return _compare(args) if args.action == "compare" else _measure(args)


def _measure(args: argparse.Namespace) -> int:
    outputs = [path for path in (args.output, args.csv, args.html) if path is not None]
    _check_apart(outputs, [*(args.lengths or ()), *(args.models or ())])
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
    except BaseException as error:  # whatever it is: what took minutes is kept
        if not measured.report.ceilings:
            raise
        ended = error
    with holding():
        _write(measured.report, args)
        if ended is not None:
            say("packrank: what was measured until then is in the report, which says it is partial")
    if ended is not None:
        raise ended
    return 0


def _write(report: Report, args: argparse.Namespace) -> None:
    """All outputs; one that cannot be written keeps none of the others back."""
    failed: list[Exception] = []
    usual = f"packrank-bench-{datetime.now():%Y-%m-%d-%H%M%S}.json"
    name = args.output or usual
    forms: list[tuple[str | None, Callable[[str], None]]] = [
        (name, report.write),
        (args.csv, partial(_write_table, report)),
        (args.html, partial(_write_page, report)),
    ]
    for path, write in forms:
        if path is None:
            continue
        try:
            write(path)
        except Exception as error:  # plotly has its own
            failed.append(error)
            if write == report.write:
                _write_elsewhere(report, usual)
        else:
            if not is_stdout(path):
                say(f"packrank: written to {path}")
    if not any(path is not None and is_stdout(path) for path, _ in forms):
        for line in terminal.lines(report, Screen.of(sys.stdout)):
            print(line)
    if failed:
        raise failed[0]


def _write_elsewhere(report: Report, name: str) -> None:
    """The report, where it cannot be written as it was asked for: raw samples are found once."""
    for folder in ("", tempfile.gettempdir()):
        path = os.path.join(folder, name)
        with suppress(PackrankError, OSError):
            report.write(path)
            say(f"packrank: the report is in {path} instead")
            return


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


def _check_apart(outputs: list[str], inputs: list[str]) -> None:
    """Raise InputError where one output would take the place of another, or of an input."""
    read = {os.path.realpath(path) for path in inputs if os.path.exists(path)}
    places = ["-" if is_stdout(path) else os.path.realpath(path) for path in outputs]
    for path, place in zip(outputs, places, strict=True):
        if places.count(place) > 1:
            raise InputError(f"{path} is named for several outputs, of which one would be left")
        if place in read:
            raise InputError(f"{path} is read, and cannot be written over")


def _check_writable(path: str) -> None:
    """Raise InputError now rather than after minutes of measuring."""
    if not is_stdout(path) and not Path(path).is_fifo():  # whose reader would see it end
        with suppress(Discarded), replacing(path):
            raise Discarded("")
