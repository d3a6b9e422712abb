"""Concurrent callers: what an engine and a server make of packs, and what overload does to them.

Beside sentence-transformers behind a plain FastAPI route, as many people serve it. Servers are
processes of their own, on the same cores as who asks them.
"""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from bench_cross_encoder import folder, tokenizer_folder  # noqa: F401
from bench_serving import CANDIDATES, requests  # noqa: F401

from packrank import Engine, Reranker
from packrank.bench.load.http import HttpTarget, Refused
from packrank.bench.load.server import Server, Terms

WINDOW_S = 6.0
PATIENCE_S = 600.0
PAUSE_S = 3.0  # so long do threads of a server that is done go on spinning
CONCURRENT = (1, 8, 32, 128)
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
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ours(path: Path) -> tuple[str, ...]:
    return (sys.executable, "-m", "packrank", "serve", str(path), "--log-level", "error",
            "--max-queue-tokens", "100000000", "--port")  # fmt: skip


def closed_loop(
    ask: Callable[[str, list[str]], Any], asked: list[Any], callers: int, seconds: float
) -> tuple[float, list[float]]:
    """Requests a second of so many callers who each wait for one before the next; latencies."""
    begun = time.perf_counter()
    until = begun + seconds

    def call(me: int) -> list[float]:
        n, latencies = me, list[float]()
        while time.perf_counter() < until:
            start = time.perf_counter()
            ask(*asked[n % len(asked)])
            latencies.append(time.perf_counter() - start)
            n += callers
        return latencies

    with ThreadPoolExecutor(callers) as pool:
        every = [one for each in pool.map(call, range(callers)) for one in each]
    return len(every) / (time.perf_counter() - begun), every


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("callers", CONCURRENT)
def bench_concurrency(rows, folder, requests, tmp_path, callers):  # noqa: F811
    path = folder("MiniLM-L6")
    model = Reranker(path, activation="sigmoid")
    plain = tmp_path / "plain.py"
    plain.write_text(PLAIN)
    pairs = [(query, document) for query, documents in requests for document in documents][:300]
    with (
        Engine(model, cache_bytes=0, max_queue_tokens=10**9) as engine,
        served(*ours(path)) as here,
        served(sys.executable, str(plain), str(path)) as there,
        HttpTarget(f"{here}/rerank", callers, PATIENCE_S) as a,
        HttpTarget(f"{there}/rerank", callers, PATIENCE_S) as b,
    ):
        query, documents = requests[0]
        want = [(one.index, one.score) for one in model.rank(query, documents)]
        for target in (a, b):
            found = json.loads(target.submit(query, documents).result()[1])["results"]
            order = [(row["index"], row["relevance_score"]) for row in found]
            assert [index for index, _ in order] == [index for index, _ in want]
            assert np.allclose([s for _, s in order], [s for _, s in want], atol=1e-4)
        asked = {
            "packrank": lambda q, d: engine.submit(q, d).result(),
            "packrank, by HTTP": lambda q, d: a.submit(q, d).result(),
            "sentence-transformers behind FastAPI": lambda q, d: b.submit(q, d).result(),
        }
        offline = "Reranker.score of the same pairs, offline"
        rates: dict[str, list[float]] = {name: [] for name in (*asked, offline)}
        waits: dict[str, list[float]] = {name: [] for name in asked}
        for _ in range(3 if callers < 100 else 2):  # of so many a round takes minutes
            start = time.perf_counter()
            model.score(pairs)
            rates[offline].append(len(pairs) / (time.perf_counter() - start) / CANDIDATES)
            for name, ask in asked.items():
                rate, latencies = closed_loop(ask, requests, callers, WINDOW_S)
                rates[name].append(rate)
                waits[name] += latencies
                time.sleep(PAUSE_S)
    mine = float(np.median(rates["packrank"]))
    found_rows = []
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
        seconds: dict[int, float] = {}

        def settle(n: int, start: float, _: Any) -> None:
            seconds[n] = time.perf_counter() - start

        begun = time.perf_counter()
        futures = []
        rng = np.random.default_rng(0)
        at = begun
        for n in range(int(3 * rate * 2 * WINDOW_S)):
            at += rng.exponential(1 / (3 * rate))
            time.sleep(max(at - time.perf_counter(), 0))
            start = time.perf_counter()
            future = target.submit(*requests[n % len(requests)])

            future.add_done_callback(partial(settle, n, start))
            futures.append(future)
        for n, future in enumerate(futures):
            error = future.exception(60)
            if error is None:
                taken.append(seconds[n])
            else:
                assert isinstance(error, Refused) and error.status == 429, error
                refused.append(seconds[n])
    for name, values in (("admitted", taken), ("refused with 429", refused)):
        p50, p99 = np.quantile(values, [0.5, 0.99])
        rows.say(f"{name}: {len(values)}, p50 {1e3 * p50:.1f} ms, p99 {1e3 * p99:.1f} ms")
        rows.add(
            {
                "bench": "overload", "case": f"3 x {rate:.1f} queries/s, {name}: p99",
                "contestant": "packrank", "rate": float(1e3 * p99), "unit": "ms",
            }
        )  # fmt: skip


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
