"""Concurrent callers of one model: equal scores, failures apart, order, limits, endings."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Future,
    ThreadPoolExecutor,
    as_completed,
    wait,
)
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from held_model import Held, until
from toy_model import Open, ToyModel

from packrank import (
    DeadlineExceeded,
    Engine,
    EngineClosed,
    InputError,
    LateInteraction,
    PairError,
    Reranker,
)
from packrank.demo import default_model

DOCUMENTS = ["a bc", "de abc e", "", "de abc e", "e d c b a " * 12]


@pytest.fixture(scope="module")
def model(small_bert: Path) -> Reranker:
    return Reranker(small_bert)


@pytest.fixture
def engine(model: Reranker) -> Iterator[Engine]:
    with Engine(model) as engine:
        yield engine


def test_scores_have_the_models_own_bits(model: Reranker, engine: Engine) -> None:
    queries = ["ab " * n for n in range(8)]
    futures = [engine.submit(query, DOCUMENTS * (1 + n)) for n, query in enumerate(queries)]
    for n, (query, future) in enumerate(zip(queries, futures, strict=True)):
        assert future.result(60) == model.rank(query, DOCUMENTS * (1 + n))
    pairs = [(query, document) for query in queries for document in DOCUMENTS]
    assert np.array_equal(engine.submit_pairs(pairs).result(60), model.score(pairs))


def test_options_are_those_of_the_model(model: Reranker, engine: Engine) -> None:
    given = [("first", "a bc de"), {"id": 2, "text": "e e", "year": 1999}]
    for options in (
        {"top_k": 1},
        {"score_threshold": 0.5},
        {"max_length": 8},
        {"document_length": 2, "query_length": 3},
    ):
        found = engine.submit("bc de", given, **options).result(60)
        want = model.rank("bc de", given, **options)
        assert found == want
        assert [one.id for one in found] == [one.id for one in want]
        assert [one.metadata for one in found] == [one.metadata for one in want]
    pairs = [("a", "b"), ("c", "d")]
    raw = engine.submit_pairs(pairs, activation="identity").result(60)
    assert np.array_equal(raw, model.score(pairs, activation="identity"))


def test_coroutines_and_threads_share_it(model: Reranker, engine: Engine) -> None:
    async def ask() -> list[Any]:
        ranks = [engine.rank("a b" * n, DOCUMENTS, 2) for n in range(5)]
        return await asyncio.gather(*ranks, engine.score([("q", "d")]))

    *rankings, scores = asyncio.run(ask())
    assert rankings == [model.rank("a b" * n, DOCUMENTS, 2) for n in range(5)]
    assert np.array_equal(scores, model.score([("q", "d")]))


def test_nothing_asked_is_nothing_answered(engine: Engine) -> None:
    assert engine.submit("q", []).result(5) == []
    assert engine.submit_pairs([]).result(5).shape == (0,)


def test_pairs_of_several_callers_share_packs(toy: Open, held: Held) -> None:
    with Engine(toy(budget_tokens=40)) as engine:
        first = engine.submit("q", ["a"])
        assert held.begun.acquire(timeout=10)
        others = [engine.submit("q", ["a", "b"]) for _ in range(4)]
        until(lambda: engine._pump._scheduler.ready == 4 * 2 * 5)
        held.let_all_go()
        assert [len(one.result(10)) for one in (first, *others)] == [1, 2, 2, 2, 2]
    assert held.packs == [[5], [5] * 8]


def test_a_failing_pair_fails_its_own_request_alone(toy: Open, held: Held) -> None:
    with Engine(toy()) as engine:
        first = engine.submit("q", ["a"])
        assert held.begun.acquire(timeout=10)
        nan = engine.submit("q", ["a", "nan", "b"])
        sound = engine.submit("q", ["c", "b"])
        unknown = engine.submit("q", ["unembedded"])
        number = engine.submit("q", ["a", 7])  # type: ignore[list-item]
        held.let_all_go()
        assert [one.index for one in sound.result(10)] == [1, 0]
        assert first.result(10)
        for future, index, reason in (
            (nan, 1, "not finite"), (unknown, 0, "the model knows"), (number, 1, "is a int")
        ):  # fmt: skip
            with pytest.raises(PairError, match=reason) as raised:
                future.result(10)
            assert raised.value.index == index


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize(
    "odd",
    ["ab", {"a": "", "b": ""}, {"a", "b"}, b"ab", iter("ab"), ("a", "b", "c"), (b"a", "b"), 7],
    ids=lambda odd: type(odd).__name__,
)
def test_what_is_no_pair_has_no_score(model: Reranker, odd: Any, is_late: bool) -> None:
    """Whatever it unpacks into: the engine takes for a pair what the model does."""
    mine = LateInteraction(default_model(), device="cpu") if is_late else model
    with Engine(mine) as engine:
        for pairs in ([("a", "b"), odd], [odd, ("a", "b")], [odd, odd]):
            with pytest.raises(PairError) as found:
                engine.submit_pairs(pairs).result(60)
            reason = mine.try_score([("a", "b"), odd])[1][1]
            assert (found.value.index, found.value.reason) == (pairs.index(odd), reason)
        rows = np.array([("a", "b"), ("c", "d e")])
        assert np.array_equal(engine.submit_pairs(rows).result(60), mine.score(rows))


def test_a_pack_that_fails_is_run_request_by_request(
    toy: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = ToyModel.logits

    def failing(model: ToyModel, pack: Any) -> Any:
        if len(pack.token_ids) > 5 * 3 or (pack.lengths > 5).any():
            raise RuntimeError("no kernel image is available")
        return logits(model, pack)

    monkeypatch.setattr(ToyModel, "logits", failing)
    with Engine(toy()) as engine:
        sound = [engine.submit("q", ["a", "b"]) for _ in range(5)]
        broken = engine.submit("q", ["a b"])
        assert [len(one.result(10)) for one in sound] == [2] * 5
        with pytest.raises(RuntimeError, match="kernel image"):
            broken.result(10)
        assert len(engine.submit("q", ["a"]).result(10)) == 1  # it goes on


def test_cancelled_requests_leave_the_queue(toy: Open, held: Held) -> None:
    with Engine(toy()) as engine:
        first = engine.submit("q", ["a"])
        assert held.begun.acquire(timeout=10)
        others = [engine.submit("q", ["a"] * 3) for _ in range(3)]
        until(lambda: engine._pump._scheduler.ready == 3 * 3 * 5)
        assert others[1].cancel()
        assert engine.queue_tokens == 7 * 5
        held.let_all_go()
        assert first.result(10) and others[0].result(10) and others[2].result(10)
        with pytest.raises(CancelledError):
            others[1].result(10)
        until(lambda: engine.queue_requests == 0)
    assert sum(map(len, held.packs)) == 7
    assert engine.totals.turned_away == {"cancelled": 1}


def test_who_waits_for_several_sees_that_one_was_cancelled(toy: Open, held: Held) -> None:
    with Engine(toy()) as engine:
        first, gone = engine.submit("q", ["a"]), engine.submit("q", ["b"])
        assert held.begun.acquire(timeout=10)
        with ThreadPoolExecutor(2) as threads:
            waiting = threads.submit(wait, [first, gone], 10, FIRST_COMPLETED)
            coming = threads.submit(lambda: next(as_completed([first, gone], 10)))
            until(lambda: len(gone._waiters) == 2)  # type: ignore[attr-defined]
            assert gone.cancel() and gone.cancel()
            assert waiting.result(10).done == {gone} and coming.result(10) is gone
        assert wait([gone], 0).done == {gone}
        held.let_all_go()
        assert first.result(10) and not first.cancel()
    assert engine.totals.turned_away == {"cancelled": 1}


def test_a_cancel_while_the_answer_is_settled_is_told(toy: Open, held: Held) -> None:
    """The thread that settles it takes from who has cancelled it nothing that is to be called."""
    with Engine(toy()) as engine:
        gone = engine.submit("q", ["a"])
        assert held.begun.acquire(timeout=10)
        told, on_cancel = threading.Event(), gone.on_cancel
        assert on_cancel is not None
        gone.on_cancel = told.set
        Future.cancel(gone)  # as far as a thread may have come when the pack ends
        held.let_all_go()
        assert engine.submit("q", ["a"]).result(10)
        assert gone.on_cancel is not None
        assert gone.cancel() and told.is_set()
        on_cancel()


def test_a_coroutine_that_is_cancelled_takes_its_pairs_out(toy: Open, held: Held) -> None:
    async def ask(engine: Engine) -> None:
        first = asyncio.ensure_future(engine.rank("q", ["a"]))
        while not held.begun.acquire(blocking=False):
            await asyncio.sleep(0.005)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(engine.rank("q", ["b"] * 4), 0.05)
        held.let_all_go()
        assert await first

    with Engine(toy()) as engine:
        asyncio.run(ask(engine))
        until(lambda: engine.queue_tokens == 0)
    assert held.packs == [[5]]


def test_what_is_late_is_said_and_not_run(toy: Open, held: Held) -> None:
    with Engine(toy()) as engine:
        first = engine.submit("q", ["a"])
        assert held.begun.acquire(timeout=10)
        late = engine.submit("q", ["a"], timeout=0.01)
        time.sleep(0.03)
        held.let_all_go()
        with pytest.raises(DeadlineExceeded, match="no answer within"):
            late.result(10)
        assert first.result(10)
    assert held.packs == [[5]]
    with pytest.raises(TimeoutError):  # which it is, to who knows no more
        raise DeadlineExceeded("late")


def test_closing_ends_what_waits_and_draining_answers_it(toy: Open, held: Held) -> None:
    engine = Engine(toy())
    first = engine.submit("q", ["a"])
    assert held.begun.acquire(timeout=10)
    waiting = engine.submit("q", ["b"])
    assert not engine.drain(0.01)
    with pytest.raises(EngineClosed, match="takes no more"):
        engine.submit("q", ["a"])
    held.let_all_go()
    assert engine.drain(10)
    assert first.result(0) and waiting.result(0)
    engine.close()

    other = Engine(toy())
    held.go = threading.Semaphore(0)
    begun = other.submit("q", ["a"])
    assert held.begun.acquire(timeout=10)
    waiting = other.submit("q", ["b"])
    closing = threading.Thread(target=other.close)
    closing.start()
    with pytest.raises(EngineClosed, match="before it came to this"):
        waiting.result(10)
    held.let_all_go()
    closing.join(10)
    assert not closing.is_alive() and begun.done()


def test_a_thread_that_fails_leaves_nobody_waiting(
    toy: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    from packrank.serving import pump

    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    monkeypatch.setattr(pump.Pump, "_end", lambda self, running: 1 / 0)
    engine = Engine(toy())
    with pytest.raises(EngineClosed, match="has failed: ZeroDivisionError"):
        engine.submit("q", ["a"]).result(10)
    with pytest.raises(EngineClosed):
        engine.submit("q", ["a"])
    assert engine.failed == "a thread of the engine has ended with ZeroDivisionError"
    engine.close()


def test_documents_that_come_again_are_not_tokenized_again(model: Reranker) -> None:
    with Engine(model) as engine:
        want = [model.rank("a b" * n, DOCUMENTS) for n in range(3)]
        assert [engine.submit("a b" * n, DOCUMENTS).result(60) for n in range(3)] == want
        distinct = len(set(DOCUMENTS))
        assert (engine.cache.misses, engine.cache.hits) == (distinct, 2 * distinct)
    with Engine(model, cache_bytes=0) as engine:
        assert engine.submit("", DOCUMENTS).result(60) == want[0]
        assert engine.cache.hits == engine.cache.misses == 0


def test_usage_and_totals_are_of_what_ran(toy: Open) -> None:
    with Engine(toy()) as engine:
        future = engine.submit("q", ["a", "a b"])
        assert future.result(10)
        assert future.usage.tokens == 5 + 6
        assert future.usage.tokenize_s > 0 and future.usage.forward_s > 0
        totals = engine.totals
        assert (totals.requests, totals.pairs, totals.tokens, totals.failed) == (1, 2, 11, 0)
        assert 0 < totals.fill <= 1


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda engine: engine.submit(7, []), "query is a int"),
        (lambda engine: engine.submit("q", "text"), "documents is a str"),
        (lambda engine: engine.submit("q", None), "no store"),
        (lambda engine: engine.submit("q", ["a"], candidates=["1"]), "leave documents out"),
        (lambda engine: engine.submit("q", ["a"], priority=-1), "priority is -1"),
        (lambda engine: engine.submit("q", ["a"], timeout=0), "timeout is 0"),
        (lambda engine: engine.submit("q", ["a"], top_k=0), "top_k is 0"),
        (lambda engine: engine.submit("q", ["a"], cutoff_layer=9), "cutoff_layer is 9"),
        (lambda engine: engine.submit_pairs(7), "pairs"),
        (lambda engine: engine.submit_pairs([], activation="x"), "activation is 'x'"),
        (lambda engine: Engine("model"), "expected a Reranker"),
        (lambda engine: Engine(engine.model, cache_bytes=-1), "cache_bytes is -1"),
        (lambda engine: Engine(engine.model, max_queue_tokens=0), "max_queue_tokens is 0"),
    ],
)
def test_what_cannot_be_asked_is_said(toy: Open, call: Any, said: str) -> None:
    with Engine(toy()) as engine, pytest.raises(InputError, match=said):
        call(engine)


def test_many_callers_at_once_get_their_own(toy: Open) -> None:
    words = {"a": 1.0, "b": 2.0, "c": -3.0}
    random = np.random.default_rng(0)
    with Engine(toy(budget_tokens=64), max_queue_tokens=1_000_000) as engine:
        wanted: list[tuple[Future[Any], list[float]]] = []

        def ask(seed: int) -> None:
            mine = np.random.default_rng(seed)
            for _ in range(30):
                texts = [list(mine.choice([*words], mine.integers(1, 5))) for _ in range(7)]
                future = engine.submit_pairs([("q", " ".join(text)) for text in texts])
                wanted.append((future, [sum(words[word] for word in text) for text in texts]))
                if mine.random() < 0.2:
                    future.cancel()

        threads = [
            threading.Thread(target=ask, args=(int(s),)) for s in random.integers(1e6, size=8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        answered = 0
        for future, scores in wanted:
            if not future.cancelled():
                assert future.result(30).tolist() == scores
                answered += 1
        until(lambda: engine.queue_tokens == engine.queue_requests == 0)
        assert engine._pump._scheduler.ready == 0
        assert answered + engine.totals.turned_away.get("cancelled", 0) == len(wanted) == 240
