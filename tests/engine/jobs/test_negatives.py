"""Hard negatives: beside mine_hard_negatives itself, which runs on the same scores, and by hand."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hard_negatives import Row, Scores, mined_rows
from hypothesis import given, reject
from hypothesis import strategies as st

from packrank.errors import InputError
from packrank.jobs.negatives import FORMS, Form, Mined, Rules, margin, mine

POSITIVES = ("p0", "p1", "p2")
OTHERS = tuple(f"n{number}" for number in range(9))
QUERY = "which?"


def theirs(
    pairs: Sequence[tuple[str, str]],
    corpus: Sequence[str],
    scores: Scores,
    rules: Rules,
    form: str = "triplet",
    with_scores: bool = True,
    found_by: Scores | None = None,
) -> list[Row]:
    try:
        return mined_rows(
            *(pairs, corpus, scores, found_by),
            range_min=rules.range_min,
            range_max=rules.range_max,
            max_score=rules.max_score,
            min_score=rules.min_score,
            absolute_margin=rules.absolute_margin,
            relative_margin=rules.relative_margin,
            num_negatives=rules.number,
            sampling_strategy=rules.sampling,
            output_format=form,
            output_scores=with_scores,
        )
    except ZeroDivisionError:  # its statistics, where margins leave nothing of a full range
        reject()


def mined_of(
    positives: Sequence[str],
    candidates: Sequence[str],
    scores: Scores,
    rules: Rules,
    query: str = QUERY,
) -> Mined:
    values = np.array([scores[query, text] for text in (*positives, *candidates)], np.float32)
    count = len(positives)
    return mine(query, positives, values[:count], candidates, values[count:], rules)


def ours(
    *arguments: Any, form: str = "triplet", with_scores: bool = True, **more: Any
) -> list[Row]:
    columns = {"anchor": "question", "positive": "answer"}
    return Form(form, with_scores, **columns).rows(mined_of(*arguments, **more))


EIGHTHS = st.integers(-16, 16).map(lambda number: number / 8)
FLOATS = st.floats(-2, 2, width=32)
LIMITS = ("absolute_margin", "relative_margin", "min_score", "max_score")


@dataclass(frozen=True)
class Case:
    positives: list[str]
    candidates: list[str]
    scores: Scores
    rules: Rules


@st.composite
def cases(draw: st.DrawFn, unlimited: bool = False, distinct: bool = True) -> Case:
    """Of eighths many lie exactly at a limit; of other numbers sums are rounded."""
    kind = draw(st.sampled_from([EIGHTHS, FLOATS]))
    texts = POSITIVES + OTHERS
    values = draw(st.lists(kind, min_size=12, max_size=12, unique=distinct))
    if draw(st.booleans()):  # positives above the others, so that margins leave something
        values.sort(reverse=True)
    sizes = kind.map(abs)
    limits = {
        "absolute_margin": sizes.map(lambda size: size / 2),
        "relative_margin": sizes.map(lambda size: size / 2),
        "min_score": sizes.map(lambda size: -size),
        "max_score": sizes,
    }
    asked = draw(st.sets(st.sampled_from(LIMITS), max_size=2))
    number, range_min = draw(st.integers(1, 4)), draw(st.integers(0, 2))
    least = range_min + number
    rules = Rules(
        number=number,
        **{name: draw(limits[name]) for name in sorted(asked)},
        range_min=range_min,
        range_max=20 if unlimited else draw(st.none() | st.integers(least, least + 8)),
        sampling=draw(st.sampled_from(["top", "random"])) if distinct else "top",
        seed=draw(st.integers(-3, 3)),
    )
    fewest = draw(st.sampled_from([0, 12]))
    return Case(
        draw(st.lists(st.sampled_from(POSITIVES), min_size=1, max_size=4)),
        draw(st.lists(st.sampled_from(texts), min_size=fewest, max_size=20)),
        {(QUERY, text): value for text, value in zip(texts, values, strict=True)},
        rules,
    )


@given(cases(), st.sampled_from(FORMS), st.booleans())
def test_rows_are_those_of_mine_hard_negatives(case: Case, form: str, with_scores: bool) -> None:
    """Values, names and order of columns, order of rows; duplicates, positives among candidates."""
    pairs = [(QUERY, text) for text in case.positives]
    random.seed(f"{case.rules.seed} {QUERY}")
    want = theirs(pairs, case.candidates, case.scores, case.rules, form, with_scores)
    got = ours(
        *(case.positives, case.candidates, case.scores, case.rules),
        form=form,
        with_scores=with_scores,
    )
    assert [list(row.items()) for row in got] == [list(row.items()) for row in want]


@given(cases(), st.permutations(POSITIVES + OTHERS))
def test_in_order_is_what_a_cross_encoder_is_asked_of(case: Case, found: list[str]) -> None:
    """Of what a bi-encoder finds, in its order; without a limit that is asked nothing."""
    rules = replace(case.rules, in_order=True)
    if all(getattr(rules, name) is None for name in LIMITS):
        rules = replace(rules, min_score=-5.0)
    by = {(QUERY, text): -float(place) for place, text in enumerate(found)}
    pairs = [(QUERY, text) for text in case.positives]
    known = {*case.candidates, *case.positives}
    random.seed(f"{rules.seed} {QUERY}")
    want = theirs(pairs, case.candidates, case.scores, rules, found_by=by)
    assert ours(case.positives, [t for t in found if t in known], case.scores, rules) == want


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize(
    "limits",
    [
        {"absolute_margin": 11.0},
        {"relative_margin": 0.25},
        {"min_score": 30.0},
        {"max_score": 30.0},
        {"max_score": 45.0},
    ],
)
def test_without_a_range_as_many_are_looked_at(limits: dict[str, float], in_order: bool) -> None:
    """A random choice tells of how many; some of the limits the first are not within."""
    texts = [*POSITIVES[:2], *(f"m{number}" for number in range(60))]
    found = {(QUERY, text): 62.0 - place for place, text in enumerate(texts)}
    scores = found | {(QUERY, text): 41.5 for text in texts[:2]}
    pairs = [(QUERY, text) for text in texts[:2]]
    for number, sampling in [(1, "top"), (1, "random"), (2, "top"), (2, "random")]:
        rules = Rules(number, **limits, range_min=1, in_order=in_order, sampling=sampling)
        random.seed(f"{rules.seed} {QUERY}")
        want = theirs(pairs, texts, scores, rules, found_by=found if in_order else None)
        assert ours(texts[:2], texts, scores, rules) == want


@given(cases(unlimited=True, distinct=False))
def test_of_equal_scores_as_many_are_taken(case: Case) -> None:
    """Which of them, torch leaves open; here it is the earlier."""
    pairs = [(QUERY, text) for text in case.positives]
    want = theirs(pairs, case.candidates, case.scores, case.rules)
    mined = mined_of(case.positives, case.candidates, case.scores, case.rules)
    form = Form(scores=True)
    assert [row["scores"] for row in form.rows(mined)] == [row["scores"] for row in want]
    order = list(zip([-score for score in mined.negative_scores], mined.places, strict=True))
    assert order == sorted(order)


@given(st.data(), st.sampled_from(FORMS), st.booleans())
def test_several_queries_are_one_after_the_other(
    data: st.DataObject, form: str, with_scores: bool
) -> None:
    """Their rows apart or not; what is another's positive may be a negative."""
    case = data.draw(cases())
    values = data.draw(st.lists(FLOATS, min_size=24, max_size=24, unique=True))
    texts = POSITIVES + OTHERS
    names = [(query, text) for query in "ab" for text in texts]
    scores = dict(zip(names, values, strict=True))
    own = {query: data.draw(st.permutations(POSITIVES)) for query in "ab"}
    own["b"] = own["b"][: data.draw(st.integers(1, 3))]
    pairs = [
        (query, own[query][place]) for place in range(3) for query in "ab" if own[query][place:]
    ]
    rules = replace(case.rules, sampling="top", most_positives=3)
    want = theirs(pairs, texts, scores, rules, form, with_scores)
    options = {"form": form, "with_scores": with_scores}
    first, second = (ours(own[q], texts, scores, rules, query=q, **options) for q in "ab")
    assert first + second == want


