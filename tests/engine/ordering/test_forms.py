"""What is asked of a few documents, and what logits say."""

import numpy as np
import pytest

from packrank.ordering.forms import SET_LABELS, DuoForm, PairForm, SetForm, best_first


def logits(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def test_a_pair_is_asked_in_both_orders() -> None:
    first, second = PairForm().prompts("q?", ["one", "two"])
    assert first == (
        'Given a query "q?", which of the following two passages is more relevant to the query?\n'
        '\nPassage A: "one"\n\nPassage B: "two"\n\nOutput Passage A or Passage B:'
    )
    assert second == first.replace('"one"', "x").replace('"two"', '"one"').replace("x", '"two"')


@pytest.mark.parametrize(
    ("straight", "turned", "answer"),
    [
        ([2, 1], [1, 2], 1),  # A, then B: the first both times
        ([1, 2], [2, 1], -1),
        ([2, 1], [2, 1], 0),  # A both times
        ([1, 2], [1, 2], 0),
        ([1, 1], [1, 1], 0),
    ],
)
def test_who_wins_both_orders_wins(straight: list[float], turned: list[float], answer: int) -> None:
    assert PairForm().answer(logits(straight, turned), 2) == answer


def test_duo_t5_is_asked_as_it_was_trained() -> None:
    both = DuoForm().prompts("q", ["one", "two"])
    assert both == [
        "Query: q Document0: one Document1: two Relevant: ",
        "Query: q Document0: two Document1: one Relevant: ",
    ]
    assert DuoForm(both=False).prompts("q", ["one", "two"]) == both[:1]


def test_duo_t5_answers_by_how_likely_it_is() -> None:
    assert DuoForm().answer(logits([3, 1], [1, 0]), 2) == 1
    assert DuoForm().answer(logits([1, 0], [3, 1]), 2) == -1
    assert DuoForm().answer(logits([1, 0], [2, 1]), 2) == 0
    odds = 1.25
    true = 1 / (1 + np.exp(-odds))
    assert DuoForm(both=False).answer(logits([odds, 0]), 2) == pytest.approx(2 * true - 1)


def test_a_set_is_asked_by_letters() -> None:
    [prompt] = SetForm().prompts("q", ["one", "two", "three"])
    assert prompt == (
        'Given a query "q", which of the following passages is the most relevant one to the query?'
        '\n\nPassage A: "one"\n\nPassage B: "two"\n\nPassage C: "three"\n\nOutput only the '
        "passage label of the most relevant passage:"
    )
    assert "".join(SET_LABELS) == "ABCDEFGHIJKLMNOPQRSTUVW"


def test_only_labels_that_were_shown_count() -> None:
    row = [0.0, 5.0, 5.0, 9.0, *[7.0] * 19]
    assert SetForm().answer(logits(row), 3) == 1
    assert SetForm().answer(logits(row), 4) == 3


def test_votes_are_counted_for_documents() -> None:
    """A model that always knows the best wins, however documents and labels are dealt."""
    form = SetForm(votes=7)
    documents = ["bad", "worse", "best", "poor"]
    prompts = form.prompts("q", documents)
    assert len(prompts) == 7
    assert len(set(prompts)) > 3
    rows = []
    for prompt in prompts:
        assert all(f'"{text}"' in prompt for text in documents)
        label = prompt[prompt.index('"best"') - 3]
        rows.append([float(one == label) for one in SET_LABELS])
    assert form.answer(logits(*rows), 4) == 2
    # One that always says A has no favourite.
    winners = {form.answer(logits(*[[1.0, *[0.0] * 22]] * 7), count) for count in range(2, 9)}
    assert len(winners) > 1


def test_a_window_is_ordered_by_its_letters() -> None:
    assert best_first(logits([1.0, 3.0, 3.0, 9.0]), 3) == [1, 2, 0]
