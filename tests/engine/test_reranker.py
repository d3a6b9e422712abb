import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_model import Open

from packrank import InputError, ModelError, PairError, Ranked
from packrank.checkpoint.config import Activation
from packrank.runtime.runner import Pending
from packrank.text import pairs

SomePairs = Callable[[int], list[tuple[str, str]]]


def test_rank_puts_the_best_first_and_keeps_index_and_text(toy: Open) -> None:
    ranked = toy().rank("q", ["c", "a", "b b"])
    assert ranked == [Ranked(2, 4.0, "b b"), Ranked(1, 1.0, "a"), Ranked(0, -3.0, "c")]
    assert all(type(index) is int and type(score) is float for index, score, _ in ranked)


def test_ties_go_to_the_lower_index(toy: Open) -> None:
    documents = ["a", "b", "a", "b", "a a"] * 20
    order = [r.index for r in toy().rank("q", documents)]
    twos = [i for i, text in enumerate(documents) if text != "a"]
    assert order == twos + [i for i, text in enumerate(documents) if text == "a"]


def test_rank_keeps_an_order_that_the_activation_rounds_away(toy: Open) -> None:
    ranked = toy(activation="sigmoid").rank("q", ["high", "high a", "a", "high b"])
    assert [r.index for r in ranked] == [3, 1, 0, 2]
    assert [r.score for r in ranked[:3]] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (2, 2), (3, 3), (9, 3), (None, 3)])
def test_top_k(toy: Open, top_k: int | None, count: int) -> None:
    everything = toy().rank("q", ["a", "b", "c"])
    assert toy().rank("q", ["a", "b", "c"], top_k) == everything[:count]


@pytest.mark.parametrize("top_k", [0, -1, 1.5, True, "2"])
def test_a_top_k_that_is_no_count_is_refused(toy: Open, top_k: object) -> None:
    with pytest.raises(InputError, match=f"top_k is {top_k!r}, expected a whole number"):
        toy().rank("q", ["a"], top_k)  # type: ignore[arg-type]


def test_no_documents_and_no_pairs(toy: Open) -> None:
    assert toy().rank("q", []) == []
    assert (toy().score([]).shape, toy().try_score([])[1]) == ((0,), {})
    assert toy({"num_labels": 3}).score([]).shape == (0, 3)


def test_score_keeps_the_order_of_the_pairs(toy: Open) -> None:
    scores = toy().score([("a", "b"), ("q", "c"), ("", ""), ["b", "b"]])  # type: ignore[list-item]
    assert scores.dtype == np.float32
    assert scores.tolist() == [3.0, -3.0, 0.0, 4.0]


def test_several_labels_are_columns(toy: Open) -> None:
    model = toy({"num_labels": 3})
    assert model.score([("q", "a"), ("q", "c")]).tolist() == [[1, 2, 3], [-3, -6, -9]]
    assert (model.num_labels, model.labels) == (3, ("LABEL_0", "LABEL_1", "LABEL_2"))


def test_a_ranking_goes_by_the_label_that_is_named(toy: Open) -> None:
    model = toy({"num_labels": 3, "labels": ("no", "maybe", "yes")})
    documents = ["a", "c", "b"]
    for label in (2, "yes", np.int64(2)):
        ranked = model.rank("q", documents, label=label)
        assert ranked == [Ranked(2, 6.0, "b"), Ranked(0, 3.0, "a"), Ranked(1, -9.0, "c")]
        assert model.rank_many([("q", documents)], 1, label=label) == [ranked[:1]]
        assert model.try_rank("q", documents, label=label)[0] == ranked
    sentence = r"3 labels and a ranking needs one; say which with label= \(--label\), one of 'no'"
    with pytest.raises(InputError, match=sentence):
        model.rank("q", documents)
    for label in (3, -1, True, "LABEL_0", 1.0):
        with pytest.raises(InputError, match=f"label is {label!r}, expected one of 'no', 'maybe'"):
            model.rank("q", documents, label=label)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="candidates can stop early in models of one label alone"):
        model.rank("q", documents, 1, label=0, exit="calibrated")
    assert toy().rank("q", documents, label=0) == toy().rank("q", documents)


