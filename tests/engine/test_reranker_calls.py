"""What a call may say: documents with ids, thresholds, limits and instructions of its own."""

import asyncio
import copy
import inspect
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_model import Open

from packrank import InputError, ModelError, PairError, Ranked, Reranker
from packrank.text import pairs

DOCUMENTS: list[Any] = [
    "a",
    ("second", "b"),
    {"id": 7, "text": "c", "year": 1999},
    {"_id": "fourth", "title": "a", "text": "b", "metadata": {"page": 3}},
]


def test_ids_and_metadata_come_back(toy: Open) -> None:
    ranking = toy().rank("q", DOCUMENTS)
    assert ranking == [(3, 3.0, "a b"), (1, 2.0, "b"), (0, 1.0, "a"), (2, -3.0, "c")]
    assert [ranked.id for ranked in ranking] == ["fourth", "second", None, "7"]
    assert [dict(ranked.metadata) for ranked in ranking] == [
        {"title": "a", "page": 3},
        {},
        {},
        {"year": 1999},
    ]
    assert ranking.to_dicts()[0] == {
        "index": 3,
        "score": 3.0,
        "document": "a b",
        "id": "fourth",
        "metadata": {"title": "a", "page": 3},
    }
    assert ranking.to_dicts()[2] == {"index": 0, "score": 1.0, "document": "a"}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_ranked_document_keeps_its_id_when_it_is_copied(copied: Any) -> None:
    ranked = copied(Ranked(1, 0.5, "text", "id", {"year": 2}))
    assert (tuple(ranked), ranked.id, ranked.metadata) == ((1, 0.5, "text"), "id", {"year": 2})
    assert repr(ranked) == (
        "Ranked(index=1, score=0.5, document='text', id='id', metadata={'year': 2})"
    )
    index, score, document = copied(Ranked(1, 0.5, "text"))
    assert (index, score, document) == (1, 0.5, "text")


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (None, "the document is a NoneType, expected a str, (id, text), or a mapping"),
        ({"body": "a"}, 'the document has no "text"'),
        ({"text": 3}, "the document's text is a int, expected a str"),
        ({"text": "a", "title": 3}, "the document's title is a int, expected a str"),
        (("id", None), "the document's text is a NoneType, expected a str"),
        ((1.5, "a"), "the document's id is 1.5, expected a string or a whole number"),
        ((True, "a"), "the document's id is True, expected a string or a whole number"),
        (("x", "y", "z"), "the document is a tuple of 3, expected"),
    ],
)
def test_a_document_that_is_none_fails_alone(toy: Open, document: Any, reason: str) -> None:
    ranking, failures = toy().try_rank("q", ["a", document, "b"])
    assert [ranked.index for ranked in ranking] == [2, 0]
    assert list(failures) == [1] and failures[1].startswith(reason)
    with pytest.raises(PairError) as caught:
        toy().rank("q", ["a", document, "b"])
    assert caught.value.index == 1
    scores, failures = toy().try_score([("q", "a"), ("q", document)])
    assert scores[0] == 1.0 and np.isnan(scores[1]) and list(failures) == [1]


def test_documents_of_each_request_keep_their_ids(toy: Open) -> None:
    one, two = toy().rank_many([("q", DOCUMENTS[:2]), ("q", DOCUMENTS[2:])], top_k=1)
    assert (one[0].id, two[0].id) == ("second", "fourth")


def test_documents_that_score_less_than_a_threshold_are_left_out(toy: Open) -> None:
    model = toy()
    texts = ["a", "b", "c", "a a"]
    assert [r.index for r in model.rank("q", texts, score_threshold=2)] == [1, 3]
    assert [r.index for r in model.rank("q", texts, 1, score_threshold=np.float32(2))] == [1]
    assert model.rank("q", texts, score_threshold=99.0) == []
    many = model.rank_many([("q", texts), ("q", ["c"])], score_threshold=-2.5)
    assert [len(ranking) for ranking in many] == [3, 0]
    sigmoid = toy(activation="sigmoid").rank("q", texts, score_threshold=0.8)
    assert [r.index for r in sigmoid] == [1, 3]


@pytest.mark.parametrize("score", ["1", True, float("nan"), [1]])
def test_a_threshold_that_is_no_number_is_refused(toy: Open, score: Any) -> None:
    with pytest.raises(InputError, match=r"score_threshold is .*, expected a number, or None"):
        toy().rank("q", ["a"], score_threshold=score)


