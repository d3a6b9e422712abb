"""packrank score: files of pairs to scores."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import Any, TextIO

from packrank.commands.messages import LeftOut, progress, say
from packrank.commands.scorer import asked_for, check_no_source, open_model, report_cut
from packrank.commands.signals import Stopped, keep
from packrank.errors import InputError
from packrank.jobs.cluster import Cluster
from packrank.jobs.facts import AnyScorer
from packrank.jobs.job import Job
from packrank.jobs.mining import Mining
from packrank.jobs.negatives import Form, Rules, margin
from packrank.jobs.plan import check_input
from packrank.jobs.settings import Summary

_LOG_SECONDS = 10.0
_MINING = (
    *("margin", "max_score", "min_score", "positive_column"),
    *("negatives_form", "sampling"),
)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    for source in args.input if args.json_log not in (None, "-") else ():
        check_no_source(args.json_log, source)
    with (
        LeftOut(f"more; see {args.output}", "was not scored") as left_out,
        _log(args.json_log) as log,
        progress(None, "rows", args.quiet) as bar,
        ExitStack() as stack,
    ):
        watch = _Progress(bar, left_out, log, args.quiet)
        try:
            for source in args.input:
                check_no_source(args.output, source)
            if args.ray is None and (args.ray_actors or args.ray_gpus is not None):
                raise InputError("--ray-actors and --ray-gpus are for --ray; give that, too")
            check_input(args.input, args.input_format)  # before what takes longer
            mining = _mining(args)
            keep()
            model = open_model(args) if args.ray is None else stack.enter_context(_cluster(args))
            summary = _job(model, args, mining).run(watch)
        except (KeyboardInterrupt, Stopped):
            watch.stopped()
            raise
        for what, reason in summary.unfit.items():
            say(f"packrank: {what} is not in the output: {reason}")
        if more := summary.num_unfit - len(summary.unfit):
            say(f"packrank: and {more:,} more that are not in the output, or not whole")
        _write(log, {"event": "end", **_facts(summary)})
    report_cut(model, args.quiet)
    if not args.quiet:
        say(_said(summary))
    return 1 if summary.failed or summary.num_unfit else 0


def _mining(args: argparse.Namespace) -> Mining | None:
    if args.negatives is None:
        for name in _MINING:
            if getattr(args, name) is not None:
                option = name.replace("_", "-")
                raise InputError(f"--{option} is of hard negatives; give --negatives as well")
        return None
    absolute, relative = (None, None) if args.margin is None else margin(args.margin)
    rules = Rules(
        args.negatives,
        absolute,
        relative,
        args.min_score,
        args.max_score,
        sampling=args.sampling or "top",
    )
    return Mining(rules, Form(args.negatives_form or "triplet"), args.positive_column)


def _cluster(args: argparse.Namespace) -> Cluster:
    folder, _, options = asked_for(args)
    if "," in args.device or ":" in args.device:
        raise InputError(
            f"--device {args.device} names devices, and with --ray each process takes those that "
            "Ray gives it; leave it out, or give --ray-gpus"
        )
    # A name of the hub is each node's to look up; a folder is where it is here.
    named = folder if args.model == "default" or os.path.isdir(args.model) else args.model
    return Cluster(
        named,
        options,
        address=args.ray or None,
        actors=args.ray_actors,
        cpus=args.threads or 1,
        gpus=args.ray_gpus,
    )


def _job(model: AnyScorer, args: argparse.Namespace, mining: Mining | None) -> Job:
    return Job(
        model,
        args.input,
        args.output,
        queries=args.queries,
        documents=args.documents,
        tokens=args.tokens,
        input_format=args.input_format,
        output_format=args.output_format,
        query_column=args.query_column,
        document_column=args.document_column,
        score_column=args.score_column,
        columns=args.columns,
        top_k=args.top_k,
        label=args.label,
        tag=args.tag,
        mining=mining,
        cutoff_layer=args.cutoff_layer,
        strict=args.strict,
    )


class _Progress:
    """Progress of a job on a bar and in a log."""

    def __init__(self, bar: Any, left_out: LeftOut, log: TextIO | None, quiet: bool) -> None:
        self._bar, self._left_out, self._log = bar, left_out, log
        self._logged_at, self._is_quiet = monotonic(), quiet
        self._goes_on = self._has_part = False

    def stopped(self) -> None:
        """Say what is left of a job that a signal ends."""
        if self._goes_on:
            say("packrank: stopped; what was scored is safe, and the same command goes on")
        elif not self._has_part:
            say("packrank: stopped")

    def say(self, sentence: str) -> None:
        """See `Watch`."""
        if not self._is_quiet:
            say(f"packrank: {sentence}")

    def begin(self, total: int | None, done: int | None) -> None:
        """See `Watch`."""
        self._goes_on, done = done is not None, done or 0
        self._bar.total = total
        # Of an earlier run, so no part of the rate.
        self._bar.initial = self._bar.last_print_n = self._bar.n = done
        _write(self._log, {"event": "begin", "total": total, "done": done})

    def advance(self, summary: Summary, rows: int) -> None:
        """See `Watch`."""
        share = summary.stages.scoring / max(summary.seconds, 1e-9)
        rates = f"{summary.pairs / summary.seconds:,.0f} pairs/s"
        tokens = f"{summary.tokens / summary.seconds:,.0f} tokens/s"
        self._bar.set_postfix_str(f"{rates}, {tokens}, forward {share:.0%}", refresh=False)
        self._bar.update(rows)
        if self._log is not None and monotonic() - self._logged_at >= _LOG_SECONDS:
            self._logged_at = monotonic()
            _write(self._log, {"event": "progress", **_facts(summary)})

    def part(self, path: str, lines: int) -> None:
        """See `Watch`."""
        self._has_part = True
        kept = "has what was finished, rows"
        say(f"packrank: {path} {kept}: {lines:,}; the same command begins from the start")

    def fail(self, place: str, kind: str, reason: str) -> None:
        """See `Watch`."""
        self._left_out.add(place, reason)


def _facts(summary: Summary) -> dict[str, Any]:
    seconds = max(summary.seconds, 1e-9)
    return {
        "rows": summary.rows,
        "rows_before": summary.before,
        "pairs": summary.pairs,
        "tokens": summary.tokens,
        "seconds": round(summary.seconds, 3),
        "pairs_per_second": round(summary.pairs / seconds, 1),
        "tokens_per_second": round(summary.tokens / seconds, 1),
        "stages": {name: round(value, 3) for name, value in vars(summary.stages).items()},
        "failed": summary.failed,
    }


def _said(summary: Summary) -> str:
    """What a job came to, and what took longest."""
    said = f"pairs scored: {summary.pairs:,}, rows: {summary.rows:,}"
    if summary.before:
        said += f", {summary.before:,} of them before"
    said += f", failed: {sum(summary.failed.values()):,}"
    if summary.failed:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in summary.failed.items())
        said += f" ({kinds})"
    if summary.num_few:
        said += f", queries with too few hard negatives: {summary.num_few:,}"
    if summary.rows == summary.before:
        return said
    seconds, stages = summary.seconds, summary.stages
    spent = {"reading": stages.reading, "tokenization": stages.tokenizing}
    spent["scoring"] = stages.scoring
    slowest = max(spent, key=lambda name: spent[name])
    waited = "" if slowest == "scoring" else f", scoring waited {stages.waiting / seconds:.0%}"
    return (
        f"{said}; {seconds:.1f} s, {summary.pairs / seconds:,.0f} pairs/s, "
        f"{summary.tokens / seconds:,.0f} tokens/s; slowest stage: {slowest}, "
        f"{spent[slowest] / seconds:.0%} of the time{waited}"
    )


@contextmanager
def _log(path: str | None) -> Iterator[TextIO | None]:
    if path is None:
        yield None
    elif path == "-":
        yield sys.stderr
    else:
        try:
            file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise InputError(f"{os.fspath(path)} cannot be written: {error.strerror}") from None
        with file:
            yield file


def _write(log: TextIO | None, event: dict[str, Any]) -> None:
    if log is not None:
        log.write(json.dumps(event) + "\n")
        log.flush()
