"""Whatever a model takes and refuses, an engine does in the same words, whatever runs beside it."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from packrank import Engine, InputError, PairError, Reranker
from packrank.documents import TokenizedText

Asked = list[tuple[Callable[[Engine], Any], Callable[[], Any]]]


def shown(one: Any) -> tuple[Any, ...]:
    return *one, one.id, getattr(one, "metadata", None)


def check(model: Any, asked: Asked, seed: int = 0) -> None:
    """All of it at once, several times, in any order: equal to what the model says alone."""
    wanted = [want() for _, want in asked]
    order = list(range(len(asked))) * 3
    Random(seed).shuffle(order)
    with Engine(model) as engine:
        for place, answer in [(place, asked[place][0](engine)) for place in order]:
            found, want = answer.result(120), wanted[place]
            if isinstance(want, np.ndarray):
                assert np.array_equal(found, want) and found.dtype == want.dtype
            else:
                assert [*map(shown, found)] == [*map(shown, want)]
        assert engine.queue_tokens == engine.queue_requests == 0


def test_labels_beside_each_other(
    checkpoint: Callable[..., Path], save_tokenizer: Callable[..., None], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("Bert", num_labels=3), folder)
    save_tokenizer(folder, "red blue fox owl")
    model = Reranker(folder, device="cpu")
    pairs = [("red fox", "owl"), ("blue", "red red")]
    documents = ["owl", "fox red", "owl"]
    asked: Asked = [
        (lambda engine: engine.submit_pairs(pairs), lambda: model.score(pairs)),
        *((
            lambda engine, o=label: engine.submit("red", documents, label=o),
            lambda o=label: model.rank("red", documents, label=o),
        ) for label in (0, 2, model.labels[1])),
    ]  # fmt: skip
    check(model, asked)
    with Engine(model) as engine, pytest.raises(InputError, match="label"):
        engine.submit("red", documents)


def test_documents_of_every_kind(reranker: Reranker) -> None:
    tokenization = reranker.tokenization
    assert tokenization is not None
    ids = TokenizedText(np.array([5, 6, 7], dtype=np.int32), tokenization)
    documents = [
        "", "red fox", "red fox", "owl " * 100_000, " \n", "\x00", "ö", ids, ("an id", ids),
        {"_id": 7, "title": "red", "text": "owl", "year": 1999}, ("fox", "owl"),
    ]  # fmt: skip
    asked: Asked = [
        (
            lambda engine, q=query: engine.submit(q, documents),
            lambda q=query: reranker.rank(q, documents),
        )
        for query in ("", "red fox", "blue " * 10_000)
    ]
    check(reranker, asked)
    other = TokenizedText(ids.token_ids, type(tokenization)("other", "of another"))
    with Engine(reranker) as engine:
        for bad in (7, None, b"red", ("a", "b", "c"), {"text": 7}, "\ud800", ["fox"], other, {}):
            with pytest.raises(PairError) as said:
                engine.submit("red", ["fox", bad, "owl"]).result(30)  # type: ignore[list-item]
            with pytest.raises(PairError) as own:
                reranker.rank("red", ["fox", bad, "owl"])  # type: ignore[list-item]
            assert str(said.value) == str(own.value) and said.value.index == 1
        assert engine.submit("red", ["fox"]).result(30)
        assert engine.queue_tokens == 0


def test_an_event_loop_that_is_gone_takes_nobody_with_it(reranker: Reranker) -> None:
    """Its coroutines were cancelled, or never came to an end."""
    with Engine(reranker) as engine:
        for _ in range(3):
            loop = asyncio.new_event_loop()
            pending = [
                asyncio.wrap_future(engine.submit("red", ["fox"] * 50), loop=loop) for _ in range(4)
            ]
            loop.close()
        assert len(engine.submit("red", ["fox"]).result(60)) == 1
        assert engine.drain(60)
        assert not any(one.done() for one in pending)
