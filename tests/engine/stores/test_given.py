from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from packrank import InputError, maxsim
from packrank.stores.given import candidates_of, documents_of, queries_of

VECTORS = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
LENGTHS = [3, 0, 2, 1]
DOCUMENTS = list(torch.randn(6, 4, generator=torch.Generator().manual_seed(1)).split(LENGTHS))


def scores(queries: Tensor, documents: list[Tensor]) -> np.ndarray:
    """By the formula, in float64."""
    found = [
        (queries.double() @ rows.double().T).amax(1).sum().item() if len(rows) else -np.inf
        for rows in documents
    ]
    return np.array(found)


def padded(rows: list[Tensor], fill: float = 0.0) -> tuple[Tensor, Tensor]:
    out = torch.full((len(rows), 4, 4), fill)
    mask = torch.zeros(len(rows), 4, dtype=torch.bool)
    for place, each in enumerate(rows):
        out[place, : len(each)] = each
        mask[place, : len(each)] = True
    return out, mask


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x,
        lambda x: x.numpy(),
        lambda x: x.double(),
        lambda x: x.double().numpy(),
        lambda x: x.numpy().astype(">f4"),
        lambda x: np.asfortranarray(x.numpy()),
        lambda x: x.numpy()[::-1].copy()[::-1],
        lambda x: torch._neg_view(-x),
        lambda x: x.clone().requires_grad_(),
    ],
)
def test_tensors_and_arrays_of_any_kind(convert: Callable[[Tensor], Any]) -> None:
    documents = [convert(rows) for rows in DOCUMENTS]
    found = maxsim(convert(VECTORS), documents)
    np.testing.assert_allclose(found, scores(VECTORS, DOCUMENTS), rtol=1e-5)
    several = maxsim([convert(VECTORS[:2]), convert(VECTORS[2:])], documents)
    want = [scores(part, DOCUMENTS) for part in (VECTORS[:2], VECTORS[2:])]
    np.testing.assert_allclose(several, want, rtol=1e-5)


@pytest.mark.parametrize("as_array", [False, True])
@pytest.mark.parametrize("fill", [0.0, 9.0])
def test_a_mask_says_which_rows_are_tokens(as_array: bool, fill: float) -> None:
    whole, mask = padded(DOCUMENTS, fill)
    want = scores(VECTORS, DOCUMENTS)
    given: tuple[Any, Any] = (whole.numpy(), mask.numpy()) if as_array else (whole, mask)
    np.testing.assert_allclose(maxsim(VECTORS, given[0], mask=given[1]), want, rtol=1e-5)
    np.testing.assert_allclose(
        maxsim(VECTORS, list(given[0]), mask=[row.tolist() for row in mask]), want, rtol=1e-5
    )
    inner = torch.tensor([[True, False, True], [False] * 3])
    documents = [DOCUMENTS[0], DOCUMENTS[0]]
    kept = [DOCUMENTS[0][[0, 2]], DOCUMENTS[0][:0]]
    np.testing.assert_allclose(
        maxsim(VECTORS, documents, mask=inner), scores(VECTORS, kept), rtol=1e-5
    )


def test_what_was_filled_with_zeros_is_refused_without_a_mask() -> None:
    whole, mask = padded(DOCUMENTS)
    for documents in (whole, whole.numpy(), list(whole)):
        with pytest.raises(InputError, match=r"documents\[0\] begins or ends with a row.*mask="):
            maxsim(VECTORS, documents)
    with pytest.raises(InputError, match=r"documents\[0\] begins or ends with a row.*mask="):
        maxsim(VECTORS, whole.flip(1))
    every = maxsim(VECTORS, whole, mask=torch.ones_like(mask))
    np.testing.assert_allclose(every, scores(VECTORS, list(whole)), rtol=1e-5)
    full = torch.stack([DOCUMENTS[0]] * 2)
    np.testing.assert_allclose(maxsim(VECTORS, full), scores(VECTORS, list(full)), rtol=1e-5)


def test_queries_of_one_shape() -> None:
    whole = torch.stack([VECTORS[:3], VECTORS[3:6]])
    for queries in (whole, whole.numpy()):
        want = [scores(part, DOCUMENTS) for part in whole]
        np.testing.assert_allclose(maxsim(queries, DOCUMENTS), want, rtol=1e-5)


