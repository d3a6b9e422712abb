"""One run of a job: from its input, by way of its journal, to its output."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packrank.errors import InputError, JobError
from packrank.jobs.journal import Journal
from packrank.jobs.lookup import Texts, Tokens
from packrank.jobs.mining import Miner
from packrank.jobs.output import ERROR, Columns, Finished, finished_rows
from packrank.jobs.parts import Parts, write_parts
from packrank.jobs.ranking import Keys
from packrank.jobs.results import Results
from packrank.jobs.rows import Failure, Read, read_rows, windows
from packrank.jobs.score import Scored, Scorer, num_labels, score_windows
from packrank.jobs.settings import Named, Settings, Silent, Summary, Watch
from packrank.jobs.target import target_of
from packrank.output_file import replacing
from packrank.records.file import RecordFile, Row, nothing_in
from packrank.records.formats import Format
from packrank.records.opened import OpenFile
from packrank.records.paths import files_of
from packrank.records.record import Kind
from packrank.records.shapes import Shape, shape_of
from packrank.reranker import Reranker
from packrank.scoring.activations import order_of
from packrank.stores import disk
from packrank.stores.token_store import TokenStore

_ANY = Kind("pair", is_run=True)


def run(job: Settings, watch: Watch | None = None) -> Summary:
    """See `Job.run`."""
    with ExitStack() as stack:
        return _Run(job, watch or Silent(), stack).whole()


class _Run:
    def __init__(self, job: Settings, watch: Watch, stack: ExitStack) -> None:
        self._job, self._watch, self._model = job, watch, job.model
        self._start, self._first_token = perf_counter(), job.model.num_tokens
        self._summary = Summary()
        self._file = stack.enter_context(_opened(job))
        self._target = target_of(os.fspath(job.output), job.output_format, self._file.paths)
        columns = self._file.columns()
        if not columns:
            raise InputError(nothing_in(self._file, []))
        self._columns = columns
        self._shape = _shape(job, self._file.name, columns)
        self._file.want(self._shape.kind)
        labels = num_labels(self._model)
        kept = None if job.columns is None else tuple(job.columns)
        label = _label(self._model, job, self._target.format == "trec")
        self._results = Results(
            Columns(self._shape, kept, labels),
            self._target.format,
            _keys(self._model, label),
            label,
            job.top_k,
            job.tag,
        )
        self._queries = self._table(job.queries, "query", stack)
        self._documents: Texts | Tokens | None = self._table(job.documents, "document", stack)
        if job.tokens is not None:
            self._documents = _tokens(self._model, job)
        self._results.miner = self._miner(job, columns)
        self._stamps = self._stamped()

    def _miner(self, job: Settings, columns: Mapping[str, bool]) -> Miner | None:
        if job.mining is None:
            return None
        documents = self._documents if isinstance(self._documents, Texts) else None
        positives = job.mining.positives(self._shape, columns)
        leave_out = self._results.leave_out
        return Miner(job.mining, self._shape, positives, self._queries, documents, leave_out)

    def _table(self, path: Named | None, what: str, stack: ExitStack) -> Texts | None:
        if path is None:
            return None
        table = stack.enter_context(Texts(os.fspath(path), what))
        for place, reason in table.left_out:
            self._watch.fail(f"{table.name}, {place}", "no id", reason)
        return table

    def whole(self) -> Summary:
        """Score and write."""
        if self._target.journal is None:
            self._through()
        else:
            is_folder = self._target.is_folder
            with Journal(self._target.journal, with_parent=is_folder) as journal:
                self._kept(journal)
        self._summary.unfit, self._summary.num_unfit = self._results.unfit, self._results.num_unfit
        return self._summary

    def _through(self) -> None:
        """From the input straight to a stream, where nothing can be kept."""
        results, file = self._results, self._file
        if results.is_by_query and not file.can_rewind:
            raise InputError(
                f"{file.name} is read once, and rows of a query may stand anywhere in it; name a "
                "file, or leave out --top-k and write jsonl"
            )
        writer = results.writer(file)
        self._say_replaced()
        self._watch.say(
            "nothing is kept on the way of what is read or written as a stream: a run "
            "that is stopped begins anew"
        )
        self._watch.begin(file.num_lines(), None)
        with replacing(self._target.path, self._watch.part) as sink:
            finished = self._finished_through(sink.flush)
            writer.write(results.rows(finished, self._rows), sink.buffer)

    def _finished_through(self, flush: Callable[[], object]) -> Iterator[Finished]:
        for scored in self._scored(read_rows(self._file, whole=True), keep_rows=True):
            self._tell(scored)
            own = iter(scored.failures)
            first, before = self._summary.rows - len(scored.ends), 0
            coming: Failure | None = None
            scores = _scores(self._model, scored.logits)
            for number, (row, end) in enumerate(zip(scored.rows, scored.ends, strict=True)):
                failures = []
                coming = coming or next(own, None)
                while coming is not None and coming.row == first + number:
                    failures.append(coming)
                    coming = next(own, None)
                here = slice(before, end)
                yield Finished(row, scored.logits[here], scores[here], failures, before)
                before = end
            flush()

    def _kept(self, journal: Journal) -> None:
        """By way of the journal."""
        labels = num_labels(self._model)
        journal.begin(self._about(), labels)
        assert journal.progress is not None
        folder = Path(self._target.path) if self._target.is_folder else None
        parts: Parts | None = None
        with ExitStack() as stack:
            if folder is not None and not self._results.is_by_query:
                again = stack.enter_context(self._opened_again())
                parts = Parts(
                    folder,
                    lambda: self._results.rows(self._finished(journal, again), self._rows),
                    self._results.writer(again),
                )
                stack.enter_context(parts)
            rows = self._go_on(journal, parts)
            if not journal.progress.is_complete:
                self._score(journal, rows, parts)
            elif next(rows, None) is not None:
                raise self._changed("has more rows now than when they were scored")
            self._summary.failed = journal.progress.failed
            if not journal.is_finished:
                self._write(journal, parts, folder)
        if folder is not None:
            self._summary.files = sorted(folder.glob("part-*"))
            journal.finish()
        else:
            self._summary.files = [Path(self._target.path)]
            journal.remove()

    def _go_on(self, journal: Journal, parts: Parts | None) -> Iterator[Read]:
        """The rows after those that are done, which must be what they were."""
        assert journal.progress is not None
        done, digest = journal.progress.rows, b""
        self._say_replaced()
        self._watch.begin(self._file.num_lines(), done)
        rows = read_rows(self._file, whole=False)
        for _ in range(done):
            found = next(rows, None)
            if found is None:
                raise self._changed(f"has fewer rows than the {done:,} that are done")
            digest = found.digest
            if parts is not None:
                parts.feed([self._shape.size(found.row.value)])
        if digest.hex() != journal.progress.digest:
            raise self._changed(f"does not begin with the {done:,} rows that are done")
        self._summary.rows = self._summary.before = done
        return rows

    def _say_replaced(self) -> None:
        for name in [*self._results.columns.scores, ERROR]:
            if name in self._columns and self._target.format != "trec":
                other = "" if name == ERROR else "; another name for it is --score-column's"
                self._watch.say(f"the column {name!r} of {self._file.name} is replaced{other}")

    def _score(self, journal: Journal, rows: Iterator[Read], parts: Parts | None) -> None:
        assert journal.now is not None
        try:
            before = journal.now.rows, journal.now.pairs
            for scored in self._scored(rows, keep_rows=False, before=before):
                journal.append(len(scored.ends), scored.logits, scored.failures, scored.digest)
                self._tell(scored)
                if parts is not None:
                    parts.feed(np.diff(scored.ends, prepend=0).tolist())
                if journal.is_due:
                    journal.commit()
                    if parts is not None:
                        parts.advance(journal.now.rows)
        except JobError:
            raise
        except BaseException:
            with suppress(JobError):  # what ended it counts more
                journal.commit()
            raise
        journal.commit(is_complete=True)

    def _scored(
        self, rows: Iterable[Read], *, keep_rows: bool, before: tuple[int, int] = (0, 0)
    ) -> Iterator[Scored]:
        self._start = perf_counter()
        yield from score_windows(
            self._model,
            windows(rows, self._shape, self._queries, self._documents, keep_rows=keep_rows),
            self._summary.stages,
            first_row=before[0],
            first_slot=before[1],
            cutoff_layer=self._job.cutoff_layer,
        )

    def _tell(self, scored: Scored) -> None:
        summary = self._summary
        summary.rows += len(scored.ends)
        summary.pairs += int(np.count_nonzero(~np.isnan(scored.logits[:, :1])))
        summary.tokens = self._model.num_tokens - self._first_token
        summary.seconds = max(perf_counter() - self._start, 1e-9)
        for failure in scored.failures:
            self._watch.fail(failure.place, failure.kind, failure.reason)
            if self._target.journal is None:
                count = summary.failed.get(failure.kind, 0)
                summary.failed[failure.kind] = count + 1
            if self._job.strict:
                raise InputError(f"{self._file.name}, {failure.place}: {failure.reason}")
        self._watch.advance(summary, len(scored.ends))

    def _write(self, journal: Journal, parts: Parts | None, folder: Path | None) -> None:
        """What is not written yet."""
        if parts is not None:
            parts.finish()
            return
        with self._opened_again() as again:
            writer = self._results.writer(again)
            rows = self._results.rows(self._finished(journal, again), self._rows)
            if folder is not None:
                write_parts(folder, rows, writer)
                return
            with replacing(self._target.path) as sink:
                writer.write(rows, sink.buffer)
        with open(self._target.path, "rb") as file:
            os.fsync(file.fileno())
        disk.sync_folder(Path(self._target.path).absolute().parent)

    def _finished(self, journal: Journal, file: RecordFile) -> Iterator[Finished]:
        def logits(start: int, stop: int) -> NDArray[np.float32]:
            assert journal.now is not None
            return journal.logits(start, min(stop, journal.now.pairs))

        self._check_stamps()
        yield from finished_rows(
            file.rows(),
            self._shape,
            logits,
            lambda found: _scores(self._model, found),
            journal.failures(),
        )
        self._check_stamps()

    def _rows(self) -> Iterator[Row]:
        """The input, once more."""
        with self._opened_again() as again:
            yield from again.rows()

    def _opened_again(self) -> RecordFile:
        return _opened(self._job)

    def _about(self) -> dict[str, Any]:
        """What the job is: what its output follows from, but for the rows."""
        job, paths = self._job, self._file.paths
        common = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
        model = dict(self._model.identity)
        if isinstance(self._model, Reranker):
            model["activation"] = self._model.activation
        else:
            del model["name"]
            model["device"] = self._model.device.type
            model["dtype"] = str(self._model.dtype).removeprefix("torch.")
        sides = [self._shape.query, *self._shape.documents]
        return {
            **model,
            "cutoff_layer": job.cutoff_layer,
            "list of input files": [os.path.relpath(path, common) for path in paths],
            "shape": [[side.column, side.by_id, side.is_list, side.scores] for side in sides],
            "table of queries": None if self._queries is None else self._queries.digest,
            "table of documents": None if self._documents is None else self._documents.digest,
            "output format": self._target.format,
            "columns": None if job.columns is None else list(job.columns),
            "top_k": job.top_k,
            "label": job.label,
            "tag": job.tag,
            "negatives": None if job.mining is None else asdict(job.mining),
        }

    def _changed(self, how: str) -> JobError:
        return JobError(
            f"{self._file.name} {how}: it has changed since; bring it back, or name another output"
        )

    def _stamped(self) -> list[tuple[int, int, int]]:
        if not self._file.can_rewind:
            return []
        found = [os.stat(path) for path in self._file.paths if path != "-"]
        return [(one.st_size, one.st_mtime_ns, one.st_ino) for one in found]

    def _check_stamps(self) -> None:
        if self._stamped() != self._stamps:
            raise JobError(f"{self._file.name} was written to while the job was at it; start again")


def check_input(paths: Sequence[str], format: Format | None) -> None:
    """Raise what `run` raises of files that cannot be read; of a pipe, which is read once, none."""
    for path in files_of(paths):
        if path != "-" and (os.path.isfile(path) or not os.path.exists(path)):
            OpenFile(path, _ANY, format).close()


def _shape(job: Settings, name: str, columns: Mapping[str, bool]) -> Shape:
    try:
        return shape_of(
            columns,
            query=job.query_column,
            document=job.document_column,
            queries_by_id=job.queries is not None,
            documents_by_id=job.documents is not None or job.tokens is not None,
            scores=job.score_column,
        )
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _opened(job: Settings) -> RecordFile:
    given = job.input
    paths = [given] if isinstance(given, str | os.PathLike) else list(given)
    names = [os.fspath(path) for path in paths]
    return RecordFile(names, _ANY, job.input_format, keep_damaged=True)


def _label(model: Scorer, job: Settings, is_run: bool) -> int:
    """The score that ranks."""
    names: Sequence[str] = model.labels if isinstance(model, Reranker) else ("score",)
    label = job.label
    if label is None:
        if len(names) > 1 and (is_run or job.top_k is not None):
            raise InputError(f"the model has {len(names)} labels; name the one that ranks")
        return 0
    if isinstance(label, str) and label in names:
        return names.index(label)
    if isinstance(label, int) and 0 <= label < len(names):
        return label
    raise InputError(f"there is no label {label!r}; there are {', '.join(map(repr, names))}")


def _tokens(model: Scorer, job: Settings) -> Tokens:
    assert job.tokens is not None
    if job.documents is not None:
        raise InputError("documents and tokens are both given; the tokens are of the documents")
    if not isinstance(model, Reranker):
        raise InputError("tokens are for rerankers, and the model scores by late interaction")
    store = TokenStore.open(job.tokens)
    store.check(model.tokenization)
    return Tokens(store)


def _keys(model: Scorer, label: int) -> Keys:
    if isinstance(model, Reranker):
        activation = model.activation
        return lambda logits: order_of(logits, label, activation)
    return lambda logits: logits[:, label].astype(np.float64)


def _scores(model: Scorer, logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return model.scores(logits) if isinstance(model, Reranker) else logits
