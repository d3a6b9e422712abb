"""Reports as `packrank bench` would write them, made of known numbers, for what reads them."""

import copy
from typing import Any

import numpy as np

from packrank.bench.report import Ceiling, Report, Result, Verdict

PARTS = ("products", "attention", "norms and elementwise", "launches", "host", "tokenizer")
# Of each model: rates in float32 and bfloat16, shares of the ceiling, and of its time by part.
MODELS: dict[str, tuple[float, float, float, float, tuple[float, ...]]] = {
    "MiniLM-L6": (430.0, 812.0, 0.78, 0.61, (0.62, 0.21, 0.08, 0.0, 0.04, 0.05)),
    "base": (58.0, 118.0, 0.83, 0.74, (0.76, 0.14, 0.06, 0.0, 0.02, 0.02)),
    "Qwen2.5-0.5B": (14.5, 27.9, 0.85, 0.79, (0.82, 0.10, 0.06, 0.0, 0.01, 0.01)),
}
PEERS = {"sentence-transformers, torch": 0.52, "sentence-transformers, ONNX": 0.66}
EVIL = 'mine/<b>"odd" & old</b></script><script>alert(1)</script> of a very long name ' + "x" * 60


def noisy(value: float, count: int, seed: int, noise: float = 0.01) -> list[float]:
    random = np.random.default_rng(seed)
    return [float(value * np.exp(noise * each)) for each in random.standard_normal(count)]


def ceilings(seed: int = 0) -> list[Ceiling]:
    rows = [
        ("memory read, L1", "bandwidth", "B/s", 410e9),
        ("memory read, L2", "bandwidth", "B/s", 180e9),
        ("memory read", "bandwidth", "B/s", 23.4e9),
        ("memory copy", "bandwidth", "B/s", 15.1e9),
        ("product, float32", "products", "op/s", 221e9),
        ("product, bfloat16", "products", "op/s", 438e9),
        ("product, int8", "products", "op/s", 851e9),
        ("tokenizer, one core", "tokenizer", "pairs/s", 3221.0),
        ("tokenizer, all cores", "tokenizer", "pairs/s", 6104.0),
    ]
    return [
        Ceiling(name, kind, unit, noisy(value, 8, seed + place))
        for place, (name, kind, unit, value) in enumerate(rows)
    ]


def ops(rate: float, shares: tuple[float, ...], efficiency: float, peak: float) -> list[Any]:
    """Of a forward of 64 candidates."""
    found, whole = [], 64 / rate
    for op, calls, share, intensity in (
        ("linear, up", 6, 0.45 * shares[0], 96.0),
        ("linear, down", 6, 0.35 * shares[0], 80.0),
        ("linear, qkv", 6, 0.20 * shares[0], 61.0),
        ("attention", 6, shares[1], 22.0),
        ("layer_norm", 13, 0.7 * shares[2], 0.9),
        ("embedding", 1, 0.3 * shares[2], 0.0),
    ):
        seconds = whole * share
        reached = min(1.0, efficiency * (1.15 if "linear" in op else 0.55))
        operations = seconds * min(reached * peak, reached * 180e9 * (intensity or 0.0))
        moved = operations / intensity if intensity else seconds * 11e9
        found.append(
            {
                "op": op,
                "calls": calls,
                "seconds": seconds,
                "operations": operations,
                "bytes": moved,
                "possible_s": seconds * reached,
                "bound_by": "bytes" if intensity < 2 else "operations",
            }
        )
    return found


def offline(model: str, dtype: str, seed: int = 0, by: str = "packrank") -> Result:
    low, high, low_share, high_share, shares = MODELS[model]
    rate, share = (low, low_share) if dtype == "float32" else (high, high_share)
    if by != "packrank":
        return Result(
            *("Offline", model, dtype, "msmarco-like", "rate", "candidates/s"),
            noisy(rate * PEERS[by], 8, seed),
            by,
            {"candidates": 256},
        )
    facts: dict[str, Any] = {
        "candidates": 256,
        "tokens_per_candidate": 92.5,
        "tokens_per_s": 92.5 * rate,
        "share_of_ceiling": share,
        "bound_by": "operations",
        "padding_share": 0.03,
        "padding_share_unsorted": 0.41,
        "memory_bytes": 512 * 2**20,
        "parts": {name: each / rate for name, each in zip(PARTS, shares, strict=True)},
        "ops": ops(rate, shares, share, 221e9 if dtype == "float32" else 438e9),
        "by_length": [
            {"tokens": size, "rate": rate * 92.5 / size * (1.1 - size / 5120)}
            for size in (32, 64, 128, 256, 512)
        ],
        "by_batch": [
            {"candidates": size, "rate": rate * size / (size + 1.5)}
            for size in (1, 2, 4, 8, 16, 32, 64, 128, 256)
        ],
        "cost_per_million": 0.35e6 / 3600 / rate,
        "joules_per_1000": 65e3 / rate,
        "watts": 65.0,
        "noise": 0.013,
    }
    return Result(
        *("Offline", model, dtype, "msmarco-like", "rate", "candidates/s"),
        noisy(rate, 8, seed),
        "packrank",
        facts,
    )


