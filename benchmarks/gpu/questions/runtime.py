"""What is around a forward: transfers, graphs, threads; and forwards of decoders."""

import contextlib
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from questions.asking import Device


def transfer(at: Device) -> None:
    """Arrays up and down again, many under way at once; nothing waits once buffers have grown."""
    from packrank.runtime.transfer import Uploads, fetch

    uploads, sizes = Uploads(at.device), [5000, *range(4900, 100, -300)]
    target = torch.zeros(max(sizes), dtype=torch.int32, device=at.device)
    for turn in range(3):
        waiting = []
        with at.without_waiting() if turn else contextlib.nullcontext():
            for size in sizes:
                part = target[:size]
                uploads.send(lambda host, n=size: host.fill(n), part)
                waiting.append(fetch(part.float() * 2))
        for size, wait in zip(sizes, waiting, strict=True):
            found = wait()
            assert found.shape == (size,)
            assert (found == 2 * size).all(), f"{size}: {np.unique(found)[:5]}"


@contextlib.contextmanager
def encoder(at: Device, *, head: bool = True):
    """MiniLM's shape, and a pack of 1024 tokens."""
    import checkpoints
    from forward import packs

    from packrank.models import load_model

    with tempfile.TemporaryDirectory() as folder:
        made = checkpoints.make("MiniLM-L6", Path(folder), at.device, tiny=at.dry)
        model = load_model(made, device=at.device, dtype=at.dtype, head=head)
        yield model, packs(model, 1024, 1)[0]


def graph(at: Device) -> None:
    with encoder(at) as (model, pack):
        replays(at, model, [model.scoring(pack)])


def graph_of_vectors(at: Device) -> None:
    """Of some tokens, where some are no keys; and at length 1."""
    from packrank.late.token_vectors import normalize

    with encoder(at, head=False) as (model, pack):
        keys = pack.lengths - np.int32(3)
        rows = np.arange(0, len(pack.token_ids), 2, dtype=np.int32)
        some = model.encoding(pack, keys, rows)
        replays(at, model, [some, some.then(normalize), model.encoding(pack)])


def replays(at: Device, model: Any, programs: list[Any]) -> None:
    """A bucket each is captured, once; replays have its bits, and submitting waits for nothing."""
    from packrank.runtime.capture import broken
    from packrank.runtime.graphs import PATIENCE, Graphs
    from packrank.runtime.transfer import fetch

    graphs = Graphs(model, (lambda forward: forward) if at.dry else None)

    def submit(program: Any) -> Callable[[], np.ndarray]:
        is_encoding = "states" in program.kind
        return fetch(graphs.run(program).float()) if is_encoding else graphs.submit(program)

    eager = [submit(program)() for program in programs]
    assert all(np.isfinite(found).all() for found in eager)
    for program in programs * PATIENCE:
        submit(program)()
    with at.without_waiting():
        waiting = [submit(program) for program in programs * 3]
    for wait, expected in zip(waiting, eager * 3, strict=True):
        np.testing.assert_array_equal(wait(), expected)
    count = len(programs)
    assert graphs.num_graphs == count, f"{graphs.num_graphs} graphs, not {count}: {broken()}"


def threads(at: Device) -> None:
    """Four of them share a runner; scores keep their bits, captured or not."""
    from packrank.runtime.runner import Runner

    with encoder(at) as (model, pack):
        runner = Runner(model, 512)
        expected = runner.logits(pack)
        with ThreadPoolExecutor(4) as pool:
            for logits in pool.map(lambda _: runner.logits(pack), range(12)):
                np.testing.assert_array_equal(logits, expected)


@contextlib.contextmanager
def small_decoder(at: Device):
    """Four layers of Qwen2, and transformers' own of the same weights."""
    import decoders

    from packrank.models import CausalSettings, load_model

    sizes = {"hidden_size": 512, "intermediate_size": 1024, "num_attention_heads": 8,
             "num_hidden_layers": 4, "vocab_size": 999}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        peer = decoders.make(
            "Qwen2.5-0.5B", Path(folder), at.device, **(decoders.TINY if at.dry else sizes)
        )
        settings = CausalSettings(head="classifier")
        yield load_model(Path(folder), device=at.device, dtype=at.dtype, causal=settings), peer


def decoder(at: Device) -> None:
    """Scores with a shared prefix and without, against transformers'; a forward never waits."""
    import decoders

    with small_decoder(at) as (model, peer):
        decoders.check(model, peer, at.dtype)
        if at.dry:
            return
        pack = decoders.candidates([40] * 20, 60, model.config.vocab_size)
        model.logits(pack)  # compiled, and buffers grown
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            model.logits(pack)
            torch.cuda.set_sync_debug_mode("default")
        found = [x for x in caught if "called a synchronizing" in str(x.message)]
        places = ", ".join(f"{Path(x.filename).name}:{x.lineno}" for x in found)
        assert not found, f"its forward waits for the device {len(found)} times: {places}"


def graph_of_a_decoder(at: Device) -> None:
    """With a shared prefix, and without."""
    import decoders

    with small_decoder(at) as (model, _):
        shared = decoders.candidates([40] * 20, 60, model.config.vocab_size)
        replays(at, model, [model.scoring(pack) for pack in (shared, decoders.whole(shared))])
