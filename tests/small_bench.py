"""A run of packrank bench that takes a second: small models, short samples."""

from dataclasses import replace

import pytest

from packrank.bench import plan, run
from packrank.bench.load import stream_rounds
from packrank.bench.speed import ceilings, maxsim, offline, yardstick
from packrank.bench.subjects import shapes

SMALL = {
    name: replace(shapes.SHAPES[name], layers=2, hidden=64, heads=4, inner=96)
    for name in ("MiniLM-L6", "base")
}


def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the test ends."""
    for module in (plan, run):
        monkeypatch.setattr(module, "SHAPES", SMALL)
    for module, name, value in (
        (ceilings, "SAMPLE_S", 1e-5),
        (ceilings, "ROUNDS", 1),
        (yardstick, "SAMPLE_S", 1e-5),
        (yardstick, "_PRODUCT", {"cpu": (8, 8, 8)}),
        (yardstick, "_COPIED", {"cpu": 1 << 10}),
        (offline, "_ROWS", 32),
        (ceilings, "_LARGE", {"cpu": 32}),
        (ceilings, "_LARGEST_STREAM", 1 << 18),
        (maxsim, "SAMPLE_S", 1e-5),
        (maxsim, "COPIES_BYTES", 1 << 16),
        (maxsim, "DOCUMENTS", 4),
        (maxsim, "_DRAWN", 2),
        (maxsim, "_CENTROIDS", 8),
        (offline, "ROUNDS", 5),
        (stream_rounds, "_REQUESTS", 3),
        (run, "_OFFLINE_CALL_S", 0.01),
        (run, "_APART_S", 0.01),
        (run, "_CURVES_S", 0.1),
        (run, "_STREAM_S", 0.1),
        (run, "_LEAST_WINDOW_S", 0.05),
        (run, "LEAST_FOR_P99", 5),
        (run, "_POINTS", 2),
    ):
        monkeypatch.setattr(module, name, value)
