"""Concurrent callers: what an engine and a server add to the model, and what they make of packs.

Beside the model's own `rank`, and beside sentence-transformers behind a plain FastAPI route, as
many people serve it. Servers are processes of their own, on the same cores as who asks them.
"""

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import orjson
import pytest
from bench_cross_encoder import drawn_pool, folder, tokenizer_folder  # noqa: F401

from packrank import Engine, Reranker
from packrank.bench.load.http import HttpTarget, Refused
from packrank.bench.load.server import Server, Terms
from packrank.bench.subjects.checkpoints import write_checkpoint
from packrank.bench.subjects.shapes import SHAPES
from packrank.bench.timing import turns
from packrank.server.exchange import reply
from packrank.server.models import Models, Served
from packrank.server.rerank import rerank
from packrank.server.scoring import Asker
from packrank.server.settings import Settings
from packrank.serving.request import Answer, Usage

CANDIDATES, WINDOW_S = 10, 6.0
CONCURRENT = (1, 8, 32, 128)
SIZES = {1: 40, 10: 5, 100: 1, 1000: 1}  # documents of a query, and calls of a round
ROUNDS = 5
# How it is usually put: the model, a route, a thread pool.
PLAIN = """
import sys, uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import CrossEncoder

model, app = CrossEncoder(sys.argv[1], device="cpu", max_length=512), FastAPI()

class Body(BaseModel):
    query: str
    documents: list[str]

@app.get("/health")
def health(): return {}

@app.post("/rerank")
def rerank(body: Body):
    scores = model.predict([(body.query, d) for d in body.documents], show_progress_bar=False)
    order = scores.argsort()[::-1]
    return {"results": [{"index": int(i), "relevance_score": float(scores[i])} for i in order]}

uvicorn.run(app, port=int(sys.argv[2]), log_level="error")
"""