def test_a_softmax_is_ordered_by_what_it_gives(toy: Open) -> None:
    """The best by their logits are not: a text of high logits for all labels says nothing."""
    model = toy({"num_labels": 2}, activation="softmax")
    documents = ["c", "b", "high", "high b", "nan"]
    ranked, failures = model.try_rank("q", documents, label=0)
    assert [r.index for r in ranked] == [0, 1, 2, 3]
    np.testing.assert_allclose(
        [r.score for r in ranked], [1 / (1 + np.exp(x)) for x in (-3.0, 2.0, 50.0, 52.0)], rtol=1e-6
    )
    assert list(failures) == [4]
    assert [r.index for r in model.rank("q", documents[:4], label=1)] == [3, 2, 1, 0]


def test_one_label_that_is_not_finite_fails_the_pair(
    toy: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = toy({"num_labels": 2})
    logits = np.array([[1, 2], [3, np.nan]], dtype=np.float32)
    monkeypatch.setattr(Pending, "result", lambda pending: logits)
    scores, failures = model.try_score([("q", "a")] * 2)
    np.testing.assert_array_equal(scores, [[1, 2], [np.nan, np.nan]])
    assert list(failures) == [1]


def test_a_saved_activation_that_is_not_known_is_refused_unless_the_caller_names_one(
    toy: Open,
) -> None:
    saved = {"saved_activation": "torch.nn.modules.activation.GELU"}
    with pytest.raises(ModelError, match=r"'torch.nn.modules.activation.GELU' is not supported; p"):
        toy(saved)
    assert toy(saved, activation="identity").score([("q", "b")]) == [2.0]


@pytest.mark.parametrize("call", ["identity", "sigmoid", None])
@pytest.mark.parametrize("constructor", ["identity", "sigmoid", None])
@pytest.mark.parametrize("config", ["identity", "sigmoid"])
def test_the_activation_is_the_calls_then_the_constructors_then_the_models(
    toy: Open, call: Activation | None, constructor: Activation | None, config: Activation
) -> None:
    saved = {"identity": "torch.nn.Identity", "sigmoid": "torch.nn.Sigmoid"}[config]
    model = toy({"saved_activation": saved}, activation=constructor)
    score = model.score([("q", "b")], activation=call)[0]
    values = {"identity": np.float32(2.0), "sigmoid": np.float32(1 / (1 + np.exp(-2.0)))}
    assert score == values[call or constructor or config]
    assert model.rank("q", ["b"])[0].score == values[constructor or config]


def test_sigmoid_at_the_ends_of_float32(toy: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    edges = np.array([3e38, 200, 90, 20, 1, 1e-30, 0, -0.5, -20, -80, -200, -3e38], np.float32)
    model = toy(activation="sigmoid")
    monkeypatch.setattr(Pending, "result", lambda pending: edges[:, None])
    scores = model.score([("q", "a")] * len(edges))
    expected = torch.sigmoid(torch.from_numpy(edges).double()).numpy()
    np.testing.assert_allclose(scores, expected, rtol=1e-7, atol=1e-45)


FAILING = [
    (("q", "a " * 20), "the pair has 24 tokens, more than max_length 16"),
    (("q", "nan"), "the model's logits for it are not finite numbers"),
    (("q", "inf"), "the model's logits for it are not finite numbers"),
    (("q", "unembedded"), "it holds token 9, and the model knows 9"),
    (("q", None), "the document is a NoneType, expected a str"),
]


@pytest.mark.parametrize(("pair", "reason"), FAILING)
def test_a_failing_pair_fails_alone(toy: Open, pair: object, reason: str) -> None:
    sound = [("q", "a"), ("q", "b a"), ("q", "c")]
    model = toy(truncation="off")
    scores, failures = model.try_score([*sound[:2], pair, sound[2]])  # type: ignore[list-item]
    assert scores[[0, 1, 3]].tolist() == [1, 3, -3]
    assert np.isnan(scores[2])
    assert list(failures) == [2]
    with pytest.raises(PairError, match=rf"pair 2: .*{reason}") as info:
        model.score([*sound[:2], pair, sound[2]])  # type: ignore[list-item]
    assert (info.value.index, info.value.reason) == (2, failures[2])
    assert "\n" not in str(info.value)


def test_rank_says_which_document_failed(toy: Open) -> None:
    with pytest.raises(PairError, match="pair 2: ") as raised:
        toy().rank("q", ["a", "b", "nan", "unembedded"])
    assert raised.value.index == 2


def test_try_rank_ranks_the_others_in_one_pass(toy: Open) -> None:
    model = toy()
    documents = ["nan", "a", "c\ud800", "b b", "unembedded", "c"]
    ranking, failures = model.try_rank("q", documents)
    assert ranking == [Ranked(3, 4.0, "b b"), Ranked(1, 1.0, "a"), Ranked(5, -3.0, "c")]
    assert list(failures) == [0, 2, 4]
    assert "lone surrogate at character 1" in failures[2]
    assert model.num_tokens == 5 + 5 + 6 + 5
    assert model.try_rank("q", documents, 2)[0] == ranking[:2]
    assert model.try_rank("q", documents, 9)[0] == ranking
    assert model.try_rank("q", ["nan", "inf"])[0] == []
    assert model.try_rank("q", []) == ([], {})


def test_a_broken_query_is_no_documents_fault(toy: Open) -> None:
    for rank in (toy().rank, toy().try_rank):
        with pytest.raises(InputError, match="the query holds a lone surrogate at char") as raised:
            rank("q\udc80", ["a", "b"])
        assert not isinstance(raised.value, PairError)


def test_an_error_in_the_model_ends_the_reading_ahead(
    toy: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "WINDOW_PAIRS", 1)
    model = toy()

    def fail(*sequences: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model._runner, "submit", fail)
    with pytest.raises(RuntimeError) as raised:
        model.score([("q", "a")] * 5)
    assert raised.traceback  # which would keep an unclosed generator alive
    assert not [t for t in threading.enumerate() if t.name.startswith("packrank")]


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ("one text", "documents is a str, expected a sequence of strings"),
        (b"bytes", "documents is a bytes, expected a sequence of strings"),
        (None, "documents is a NoneType, expected a sequence of strings"),
        (7, "documents is a int, expected a sequence of strings"),
        ({"a": 1}, "documents is a dict, expected a sequence of strings"),
        (["a", 3], r"pair 1: the document is a int, expected .* \(try_rank scores the others"),
        ([None], r"pair 0: the document is a NoneType, expected a str"),
    ],
)
def test_documents_of_the_wrong_kind_are_refused(
    toy: Open, documents: object, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        toy().rank("q", documents)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [None, 3, b"q", {"q": "a"}])
