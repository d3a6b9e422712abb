"""An index in the layouts of fast-plaid 1.7 holds what fast-plaid itself reads there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from packrank import Store, maxsim
from packrank_kernels import FORMATS

SIZE = 32
LENGTHS = [5, 1, 17, 9, 30, 2] * 6
BITS = [bits for bits in (1, 2, 4, 8) if f"{bits}bit" in FORMATS]


def random_vectors(*lengths: int) -> list[Tensor]:
    return [torch.nn.functional.normalize(torch.randn(length, SIZE)) for length in lengths]


@pytest.fixture
def index(tmp_path: Path) -> Callable[..., Any]:
    """index(nbits=4): what fast-plaid made of documents of LENGTHS."""
    from fast_plaid.search import FastPlaid

    def make(**options: Any) -> Any:
        made = FastPlaid(str(tmp_path / "index"), device="cpu")
        return made.create(random_vectors(*LENGTHS), start_from_scratch=0, **options)

    return make


def check(index: Any, lengths: list[int]) -> None:
    """fast-plaid decodes in float16: its vectors point the same way, its scores are near."""
    store = Store.open(index.index)
    assert store.embeddings.cu_seqlens.diff().tolist() == lengths
    expected = torch.cat(index.get_embeddings([*range(len(lengths))])).float()
    found = torch.cat([store.embeddings.decode(n) for n in range(len(store))])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
    [query] = random_vectors(7)
    probes = len(np.load(Path(index.index) / "centroids.npy"))
    [ranked] = index.search(
        query[None],
        top_k=len(lengths),
        n_ivf_probe=probes,
        n_full_scores=1 << 16,
        show_progress=False,
    )
    assert len(ranked) == len(lengths)
    scores = maxsim(query, store)[[place for place, _ in ranked]]
    np.testing.assert_allclose(scores, [score for _, score in ranked], rtol=0, atol=0.03)


@pytest.mark.parametrize("nbits", BITS)
def test_merged_files_alone(index: Callable[..., Any], nbits: int) -> None:
    made = index(nbits=nbits)
    made.get_embeddings([0])  # merges
    assert not [*Path(made.index).glob("*[0-9].codes.npy")]
    check(made, LENGTHS)


def test_chunks_that_grow_and_lose_documents(index: Callable[..., Any]) -> None:
    made = index(batch_size=10)
    check(made, LENGTHS)
    made.update(random_vectors(4, 7), start_from_scratch=0)
    check(made, [*LENGTHS, 4, 7])
    made.delete([0, 3, 36])
    check(made, [n for place, n in enumerate([*LENGTHS, 4, 7]) if place not in (0, 3, 36)])


def test_some_chunks_have_files_of_their_own(index: Callable[..., Any]) -> None:
    """As while it is changed."""
    from fast_plaid.search import storage

    made = index(batch_size=10)
    made.get_embeddings([0])
    chunks = json.loads((Path(made.index) / "metadata.json").read_bytes())["num_chunks"]
    before = Store.open(made.index)
    storage.materialize_shards(made.index, chunks, "codes")
    storage.materialize_shards(made.index, chunks, "residuals", [chunks - 1])
    now = Store.open(made.index)
    assert torch.equal(now.embeddings.values, before.embeddings.values)
    assert torch.equal(now.embeddings.cu_seqlens, before.embeddings.cu_seqlens)


def test_a_frozen_index(index: Callable[..., Any]) -> None:
    made = index(batch_size=10)
    made.get_embeddings([0])
    made.freeze()
    check(made, LENGTHS)


def test_an_index_of_no_documents_is_open_to_others(index: Callable[..., Any]) -> None:
    made = index()
    made.delete([*range(len(LENGTHS))])
    assert len(Store.open(made.index)) == 0


def test_an_open_index_is_as_it_was_opened(index: Callable[..., Any]) -> None:
    made = index()
    made.get_embeddings([0])
    store, [query] = Store.open(made.index), random_vectors(7)
    before = maxsim(query, store)
    made.delete([2, 5])
    made.get_embeddings([0])
    assert torch.equal(maxsim(query, store), before)
    assert len(Store.open(made.index)) == len(LENGTHS) - 2
