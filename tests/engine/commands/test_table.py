"""A table is as wide as the terminal, whatever the characters, and uncut where there is none."""

import io
import os
import sys

import pytest

from packrank.commands.table import Screen, columns, cut, table
from packrank.jobs.answers import Answer, Row
from packrank.jobs.queries import Query
from packrank.records.record import Record


def answer(*documents: tuple[object, str], query: str | None = None) -> Answer:
    rows = [
        Row(1 - n / 8, id, Record(n + 3, {"id": id, "text": text}))
        for n, (id, text) in enumerate(documents)
    ]
    return Answer(Query("a query", query), rows, [])


@pytest.mark.parametrize(
    ("text", "size", "short"),
    [
        ("owl", 3, "owl"),
        ("owls by night", 8, "owls ..."),
        ("猫と犬と", 8, "猫と犬と"),
        ("猫と犬と", 7, "猫と..."),
        ("猫と犬と", 6, "猫..."),
        ("e\u0301" * 4, 4, "e\u0301" * 4),
        ("owl", 2, ".."),
    ],
)
def test_a_text_is_cut_by_columns(text: str, size: int, short: str) -> None:
    assert cut(text, size) == short
    assert columns(short) <= size
    assert cut(text, None) == text


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


def test_only_a_terminal_has_a_width(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        encoding = "ascii"

        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "57")
    for sink, screen in ((Terminal(), Screen(57, "ascii")), (io.StringIO(), Screen(None, "utf-8"))):
        monkeypatch.setattr(sys, "stdout", sink)
        assert Screen.of(sink) == screen
    with open(os.devnull, "w", encoding="latin-1") as file:
        assert Screen.of(file) == Screen(None, "utf-8")
