"""Margins keep the recall that they promise, on models whose scores settle with depth."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from packrank.errors import InputError
from packrank.exits.calibration import calibrate, enough_queries, reached, recall_interval
from packrank.exits.margins import Margins

LAYERS = (8, 16, 24, 32, 40)


def settling(
    seed: int, queries: int, n: int = 40, layers: tuple[int, ...] = LAYERS, spread: float = 0.0
) -> list[np.ndarray]:
    """Logits of a layerwise model: each layer sees the last one's score through less noise.

    The noise of neighbouring layers is alike; `spread` makes it differ by query.
    """
    rng = np.random.default_rng(seed)
    final = rng.normal(size=(queries, n))
    strength = np.exp(spread * rng.normal(size=(queries, 1)))
    noise = rng.normal(size=(queries, n))
    columns = []
    for layer in layers:
        columns.append(final + strength * (1 - layer / layers[-1]) * noise)
        noise = 0.8 * noise + 0.6 * rng.normal(size=(queries, n))
    return list(np.stack(columns, axis=2).astype(np.float32))


def fit(logits: list[np.ndarray], top_k: int = 5, **options: Any) -> Margins:
    options = {"layers": LAYERS, "recall": 0.99} | options
    return calibrate(
        logits, top_k=top_k, model="tiny", fingerprint="f", settings={"template": "a"}, **options
    )


def cascade(logits: list[list[float]], top_k: int, margins: list[float]) -> list[int]:
    """How many exits each candidate reaches, spelled out."""
    alive, exits = list(range(len(logits))), [1] * len(logits)
    for stage, margin in enumerate(margins):
        scores = sorted((logits[i][stage] for i in alive), reverse=True)
        if len(alive) > top_k:
            alive = [i for i in alive if not logits[i][stage] + margin < scores[top_k - 1]]
        for i in alive:
            exits[i] += 1
    return exits


def best(logits: np.ndarray, top_k: int) -> list[int]:
    final = logits[:, -1].tolist()
    return sorted(range(len(final)), key=lambda i: (-final[i], i))[:top_k]


def true_recall(margins: Margins, logits: list[np.ndarray]) -> float:
    k = margins.top_k
    survive = [reached(one, k, margins.margins)[best(one, k), -1].mean() for one in logits]
    return float(np.mean(survive))


def test_candidates_reach_what_the_rule_lets_them(thorough: bool) -> None:
    rng = np.random.default_rng(2)
    for _ in range(20_000 if thorough else 100):
        n, columns, top_k = rng.integers(1, 9, 3).tolist()
        logits = rng.integers(-4, 5, (n, columns)).astype(np.float32)
        margins = rng.choice([0.0, 1.0, 3.0, math.inf], columns - 1).tolist()
        got = reached(logits, top_k, margins)
        want = cascade(logits.tolist(), top_k, margins)
        assert [row.tolist() for row in got] == [[c < e for c in range(columns)] for e in want]


def test_only_those_still_alive_count_at_the_next_layer() -> None:
    """The second is gone when it would have kept the third from going on."""
    logits = np.array([[5, 5, 5], [0, 9, 9], [4, 4, 4]], dtype=np.float32)
    assert reached(logits, 1, [2.0, 2.0])[:, -1].tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("top_k", "queries", "spread"), [(5, 200, 0.0), (5, 200, 0.5), (1, 800, 0.0)]
)
def test_recall_is_held_on_queries_never_seen(top_k: int, queries: int, spread: float) -> None:
    new = settling(999, 400, spread=spread)
    runs = [
        fit(settling(seed, queries, spread=spread), top_k, seed=seed)
        for seed in range(15 if queries < 500 else 5)
    ]
    true = np.array([true_recall(margins, new) for margins in runs])
    assert np.mean([margins.held_out_recall >= 0.99 for margins in runs]) >= 0.7
    assert np.mean(true >= 0.99) >= 0.8
    assert true.min() > 0.98
    # And not because next to nothing is dropped.
    assert np.mean([margins.saved for margins in runs]) > (0.05 if spread else 0.2)
    inside = [m.held_out_low <= t <= m.held_out_high for m, t in zip(runs, true, strict=True)]
    assert np.mean(inside) >= 0.8
    held_out = np.mean([margins.held_out_recall for margins in runs])
    assert abs(held_out - true.mean()) < 0.003


def test_many_exits_do_not_overfit() -> None:
    """Margins that are fitted layer by layer lose 3 % of new queries' top k here."""
    layers = tuple(range(8, 41))
    new = settling(999, 200, layers=layers)
    for seed in range(4):
        margins = fit(settling(seed, 60, layers=layers), 10, layers=layers, seed=seed)
        assert true_recall(margins, new) >= 0.99
        assert margins.saved > 0.1