def test_a_call_may_have_a_length_of_its_own(toy: Open) -> None:
    model = toy()
    long = "a " * 30
    usual = model.score(("q", long))
    assert usual == 16 - 4
    assert model.score(("q", long), max_length=8) == 4
    assert [r.score for r in model.rank("q", [long], max_length=np.int64(6))] == [2.0]
    assert model.rank_many([("q", [long])], max_length=6)[0][0].score == 2.0
    assert model.score(("q", long)) == usual
    assert model.max_length == 16


def test_other_lengths_are_counted_with_the_rest(toy: Open) -> None:
    model = toy()
    model.score(("q", "a"))
    model.score(("q", "a a a a"), max_length=6)
    assert model.num_tokens == 5 + 6


@pytest.mark.parametrize("length", [0, -1, 1.5, True, "8"])
def test_a_length_of_a_call_that_is_none_is_refused(toy: Open, length: Any) -> None:
    for call in (toy().rank, toy().try_rank):
        with pytest.raises(InputError, match=r"max_length is .*, expected a whole number"):
            call("q", ["a"], max_length=length)
    with pytest.raises(InputError, match=r"max_length is .*, expected a whole number"):
        toy().score(("q", "a"), max_length=length)


def test_a_length_of_a_call_is_within_the_model(toy: Open) -> None:
    with pytest.raises(InputError, match="max_length is 17, but the model has 16 positions"):
        toy().score(("q", "a"), max_length=17)
    with pytest.raises(InputError, match="max_length is 3, but a pair has 3 special tokens"):
        toy().score(("q", "a"), max_length=3)


def test_what_calls_asked_for_is_not_kept_for_ever(toy: Open) -> None:
    model = toy()
    for number in range(200):
        model.score(("q", "a"), prompt="b " * number)
    assert 0 < len(model._scorers) <= 64


