"""Pairs of named lengths, of one length, and from files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from packrank.bench.subjects import texts
from packrank.bench.subjects.texts import NAMED, Texts
from packrank.errors import InputError


@pytest.mark.parametrize("name", NAMED)
def test_texts_are_as_long_as_their_name_says(name: str) -> None:
    pairs = Texts.named(name).pairs(3000, 100, seed=1)
    queries = [len(query.split()) for query, _ in pairs[::100]]
    documents = np.array([len(document.split()) for _, document in pairs])
    of = NAMED[name]
    assert abs(np.mean(queries) / of.query - 1) < 0.25
    assert abs(documents.mean() / of.document - 1) < 0.05
    assert abs(np.log(documents).std() - of.spread) < 0.05


def test_the_same_seed_gives_the_same_pairs_and_another_gives_others() -> None:
    texts = Texts.named("nq-like")
    assert texts.pairs(40, 10, seed=3) == texts.pairs(40, 10, seed=3)
    assert texts.pairs(40, 10, seed=3) != texts.pairs(40, 10, seed=4)
    pairs = texts.pairs(40, 10, seed=3)
    assert len({query for query, _ in pairs}) == 4
    assert len({document for _, document in pairs}) == 40


def test_a_fixed_length_is_never_less_in_words() -> None:
    texts = Texts.named("fixed:77")
    assert texts.max_length == 77
    assert all(len(document.split()) == 77 for _, document in texts.pairs(20, 5, seed=0))


@pytest.mark.parametrize("name", ["fixed:", "fixed:0", "fixed:-3", "fixed:many"])
def test_a_fixed_length_is_a_number(name: str) -> None:
    with pytest.raises(InputError, match="no number of tokens"):
        Texts.named(name)


def test_a_file_is_read_in_its_order_and_again_from_its_beginning(tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "one"}\n{"title": "T", "text": "two"}\n{"text": " "}\n')
    texts = Texts.named(str(file))
    assert texts.documents == ("one", "T two")
    _, documents = texts.request(5, seed=0)
    assert set(documents) == {"one", "T two"}
    assert documents[0] == documents[2] != documents[1]
    assert texts.left_out == (f"{file}: line 3: its text is empty",)


def test_of_a_long_file_the_first_texts_count(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(texts, "_MOST_OF_A_FILE", 2)
    file = tmp_path / "texts.txt"
    file.write_text("one\ntwo\n")
    assert Texts.named(str(file)).left_out == ()
    file.write_text("one\ntwo\nthree\n")
    found = Texts.named(str(file))
    assert found.documents == ("one", "two")
    assert found.left_out == (f"{file}: what comes after 2 texts",)


def test_a_query_of_more_candidates_than_there_are_pairs_is_drawn_as_far() -> None:
    texts = Texts.named("msmarco-like")
    assert texts.pairs(3, 10**15, seed=1) == texts.pairs(3, 3, seed=1)
    assert texts.pairs(7, 3, seed=1)[:6] == texts.pairs(6, 3, seed=1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [("", "holds no text"), ('{"text": ""}\n', "is empty"), ('{"title": "x"}\n', "text")],
)
def test_a_file_without_text_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text(content)
    with pytest.raises(InputError, match=reason):
        Texts.named(str(file))


def test_what_is_neither_a_name_nor_a_file_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="'mscarmo' are none of msmarco-like, nq-like, long"):
        Texts.named("mscarmo")
