"""One run of a job: from its input, by way of its journal, to its output."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packrank.errors import InputError, JobError
from packrank.jobs.facts import Remote, about, facts_of
from packrank.jobs.journal import Journal
from packrank.jobs.lookup import Texts, Tokens, files_of_table
from packrank.jobs.mining import Miner
from packrank.jobs.output import ERROR, Columns, Finished, finished_rows
from packrank.jobs.parts import Parts, write_parts
from packrank.jobs.plan import (
    ANY,
    check_settings,
    kept_columns,
    label_of,
    paths_of,
    shape_for,
    tokens_of,
)
from packrank.jobs.results import Results
from packrank.jobs.rows import Read, read_rows, windows
from packrank.jobs.score import Scored, score_windows
from packrank.jobs.settings import Named, Settings, Silent, Summary, Watch
from packrank.jobs.target import target_of
from packrank.output_file import replacing
from packrank.records.file import RecordFile, Row, nothing_in
from packrank.reranker import Reranker
from packrank.stores import disk


def run(job: Settings, watch: Watch | None = None) -> Summary:
    """See `Job.run`."""
    with ExitStack() as stack:
        return _Run(job, watch or Silent(), stack).whole()


class _Run:
    def __init__(self, job: Settings, watch: Watch, stack: ExitStack) -> None:
        self._job, self._watch, self._model = job, watch, job.model
        self._facts = facts_of(job.model)
        self._start, self._first_token = perf_counter(), job.model.num_tokens
        self._summary = Summary()
        check_settings(job)
        given = paths_of(job)
        self._file = stack.enter_context(
            RecordFile(given, ANY, job.input_format, keep_damaged=True)
        )
        self._stamps = self._stamped()  # tables of texts may take minutes to read
        self._target = target_of(
            os.fspath(job.output),
            job.output_format,
            given,
            self._file.paths,
            tables=[
                *files_of_table(job.queries, "query"),
                *files_of_table(job.documents, "document"),
            ],
            is_table=self._file.is_table,
        )
        columns = self._file.columns()
        # Fields that few of the first rows have make no shape, but are there.
        values = [] if self._file.is_table else self._file.first_values()
        self._columns = {*columns, *(name for value in values for name in value)}
        if not columns:
            raise InputError(nothing_in(self._file, []))
        self._shape, positives = shape_for(job, self._file.name, columns), None
        if job.mining is not None:
            self._shape, positives = job.mining.shape(self._shape, columns)
        self._file.want(self._shape.kind)
        self._queries = self._table(job.queries, "query", stack)
        self._documents: Texts | Tokens | None = self._table(job.documents, "document", stack)
        if job.tokens is not None:
            self._documents = tokens_of(self._facts, job)
        label = label_of(self._facts, job, self._target.format == "trec")
        self._results = Results(
            Columns(self._shape, kept_columns(job, self._columns), len(self._facts.labels)),
            self._target.format,
            lambda logits: self._facts.keys(logits, label),
            label,
            job.top_k,
            job.tag,
            self._miner(positives),
        )
        self._writer = self._results.writer(self._file)

    def _miner(self, positives: str | None) -> Miner | None:
        mining = self._job.mining
        if mining is None:
            return None
        documents = self._documents if isinstance(self._documents, Texts) else None
        tables = self._queries, documents
        return Miner(mining, self._shape, positives, *tables, self._leave_out, self._few)

    def _leave_out(self, what: str, reason: str) -> None:
        self._results.leave_out(what, reason)

    def _few(self) -> None:
        self._results.num_few += 1

    def _table(self, path: Named | None, what: str, stack: ExitStack) -> Texts | None:
        if path is None:
            return None
        table = stack.enter_context(Texts(os.fspath(path), what))
        for place, reason in table.left_out:
            self._watch.fail(f"{table.name}, {place}", "no id", reason)
        return table

    def whole(self) -> Summary:
        """Score and write."""
        summary, target = self._summary, self._target
        if target.journal is None:
            self._through()
        else:
            with Journal(target.journal, with_parent=target.is_folder) as journal:
                self._kept(journal)
        summary.unfit, summary.num_few = self._results.unfit, self._results.num_few
        summary.num_unfit = max(summary.num_unfit, self._results.num_unfit + self._writer.misfits)
        return summary

    def _through(self) -> None:
        """From the input straight to a stream, where nothing can be kept."""
        results, file, watch = self._results, self._file, self._watch
        if results.is_by_query and not file.can_rewind:
            raise InputError(
                f"{file.name} is read once, and rows of a query may stand anywhere in it; name a "
                "file, or leave out --top-k and write jsonl"
            )
        self._say_replaced()
        watch.say(
            "nothing is kept on the way of what is read or written as a stream: a run that is "
            "stopped begins anew"
        )
        watch.begin(file.num_lines(), None)
        on_part = None if self._target.format == "parquet" else watch.part
        with replacing(self._target.path, on_part) as sink:
            finished = self._finished_through(sink.flush)
            self._writer.write(results.rows(finished, self._rows), sink.buffer)

    def _finished_through(self, flush: Callable[[], object]) -> Iterator[Finished]:
        slots = 0
        for scored in self._scored(read_rows(self._file), keep_rows=True):
            self._tell(scored)
            own = deque(scored.failures)
            first, before = self._summary.rows - len(scored.ends), 0
            scores = self._facts.scores(scored.logits)
            for number, (row, end) in enumerate(zip(scored.rows, scored.ends, strict=True)):
                failures = []
                while own and own[0].row == first + number:
                    failures.append(own.popleft())
                here = slice(before, end)
                yield Finished(row, scored.logits[here], scores[here], failures, slots + before)
                before = end
            slots += before
            flush()

    def _kept(self, journal: Journal) -> None:
        """By way of the journal."""
        self._check_model()
        journal.begin(self._about(), len(self._facts.labels))
        assert journal.progress is not None
        folder = Path(self._target.path) if self._target.is_folder else None
        with ExitStack() as stack:
            parts: Parts | None = None
            if folder is not None and self._results.is_row_by_row:
                again = stack.enter_context(self._opened_again())
                rows = self._results.rows(self._finished(journal, again), self._rows)
                parts = stack.enter_context(Parts(folder, lambda: rows, self._writer))
            coming = self._go_on(journal, parts)
            if not journal.progress.is_complete:
                self._score(journal, coming, parts)
            elif next(coming, None) is not None:
                raise self._changed("has more rows now than when they were scored")
            self._summary.failed = journal.progress.failed
            num_parts = 0
            if not journal.is_finished:
                num_parts = self._write(journal, parts, folder)
        if folder is None:
            self._summary.files = [Path(self._target.path)]
            journal.remove()
            return
        if not journal.is_finished:
            journal.finish(num_parts, self._results.num_unfit + self._writer.misfits)
        self._summary.num_unfit = journal.progress.unfit
        self._summary.files = sorted(folder.glob("part-*"))
        if len(self._summary.files) != journal.progress.parts:
            raise JobError(
                f"{folder} is finished, and has {len(self._summary.files)} of its "
                f"{journal.progress.parts} parts; remove it to begin anew"
            )

    def _check_model(self) -> None:
        """Raise what the model says of options before there is a journal that keeps them."""
        if isinstance(self._model, Remote):
            self._model.check(self._job.cutoff_layer)
        elif isinstance(self._model, Reranker):
            self._model.score_stream([], cutoff_layer=self._job.cutoff_layer).close()

    def _go_on(self, journal: Journal, parts: Parts | None) -> Iterator[Read]:
        """The rows after those that are done, which must be what they were."""
        assert journal.progress is not None
        done, digest = journal.progress.rows, b""
        self._say_replaced()
        if done:
            self._watch.say(
                f"{self._target.path} is finished already"
                if journal.is_finished
                else f"an earlier run has done {done:,} rows; going on"
            )
        self._watch.begin(self._file.num_lines(), done)
        if self._job.strict and journal.progress.failed:
            kinds = ", ".join(journal.progress.failed)
            raise InputError(f"rows that are done have no score ({kinds}), and the job is strict")
        rows = read_rows(self._file)
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
        columns = self._results.columns
        if self._target.format == "trec" or self._job.mining is not None:
            return
        for name in [*columns.scores, *columns.added, ERROR]:
            if name in self._columns:
                other = "; --score-column names another" if name in columns.scores else ""
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

    def _write(self, journal: Journal, parts: Parts | None, folder: Path | None) -> int:
        """What is not written yet; returns the number of parts."""
        if parts is not None:
            return parts.finish()
        with self._opened_again() as again:
            rows = self._results.rows(self._finished(journal, again), self._rows)
            if folder is not None:
                return write_parts(folder, rows, self._writer)
            with replacing(self._target.path) as sink:
                self._writer.write(rows, sink.buffer)
        with open(self._target.path, "rb") as file:
            os.fsync(file.fileno())
        with suppress(PermissionError):  # of a folder that may not be listed
            disk.sync_folder(Path(self._target.path).absolute().parent)
        return 0

    def _finished(self, journal: Journal, file: RecordFile) -> Iterator[Finished]:
        def logits(start: int, stop: int) -> NDArray[np.float32]:
            assert journal.now is not None
            return journal.logits(start, min(stop, journal.now.pairs))

        self._check_stamps()
        yield from finished_rows(
            file.rows(),
            self._shape,
            logits,
            self._facts.scores,
            journal.failures(),
            lambda: journal.now.pairs if journal.now is not None else 0,
        )
        self._check_stamps()

    def _rows(self) -> Iterator[Row]:
        """The input, once more."""
        if self._file.paths == ["-"]:  # of which there is no second
            yield from self._file.rows()
            self._file.rewind()
            return
        with self._opened_again() as again:
            yield from again.rows()

    def _opened_again(self) -> RecordFile:
        format = self._job.input_format
        return RecordFile(paths_of(self._job), ANY, format, keep_damaged=True)

    def _about(self) -> dict[str, Any]:
        """What the job is: what its output follows from, but for the rows."""
        job, paths = self._job, self._file.paths
        common = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
        sides = [self._shape.query, *self._shape.documents]
        said = {
            **about(self._model),
            "cutoff_layer": job.cutoff_layer,
            "list of input files": [os.path.relpath(path, common) for path in paths],
            "shape": [[side.column, side.by_id, side.is_list] for side in sides],
            "table of queries": None if self._queries is None else self._queries.digest,
            "table of documents": None if self._documents is None else self._documents.digest,
        }
        if not self._target.is_folder:  # nothing is written before all is scored
            return said
        return {
            **said,
            "activation": self._facts.activation,
            "output format": self._target.format,
            "score columns": self._results.columns.scores,
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