@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_candidates_does_not_matter(case: Case, shuffler: random.Random) -> None:
    """Where scores differ, and the range goes by score; nor do those without a score."""
    first = mined_of(case.positives, case.candidates, case.scores, case.rules)
    shuffled = list(case.candidates)
    shuffler.shuffle(shuffled)
    again = mined_of(case.positives, shuffled, case.scores, case.rules)
    assert replace(again, places=[]) == replace(first, places=[])
    values = [case.scores[QUERY, text] for text in (*case.positives, *case.candidates)]
    count = len(case.positives)
    beside = mine(
        *(QUERY, case.positives, np.array(values[:count], np.float32)),
        ["unscored", *case.candidates, "too"],
        np.array([np.nan, *values[count:], np.nan], np.float32),
        case.rules,
    )
    assert replace(beside, places=[]) == replace(first, places=[])
    assert beside.places == [place + 1 for place in first.places]


SCORES = np.array([0.5, 0.95, 0.75, np.nan, 0.875, 0.25], np.float32)
CANDIDATES = ["e", "above", "c", "unscored", "b", "f"]


def places(rules: Rules, query: str = "q", positives: Sequence[float] = (1.0,)) -> list[int]:
    names = [f"right {number}" for number in range(len(positives))]
    scores = np.array(positives, np.float32)
    return mine(query, names, scores, CANDIDATES, SCORES, rules).places


