"""packrank rank: documents, or those of a store, best first; for a query, or for many."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TextIO

from packrank.commands.messages import LeftOut, check_stdout, progress, report, say
from packrank.commands.scorer import (
    check_no_source,
    open_model,
    open_ranker,
    report_cut,
    sink_of,
)
from packrank.commands.signals import keep
from packrank.commands.table import table
from packrank.errors import InputError
from packrank.jobs.answers import Answer, json_lines, summary_of, summary_of_many, trec_lines
from packrank.jobs.facts import Ranker
from packrank.jobs.queries import (
    Query,
    Request,
    fit_for_trec,
    of_store,
    read_queries,
    requests_of,
    sound_records,
)
from packrank.jobs.rank import rank_store, rank_texts
from packrank.late_interaction import LateInteraction
from packrank.ordering.joint_ranker import JointRanker
from packrank.output_file import Discarded, is_stdout
from packrank.records.file import RecordFile, nothing_in
from packrank.records.record import CANDIDATES, DOCUMENTS, IDS, STORED_CANDIDATES, Record
from packrank.reranker import Reranker
from packrank.screen import Screen
from packrank.work import Calls, Work


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    if is_stdout(args.output):
        check_stdout()
    check_no_source(args.output, args.queries, args.documents, args.candidates)
    if args.queries is not None:
        return _rank_many(args)
    return _rank_texts(args) if args.store is None else _rank_store(args)


def _rank_texts(args: argparse.Namespace) -> int:
    """For one query the documents of a file."""
    with RecordFile(args.documents, DOCUMENTS, args.input_format) as file, _sink(args) as sink:
        failures, documents = _read(file)
        answer = Answer(Query(args.query), [], [])
        if documents:
            model = open_ranker(args)
            request = Request(answer.query, documents)
            [answer] = rank_texts(model, [request], args.top_k, _options(args, model))
            failures += answer.failures
        if not answer.rows:
            raise InputError(nothing_in(file, failures))
        writer = _Writer(sink, args.output_format)
        writer.write(answer)
        if args.summary:
            writer.summarize(summary_of(answer.layers, answer.work, answer.calls))
    _report_calls(answer.calls, args.quiet)
    report_cut(model, args.quiet)
    report(sorted(failures), file.part)
    return 1 if failures else 0


def _rank_store(args: argparse.Namespace) -> int:
    """For one query the documents of a store."""
    candidates = None
    if args.candidates is not None:
        with RecordFile(args.candidates, IDS, args.input_format) as file:
            failures, candidates = _read(file)
            candidates = list({record.fields["id"]: record for record in candidates}.values())
        for number, reason in failures:
            raise InputError(f"{args.candidates}, {file.part} {number}: {reason}")
    with _sink(args) as sink:
        model = _open_store(args)
        request = Request(Query(args.query), candidates)
        [answer] = rank_store(model, [request], args.top_k, args.exact)
        if not answer.rows:
            raise InputError(f"{args.store} has no document to rank that can be scored")
        _Writer(sink, args.output_format).write(answer)
    report_cut(model, args.quiet)
    for index, reason in answer.failures:
        say(f"packrank: {_name_of(model, index)} was left out: {reason}")
    return 1 if answer.failures else 0


def _rank_many(args: argparse.Namespace) -> int:
    """For each of many queries what is its own, or the same."""
    trec = args.output_format == "trec"
    with LeftOut() as left_out, ExitStack() as stack:
        unusable: set[str] = set()
        told = left_out.add
        queries = read_queries(args.queries, _format(args), told, trec=trec, unusable=unusable)
        sink = stack.enter_context(_sink(args))
        if args.store is None:
            requests, place = _texts_of(args, queries, unusable, stack, left_out)
            model: Ranker = open_ranker(args)
            answers = rank_texts(model, requests, args.top_k, _options(args, model))
        else:
            model = late = _open_store(args)
            requests = _stored_of(args, queries, unusable, late, stack, left_out)
            place = partial(_name_of, late)
            on_unfit = partial(_note_unfit, left_out) if trec else None
            answers = rank_store(late, requests, args.top_k, args.exact, on_unfit)
        writer = _Writer(sink, args.output_format)
        # On a terminal rankings say how far it is, and a bar would run through them.
        quiet = args.quiet or (is_stdout(args.output) and sys.stdout.isatty())
        with progress(len(queries), "queries", quiet) as bar:
            for answer in answers:
                if answer.rows:
                    writer.write(answer)
                _note(answer, place, left_out)
                bar.update()
        if not writer.queries:
            raise Discarded(f"nothing could be ranked; {left_out.first}")
        if args.summary:
            counts = writer.queries, writer.documents, writer.layers
            writer.summarize(summary_of_many(*counts, writer.work, writer.calls))
    _report_calls(writer.calls, args.quiet)
    report_cut(model, args.quiet)
    return 1 if left_out.count else 0


def _texts_of(
    args: argparse.Namespace,
    queries: list[Query],
    unusable: set[str],
    stack: ExitStack,
    left_out: LeftOut,
) -> tuple[Iterable[Request], Callable[[int], str]]:
    """What is to be ranked for each query, and the place of what has a number."""
    trec = args.output_format == "trec"
    if args.candidates is not None:
        file = stack.enter_context(RecordFile(args.candidates, CANDIDATES, _format(args)))
        requests: Iterable[Request] = requests_of(
            queries, file, left_out.add, trec=trec, unusable=unusable
        )
    else:
        file = stack.enter_context(RecordFile(args.documents, DOCUMENTS, args.input_format))
        failures, documents = _read(file, trec=trec)
        if not documents:
            raise InputError(nothing_in(file, failures))
        for number, reason in failures:
            left_out.add(f"{file.name}, {file.part} {number}", reason)
        requests = [Request(query, documents) for query in queries]
    return requests, lambda number: f"{file.name}, {file.part} {number}"


def _stored_of(
    args: argparse.Namespace,
    queries: list[Query],
    unusable: set[str],
    model: LateInteraction,
    stack: ExitStack,
    left_out: LeftOut,
) -> Iterable[Request]:
    """The same of a store."""
    if args.candidates is None:
        return [Request(query, None) for query in queries]
    file = stack.enter_context(RecordFile(args.candidates, STORED_CANDIDATES, _format(args)))
    assert model.store is not None
    requests = requests_of(queries, file, left_out.add, unusable=unusable)
    trec = args.output_format == "trec"
    return of_store(requests, model.store, left_out.add, trec=trec)


def _open_store(args: argparse.Namespace) -> LateInteraction:
    model = open_model(args)
    assert isinstance(model, LateInteraction) and model.store is not None
    if not model.store.complete:
        say(f"packrank: {args.store} is unfinished; packrank encode goes on with it")
    return model


def _read(file: RecordFile, *, trec: bool = False) -> tuple[list[tuple[int, str]], list[Record]]:
    """Numbers of records that cannot be used, and why; and the others."""
    failures: list[tuple[int, str]] = []

    def told(record: Record, reason: str) -> None:
        failures.append((record.number, reason))

    sound = sound_records(file, told)
    records = fit_for_trec(sound, told) if trec else list(sound)
    return failures, records


def _format(args: argparse.Namespace) -> Any:
    """That of files whose records cannot be lines of text."""
    return None if args.input_format == "text" else args.input_format


def _report_calls(calls: Calls | None, quiet: bool) -> None:
    """Say what a model was asked that judges several documents at a time."""
    if calls is None or quiet:
        return
    written = f", written tokens: {calls.generated_tokens:,}" if calls.generated_tokens else ""
    say(f"packrank: prompts read: {calls.prompts:,}, tokens: {calls.prompt_tokens:,}{written}")
    if calls.repaired:
        say(f"packrank: answers that were no order of their documents, put right: {calls.repaired}")


def _options(args: argparse.Namespace, model: Ranker) -> dict[str, Any]:
    """What a reranker takes of a call."""
    if isinstance(model, JointRanker):
        return {}
    label = args.label
    if isinstance(model, Reranker) and label is not None and label not in model.labels:
        label = int(label) if label.isdecimal() else label
    return {"label": label, "cutoff_layer": args.cutoff_layer, "exit": args.exit}


def _name_of(model: LateInteraction, index: int) -> str:
    assert model.store is not None
    return f"document {model.store.ids[index]!r}"


def _note_unfit(left_out: LeftOut, id: str) -> None:
    left_out.add(f"document {id!r}", "blanks divide the columns of a TREC run")


def _note(answer: Answer, place: Callable[[int], str], left_out: LeftOut) -> None:
    """Note what could not be ranked for a query."""
    query = f"query {answer.query.id!r}"
    if answer.error is not None:
        left_out.add(query, answer.error)
    elif not answer.rows:
        reasons = [f"; {place(number)}: {reason}" for number, reason in answer.failures[:1]]
        left_out.add(query, "".join(["nothing can be ranked for it", *reasons]))
    else:
        for number, reason in answer.failures:
            left_out.add(f"{place(number)}, for {query},", reason)


@contextmanager
def _sink(args: argparse.Namespace) -> Iterator[TextIO]:
    """Where rankings go: a table in the encoding of standard output, anything else in UTF-8."""
    if is_stdout(args.output) and args.output_format == "table":
        keep()
        yield sys.stdout
    else:
        with sink_of(args.output) as sink:
            yield sink


class _Writer:
    """Writes rankings, and counts what went into them."""

    def __init__(self, sink: TextIO, format: str) -> None:
        self._sink, self._format, self._screen = sink, format, Screen.of(sink)
        self.queries = self.documents = self.layers = 0
        self.work: Work | None = None
        self.calls: Calls | None = None

    def write(self, answer: Answer) -> None:
        if self._format == "jsonl":
            lines = list(json_lines(answer))
        elif self._format == "trec":
            lines = list(trec_lines(answer))
        else:
            between = [""] if self.queries else []
            lines = [*between, *table(answer, self._screen)]
        # At once, as a signal may come at any time.
        self._sink.write("".join(f"{line}\n" for line in lines))
        self.queries += 1
        self.documents += len(answer.layers)
        self.layers += sum(answer.layers.values())
        if answer.work is not None:
            self.work = answer.work if self.work is None else self.work + answer.work
        if answer.calls is not None:
            self.calls = answer.calls if self.calls is None else self.calls + answer.calls

    def summarize(self, summary: dict[str, object]) -> None:
        self._sink.write(json.dumps({"summary": summary}) + "\n")
