"""What runs on the nodes of a Ray cluster: the model, and who hands batches to it."""

import asyncio
import pickle
import socket
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import numpy as np

from packrank.errors import InputError, ModelError
from packrank.jobs.facts import Scorer, about, facts_of
from packrank.jobs.score import stream_of
from packrank.ray import opened

_PIECE = 1024  # pairs of a batch


class Batches:
    """An actor: numbers of batches to logits. What is raised comes back as it is."""

    def __init__(
        self,
        feed: Any,
        model: str,
        options: Mapping[str, Any],
        cutoff_layer: int | None,
        wanted: dict[str, Any],
    ) -> None:
        """Open the model.

        Args:
            feed: asked for batches.
            model: a folder, or a hub name.
            options: of it.
            cutoff_layer: layers that a reranker runs; None: all.
            wanted: what `about` must say of it.
        """
        self._ray, self._feed, self._cutoff_layer = imported(), feed, cutoff_layer
        self._error: BaseException | None = None
        try:
            self._model = opened(model, **options)
            _check_same(model, about(self._model), wanted)
        except Exception as error:
            self._error = error

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A number to its batch's logits, why some have none, and tokens read; pickled."""
        [number] = batch["item"]
        content = np.empty(1, dtype=object)
        try:
            content[0] = pickled(self._scored(int(number)))
        except self._ray.exceptions.RayError:
            raise
        except Exception as error:
            content[0] = pickled(error)
        return {"number": np.array([number]), "content": content}

    def _scored(self, number: int) -> tuple[Any, dict[int, str], int]:
        if self._error is not None:
            raise self._error
        [held] = self._ray.get(self._feed.take.remote(number))
        pairs, before = self._ray.get(held), self._model.num_tokens
        # One piece is tokenized while another is scored; a batch of no pairs is a piece of none.
        starts = range(0, max(len(pairs), 1), _PIECE)
        pieces = (pairs[start : start + _PIECE] for start in starts)
        logits, failures, start = [], dict[int, str](), 0
        with closing(stream_of(self._model, pieces, self._cutoff_layer)) as stream:
            for found, failed in stream:
                failures |= {start + index: reason for index, reason in failed.items()}
                logits.append(found)
                start += len(found)
        return np.concatenate(logits), failures, self._model.num_tokens - before


class Feed:
    """An actor that holds batches until they are asked for, each once."""

    def __init__(self) -> None:
        self._held: dict[int, asyncio.Future[list[Any]]] = {}

    async def put(self, number: int, held: list[Any]) -> None:
        """Hold a batch: a list of its reference."""
        self._of(number).set_result(held)

    async def take(self, number: int) -> list[Any]:
        """The batch of a number, once it is there."""
        held = await self._of(number)
        del self._held[number]
        return held

    def _of(self, number: int) -> "asyncio.Future[list[Any]]":
        return self._held.setdefault(number, asyncio.get_running_loop().create_future())


def ask(model: str, options: Mapping[str, Any]) -> bytes:
    """Facts of a model and what determines its scores, or what is raised; pickled."""
    try:
        found: Scorer = opened(model, **options)
        return pickled((facts_of(found), about(found)))
    except Exception as error:
        return pickled(error)


def _check_same(model: str, here: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise ModelError unless a node's model is the one that was asked at the beginning."""
    for name in here.keys() | wanted.keys():
        if here.get(name) != wanted.get(name):
            raise ModelError(
                f"nodes of the cluster differ in {model}: its {name} is {here.get(name)} on "
                f"{socket.gethostname()}, and elsewhere {wanted.get(name)}; give all the same"
            )


def pickled(found: object) -> bytes:
    """What a node has found, or an error to be raised, as it travels."""
    try:
        return pickle.dumps(found)
    except Exception:  # an error that holds what cannot be
        return pickle.dumps(RuntimeError(f"{type(found).__name__}: {found}"))


def or_raised(content: bytes) -> Any:
    """What a node has found; raises what was raised there."""
    found = pickle.loads(content)
    if isinstance(found, Exception):
        raise found
    return found


def imported() -> Any:
    """Ray, which is imported only where it is asked for.

    Raises:
        InputError: it is not installed.
    """
    try:
        import ray
        import ray.data
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise InputError(
            f"Ray cannot be imported ({error}); pip install 'packrank[ray]', on every node"
        ) from None
    return ray
