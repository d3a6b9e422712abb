"""One caller: what an engine and a server add to the model, and what another caller costs it."""

import asyncio
import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest
from bench_cross_encoder import drawn_pool, folder, tokenizer_folder  # noqa: F401

from packrank import Engine, Reranker
from packrank.bench.subjects.checkpoints import write_checkpoint
from packrank.bench.subjects.shapes import SHAPES
from packrank.bench.timing import turns
from packrank.server.exchange import reply
from packrank.server.models import Models, Served
from packrank.server.rerank import rerank
from packrank.server.scoring import Asker
from packrank.server.settings import Settings
from packrank.serving.request import Answer, Usage

CANDIDATES = 10
SIZES = {1: 40, 10: 5, 100: 1, 1000: 1}  # documents of a query, and calls of a round
ROUNDS = 5


@pytest.fixture
def requests(tokenizer_folder) -> list[tuple[str, list[str]]]:  # noqa: F811
    pool = drawn_pool(tokenizer_folder)
    texts = [document for _, document in pool]
    rng = np.random.default_rng(0)
    return [
        (pool[n][0], [texts[i] for i in rng.choice(len(texts), CANDIDATES, replace=False)])
        for n in range(200)
    ]


def bench_added_latency(rows, tmp_path, requests):
    """What a queue, two threads and a future add, of a model so small that it shows: 1 ms at most.

    Of one that takes 25 ms a document it is less than the machine's noise.
    """
    shape = replace(SHAPES["MiniLM-L6"], layers=1, hidden=32, heads=2, inner=32)
    model = Reranker(write_checkpoint(shape, tmp_path))
    query, documents = requests[0]
    with Engine(model, cache_bytes=0) as engine:

        def added(size: int) -> list[float]:
            some, each = [text[:64] for text in documents[:size]], 200
            assert engine.submit(query, some).result() == model.rank(query, some)

            def through() -> None:
                for _ in range(each):
                    engine.submit(query, some).result()

            def direct() -> None:
                for _ in range(each):
                    model.rank(query, some)

            times = turns({"through": through, "direct": direct}, rounds=15)
            difference = np.array(times["through"]) - np.array(times["direct"])
            return [1e3 * float(np.quantile(difference, q)) / each for q in (0.5, 0.2, 0.8)]

        for size in (1, 10):
            median, p20, p80 = added(size)
            rows.add(
                {"bench": "engine", "case": f"one caller, {size} short documents: added to rank",
                 "contestant": "packrank", "rate": median, "p20_s": p20 / 1e3, "p80_s": p80 / 1e3,
                 "unit": "ms"}
            )  # fmt: skip


def bench_latency_alone(race, folder, requests):  # noqa: F811
    """One caller and an idle device."""
    model = Reranker(folder("MiniLM-L6"), activation="sigmoid")
    texts = [document for _, documents in requests for document in documents]
    with Engine(model, cache_bytes=0) as engine:
        for size, calls in SIZES.items():
            query, documents = requests[0][0], texts[:size]
            assert engine.submit(query, documents).result() == model.rank(query, documents)

            def through(query=query, documents=documents, calls=calls) -> None:
                for _ in range(calls):
                    engine.submit(query, documents).result()

            def direct(query=query, documents=documents, calls=calls) -> None:
                for _ in range(calls):
                    model.rank(query, documents)

            contestants = {"packrank": through, "Reranker.rank": direct}
            case = f"MiniLM-L6, one caller, {size} documents"
            rounds = ROUNDS if size < 1000 else 3
            race("engine", case, contestants, calls, "queries", rounds=rounds)


def bench_json(rows, folder, requests):  # noqa: F811
    """Bodies read, checked and answered without a score, over the model's own time: 5 % at most."""
    model = Reranker(folder("MiniLM-L6"), activation="sigmoid")
    texts = [document for _, documents in requests for document in documents]
    query = requests[0][0]
    with Engine(model, cache_bytes=0) as engine:
        served = Served("MiniLM-L6", engine)
        models = Models(state="ready", served=[served])

        async def at_once(answer: Answer) -> Any:
            return np.zeros((answer.usage.pairs, 1), dtype=np.float32)

        def submit_pairs(pairs: list[Any], **options: Any) -> Answer:
            return Answer(Usage(pairs=len(pairs)), lambda: None)

        engine.submit_pairs = submit_pairs
        asker = Asker(Settings(), at_once)
        for size in SIZES:
            documents = (texts * 2)[:size]
            body = json.dumps({"query": query, "documents": documents}).encode()

            async def answered(body: bytes = body) -> bytes:
                given = orjson.loads(body)
                found, *_ = await rerank(given, asker, models, echo=True)
                return reply(found).body

            assert len(json.loads(asyncio.run(answered()))["results"]) == size

            async def many(count: int, answered: Any = answered) -> None:
                for _ in range(count):
                    await answered()

            count = max(1, 2000 // size)
            times = turns(
                {"json": lambda count=count, many=many: asyncio.run(many(count)),
                 "rank": lambda documents=documents: model.rank(query, documents)},
                rounds=ROUNDS,
            )  # fmt: skip
            seconds = np.array(times["json"]) / count
            share = float(np.median(seconds / (seconds + np.array(times["rank"]))))
            case = f"MiniLM-L6, {size} documents, {1e3 * np.median(seconds):.3f} ms of a request"
            rows.add(
                {"bench": "JSON", "case": case, "contestant": "packrank", "rate": 100 * share,
                 "unit": "%"}
            )  # fmt: skip


def bench_fairness(rows, folder, requests):  # noqa: F811
    """A caller of 10 documents beside one of 10,000: at most twice its time alone and a pack."""
    model = Reranker(folder("MiniLM-L6"))
    texts = [document for _, documents in requests for document in documents]
    with Engine(model) as engine:
        query, documents = requests[0]

        def once() -> float:
            start = time.perf_counter()
            engine.submit(query, documents).result()
            return time.perf_counter() - start

        def pack() -> float:
            runner = model._scorer.runner
            window = model._scorer.reader.window([(query, text) for text in texts[:12]])
            start = time.perf_counter()
            runner.submit(window.sequences).result()
            return (
                (time.perf_counter() - start)
                * runner.budget_tokens / len(window.sequences.token_ids)
            )  # fmt: skip

        alone = [once() for _ in range(15)]
        packs = [pack() for _ in range(5)]
        bulk = engine.submit(query, [texts[n % len(texts)] for n in range(10_000)])
        time.sleep(2)
        beside = [once() for _ in range(25)]
        bulk.cancel()
        allowed = 2 * float(np.median(alone)) + float(np.median(packs))
        for name, value in (
            ("alone", float(np.median(alone))), ("a pack", float(np.median(packs))),
            ("allowed", allowed), ("beside one of 10,000", float(np.median(beside))),
        ):  # fmt: skip
            rows.add(
                {
                    "bench": "fairness", "case": f"MiniLM-L6, a caller of 10 documents, {name}",
                    "contestant": "packrank", "rate": 1e3 * value, "unit": "ms",
                }
            )  # fmt: skip
        assert float(np.median(beside)) <= allowed
