from packrank.demo.bm25 import BM25
from packrank.demo.report import Sample

SAMPLE = Sample.load()


def test_passages_are_short_and_distinct() -> None:
    assert 55 <= len(SAMPLE.documents) <= 65
    assert len(set(SAMPLE.ids)) == len(set(SAMPLE.documents)) == len(SAMPLE.documents)
    for document_id, text in zip(SAMPLE.ids, SAMPLE.documents, strict=True):
        assert 40 <= len(text.split()) <= 90, document_id


def test_every_query_is_judged_on_the_passages_there_are() -> None:
    assert len(SAMPLE.queries) == 5
    assert SAMPLE.qrels.keys() == SAMPLE.queries.keys()
    for query_id, grades in SAMPLE.qrels.items():
        assert grades.keys() <= set(SAMPLE.ids), query_id
        assert set(grades.values()) == {0, 1, 2}, query_id


def test_one_query_says_what_it_does_not_want() -> None:
    assert sum(" not " in query for query in SAMPLE.queries.values()) == 1


def test_the_first_stage_finds_all_that_is_relevant() -> None:
    first_stage = BM25(SAMPLE.documents)
    for query_id, query in SAMPLE.queries.items():
        found = {SAMPLE.ids[i] for i in first_stage.rank(query, 20)}
        assert {d for d, grade in SAMPLE.qrels[query_id].items() if grade} <= found, query_id
