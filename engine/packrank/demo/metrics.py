"""Ranking quality against judgements."""

import math
from collections.abc import Mapping, Sequence
from os import PathLike

from packrank.errors import InputError

Qrels = dict[str, dict[str, int]]


def ndcg(ranking: Sequence[str], grades: Mapping[str, int], k: int = 10) -> float:
    """Normalised discounted cumulative gain of the first k places, 0 to 1.

    nDCG@k = DCG@k / DCG@k of the best possible order,  DCG@k = sum_{i=1..k} grade_i / log2(i + 1)

    The gain is the grade itself, as in trec_eval's ndcg_cut, and not 2^grade - 1. Documents
    without a judgement count as 0, and so does a query without a relevant document.

    Args:
        ranking: document ids, best first.
        grades: document id -> grade; 0 or less is not relevant.
        k: places that count; at least 1.

    Raises:
        InputError: k is below 1, or a document is in the ranking twice.

    Source: Järvelin and Kekäläinen 2002.
    """
    if k < 1:
        raise InputError(f"nDCG needs k of at least 1, got {k}")
    if len(set(ranking)) < len(ranking):
        raise InputError("a document is in the ranking twice")
    best = _dcg(sorted(grades.values(), reverse=True)[:k])
    return _dcg([grades.get(document, 0) for document in ranking[:k]]) / best if best else 0.0


def _dcg(grades: Sequence[int]) -> float:
    return sum(max(grade, 0) / math.log2(place + 1) for place, grade in enumerate(grades, start=1))


def read_qrels(path: str | PathLike[str]) -> Qrels:
    """Judgements by query, from lines of "query <tab> document <tab> grade".

    Raises:
        InputError: a line has another form; the message has its number.
    """
    qrels: Qrels = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                query, document, grade = line.rstrip("\n").split("\t")
                qrels.setdefault(query, {})[document] = int(grade)
            except ValueError:
                raise InputError(
                    f"{path}, line {number}: expected query, document and grade between tabs"
                ) from None
    return qrels
