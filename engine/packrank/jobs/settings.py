"""What is said of a job, and by it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from packrank.jobs.facts import AnyScorer
from packrank.jobs.mining import Mining
from packrank.jobs.output import OutputFormat
from packrank.jobs.score import Stages
from packrank.records.formats import Format

Named = str | os.PathLike[str]


@dataclass
class Summary:
    """What a job came to.

    Attributes:
        rows: of the input that are done.
        before: of those, what an earlier run had done.
        pairs: that this run has scored.
        failed: kind of problem -> rows or pairs without a score, of all runs.
        tokens: that the model read in this run, special ones included.
        seconds: of this run's scoring.
        stages: where they went.
        unfit: what a TREC run had no line for: which, and why; the first of them.
        num_unfit: how many.
        num_few: queries that had too few hard negatives for a row.
        files: that were written.
    """

    rows: int = 0
    before: int = 0
    pairs: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    seconds: float = 0.0
    stages: Stages = field(default_factory=Stages)
    unfit: dict[str, str] = field(default_factory=dict)
    num_unfit: int = 0
    num_few: int = 0
    files: list[Path] = field(default_factory=list)


class Watch(Protocol):
    """Is told how a job goes on."""

    def say(self, sentence: str) -> None:
        """Something that is worth knowing."""
        ...

    def begin(self, total: int | None, done: int | None) -> None:
        """There are so many rows, if that is known, of which an earlier run has done some.

        None are done where nothing is kept, so that a run that is stopped begins anew.
        """
        ...

    def advance(self, summary: Summary, rows: int) -> None:
        """So many more rows are done."""
        ...

    def fail(self, place: str, kind: str, reason: str) -> None:
        """A row, or a pair of it, has no score."""
        ...

    def part(self, path: str, lines: int) -> None:
        """Of a job without a journal, that was stopped, a file has so many lines."""
        ...


class Silent:
    """A watch that says nothing."""

    def say(self, sentence: str) -> None:
        """See `Watch`."""

    def begin(self, total: int | None, done: int | None) -> None:
        """See `Watch`."""

    def advance(self, summary: Summary, rows: int) -> None:
        """See `Watch`."""

    def fail(self, place: str, kind: str, reason: str) -> None:
        """See `Watch`."""

    def part(self, path: str, lines: int) -> None:
        """See `Watch`."""


@dataclass
class Settings:
    """What a job is to do.

    Attributes:
        model: what scores: a reranker, late interaction, or a `jobs.cluster.Cluster`.
        input: a file, a folder, a pattern, or several; "-" is standard input. Its rows are pairs,
            queries with lists of documents, or FlagEmbedding's training lines: see
            `records.shapes`.
        output: a file, or a folder, which ends in a slash; "-" is standard output.
        queries: a table of texts by id, where rows have ids of queries; a file, a folder or a
            pattern, and a BEIR folder.
        documents: the same of documents.
        tokens: a token store, in place of that, which `packrank tokenize` made.
        input_format: of the input, if not as its bytes and its name say.
        output_format: "jsonl", "parquet" or "trec"; None: as the name of the output says.
        query_column: of the input, if it has none of the usual names.
        document_column: likewise; of texts or ids, or of lists of them.
        score_column: what that of scores is called: "score", of lists "scores".
        columns: of the input that are written; None: all.
        top_k: the best of each query alone, and their ranks.
        label: of a model of several: whose score ranks.
        tag: of a TREC run.
        mining: write hard negatives in place of the rows; None: the rows.
        cutoff_layer: layers that a reranker runs; None: all.
        strict: end at the first row that cannot be scored.
    """

    model: AnyScorer
    input: Named | Sequence[Named]
    output: Named
    queries: Named | None = None
    documents: Named | None = None
    tokens: Named | None = None
    input_format: Format | None = None
    output_format: OutputFormat | None = None
    query_column: str | None = None
    document_column: str | None = None
    score_column: str | None = None
    columns: Sequence[str] | None = None
    top_k: int | None = None
    label: int | str | None = None
    tag: str = "packrank"
    mining: Mining | None = None
    cutoff_layer: int | None = None
    strict: bool = False
