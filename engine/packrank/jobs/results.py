"""Finished rows to rows of the output, in the order and of the form that it asks for."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from packrank.errors import InputError
from packrank.jobs.mining import Miner
from packrank.jobs.output import Columns, Finished, OutputFormat, trec_line
from packrank.jobs.queries import is_fit_for_trec
from packrank.jobs.ranking import Keys, by_query, places
from packrank.jobs.writers import JsonLines, Lines, Parquet, Writer, schema_of
from packrank.records.file import RecordFile, Row
from packrank.records.tables import arrow

_ROWS_SEEN = 1024  # of which the columns of a table are told
RANK = "rank"


@dataclass
class Results:
    """What becomes of finished rows.

    Attributes:
        columns: of the output.
        format: of it.
        keys: what documents of a query are ordered by.
        label: the score that counts where there is one.
        top_k: of each query; None: all, in the order of the input.
        tag: of a TREC run.
        miner: mines hard negatives of queries, which then are the output; None: rows are.
        unfit: what the output has no row for: which -> why, the first of them.
        num_unfit: how many.
        num_few: queries that had too few hard negatives for a row.
    """

    columns: Columns
    format: OutputFormat
    keys: Keys
    label: int = 0
    top_k: int | None = None
    tag: str = "packrank"
    miner: Miner | None = None
    unfit: dict[str, str] = field(default_factory=dict)
    num_unfit: int = 0
    num_few: int = 0
    _ranked: set[str | None] = field(default_factory=set)

    def __post_init__(self) -> None:
        shape = self.columns.shape
        if self.is_by_query and self.miner is None and self.format != "trec":
            self.columns = replace(self.columns, added=(RANK,))
        if self.miner is not None and (self.top_k is not None or self.format == "trec"):
            raise InputError("hard negatives are rows of their own; leave out --top-k, and no run")
        is_training = len(shape.documents) > 1
        if is_training and (self.top_k is not None or self.format == "trec"):
            raise InputError(
                "pos and neg are scored where they stand; leave out --top-k, and write jsonl or "
                "parquet"
            )
        if self.format == "trec" and not (shape.query.by_id and shape.documents[0].by_id):
            raise InputError(
                "a TREC run has ids of queries and documents; give rows of ids, with --queries and "
                "--documents, or write jsonl or parquet"
            )

    @property
    def is_by_query(self) -> bool:
        """Whether rows are brought together by query, which needs all of them."""
        is_ranked = self.top_k is not None or self.format == "trec" or self.miner is not None
        return self.columns.shape.is_pairs and is_ranked

    @property
    def is_row_by_row(self) -> bool:
        """Whether each row of the input is one of the output, in its place."""
        return self.miner is None and self.format != "trec" and not self.is_by_query

    def rows(
        self, finished: Iterable[Finished], again: Callable[[], Iterable[Row]]
    ) -> Iterator[Mapping[str, Any]]:
        """Rows of the output.

        Args:
            finished: all rows, or, where they are not brought together, some.
            again: the rows of the input, all of them.
        """
        if self.miner is not None:
            yield from self._mined(self.miner, finished, again)
        elif not self.is_by_query:
            for one in finished:
                yield from self._of_list(one) if self.format == "trec" else [self._of_row(one)]
        else:
            yield from self._by_query(finished, again)

    def _mined(
        self, miner: Miner, finished: Iterable[Finished], again: Callable[[], Iterable[Row]]
    ) -> Iterator[Mapping[str, Any]]:
        shape = self.columns.shape
        if shape.is_pairs:
            for query, best, others in by_query(again(), finished, shape, self.keys):
                try:
                    candidates = miner.candidates_of_pairs([*best, *others], self.label)
                except InputError as error:
                    self.leave_out(f"query {query}", str(error))
                    continue
                yield from miner.rows(query, candidates)
            return
        for one in finished:
            if isinstance(one.row.value, Mapping):
                query = shape.query_of(one.row.value)
                yield from miner.rows(query, miner.candidates_of_list(one, self.label))

    def _by_query(
        self, finished: Iterable[Finished], again: Callable[[], Iterable[Row]]
    ) -> Iterator[Mapping[str, Any]]:
        for query, best, others in by_query(again(), finished, self.columns.shape, self.keys):
            if self.format == "trec":
                column = self.columns.shape.documents[0].column
                found = [(row.row.value[column], row.scores[0, self.label].item()) for row in best]
                yield from self._run_of(query, found)
                continue
            for rank, row in enumerate(best[: self.top_k], start=1):
                yield {**self.columns.of(row), RANK: rank}
            yield from ({**self.columns.of(row), RANK: None} for row in others)

    def writer(self, file: RecordFile) -> Writer:
        """What writes them; of rows that are no table the first tell the columns."""
        if self.format == "jsonl":
            return JsonLines()
        if self.format == "trec":
            return Lines()
        pyarrow = arrow("Parquet is asked for")
        if self.miner is not None:
            return Parquet(pyarrow.schema([]), self.miner.mining.types(pyarrow), has_errors=False)
        kept = self.columns.kept
        schemas, mixed = file.schemas(), set[str]()
        if kept is not None:
            schemas = [pyarrow.schema([x for x in one if x.name in kept]) for one in schemas]
        try:
            if schemas:
                schema = pyarrow.unify_schemas(schemas)
            else:
                schema, mixed = schema_of(file.first_values(_ROWS_SEEN), kept)
        except pyarrow.ArrowException as error:
            reason = str(error).partition("\n")[0]
            raise InputError(
                f"the files of {file.name} have columns of several types, which no table holds: "
                f"{reason}; write jsonl, or name the columns to keep by --columns"
            ) from None
        return Parquet(schema, self._added(pyarrow), mixed)

    def _added(self, pyarrow: Any) -> dict[str, Any]:
        one = pyarrow.float32()
        if self.columns.labels > 1:
            one = pyarrow.list_(one)
        sides = self.columns.shape.documents
        added = {side.scores: pyarrow.list_(one) if side.is_list else one for side in sides}
        return added | ({RANK: pyarrow.int64()} if self.is_by_query else {})

    def _of_row(self, one: Finished) -> Mapping[str, Any]:
        if self.top_k is None or self.columns.shape.is_pairs:
            return self.columns.of(one)
        return self.columns.of(one, lambda logits: places(self.keys(logits), self.top_k))

    def _of_list(self, one: Finished) -> Iterator[Mapping[str, Any]]:
        """Lines of a TREC run of a row that is a query."""
        shape = self.columns.shape
        if not isinstance(one.row.value, Mapping) or not len(one.logits):
            return
        query = shape.query_of(one.row.value)
        if query in self._ranked:
            self.leave_out(f"query {query}", "it stands in several rows, and the first is ranked")
            return
        self._ranked.add(query)
        ids = one.row.value[shape.documents[0].column]
        order = places(self.keys(one.logits), None)
        found = [(ids[place], one.scores[place, self.label].item()) for place in order]
        yield from self._run_of(query, found)

    def _run_of(self, query: object, found: list[tuple[Any, float]]) -> Iterator[Mapping[str, Any]]:
        """Best first; of a document that comes twice the better."""
        written: set[str] = set()
        for id, score in found:
            document = str(id)
            if not is_fit_for_trec(str(query)) or not is_fit_for_trec(document):
                self.leave_out(f"query {query}, document {document}", "an id has blanks")
            elif document not in written and (self.top_k is None or len(written) < self.top_k):
                written.add(document)
                rank = len(written)
                yield {"line": trec_line(query, document, rank, score, self.tag)}

    def leave_out(self, what: str, reason: str) -> None:
        """Count something that the output has no row for."""
        self.num_unfit += 1
        if len(self.unfit) < 20:
            self.unfit[what] = reason
