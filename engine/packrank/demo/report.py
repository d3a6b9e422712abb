"""The shipped sample, ranked by BM25 and then by late interaction: a report in lines of text."""

import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from packrank.demo.bm25 import BM25
from packrank.demo.metrics import ndcg, read_qrels
from packrank.late_interaction import LateInteraction
from packrank.records.file import RecordFile
from packrank.records.record import DOCUMENTS

_SAMPLE = Path(__file__).parent / "sample"
CANDIDATES = 20  # of a query, by BM25
_SHOWN = 5  # of them, in the table
_WIDTH = 98
_MARKS = {2: "●", 1: "○"}


@dataclass(frozen=True)
class Sample:
    """Texts with judgements.

    Attributes:
        ids: of the documents.
        documents: their texts, in the order of `ids`.
        queries: id -> text.
        qrels: query id -> document id -> grade: 2 answers it, 1 helps, 0 does not.
    """

    ids: list[str]
    documents: list[str]
    queries: dict[str, str]
    qrels: Mapping[str, Mapping[str, int]]

    @classmethod
    def load(cls) -> "Sample":
        """The sample that ships with the package."""
        documents = _read(_SAMPLE / "documents.jsonl")
        queries = _read(_SAMPLE / "queries.jsonl")
        return cls(
            ids=[record["_id"] for record in documents],
            documents=[record["text"] for record in documents],
            queries={record["_id"]: record["text"] for record in queries},
            qrels=read_qrels(_SAMPLE / "qrels.tsv"),
        )


def report(model: LateInteraction, sample: Sample) -> Iterator[str]:
    """Lines of text: for each query the best documents, then what reranking gained."""
    first_stage = BM25(sample.documents)
    quality: list[tuple[str, float, float]] = []
    seconds, num_candidates, first_token = 0.0, 0, model.num_tokens
    for query_id, query in sample.queries.items():
        candidates = first_stage.rank(query, CANDIDATES)
        start = time.perf_counter()
        ranked = model.rank(query, [sample.documents[i] for i in candidates])
        seconds += time.perf_counter() - start
        num_candidates += len(candidates)
        grades = sample.qrels[query_id]
        ids = [sample.ids[i] for i in candidates]
        before, after = ndcg(ids, grades), ndcg([ids[r.index] for r in ranked], grades)
        quality.append((query, before, after))
        yield query
        yield f"{'rank':>4}  {'score':>6}  {'BM25':>4}  "
        for place, r in enumerate(ranked[:_SHOWN]):
            mark = _MARKS.get(grades.get(ids[r.index], 0), " ")
            row = f"{place + 1:>4}  {r.score:6.2f}  {_move(r.index - place):>4}  {mark} "
            yield row + _shorten(r.document, _WIDTH - len(row))
        yield ""
    yield "● answers the query   ○ helps   ▲ ▼ places won or lost against BM25"
    yield ""
    yield from _summary(quality)
    yield ""
    yield (
        f"{num_candidates} candidates in {seconds:.2f} s: {num_candidates / seconds:,.0f} "
        f"candidates/s, {(model.num_tokens - first_token) / seconds:,.0f} tokens/s"
    )


def _move(places: int) -> str:
    return f"▲{places}" if places > 0 else f"▼{-places}" if places < 0 else "="


def _shorten(text: str, width: int) -> str:
    return textwrap.shorten(text, width, placeholder=" …")


def _summary(quality: Sequence[tuple[str, float, float]]) -> Iterator[str]:
    yield f"{'nDCG@10':<71}  {'BM25':>5}  {'reranked':>8}  change"
    mean = ("mean", fmean(row[1] for row in quality), fmean(row[2] for row in quality))
    for name, before, after in (*quality, mean):
        yield f"{_shorten(name, 71):<71}  {before:5.3f}  {after:8.3f}  {after - before:+.3f}"


def _read(path: Path) -> list[dict[str, Any]]:
    with RecordFile(str(path), DOCUMENTS) as file:
        return [record.fields for record in file.records()]