def test_less_recall_saves_more() -> None:
    logits = settling(1, 300)
    saved = [fit(logits, recall=recall).saved for recall in (0.999, 0.99, 0.95, 0.8)]
    assert saved == sorted(saved) and saved[-1] > saved[0] + 0.1


def test_settled_scores_need_no_margin() -> None:
    logits = [np.repeat(one[:, -1:], 5, axis=1) for one in settling(1, 200)]
    margins = fit(logits)
    assert margins.margins == (0, 0, 0, 0)
    assert margins.held_out_recall == 1
    assert margins.dropped == (35 / 40,) * 4
    assert margins.saved == pytest.approx(35 / 40 * 32 / 40)


def test_what_is_reported_is_what_happens() -> None:
    """All queries are one, so both halves are."""
    one = settling(4, 1)[0]
    margins = fit([one] * 41, 3)
    exits = cascade(one.tolist(), 3, list(margins.margins))
    for stage, share in enumerate(margins.dropped):
        assert share == pytest.approx(np.mean([e <= stage + 1 for e in exits]))
    run = [LAYERS[e - 1] for e in exits]
    assert 0 < margins.saved == pytest.approx(1 - np.mean(run) / 40)
    assert (margins.num_fitted, margins.num_held_out, margins.num_left_out) == (21, 20, 0)
    assert (margins.layers, margins.final_layer, margins.top_k) == (LAYERS[:-1], 40, 3)
    assert (margins.model, margins.fingerprint, margins.settings) == (
        "tiny",
        "f",
        {"template": "a"},
    )


def test_a_layer_may_score_on_a_scale_of_its_own() -> None:
    logits = settling(5, 100)
    scaled = [one * np.array([1, 8, 1, 0.25, 1], dtype=np.float32) for one in logits]
    plain, other = fit(logits), fit(scaled)
    assert other.margins == pytest.approx(np.array(plain.margins) * [1, 8, 1, 0.25])
    assert other.dropped == plain.dropped


def test_a_layer_that_says_nothing_drops_little() -> None:
    rng = np.random.default_rng(66)
    logits = settling(6, 200)
    for one in logits:
        one[:, 1] = rng.normal(size=len(one))
    margins = fit(logits)
    assert margins.held_out_recall >= 0.98
    assert margins.dropped[1] - margins.dropped[0] < 0.05
    assert margins.dropped[3] > 0.3


def test_a_settled_layer_needs_no_margin_whatever_its_scale() -> None:
    logits = settling(12, 100)
    for one in logits:
        one[:, 2] = 4 * one[:, -1]
    margins = fit(logits).margins
    assert margins[2] < 1e-6 < 0.1 < min(margins[1], margins[3])


@pytest.mark.parametrize("settled", [False, True])
def test_a_layer_that_scores_all_alike_drops_nothing(settled: bool) -> None:
    """Also where all the others need no margin at all."""
    logits = settling(13, 100)
    for one in logits:
        if settled:
            one[:] = one[:, -1:]
        one[:, 0] = 0.25
    margins = fit(logits)
    assert margins.margins[0] == math.inf and max(margins.margins[1:]) < math.inf
    assert margins.dropped[0] == 0 < margins.dropped[1]


def test_the_best_twice_k_count_and_nobody_else() -> None:
    """All from a rank on are so far behind at the first layer that they change no threshold."""

    def fitted_with(rank: int, behind: float) -> tuple[float, ...]:
        logits = settling(14, 60)
        for one in logits:
            one[np.argsort(-one[:, -1])[rank:], 0] -= behind
        return fit(logits, 5).margins

    assert fitted_with(10, 200) == fitted_with(10, 50)
    assert fitted_with(9, 200) != fitted_with(9, 50)


def test_too_few_queries_get_more_than_they_need() -> None:
    """All are one. Its best is 6 behind, the other 0; their root mean square is sqrt(18)."""
    one = np.array([[0, 9], [6, 6]], dtype=np.float32)
    few = fit([one] * 40, 1, layers=(1, 2))
    assert few.extrapolated and few.margins == (pytest.approx(1.5 * 6, rel=1e-5),)
    enough = fit([one] * 40, 1, layers=(1, 2), recall=0.8)
    assert not enough.extrapolated and enough.margins == (pytest.approx(6, rel=1e-5),)
    # Here the best needs nothing, and 1.5 times the root mean square itself is taken.
    tied = fit([np.array([[6, 9], [0, 9]], dtype=np.float32)] * 40, 1, layers=(1, 2))
    assert tied.extrapolated and tied.margins == (pytest.approx(1.5 * 18**0.5, rel=1e-5),)


@pytest.mark.parametrize(
    ("top_k", "recall", "queries"), [(10, 0.99, 51), (3, 0.99, 177), (1, 0.99, 535), (1, 0.9, 49)]
)
def test_how_many_queries_are_enough(top_k: int, recall: float, queries: int) -> None:
    assert enough_queries(top_k, recall) == queries
    logits = settling(15, queries, 12)
    assert not fit(logits, top_k, recall=recall).extrapolated
    assert fit(logits[1:], top_k, recall=recall).extrapolated
    assert enough_queries(top_k, 0.01) == 20


