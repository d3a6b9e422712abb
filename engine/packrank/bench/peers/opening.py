"""Opens the peers that are installed, and says of the others why they do not race."""

import io
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from packrank.bench.peers import (
    flag_embedding,
    late_interaction_kernels,
    maxsim_cpu,
    onnxruntime,
    openvino,
    sentence_transformers,
)
from packrank.bench.peers.late import MaxSimPeer
from packrank.bench.peers.peer import CannotRun, Logits, Peer, Task, Variant
from packrank.bench.peers.signal_stack import kept_signal_stack
from packrank.bench.subjects.texts import Pairs, Texts
from packrank.quiet import quiet, reason_of

_PACKAGES: tuple[Callable[[Task], list[Variant]], ...] = (
    sentence_transformers.variants,
    flag_embedding.variants,
    onnxruntime.variants,
    openvino.variants,
)
_PROBED = {"cpu": 64, "cuda": 1024}  # pairs


def opened(
    folder: Path,
    device: torch.device,
    max_length: int | None = None,
    pairs: Pairs | None = None,
    dtypes: Collection[str] | None = None,
) -> tuple[list[Peer], list[str]]:
    """Those that are installed and can run a model.

    Args:
        folder: of the model.
        device: where they run.
        max_length: tokens that pairs are cut to; None: as the model says.
        pairs: such as they are to score, on which batch sizes are tried and integers calibrated.
        dtypes: of `Peer`; None: all.

    Returns:
        Them, and a sentence for each that cannot.
    """
    wanted = _PROBED[device.type]
    pairs = pairs or Texts.named("msmarco-like").pairs(wanted, 32, seed=1)
    task = Task(folder, device, max_length, pairs[:wanted])
    peers: list[Peer] = []
    sentences: list[str] = []
    failed: dict[str, list[str]] = {}
    for variant in (one for variants in _PACKAGES for one in variants(task)):
        if dtypes is not None and variant.dtype not in dtypes:
            continue
        try:
            with _fenced():
                peer = variant.open()
                if not np.isfinite(peer.score(task.uneven)).all():
                    raise CannotRun(f"{variant.name} gives logits that are not finite")
        except CannotRun as error:
            sentences.append(str(error))
        except Exception as error:  # whatever a package raises that does not know the model
            failed.setdefault(_line(error), []).append(variant.name)
        else:
            peers.append(replace(peer, score=_silent(peer.score)))
    for why, names in failed.items():
        verb = "does" if len(names) == 1 else "do"
        sentences.append(f"{', '.join(names)} {verb} not run this model: {why}")
    return peers, list(dict.fromkeys(sentences))


def opened_maxsim(device: torch.device) -> tuple[list[MaxSimPeer], list[str]]:
    """The same of MaxSim.

    Args:
        device: where the documents are.
    """
    peers: list[MaxSimPeer] = []
    sentences = []
    for peers_of in (maxsim_cpu.peers, late_interaction_kernels.peers):
        try:
            with _fenced():
                some = peers_of(device)
                for peer in some:
                    _try(peer, device)
                peers += some
        except CannotRun as error:
            sentences.append(str(error))
        except Exception as error:  # such as of a package that was built for another torch
            name = peers_of.__module__.rpartition(".")[2].replace("_", "-")
            sentences.append(f"{name} does not run here: {_line(error)}")
    return peers, sentences


def _try(peer: MaxSimPeer, device: torch.device) -> None:
    vectors = torch.eye(128, device=device)
    scores = peer.prepare(vectors[:32], vectors, [64, 64])()
    if not np.array_equal(scores, [32.0, 0.0]):
        raise CannotRun(f"{peer.name} gives scores that are wrong")


def _line(error: Exception) -> str:
    """The first sentence of it, or what fits into a line or two."""
    return reason_of(error).partition(". ")[0][:200]


def _silent(score: Callable[[Pairs], Logits]) -> Callable[[Pairs], Logits]:
    def silent(pairs: Pairs) -> Logits:
        with _fenced():
            return score(pairs)

    return silent


@contextmanager
def _fenced() -> Iterator[None]:
    """No bar, warning or log of another package, and nothing in the way of Ctrl-C."""
    nothing, disabled = io.StringIO(), logging.root.manager.disable
    with quiet(), redirect_stdout(nothing), redirect_stderr(nothing), kept_signal_stack():
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)
