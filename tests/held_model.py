"""A toy model whose packs wait until they are let go, and waiting for what threads bring about."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from toy_model import ToyModel


class Held:
    """Packs wait until they are let go; each that has begun is noted, by its lengths."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.packs: list[list[int]] = []
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)
        logits = ToyModel.logits

        def held(model: ToyModel, pack: Any) -> Any:
            self.packs.append(pack.lengths.tolist())
            self.begun.release()
            assert self.go.acquire(timeout=60)
            return logits(model, pack)

        monkeypatch.setattr(ToyModel, "logits", held)

    def let_all_go(self) -> None:
        self.go.release(10_000)


def until(true: Callable[[], Any], seconds: float = 30.0) -> None:
    """Come back once something is true; AssertionError if it does not become so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came to pass"
        time.sleep(0.002)