def test_one_query_of_many_candidates_does_not_speak_for_all() -> None:
    logits = [*settling(16, 38, 30), *settling(17, 1, 500)]
    assert {fit(logits, seed=seed).num_candidates for seed in range(4)} == {30}
    assert fit([*logits, *settling(18, 20, 90)]).num_candidates == 90


def test_recall_is_held_among_twice_the_candidates() -> None:
    new = settling(999, 300, 2 * 40)
    runs = [true_recall(fit(settling(seed, 200), 5, seed=seed), new) for seed in range(6)]
    assert np.mean(runs) >= 0.99 and min(runs) > 0.98


def test_who_needs_the_margin_exactly_has_it() -> None:
    """All queries are one, so its need is the margin, and no rounding may take it away."""
    for seed in range(20, 40):
        (one,) = settling(seed, 1)
        # At every layer the third, and so the threshold, is 0, where roundings show.
        margins = fit([one - np.sort(one, axis=0)[-3]] * 400, 3)
        assert margins.held_out_recall == 1


def test_neither_order_nor_constants_matter() -> None:
    rng = np.random.default_rng(7)
    logits = settling(7, 100)
    moved = [one[rng.permutation(len(one))] + np.float32(2.0**-8) for one in logits]
    assert fit(moved).margins == pytest.approx(fit(logits).margins, rel=1e-3)


def test_ties_for_the_last_place_go_to_the_lower_index() -> None:
    """In the end the first two are alike; one of them is 4 behind at every layer before."""
    behind = np.array([[0, 0, 0, 0, 7], [4, 4, 4, 4, 7], [-9, -9, -9, -9, 0]], dtype=np.float32)
    margins = fit([behind] * 30, 1)
    assert min(margins.margins) >= 4
    assert margins.held_out_recall == 1
    ahead = behind[[1, 0, 2]]
    assert fit([ahead] * 30, 1).margins < margins.margins


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda logits: {"logits": logits[:19]}, "19 queries have more than 5 candidates, and"),
        (lambda logits: {"logits": [one[:5] for one in logits]}, "0 queries have more than 5"),
        (
            lambda logits: {"logits": [one[:, :4] for one in logits]},
            r"shape \(40, 4\) for 5 layers",
        ),
        (lambda logits: {"logits": [one[:, 0] for one in logits]}, r"shape \(40,\) for 5 layers"),
        (lambda logits: {"logits": [one + np.nan for one in logits]}, "not all finite"),
        (lambda logits: {"logits": logits, "recall": 1.0}, "above 0 and below 1"),
        (lambda logits: {"logits": logits, "recall": 0.0}, "above 0 and below 1"),
        (lambda logits: {"logits": logits, "top_k": 0}, "top_k is 0"),
        (lambda logits: {"logits": logits, "layers": (8, 16, 24, 40, 32)}, "ascending"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    change: Callable[[list[np.ndarray]], dict[str, Any]], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        fit(**change(settling(8, 30)))


def test_queries_that_tell_nothing_are_counted() -> None:
    logits = settling(9, 30)
    small = [np.empty((0, 5), np.float32), logits[0][:1], logits[1][:5]]
    margins = fit([*small, *logits])
    assert margins.num_left_out == 3
    assert margins.num_fitted + margins.num_held_out == 30


def test_the_interval_of_yes_and_no_is_wilsons() -> None:
    """45 of 50; the ends solve (p - 0.9)^2 = z^2 p (1 - p) / 50."""
    recalls = np.array([1.0] * 45 + [0.0] * 5)
    low, high = recall_interval(recalls)
    for end in (low, high):
        assert (end - 0.9) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / 50)
    assert low < 0.9 < high
    for queries in range(1, 100):
        low, high = recall_interval(np.ones(queries))
        assert (low, high) == (pytest.approx(1 / (1 + 1.959964**2 / queries)), 1.0)
        assert recall_interval(np.zeros(queries))[0] == 0.0


@pytest.mark.parametrize("queries", [12, 50, 400])
def test_the_interval_holds_the_true_recall(queries: int) -> None:
    """Of tens of candidates of which a query loses each with a chance of its own."""
    rng = np.random.default_rng(10)
    inside, widths = [], []
    for _ in range(300):
        chance = rng.beta(0.2, 3.8, queries)
        recalls = 1 - rng.binomial(10, chance) / 10
        low, high = recall_interval(recalls)
        inside.append(low <= 0.95 <= high)
        widths.append(high - low)
    assert np.mean(inside) >= 0.94
    # Queries as yes or no would give this.
    wilson = 2 * 1.96 * math.sqrt(0.95 * 0.05 / queries)
    assert np.mean(widths) < wilson * (0.75 if queries > 100 else 1.2)
