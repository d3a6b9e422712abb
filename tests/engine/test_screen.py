"""A line is as wide as the terminal, whatever its characters, and uncut where there is none."""

import io
import os
import sys

import pytest

from packrank.screen import Screen, columns, cut


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