def single_stream(model: str, dtype: str, seed: int = 0) -> Result:
    rate = MODELS[model][0 if dtype == "float32" else 1]
    samples = noisy(100 / rate, 120, seed, 0.05)
    facts = {"candidates": 100, "queries_per_s": rate / 100}
    kind = ("SingleStream", model, dtype, "msmarco-like", "latency", "s")
    return Result(*kind, samples, "packrank", facts)


def server(model: str, dtype: str, seed: int = 0) -> Result:
    service = 100 / MODELS[model][0 if dtype == "float32" else 1]
    limit = 8 * service
    points = []
    for busy in (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.05):
        random = np.random.default_rng(seed)
        wait = service * busy / max(2 * (1 - busy), 0.05)
        raw = [float(each) for each in service + random.exponential(wait, 200)]
        p50, p90, p95, p99 = (float(each) for each in np.quantile(raw, (0.5, 0.9, 0.95, 0.99)))
        points.append(
            {
                "offered": round(busy / service, 4),
                "achieved": min(busy, 1.0) / service,
                "p50": p50,
                "p90": p90,
                "p95": p95,
                "p99": p99,
                "goodput": busy / service * float(np.mean(np.array(raw) <= limit)),
                "count": 200,
                "valid": busy < 1,
                "reason": None if busy < 1 else "the queue was still growing",
                "latencies": raw,
            }
        )
    facts = {"candidates": 100, "limit_s": limit, "points": points}
    return Result(
        *("Server", model, dtype, "msmarco-like", "rate", "queries/s"),
        [0.8 / service],
        "packrank",
        facts,
    )


def odd() -> list[Result]:
    """Facts that are missing, of another kind, or nothing; a name that is no name."""
    once = Result("Offline", EVIL, "int8", "msmarco-like", "rate", "candidates/s", [0.031])
    wrong: dict[str, Any] = {
        "share_of_ceiling": None,
        "parts": {"products": 32.0, "host": 0.0, "its <i>own</i> part": 0.5, "attention": "much"},
        "ops": [
            {"op": EVIL, "seconds": 1.0, "operations": 1e9, "bytes": 0},
            {"op": "gather", "seconds": 0.5, "operations": 0, "bytes": 10.0},
            {"op": "linear", "seconds": 8.0, "operations": 9e11, "bytes": 3e10},
            "no op",
        ],
        "by_length": [{"tokens": 32, "rate": 0.031}],
        "memory_bytes": 0,
        "watts": float("nan"),
    }
    return [once, Result(*_key(once), [0.03, 0.031], "packrank", wrong)]


def _key(one: Result) -> tuple[str, str, str, str, str, str]:
    return one.workload, one.model, "float32", one.lengths, one.quantity, one.unit


def report(seed: int = 0, with_odd: bool = True) -> Report:
    """Three models in two dtypes, peers beside the smallest one, Server and SingleStream."""
    results = []
    for place, model in enumerate(MODELS):
        for dtype in ("float32", "bfloat16"):
            results.append(offline(model, dtype, seed + 10 * place))
            if place == 0:
                results += [offline(model, dtype, seed + 5, by) for by in PEERS]
    for make in (single_stream, server):
        results += [make(model, "bfloat16", seed + 50) for model in MODELS]
    return Report(
        "2026-11-30T20:00:00Z",
        {
            "processor": "AMD EPYC 9R14",
            "cores": 2,
            "memory": "8 GB",
            "device": "CPU",
            "versions": {"packrank": "0.1.0", "torch": "2.13.0"},
        },
        {"models": list(MODELS), "dtypes": ["float32", "bfloat16"], "price_per_hour": 0.35},
        281.0,
        True,
        ceilings(seed + 100),
        results + (odd() if with_odd else []),
        Verdict(True, ["other processes took 4 % of the processor"]),
        ["MiniCPM-2B, 40 layers: 5.1 GB of weights do not fit into memory"],
    )


def slower(one: Report, by: float) -> Report:
    """The same report of a machine on which everything takes longer."""
    made = copy.deepcopy(one)
    for each in [*made.ceilings, *made.results]:
        each.samples = [v * by if each.unit == "s" else v / by for v in each.samples]
    return made