@pytest.mark.parametrize(
    ("rules", "positives", "expected"),
    [
        (Rules(3), [1.0], [1, 4, 2]),
        (Rules(3), [0.75, 1.0], [1, 4, 2]),  # without a margin a negative may be above a positive
        (Rules(3, absolute_margin=0.0), [1.0, 0.75], [2, 0, 5]),  # the lowest positive counts
        (Rules(3, absolute_margin=0.125), [1.0], [4, 2, 0]),  # exactly at the margin is kept
        (Rules(3, absolute_margin=0.126), [1.0], [2, 0, 5]),
        (Rules(3, relative_margin=0.25), [1.0], [2, 0, 5]),
        (Rules(3, relative_margin=0.5), [-1.0], []),  # at most -1.5: of a negative one below it
        (Rules(3, absolute_margin=0.25, relative_margin=0.5), [1.0], [0, 5]),  # both hold
        (Rules(1, max_score=0.75, min_score=0.5), [1.0], [2]),
        (Rules(3, max_score=0.75, min_score=0.5), [1.0], [2, 0]),
        (Rules(2, range_min=1), [1.0], [4, 2]),
        (Rules(2, range_min=1, max_score=0.9), [1.0], [2, 0]),  # passed over are those that may be
        (Rules(1, range_max=1, absolute_margin=0.125), [1.0], []),  # "above" and the positive
        (Rules(1, range_max=2, absolute_margin=0.125), [1.0], [4]),
        (Rules(1, range_max=1, absolute_margin=0.125, most_positives=2), [1.0], [4]),
        (Rules(1, range_max=1, in_order=True), [1.0], [1]),  # of "e" and "above"
        (Rules(9), [1.0], [1, 4, 2, 0, 5]),
        (Rules(1, absolute_margin=1e300), [1.0], []),
        (Rules(1, max_score=1e300), [1.0], [1]),
    ],
)
def test_places_by_hand(rules: Rules, positives: list[float], expected: list[int]) -> None:
    assert places(rules, positives=positives) == expected


def test_of_equal_texts_the_first_with_a_score_counts() -> None:
    scores = np.array([np.nan, 0.5, 0.25, 0.375], np.float32)
    mined = mine("q", ["a"], np.ones(1, np.float32), ["x", "x", "x", "y"], scores, Rules(2))
    assert (mined.places, mined.negative_scores) == ([1, 3], [0.5, 0.375])


def test_random_negatives_follow_from_seed_and_query() -> None:
    rules = Rules(2, sampling="random", range_max=6)
    state = random.getstate()
    drawn = [places(replace(rules, seed=seed), query) for seed in range(20) for query in "qr"]
    assert drawn == [
        places(replace(rules, seed=seed), query) for seed in range(20) for query in "qr"
    ]
    assert random.getstate() == state
    pairs = {tuple(sorted(pair)) for pair in drawn}
    assert len(pairs) == 10  # all pairs of the five that have a score
    assert all(SCORES[first] > SCORES[second] for first, second in drawn)
    assert places(replace(rules, number=6)) == [1, 4, 2, 0, 5]


MINED = Mined("q", ["x", "y"], [2.0, 1.0], ["n", "m"], [0.5, 0.25], [7, 3], True)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (
            Form("n-tuple-scores"),
            {"negative_1": "n", "negative_2": "m", "scores": [2.0, 0.5, 0.25]},
        ),
        (Form("n-tuple"), {"negative_1": "n", "negative_2": "m"}),
        (Form("triplet"), {"negative": "n"}),
        (Form("triplet", scores=True), {"negative": "n", "scores": [2.0, 0.5]}),
        (Form("labeled-pair"), {"label": 1}),
        (Form("labeled-pair", scores=True), {"score": 2.0}),
        (Form("labeled-list"), {"positive": ["x", "n", "m"], "labels": [1, 0, 0]}),
        (
            Form("labeled-list", scores=True),
            {"positive": ["x", "n", "m"], "scores": [2.0, 0.5, 0.25]},
        ),
    ],
)
def test_first_rows_by_hand(form: Form, expected: Row) -> None:
    assert form.rows(MINED)[0] == {"anchor": "q", "positive": "x"} | expected