@pytest.mark.parametrize(
    ("candidates", "places"),
    [
        (range(3, 0, -2), [3, 1]),
        (np.array([2, 0], dtype=np.int32), [2, 0]),
        (np.array([2])[::-1], [2]),
        (np.array([2, 0], dtype=np.uint64), [2, 0]),
        (torch.tensor([2, 0], dtype=torch.uint8), [2, 0]),
        ([np.int64(2), 0], [2, 0]),
        ((2, 2), [2, 2]),
        ([torch.tensor(2), 3], [2, 3]),
        ([], []),
        (np.array([], dtype=np.int64), []),
        (np.array([True, False, True, False]), [0, 2]),
        (torch.tensor([False, False, True, True]), [2, 3]),
        ([False, True, False, False], [1]),
    ],
)
def test_candidates_are_numbers_or_a_mask(candidates: Any, places: list[int]) -> None:
    found = maxsim(VECTORS, DOCUMENTS, candidates)
    np.testing.assert_allclose(found, scores(VECTORS, DOCUMENTS)[places], rtol=1e-5)


def test_candidates_of_each_query() -> None:
    queries = [VECTORS[:2], VECTORS[2:]]
    lists: list[Any] = [[[3, 1], [0]], [range(2), np.array([3])], [np.arange(4) > 1, [0, 3]]]
    want = [([3, 1], [0]), ([0, 1], [3]), ([2, 3], [0, 3])]
    for given, places in zip(lists, want, strict=True):
        found = maxsim(queries, DOCUMENTS, given)
        for query, scored, chosen in zip(queries, found, places, strict=True):
            np.testing.assert_allclose(scored, scores(query, DOCUMENTS)[chosen], rtol=1e-5)
    matrix = maxsim(queries, DOCUMENTS, np.array([[0, 2], [3, 0]]))
    np.testing.assert_allclose(matrix[1], scores(queries[1], DOCUMENTS)[[3, 0]], rtol=1e-5)


@pytest.mark.parametrize(
    ("candidates", "words"),
    [
        ([1.0], "candidates[0] is a float"),
        (np.array([1.0]), "dtype torch.float64"),
        (torch.tensor([1.5]), "dtype torch.float32"),
        (np.array([1, "a"], dtype=object), "dtype object"),
        (np.array(["1"]), "dtype <U1"),
        ([10**30], "past 2^63"),
        ([10**400], "past 2^63"),
        (np.array([2**63], dtype=np.uint64), "no place of a document"),
        ([True, False], "a mask of 2 booleans"),
        (np.array([True] * 5), "a mask of 5 booleans"),
        ([1, True], "candidates[1] is a bool"),
        (["1"], "candidates[0]"),
        ("12", "candidates is a str"),
        (3, "candidates is a int"),
        (np.array(3), "shape []"),
        ([4], "candidate 4 is not among 4"),
        ([-1], "candidate -1 is not among 4"),
        ([None], "candidates[0] is a NoneType"),
        (range(10**18), "candidate 999999999999999999 is not among 4"),
        (range(-1, 2), "candidate -1 is not among 4"),
        (np.ma.array([0, 2], mask=[0, 1]), "masked array"),
        (torch.tensor([0]).to_sparse(), "sparse"),
        (torch.tensor([0], device="meta"), "without values"),
    ],
)
def test_candidates_that_are_neither_are_refused(candidates: Any, words: str) -> None:
    with pytest.raises(InputError) as error:
        maxsim(VECTORS, DOCUMENTS, candidates)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("queries", "words"),
    [
        (VECTORS[0], "shape [4]"),
        (VECTORS.int(), "dtype torch.int32"),
        (VECTORS.to_sparse(), "sparse"),
        (VECTORS.to("meta"), "without values"),
        (np.ma.array(VECTORS.numpy(), mask=False), "masked array"),
        (VECTORS.to(torch.complex64), "dtype torch.complex64"),
        (np.array([["a"]]), "dtype <U1"),
        (np.array([[1e300]]), "float32 cannot"),
        ([[1.0, 2.0]], "queries[0] is of type list"),
        ([VECTORS, None], "queries[1] is of type NoneType"),
        (7, "queries is a int"),
    ],
)
def test_queries_that_are_no_vectors_are_refused(queries: Any, words: str) -> None:
    with pytest.raises(InputError) as error:
        maxsim(queries, DOCUMENTS)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ([True], "mask is of 1 documents"),
        ([[True] * 3, [], [True] * 3, [True]], "mask[1]"),
        ([[1, 1, 1], [], [1, 1], [1]], "mask[0] is torch.int64"),
        ([[True, "a", 1], [], [True] * 2, [True]], "mask[0]"),
        (7, "mask is a int"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask: Any, words: str) -> None:
    with pytest.raises(InputError) as error:
        maxsim(VECTORS, DOCUMENTS, mask=mask)
    assert words in str(error.value)


def test_none_is_all() -> None:
    assert candidates_of(None, 3) is None
    assert len(documents_of([], None, 4)) == 0
    assert isinstance(queries_of(VECTORS), Tensor)
