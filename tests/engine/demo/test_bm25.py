import math

import numpy as np
import pytest

from packrank.demo.bm25 import BM25, words
from packrank.errors import InputError

DOCUMENTS = ["red fox", "red red wolf den", "blue whale", ""]


def test_scores_by_hand() -> None:
    # Lengths 2, 4, 2, 0: mean 2. "red" is in 2 of 4 documents.
    idf = math.log(1 + (4 - 2 + 0.5) / (2 + 0.5))
    first = idf * 1 / (1 + 1.2 * (0.25 + 0.75 * 2 / 2))
    second = idf * 2 / (2 + 1.2 * (0.25 + 0.75 * 4 / 2))
    np.testing.assert_allclose(BM25(DOCUMENTS).scores("red"), [first, second, 0, 0], rtol=1e-12)


def test_a_query_is_the_sum_of_its_words_repeats_included() -> None:
    index = BM25(DOCUMENTS)
    total = 2 * index.scores("red") + index.scores("whale")
    np.testing.assert_allclose(index.scores("red whale RED"), total, rtol=1e-12)


def test_without_length_penalty_only_counts_matter() -> None:
    short, long = BM25(["red", "red " + "pad " * 50], b=0).scores("red")
    assert short == long


def test_rank_is_best_first_and_ties_go_to_the_lower_index() -> None:
    index = BM25(["owl", "fox", "owl", "fox fox"])
    assert index.rank("fox") == [3, 1, 0, 2]
    assert index.rank("fox", 2) == [3, 1]
    assert index.rank("nothing known") == [0, 1, 2, 3]


def test_no_documents_and_no_words() -> None:
    assert BM25([]).rank("fox") == []
    assert BM25(["", " ?!"]).scores("").tolist() == [0, 0]
    assert BM25(["", " ?!"]).scores("fox").tolist() == [0, 0]


def test_words_are_lower_case_runs_without_stop_words() -> None:
    assert words("The Café's x_1, and (Ünder)-water!") == ["café", "s", "x_1", "ünder", "water"]


@pytest.mark.parametrize(("k1", "b"), [(-0.1, 0.5), (1.2, -0.1), (1.2, 1.1), (math.nan, 0.5)])
def test_refuses_parameters_out_of_range(k1: float, b: float) -> None:
    with pytest.raises(InputError, match="BM25 needs"):
        BM25(DOCUMENTS, k1=k1, b=b)
