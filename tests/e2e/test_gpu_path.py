"""What runs on a CUDA device, in Triton's interpreter: every op by its Triton kernel, packs in
buckets with room to spare, against transformers in float64."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from recorder import Recorder
from torch import Tensor

from packrank.models import load_model
from packrank.request import Pack, Sequence
from packrank.runtime import graphs
from packrank.runtime.graphs import Graphs
from packrank_kernels import dispatch
from packrank_kernels.testing import assert_close

LENGTHS = [5, 1, 17, 9]  # few: the interpreter takes its time
NAMES = ["Bert", "Roberta", "Electra", "DistilBert", "mean", "DebertaV2", "Gte"]

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="there is a CUDA device, which tests/gpu is for"
)


@pytest.fixture(autouse=True)
def only_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    for op, row in dispatch.TABLE.items():
        kept = tuple(backend for backend in row if backend.name == "triton")
        monkeypatch.setitem(dispatch.TABLE, op, kept)


@pytest.fixture
def folder(checkpoint: Callable[..., Path], name: str, thorough: bool) -> Path:
    layers = {"n_layers" if name == "DistilBert" else "num_hidden_layers": 3 if thorough else 2}
    options = {"classifier_pooling": "mean"} if name == "mean" else {}
    architecture = "ModernBert" if name == "mean" else name
    return checkpoint(architecture, num_labels=3, **layers, **options)


@pytest.fixture
def sequences(make_sequences: Callable[..., list[Sequence]], name: str) -> list[Sequence]:
    return make_sequences(name, LENGTHS)


@torch.no_grad()
def their_logits(folder: Path, sequences: list[Sequence]) -> Tensor:
    """One sequence at a time, so that there is nothing to pad."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).double()
    rows = []
    for sequence in sequences:
        arguments = {"input_ids": torch.from_numpy(sequence.token_ids).long()[None]}
        if getattr(model.config, "type_vocab_size", 0):
            arguments["token_type_ids"] = torch.from_numpy(sequence.token_types).long()[None]
        rows.append(model(**arguments).logits[0])
    return torch.stack(rows)


def logits(runner: Graphs, sequences: list[Sequence]) -> NDArray[np.float32]:
    return runner.submit(runner.model.scoring(Pack.of(sequences)))()


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, torch.float32) for name in NAMES), ("Bert", torch.float16)],
)
def test_logits(
    folder: Path,
    sequences: list[Sequence],
    name: str,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
    thorough: bool,
) -> None:
    if name not in ("Bert", "Roberta", "mean") and not thorough:
        pytest.skip("its long form alone: make proofs")
    runner = Graphs(load_model(folder, device="cpu", dtype=dtype), Recorder())
    expected = their_logits(folder, sequences)
    first = logits(runner, sequences)
    # float16: layers of values that are each rounded to 2^-11.
    assert_close(torch.from_numpy(first), expected, 1e-5 if dtype == torch.float32 else 2**-7)
    if name != "Bert" and not thorough:  # of ModernBERT a graph is recorded in the long form
        return
    monkeypatch.setattr(graphs, "PATIENCE", 1)
    np.testing.assert_array_equal(logits(runner, sequences), first)
    assert runner.num_graphs == 1


@pytest.mark.parametrize("name", ["mean"])
def test_deterministic_scores_do_not_depend_on_company(
    folder: Path, sequences: list[Sequence]
) -> None:
    model = load_model(folder, device="cpu", dtype=torch.float16, deterministic=True)
    runner = Graphs(model, Recorder())
    together = logits(runner, sequences)
    np.testing.assert_array_equal(logits(runner, sequences[2:3])[0], together[2])
    np.testing.assert_array_equal(logits(runner, sequences[::-1])[::-1], together)
