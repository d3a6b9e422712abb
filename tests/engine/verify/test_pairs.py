"""The pairs that are built in."""

import pytest

from packrank.arguments import check_text
from packrank.verify.pairs import builtin_pairs, long_pairs


def test_the_pairs_are_varied_and_stay_the_same() -> None:
    pairs = builtin_pairs()
    assert len(set(pairs)) == len(pairs) == 22
    assert pairs == builtin_pairs()
    text = "".join(map("".join, pairs))
    for mark in ("\n", "\t", "[SEP]", "</s>", "<|im_end|>", "ä", "и", "水", "は", "왜", "م", "प"):
        assert mark in text, mark
    assert {query for query, document in pairs if not document} == {"", pairs[0][0]}
    for pair in pairs:
        for one in pair:
            check_text(one)
            assert one == one.strip(), "PyLate strips texts, and others do not"


@pytest.mark.parametrize("lengths", [(32, 180), (512, 512)])
def test_long_pairs_have_more_words_than_a_model_has_tokens(lengths: tuple[int, int]) -> None:
    (short, document), (query, again) = long_pairs(*lengths)
    assert again == document
    assert len(short.split()) < 10
    assert len(query.split()) > lengths[0]
    assert len(document.split()) > lengths[1]
    assert long_pairs(*lengths) == long_pairs(*lengths)