@pytest.mark.parametrize("form", FORMS)
def test_of_too_few_negatives_each_form_makes_what_it_can(form: str) -> None:
    few = replace(MINED, negatives=["n"], negative_scores=[0.5], places=[7], complete=False)
    none = replace(few, negatives=[], negative_scores=[], places=[])
    counts = {"triplet": (4, 2, 0), "labeled-pair": (4, 3, 2), "labeled-list": (2, 2, 0)}
    made = tuple(len(Form(form).rows(mined)) for mined in (MINED, few, none))
    assert made == counts.get(form, (2, 0, 0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"number": 0}, "number of negatives is 0, expected a whole number of at least 1"),
        ({"number": True}, "number of negatives is True, expected a whole number"),
        ({"range_min": -1}, "range_min is -1, expected a whole number of at least 0"),
        ({"range_min": 2, "range_max": 4}, "range_max is 4, expected a whole number of at least 5"),
        ({"most_positives": -1}, "most_positives is -1, expected a whole number of at least 0"),
        ({"seed": 0.5}, "seed is 0.5, expected a whole number$"),
        ({"absolute_margin": -0.1}, "absolute_margin is -0.1, expected a number of at least 0"),
        ({"relative_margin": float("nan")}, "relative_margin is nan, expected a number of at le"),
        ({"min_score": "1"}, "min_score is '1', expected a number, or None"),
        ({"max_score": float("inf")}, "max_score is inf, expected a number, or None"),
        ({"min_score": 2, "max_score": 1}, "min_score is 2 and max_score 1: no score is between"),
        ({"in_order": 1}, "in_order is 1, expected True or False"),
        ({"sampling": "best"}, "sampling is 'best', expected one of 'top', 'random'"),
    ],
)
def test_wrong_rules_are_refused(options: Row, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Rules(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "pairs"}, "form is 'pairs', expected one of 'triplet', 'n-tuple'"),
        ({"anchor": "negative_2"}, "a column 'negative_2' is what the rows add"),
        ({"positive": "label"}, "a column 'label' is what the rows add; choose another name"),
        ({"anchor": "text", "positive": "text"}, "queries and positives are both in a column 'tex"),
        ({"anchor": 3}, "the name of a column is a int, expected a str"),
    ],
)
def test_wrong_forms_are_refused(options: Row, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Form(**options)


@pytest.mark.parametrize(
    ("positives", "scores", "message"),
    [
        ([], SCORES, "the query has no positive"),
        ([1.0, np.nan], SCORES, "positive 1 has no score; score it, or leave it out"),
        ([np.inf], SCORES, "place 0 of positives has an infinite score"),
        ([1.0], np.full(6, -np.inf), "place 0 of candidates has an infinite score"),
        ([1.0], SCORES[:5], r"scores of candidates have shape \[5\], expected \[6\]: one each"),
    ],
)
def test_what_cannot_be_mined_is_refused(
    positives: list[float], scores: np.ndarray, message: str
) -> None:
    names = [f"right {number}" for number in range(len(positives))]
    with pytest.raises(InputError, match=message):
        mine("q", names, np.array(positives, np.float32), CANDIDATES, scores, Rules())
    with pytest.raises(InputError, match="the query holds a lone surrogate"):
        mine("\ud800", ["a"], np.ones(1, np.float32), [], np.ones(0, np.float32), Rules())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.1", (0.1, None)),
        ("2", (2.0, None)),
        (".5", (0.5, None)),
        ("0", (0.0, None)),
        ("5%", (None, 0.05)),
        ("0.7%", (None, 0.007)),
        ("100.%", (None, 1.0)),
    ],
)
def test_margins_as_a_command_takes_them(
    text: str, expected: tuple[float | None, float | None]
) -> None:
    assert margin(text) == expected


@pytest.mark.parametrize(
    "text", ["", "%", ".", "5 %", "-0.1", "nan", "inf", "1e3", "1_0", "5%%", "\u0665"]
)
def test_what_is_no_margin_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected a number such as"):
        margin(text)
