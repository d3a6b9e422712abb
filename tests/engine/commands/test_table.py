"""A table has ids where documents have them, and nothing that cannot be shown."""

from packrank.commands.table import table
from packrank.jobs.answers import Answer, Row
from packrank.jobs.queries import Query
from packrank.records.record import Record
from packrank.screen import Screen


def answer(*documents: tuple[object, str], query: str | None = None) -> Answer:
    rows = [
        Row(1 - n / 8, id, Record(n + 3, {"id": id, "text": text}))
        for n, (id, text) in enumerate(documents)
    ]
    return Answer(Query("a query", query), rows, [])


def test_ids_are_shown_where_documents_have_them() -> None:
    screen = Screen(30, "utf-8")
    assert list(table(answer(("猫", "a b\nc"), ("dog", "x" * 40), (None, "é")), screen)) == [
        "rank     score  id        text",
        "   1    1.0000  猫        a...",
        "   2    0.8750  dog       x...",
        "   3    0.7500  (line 5)  é",
    ]
    assert list(table(answer((None, "owl")), screen)) == [
        "rank     score     line  text",
        "   1    1.0000        3  owl",
    ]


def test_what_cannot_be_shown_and_a_heading() -> None:
    lines = list(table(answer(("d", "\x1b[2J 猫"), query="q\t1"), Screen(None, "latin-1")))
    assert lines[0] == "query q 1: a query"
    assert lines[2].endswith("  d   ?[2J ?")
