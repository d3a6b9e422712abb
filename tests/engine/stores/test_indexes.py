"""Indexes of ColBERT and fast-plaid are read as their definition says, or refused by name."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from packrank.errors import StoreError
from packrank.stores.store import Store

LENGTHS = [[3, 0, 5], [1], [], [4, 2]]
SIZE, CENTROIDS = 16, 7


def unpack(residuals: NDArray[np.uint8], bits: int) -> NDArray[np.int64]:
    """Buckets [T, D]: a bit at a time, each number's lowest bit first, bytes from their top bit."""
    stream = np.unpackbits(residuals, axis=1).reshape(len(residuals), -1, bits)
    return (stream.astype(np.int64) << np.arange(bits)).sum(axis=2)


def pack(buckets: NDArray[np.int64], bits: int) -> NDArray[np.uint8]:
    """As ColBERT's binarize: bits of all dimensions in one row, then np.packbits."""
    stream = (buckets[:, :, None] >> np.arange(bits)) & 1
    return np.packbits(stream.reshape(len(buckets), SIZE * bits).astype(np.uint8), axis=1)


def vectors(
    centroids: NDArray[np.float64],
    weights: NDArray[np.float64],
    codes: NDArray[np.int64],
    buckets: NDArray[np.int64],
) -> NDArray[np.float64]:
    every = centroids[codes] + weights[buckets]
    normalized: NDArray[np.float64] = every / np.linalg.norm(every, axis=1, keepdims=True)
    return normalized


def save_tensor(folder: Path, name: str, x: NDArray[np.generic]) -> None:
    torch.save(torch.from_numpy(x), folder / f"{name}.pt")


def save_array(folder: Path, name: str, x: NDArray[np.generic]) -> None:
    np.save(folder / f"{name}.npy", x)


@pytest.fixture
def index(tmp_path: Path) -> Callable[..., tuple[Path, NDArray[np.float64]]]:
    """index("colbert", bits, lengths): a folder, and the vectors that it stands for."""

    def make(
        kind: str, bits: int = 2, chunks: list[list[int]] = LENGTHS
    ) -> tuple[Path, NDArray[np.float64]]:
        rng = np.random.default_rng(bits)
        folder = tmp_path / f"{kind}{bits}"
        folder.mkdir()
        colbert = kind == "colbert"
        save = save_tensor if colbert else save_array
        centroids = rng.normal(size=(CENTROIDS, SIZE)).astype(np.float16)
        weights = np.sort(rng.normal(size=2**bits)).astype(np.float32)
        cutoffs = (weights[1:] + weights[:-1]) / 2
        save(folder, "centroids", centroids)
        if colbert:
            torch.save(
                (torch.from_numpy(cutoffs), torch.from_numpy(weights)), folder / "buckets.pt"
            )
        else:
            save(folder, "bucket_cutoffs", cutoffs)
            save(folder, "bucket_weights", weights)
        (folder / "metadata.json").write_text(json.dumps({"num_chunks": len(chunks)}))
        every = []
        for i, lengths in enumerate(chunks):
            codes = rng.integers(0, CENTROIDS, sum(lengths))
            buckets = rng.integers(0, 2**bits, (sum(lengths), SIZE))
            save(folder, f"{i}.codes", codes.astype(np.int32 if colbert else np.int64))
            save(folder, f"{i}.residuals", pack(buckets, bits))
            (folder / f"doclens.{i}.json").write_text(json.dumps(lengths))
            wide = centroids.astype(np.float64), weights.astype(np.float64)
            every.append(vectors(*wide, codes, buckets))
        return folder, np.concatenate(every)

    return make


def decoded(store: Store) -> NDArray[np.float64]:
    every = [store.embeddings.decode(n) for n in range(len(store))]
    return torch.cat(every).numpy().astype(np.float64)


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("kind", ["colbert", "fast-plaid"])
def test_vectors_are_those_of_the_definition(
    index: Callable[..., tuple[Path, NDArray[np.float64]]], kind: str, bits: int
) -> None:
    folder, expected = index(kind, bits)
    store = Store.open(folder)
    lengths = [length for chunk in LENGTHS for length in chunk if length or kind == "fast-plaid"]
    assert store.embeddings.cu_seqlens.diff().tolist() == lengths
    assert (store.format, store.size, store.model) == (f"{bits}bit", SIZE, None)
    np.testing.assert_allclose(decoded(store), expected, rtol=0, atol=1e-6)