@contextmanager
def served(*command: str) -> Iterator[str]:
    """The address of a server that is ready, as a process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([*command, str(port)], stderr=subprocess.DEVNULL)
    base = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urlopen(f"{base}/health", timeout=1).read()
                break
            except OSError:
                time.sleep(0.1)
        yield base
    finally:
        process.terminate()
        process.wait(20)


def ours(path: Path) -> tuple[str, ...]:
    return (sys.executable, "-m", "packrank", "serve", str(path), "--log-level", "error",
            "--max-queue-tokens", "100000000", "--port")  # fmt: skip


@pytest.fixture
def requests(tokenizer_folder) -> list[tuple[str, list[str]]]:  # noqa: F811
    pool = drawn_pool(tokenizer_folder)
    texts = [document for _, document in pool]
    rng = np.random.default_rng(0)
    return [
        (pool[n][0], [texts[i] for i in rng.choice(len(texts), CANDIDATES, replace=False)])
        for n in range(200)
    ]


def closed_loop(
    ask: Callable[[str, list[str]], Any], requests: list[Any], callers: int, seconds: float
) -> tuple[float, list[float]]:
    """Requests a second of so many callers who each wait for one before the next; latencies."""
    latencies: list[list[float]] = [[] for _ in range(callers)]
    begun = time.perf_counter()
    until = begun + seconds

    def call(me: int) -> None:
        n = me
        while time.perf_counter() < until:
            start = time.perf_counter()
            ask(*requests[n % len(requests)])
            latencies[me].append(time.perf_counter() - start)
            n += callers

    threads = [threading.Thread(target=call, args=(me,)) for me in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    every = [one for each in latencies for one in each]
    return len(every) / (time.perf_counter() - begun), every


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


@pytest.mark.filterwarnings("ignore")
def bench_concurrency(rows, folder, requests, tmp_path):  # noqa: F811
    path = folder("MiniLM-L6")
    model = Reranker(path, activation="sigmoid")
    plain = tmp_path / "plain.py"
    plain.write_text(PLAIN)
    pairs = [(query, document) for query, documents in requests for document in documents]
    with (
        Engine(model, cache_bytes=0, max_queue_tokens=10**9) as engine,
        served(*ours(path)) as here,
        served(sys.executable, str(plain), str(path)) as there,
    ):
        query, documents = requests[0]
        want = [(one.index, one.score) for one in model.rank(query, documents)]
        for base in (here, there):
            with HttpTarget(f"{base}/rerank") as target:
                found = json.loads(target.submit(query, documents).result()[1])["results"]
            order = [(row["index"], row["relevance_score"]) for row in found]
            assert [index for index, _ in order] == [index for index, _ in want]
            assert np.allclose([s for _, s in order], [s for _, s in want], atol=1e-4)
        for callers in CONCURRENT:
            with (
                HttpTarget(f"{here}/rerank", callers) as a,
                HttpTarget(f"{there}/rerank", callers) as b,
            ):
                asked = {
                    "packrank": lambda q, d: engine.submit(q, d).result(),
                    "packrank, by HTTP": lambda q, d, a=a: a.submit(q, d).result(),
                    "sentence-transformers behind FastAPI": lambda q, d, b=b: b.submit(
                        q, d
                    ).result(),
                }
                rates: dict[str, list[float]] = {name: [] for name in asked}
                waits: dict[str, list[float]] = {name: [] for name in asked}
                alone: list[float] = []
                for _ in range(3):
                    for name, ask in asked.items():
                        rate, latencies = closed_loop(ask, requests, callers, WINDOW_S)
                        rates[name].append(rate)
                        waits[name] += latencies
                    start = time.perf_counter()
                    model.score(pairs[:300])
                    alone.append(300 / (time.perf_counter() - start) / CANDIDATES)
                mine = float(np.median(rates["packrank"]))
                found_rows = []
                rates["Reranker.score of the same pairs, offline"] = alone
                for name, each in rates.items():
                    p50, p99 = np.quantile(waits[name], [0.5, 0.99]) if name in waits else (0, 0)
                    row = {
                        "bench": "serving", "case": f"MiniLM-L6, {callers} callers, 10 documents",
                        "contestant": name, "rate": float(np.median(each)), "unit": "queries",
                        "p50_s": float(p50), "p99_s": float(p99),
                    }  # fmt: skip
                    if name != "packrank":
                        row["packrank_is_faster"] = mine / row["rate"]
                    found_rows.append(row)
                rows.add(*found_rows)


def bench_overload(rows, folder, requests):  # noqa: F811
    """Three times what it can: who is admitted waits no longer than the queue is, the rest not."""
    path = folder("MiniLM-L6")
    command = [*ours(path)]
    command[command.index("--max-queue-tokens") + 1] = "40000"
    with served(*command) as base, HttpTarget(f"{base}/rerank", 256) as target:
        rate, _ = closed_loop(lambda q, d: target.submit(q, d).result(), requests, 8, WINDOW_S)
        refused: list[float] = []
        taken: list[float] = []
        lock = threading.Lock()
        begun = time.perf_counter()
        futures = []
        rng = np.random.default_rng(0)
        at = begun
        for n in range(int(3 * rate * 2 * WINDOW_S)):
            at += rng.exponential(1 / (3 * rate))
            time.sleep(max(at - time.perf_counter(), 0))
            start = time.perf_counter()
            future = target.submit(*requests[n % len(requests)])

            def settle(done, start=start) -> None:
                seconds = time.perf_counter() - start
                with lock:
                    if done.exception() is None:
                        taken.append(seconds)
                    else:
                        assert (
                            isinstance(done.exception(), Refused) and done.exception().status == 429
                        )
                        refused.append(seconds)

            future.add_done_callback(settle)
            futures.append(future)
        for future in futures:
            future.exception(60)
    for name, values in (("admitted", taken), ("refused with 429", refused)):
        p50, p99 = np.quantile(values, [0.5, 0.99])
        rows.say(f"{name}: {len(values)}, p50 {1e3 * p50:.1f} ms, p99 {1e3 * p99:.1f} ms")
        rows.add(
            {
                "bench": "overload", "case": f"3 x {rate:.1f} queries/s, {name}: p99",
                "contestant": "packrank", "rate": float(1e3 * p99), "unit": "ms",
            }
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


def bench_server_workload(rows, folder, requests):  # noqa: F811
    """The Server workload of `packrank bench`, on the engine and by HTTP: 85 % of offline."""
    path = folder("MiniLM-L6")
    model = Reranker(path)
    pairs = [(query, document) for query, documents in requests for document in documents][:300]

    def offline() -> float:
        start = time.perf_counter()
        model.score(pairs)
        return len(pairs) / (time.perf_counter() - start) / CANDIDATES

    terms = Terms(limit_s=60.0, seconds=12.0, least_count=100, most_seconds=25.0, patience_s=60.0)
    model.score(pairs[:64])
    with (
        Engine(model, max_queue_tokens=10**9, cache_bytes=0) as engine,
        served(*ours(path)) as base,
        HttpTarget(f"{base}/rerank", 128) as target,
    ):
        for name, one in (("packrank", engine), ("packrank, by HTTP", target)):
            shares = []
            for _ in range(3):
                before = offline()
                point = Server(one, requests, terms).point(1.3 * before)
                shares.append(point.achieved / ((before + offline()) / 2))
            rows.add(
                {
                    "bench": "saturated",
                    "case": f"MiniLM-L6, 10 documents, {name}, share of offline",
                    "contestant": "packrank",
                    "rate": 100 * float(np.median(shares)),
                    "unit": "%",
                }
            )
