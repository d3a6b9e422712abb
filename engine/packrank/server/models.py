"""The models that are served, and whether they can answer yet."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from threading import Thread
from typing import Any, Literal

import tokenizers

from packrank.late.encoder import tokenizer_of
from packrank.late_interaction import LateInteraction
from packrank.reranker import Reranker, calibrated_counts, scorer_of
from packrank.server.problems import Problem
from packrank.serving.engine import Engine

State = Literal["warming", "ready", "draining", "failed"]


@dataclass(frozen=True)
class Served:
    """A model under its name.

    Attributes:
        name: by which clients ask for it.
        engine: that runs it.
        created: when it was opened, seconds since 1970.
        calibrated: for how many best documents it has calibrated exits.
    """

    name: str
    engine: Engine
    created: int = field(default_factory=lambda: int(time.time()))
    calibrated: list[int] = field(init=False)

    def __post_init__(self) -> None:
        # Here rather than when it is asked for: to compare margins all files of the model are read.
        model = self.engine.model
        counts = calibrated_counts(model) if isinstance(model, Reranker) else []
        object.__setattr__(self, "calibrated", counts)

    @property
    def is_late(self) -> bool:
        """Whether it is late interaction."""
        return isinstance(self.engine.model, LateInteraction)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the scores of a pair."""
        model = self.engine.model
        return model.labels if isinstance(model, Reranker) else ("LABEL_0",)

    @cached_property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """Of the model, as the library opens it."""
        model = self.engine.model
        if isinstance(model, Reranker):
            found = scorer_of(model).assembly.tokenizer
        else:
            found = tokenizer_of(model)
        return tokenizers.Tokenizer.from_str(found.serialized)

    @property
    def max_length(self) -> int:
        """Most tokens of a pair, or of a document where that is read by itself."""
        model = self.engine.model
        return model.max_length if isinstance(model, Reranker) else model.document_length

    @property
    def device(self) -> str:
        """The kind of device that it runs on."""
        model = self.engine.model
        return model.devices[0].type if isinstance(model, Reranker) else model.device.type

    @property
    def dtype(self) -> str:
        """Of its weights."""
        return str(self.engine.dtype).removeprefix("torch.")


@dataclass
class Models:
    """All of them, in the order that they were asked for.

    Attributes:
        state: whether they answer.
        served: none while they are being opened.
        strict: refuse a name that is not here.
        why: what went wrong, where it failed.
        error: the same, as it was raised.
        in_flight: requests that were taken and are not answered.
        lost: those that were not answered when it had to end.
        is_stuck: whether something still runs that cannot be ended, a forward or the loading.
    """

    state: State = "warming"
    served: list[Served] = field(default_factory=list)
    strict: bool = False
    why: str = ""
    error: BaseException | None = None
    in_flight: int = 0
    lost: int = 0
    is_stuck: bool = False

    @contextmanager
    def answering(self) -> Iterator[None]:
        """A request that is taken; raises Problem unless they answer."""
        self.check_ready()
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def end(self) -> None:
        """Take no more requests."""
        if self.state != "failed":
            self.state = "draining"

    def close(self) -> None:
        """Let nobody wait any longer; comes back at once."""
        self.lost = self.in_flight
        for one in self.served:
            Thread(target=one.engine.close, daemon=True).start()

    def check_ready(self) -> None:
        """Raise Problem unless they answer."""
        if self.state == "ready":
            return
        said = {"warming": "the model is being loaded", "draining": "the server is shutting down"}
        message = said.get(self.state, f"the model cannot be served: {self.why}")
        if self.state == "warming":
            raise Problem(503, message, retry_after=5.0)
        # Another connection may lead to another server.
        raise Problem(503, message, retry_after=1.0, headers={"connection": "close"})

    def check_healthy(self) -> None:
        """Raise Problem unless they answer, and no engine has failed; nobody is waited for.

        One that has failed is still asked, and may come to itself.
        """
        self.check_ready()
        for one in self.served:
            if one.engine.failed is not None:
                said = f"the model '{one.name}' cannot answer: {one.engine.failed}"
                raise Problem(503, said, retry_after=5.0)

    @property
    def is_lost(self) -> bool:
        """Whether only another process could answer: none was opened, or an engine has failed."""
        return self.state == "failed" or any(one.engine.failed for one in self.served)

    def named(self, name: str | None) -> Served:
        """The model of a name; of a name that is not here the first, or Problem if `strict`."""
        self.check_ready()
        return self._named(name)

    def name_of(self, name: str | None) -> str:
        """The name of that model, whether it answers or not; "" where none has been opened."""
        return self._named(name).name if self.served else ""

    def _named(self, name: str | None) -> Served:
        for one in self.served:
            if one.name == name:
                return one
        if self.strict and name:
            known = ", ".join(one.name for one in self.served)
            raise Problem(
                404,
                f"model '{name}' not found, make sure the correct model ID was used and that you "
                f"have access to the model; {known} can be used",
                param="model",
            )
        return self.served[0]

    def as_list(self) -> dict[str, Any]:
        """As OpenAI's clients list models."""
        every = [
            {"id": one.name, "object": "model", "created": one.created, "owned_by": "packrank",
             "max_model_len": one.max_length}
            for one in self.served
        ]  # fmt: skip
        return {"object": "list", "data": every}