def test_a_model_without_a_template_takes_no_instruction(toy: Open) -> None:
    for call in (toy().rank, toy().try_rank):
        with pytest.raises(InputError, match="takes no instruction"):
            call("q", ["a"], instruction="Find it.")
    with pytest.raises(InputError, match="instruction is a int, expected a str"):
        toy().score(("q", "a"), instruction=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the prompt holds a lone surrogate"):
        toy().score(("q", "a"), prompt="\ud800")


def test_a_prompt_of_a_call_stands_before_the_query(toy: Open) -> None:
    model = toy()
    assert model.score(("q", "a"), prompt="b b ") == 5.0
    assert model.score(("q", "a")) == 1.0


def test_each_text_of_a_pair_may_have_a_limit(toy: Open) -> None:
    pair = ("b b b b", "a a a a a")
    assert toy(query_length=2).score(pair) == 2 * 2 + 5
    assert toy(document_length=3).score(pair) == 4 * 2 + 3
    assert toy(query_length=np.int32(1), document_length=1).score(pair) == 3
    # What is still too long together is cut as ever: 4 of 7 tokens are left for 3 and 3.
    cut = toy(query_length=3, document_length=3, max_length=7, truncation="only_second")
    assert cut.score(pair) == 3 * 2 + 1


def test_a_text_over_its_limit_fails_where_nothing_is_cut(toy: Open) -> None:
    model = toy(query_length=1, document_length=2, truncation="off")
    scores, failures = model.try_score([("q", "a a"), ("q q", "a"), ("q", "a a a")])
    assert scores[0] == 2.0
    assert failures == {
        1: "the query has 2 tokens, more than query_length 1; shorten it or allow truncation",
        2: "the document has 3 tokens, more than document_length 2; shorten it or allow truncation",
    }


@pytest.mark.parametrize("side", ["query_length", "document_length"])
def test_a_limit_that_is_no_count_is_refused(toy: Open, side: str) -> None:
    with pytest.raises(InputError, match=f"{side} is 0, expected a whole number"):
        toy(**{side: 0})


def test_torchs_own_words_for_device_and_dtype_will_do(toy: Open) -> None:
    model = toy(device=torch.device("cpu"), dtype=torch.float32)
    assert model.devices == [torch.device("cpu")]
    assert model.score(("q", "a")) == 1.0
    with pytest.raises(InputError, match="dtype is 'int8', expected 'auto' or one of"):
        toy(dtype=torch.int8)
    with pytest.raises(InputError, match="'float16' is for CUDA devices"):
        toy(dtype=torch.float16)


def test_a_loop_goes_on_while_a_model_works(toy: Open) -> None:
    model = toy()

    async def main() -> tuple[Any, ...]:
        threads = set()
        scored = model.score_async([("q", "a")])
        threads.add(threading.get_ident())
        ranked, many, scores = await asyncio.gather(
            model.rank_async("q", ["a", "b"], top_k=1),
            model.try_rank_many_async([("q", ["c", None])]),
            scored,
        )
        with pytest.raises(PairError, match="the document is a NoneType"):
            await model.rank_async("q", [None])  # type: ignore[list-item]
        return ranked, many, scores

    ranked, many, scores = asyncio.run(main())
    assert ranked == [(1, 2.0, "b")]
    assert many[0][0] == [(0, -3.0, "c")] and list(many[0][1]) == [1]
    assert scores.tolist() == [1.0]


def test_work_is_done_in_another_thread(toy: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Watched(Reranker):
        def rank(self, *args: Any, **kwargs: Any) -> Any:
            seen.append(threading.get_ident())
            return []

    model = object.__new__(Watched)
    assert asyncio.run(model.rank_async("q", ["a"])) == []
    assert seen and seen[0] != threading.get_ident()


@pytest.mark.parametrize("name", ["rank", "try_rank", "rank_many", "try_rank_many", "score"])
def test_coroutines_are_named_and_take_what_the_methods_do(name: str) -> None:
    method, coroutine = getattr(Reranker, name), getattr(Reranker, f"{name}_async")
    assert inspect.iscoroutinefunction(coroutine)
    assert coroutine.__name__ == f"{name}_async"
    assert inspect.signature(coroutine).parameters == inspect.signature(method).parameters


def test_the_hub_is_asked_as_the_caller_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def refuse(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        raise OSError("not here")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(ModelError, match="could not be fetched from the hub"):
        Reranker(
            "a/b", revision="v1", token="hf_x", cache_folder=Path("kept"), local_files_only=True
        )
    expected = {"revision": "v1", "token": "hf_x", "cache_dir": "kept", "local_files_only": True}
    assert {name: asked[name] for name in expected} == expected


def test_one_pair_may_have_a_document_in_a_mapping(toy: Open) -> None:
    assert toy().score(("q", {"title": "b", "text": "a"})) == 3.0
    assert toy().score([("q", {"text": "a"}), ("q", ("id", "b"))]).tolist() == [1.0, 2.0]


def test_windows_count_the_texts_of_documents_with_ids(toy: Open) -> None:
    long = "a " * 500
    for document in (long, ("id", long), {"text": long}):
        assert pairs._size(("q", document)) == 1001
    assert pairs._size(("q", {})) == pairs._size(("q", ())) == 1 and pairs._size(None) == 0


def test_replacing_a_field_keeps_what_belongs_to_the_document() -> None:
    ranked = Ranked(1, 0.5, "text", "id", {"year": 2})._replace(score=0.25)
    assert (tuple(ranked), ranked.id, ranked.metadata) == ((1, 0.25, "text"), "id", {"year": 2})


def test_no_token_lies_in_a_pickle(toy: Open) -> None:
    assert b"hf_secret" not in pickle.dumps(toy(token="hf_secret", cache_folder="."))


@pytest.mark.parametrize("bad", [None, 7, "\ud800"])
def test_a_query_that_is_no_text_fails_alone(toy: Open, bad: Any) -> None:
    model = toy()
    requests: Any = [(bad, ["a"]), ("q", ["a", "b a"]), (bad, ["a", "b"]), (bad, []), ("b", ["a"])]
    found = model.try_rank_many(requests)
    for place in (1, 4):
        assert found[place] == model.try_rank(*requests[place])
    for place in (0, 2, 3):
        ranking, failures = found[place]
        documents = requests[place][1]
        assert ranking == [] and ranking.num_layers.tolist() == [0] * len(documents)
        assert [*failures] == [*range(len(documents))]
        assert all(r.startswith(f"the query of requests[{place}]") for r in failures.values())
    with pytest.raises(InputError, match=r"^the query of requests\[0\]"):
        model.rank_many(requests)
