"""Rankings of a store that has an id several times, as an index of passages may."""

from typing import Any

import pytest

from packrank import LateInteraction, RankedId
from packrank.jobs.queries import Query, Request, trec_surplus
from packrank.jobs.rank import rank_store
from packrank.stores.document_ids import Numbers

IDS = ["a", "b", "a", "c d", "b", "a", "e"]  # best first


class Passages(LateInteraction):
    """Ranks the documents of its store in their order."""

    def __init__(self) -> None:
        self._attached: Any = type("Attached", (), {"store": type("Stored", (), {"ids": IDS})})

    def try_rank(
        self, query: str, documents: Any = None, top_k: int | None = None, **_: Any
    ) -> Any:
        found = [RankedId(place, 1.0 - place, id) for place, id in enumerate(IDS)]
        return found[:top_k], {}


@pytest.mark.parametrize(("top_k", "count"), [(None, 3), (1, 1), (2, 2), (3, 3), (9, 3)])
def test_a_run_has_the_best_passage_of_each_document(top_k: int | None, count: int) -> None:
    told: list[str] = []
    requests = [Request(Query("x", str(n)), None) for n in range(3)]
    for answer in rank_store(Passages(), requests, top_k, False, told.append):
        assert [(row.id, row.score) for row in answer.rows] == [("a", 1), ("b", 0), ("e", -5)][
            :count
        ]
    assert told == ["c d"]
    [plain, *_] = rank_store(Passages(), requests, None, False)
    assert [row.id for row in plain.rows] == IDS


def test_how_many_have_no_row() -> None:
    assert trec_surplus(IDS) == 4
    assert trec_surplus(["a", "b"]) == trec_surplus(Numbers(5)) == 0