def test_ids_are_places(index: Callable[..., tuple[Path, NDArray[np.float64]]]) -> None:
    store = Store.open(index("fast-plaid")[0])
    assert list(store.ids) == ["0", "1", "2", "3", "4", "5"]
    assert store.ids[-1] == "5" and store.ids[1:3] == ["1", "2"]
    assert store.indices(["5", "0"]).tolist() == [5, 0]
    for id in ("6", "-1", "01", "²", "x", ""):
        with pytest.raises(ValueError, match="has the id"):
            store.indices([id])


def test_a_real_index_of_fast_plaid(data_dir: Path) -> None:
    """nbits 4, 20 documents of 28 tokens."""
    folder = data_dir / "weights/colbert-real-fragments/index"
    load = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    centroids, weights = (load[x].astype(np.float64) for x in ("centroids", "bucket_weights"))
    codes, buckets = load["0.codes"], unpack(load["0.residuals"], 4)
    expected = vectors(centroids, weights, codes, buckets)
    store = Store.open(folder)
    assert (store.format, store.size, len(store), store.num_tokens) == ("4bit", 128, 20, 560)
    np.testing.assert_allclose(decoded(store), expected, rtol=0, atol=1e-6)
    # What was encoded had length 1, and so has nearly what is left of it; in any other order of
    # the bits lengths are spread two or three times as wide.
    assert np.linalg.norm(centroids[codes] + weights[buckets], axis=1).std() < 0.004


def lose(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [lose, cut, halve, empty])
@pytest.mark.parametrize("kind", ["colbert", "fast-plaid"])
def test_every_damaged_file_is_named(
    index: Callable[..., tuple[Path, NDArray[np.float64]]],
    kind: str,
    damage: Callable[[Path], None],
) -> None:
    folder, _ = index(kind)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name, content in files.items():
        damage(folder / name)
        with pytest.raises(StoreError, match=rf"{re.escape(name)}|is no store") as caught:
            Store.open(folder)
        assert "whole store" not in str(caught.value)
        (folder / name).write_bytes(content)
    assert len(Store.open(folder)) == (5 if kind == "colbert" else 6)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("0.codes", np.full(8, CENTROIDS, np.int64), "names a centroid beyond the 7 there are"),
        ("0.codes", np.full(8, -1, np.int64), "names a centroid beyond the 7 there are"),
        ("0.codes", np.zeros(8, np.float32), "expected torch.int32 or torch.int64 [8]"),
        ("0.codes", np.zeros(9, np.int64), "expected torch.int32 or torch.int64 [8]"),
        ("0.residuals", np.zeros((8, 5), np.uint8), "expected torch.uint8 [8, 4]"),
        ("bucket_weights", np.zeros(3, np.float32), "3 bucket weights, expected 2, 4, 16"),
        ("bucket_weights", np.full(4, np.nan, np.float32), "not finite"),
        ("centroids", np.zeros((7, 17), np.float16), "multiple of 4 dimensions"),
        ("centroids", np.array([{}, {}]), "cannot be read"),
    ],
)
def test_parts_that_do_not_fit(
    index: Callable[..., tuple[Path, NDArray[np.float64]]],
    name: str,
    content: NDArray[np.generic],
    reason: str,
) -> None:
    folder, _ = index("fast-plaid")
    np.save(folder / f"{name}.npy", content)
    with pytest.raises(StoreError, match=re.escape(reason)):
        Store.open(folder)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("metadata.json", '{"num_chunks": 0}', "num_chunks is 0"),
        ("metadata.json", "[]", "expected a dict"),
        ("doclens.0.json", "[3, -1, 6]", "other than lengths"),
        ("doclens.0.json", "[3, 2]", "expected torch.int32"),
        ("doclens.0.json", "{", "as JSON"),
    ],
)
def test_words_that_do_not_fit(
    index: Callable[..., tuple[Path, NDArray[np.float64]]], name: str, content: str, reason: str
) -> None:
    folder, _ = index("colbert")
    (folder / name).write_text(content)
    with pytest.raises(StoreError, match=re.escape(reason)):
        Store.open(folder)


def test_a_pickle_does_not_run(
    index: Callable[..., tuple[Path, NDArray[np.float64]]], tmp_path: Path
) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    folder, _ = index("colbert")
    torch.save(Payload(), folder / "centroids.pt")
    with pytest.raises(StoreError, match=r"centroids\.pt cannot be read"):
        Store.open(folder)
    assert not (tmp_path / "ran").exists()
