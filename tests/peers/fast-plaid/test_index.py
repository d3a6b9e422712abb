"""An index that fast-plaid wrote opens as it is, and holds what fast-plaid itself reads there."""

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
BITS = [bits for bits in (1, 2, 4, 8) if f"{bits}bit" in FORMATS]
LENGTHS = [5, 1, 17, 9, 30, 2] * 6


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


def check_vectors(store: Store, index: Any, lengths: list[int]) -> None:
    """fast-plaid decodes in float16: its vectors point the same way, and have nearly length 1."""
    assert store.embeddings.cu_seqlens.diff().tolist() == lengths
    expected = torch.cat(index.get_embeddings([*range(len(lengths))])).float()
    found = torch.cat([store.embeddings.decode(n) for n in range(len(store))])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
    cosines = torch.cosine_similarity(found.double(), expected.double())
    np.testing.assert_allclose(cosines, 1, rtol=0, atol=1e-6)


@pytest.mark.parametrize("nbits", BITS)
def test_vectors_are_those_that_fast_plaid_decodes(index: Callable[..., Any], nbits: int) -> None:
    made = index(nbits=nbits)
    store = Store.open(made.index)
    assert (store.format, store.size) == (f"{nbits}bit", SIZE)
    check_vectors(store, made, LENGTHS)


def test_chunks_that_grew_and_lost_documents(index: Callable[..., Any]) -> None:
    """More centroids come with the second update, which brings a hundred documents together."""
    made = index(batch_size=10)
    made.update(random_vectors(4, 7), start_from_scratch=0)
    check_vectors(Store.open(made.index), made, [*LENGTHS, 4, 7])
    before = len(np.load(Path(made.index) / "centroids.npy"))
    added = [1 + n % 5 for n in range(120)]
    made.update(random_vectors(*added), start_from_scratch=0)
    assert len(np.load(Path(made.index) / "centroids.npy")) > before
    made.delete([0, 3, 36, 40])
    left = [length for n, length in enumerate([*LENGTHS, 4, 7, *added]) if n not in (0, 3, 36, 40)]
    assert len([*Path(made.index).glob("*.codes.npy")]) > 1
    check_vectors(Store.open(made.index), made, left)


def test_an_index_that_cannot_be_searched_opens_too(index: Callable[..., Any]) -> None:
    made = index(compress_only=True)
    check_vectors(Store.open(made.index), made, LENGTHS)


@pytest.mark.parametrize("nbits", BITS)
def test_scores_are_those_of_pylates_search(tmp_path: Path, nbits: int) -> None:
    """To the rounding of float16 there; and here of the bytes that a query and a codec become.

    By bytes the largest of 36 differences was .004 to .011 of a token's root mean square, as the
    centroids fell, which fast-plaid does not seed.
    """
    from pylate.indexes import PLAID

    every = {"n_ivf_probe": 256, "show_progress": False}  # clusters: all that there are
    index = PLAID(str(tmp_path), "passages", nbits=nbits, device="cpu", **every)
    names = [f"p{n}" for n in range(len(LENGTHS))]
    index.add_documents(names, random_vectors(*LENGTHS))
    store = Store.open(tmp_path / "passages")
    assert [*store.ids] == names
    for query in random_vectors(1, 7, 32):
        [ranked] = index(query[None], k=len(names))
        places = store.indices([one["id"] for one in ranked]).tolist()
        assert sorted(places) == [*range(len(names))]
        scores = [one["score"] for one in ranked]
        found = maxsim(query, store)[places]
        np.testing.assert_allclose(found, scores, rtol=0, atol=0.02 * len(query) ** 0.5)
        exact = maxsim(query, store, exact=True)[places]
        np.testing.assert_allclose(exact, scores, rtol=0, atol=0.001 * len(query) ** 0.5)


@pytest.mark.parametrize("ids", [[f"p{n}" for n in range(36)], [*range(100, 136)]])
def test_ids_are_pylates_whatever_it_removed(tmp_path: Path, ids: list[Any]) -> None:
    from pylate.indexes import PLAID

    index = PLAID(str(tmp_path), "passages", device="cpu", n_ivf_probe=256, show_progress=False)
    index.add_documents(ids, random_vectors(*LENGTHS))
    index.remove_documents([ids[3], ids[0], ids[20]])
    index.add_documents(["new", ids[3]], random_vectors(4, 6))
    left = [*(str(id) for n, id in enumerate(ids) if n not in (0, 3, 20)), "new", str(ids[3])]
    store = Store.open(tmp_path / "passages")
    assert [*store.ids] == left and store.deleted == 0
    [query] = random_vectors(7)
    [ranked] = index(query[None], k=len(left))
    assert sorted(str(one["id"]) for one in ranked) == sorted(left)
    found = maxsim(query, store)[store.indices([str(one["id"]) for one in ranked])]
    np.testing.assert_allclose(found, [one["score"] for one in ranked], rtol=0, atol=0.03)