def test_queries_and_pairs_of_the_wrong_kind_are_refused(toy: Open, wrong: object) -> None:
    kind = type(wrong).__name__
    with pytest.raises(InputError, match=f"query is a {kind}, expected a str"):
        toy().rank(wrong, ["a"])  # type: ignore[arg-type]
    for score in (toy().score, toy().try_score):
        with pytest.raises(InputError, match=f"pairs is a {kind}, expected a sequence of "):
            score(wrong)  # type: ignore[arg-type]


def test_any_sequence_of_texts_will_do(toy: Open) -> None:
    for documents in (("a", "b"), np.array(["a", "b"]), iter(["a", "b"])):
        assert [r.index for r in toy().rank("q", documents)] == [1, 0]


def test_an_unknown_activation_is_refused_before_anything_is_scored(toy: Open) -> None:
    message = "activation is 'gelu', expected one of 'identity', 'sigmoid'"
    model = toy()
    for attempt in (
        lambda: toy(activation="gelu"),
        lambda: model.score([("q", "a")], activation="gelu"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InputError, match=message):
            attempt()
    assert model.num_tokens == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truncation": "both"}, "truncation is 'both', expected one of 'longest_first', "),
        ({"budget_tokens": 0}, "budget_tokens is 0, expected a whole number of at least 1"),
        ({"max_length": 0}, "max_length is 0, expected a whole number of at least 1"),
        ({"max_length": 17}, "max_length is 17, but the model has 16 positions"),
        ({"max_length": 3}, "max_length is 3, but a pair has 3 special tokens"),
        ({"device": "abacus"}, "device is 'abacus', expected 'auto', 'cpu', 'cuda'"),
        ({"dtype": "int8"}, "dtype is 'int8', expected 'auto' or one of 'float32', 'bfloat16', "),
        ({"dtype": "float16"}, "dtype 'float16' is for CUDA devices; on the CPU use 'bfloat16'"),
    ],
)
def test_an_option_that_cannot_be_is_refused(
    toy: Open, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        toy(**options)


@pytest.mark.parametrize("window", [1, 3, 100])
def test_windows_change_nothing(toy: Open, monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    texts = ["a", "b", "nan", "a b", "", "c c", None, "high"]
    given = [("q", text) for text in texts]
    scores, failures = toy().try_score(given)  # type: ignore[arg-type]
    monkeypatch.setattr(pairs, "WINDOW_PAIRS", window)
    again, same = toy().try_score(given)  # type: ignore[arg-type]
    np.testing.assert_array_equal(again, scores)
    assert list(failures) == [2, 6]
    assert same == failures


def test_max_length_is_the_smaller_of_the_models_and_the_tokenizers(
    toy: Open, tmp_path: Path
) -> None:
    assert toy().max_length == 16
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 9}')
    assert toy().max_length == 9
    assert toy(max_length=12).max_length == 12


@pytest.mark.parametrize(
    ("truncation", "score"), [("longest_first", 2 * 2.0 + 3 * 1.0), ("only_second", 4 * 2.0 + 1.0)]
)
def test_long_pairs_are_cut_as_asked(toy: Open, truncation: str, score: float) -> None:
    model = toy(max_length=8, truncation=truncation)
    assert model.score([("b b b b", "a a a a a")]).tolist() == [score]


def test_no_pack_exceeds_the_budget(toy: Open) -> None:
    model = toy(budget_tokens=11)
    model.score([("q", "a " * n) for n in range(7)])
    packs = model._runner.model.packs  # type: ignore[attr-defined]
    assert max(packs) <= 11
    assert sum(packs) == model.num_tokens == sum(4 + n for n in range(7))


def in_threads(score: Callable[[int], object], count: int) -> Iterator[object]:
    """score(0), score(1), ... all at once."""
    start = threading.Barrier(8)

    def wait_and_score(seed: int) -> object:
        start.wait(timeout=60)
        return score(seed)

    with ThreadPoolExecutor(8) as pool:
        yield from pool.map(wait_and_score, range(count))


def test_threads_may_share_a_toy(
    toy: Open, monkeypatch: pytest.MonkeyPatch, some_pairs: SomePairs
) -> None:
    monkeypatch.setattr(pairs, "WINDOW_PAIRS", 4)
    model = toy()
    alone = [model.score(some_pairs(seed)) for seed in range(16)]
    tokens = model.num_tokens
    for seed, scores in enumerate(in_threads(lambda seed: model.score(some_pairs(seed)), 16)):
        np.testing.assert_array_equal(scores, alone[seed])
    assert model.num_tokens == 2 * tokens
