"""Indexes in every layout that others write, also while they write."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from index_writer import SIZE, Writer, vectors

from packrank.errors import StoreError
from packrank.stores import indexes
from packrank.stores.store import Store
from packrank.stores.streaming import maxsim


@pytest.fixture
def expected(tmp_path: Path) -> torch.Tensor:
    """By the chunks' own files."""
    made = Writer(tmp_path / "plain")
    made.shards()
    return vectors(Store.open(made.folder))


def of_1_4(made: Writer) -> None:
    """The merged files are old, and of other documents."""
    made.codes[0] = made.codes[0][::-1].copy()
    made.merged(merged=False)
    made.codes[0] = made.codes[0][::-1].copy()
    made.shards()


def of_1_7(made: Writer) -> None:
    made.say(frozen=True, mutable=True)
    made.merged()


def while_it_is_changed(made: Writer) -> None:
    """One chunk had another number of rows when it was merged."""
    whole = made.codes[1], made.residuals[1]
    made.codes[1], made.residuals[1] = (x.repeat(3, 0) for x in whole)
    made.merged()
    made.codes[1], made.residuals[1] = whole
    made.shards(("codes", "residuals"), 1)
    made.shards(("codes",))


def frozen(made: Writer) -> None:
    """What is left of the chunks' files is not read."""
    made.say(frozen=True)
    made.merged(0)
    for path in made.folder.glob("*.manifest.json"):
        path.unlink()
    np.save(made.folder / "0.codes.npy", made.codes[0][:2])


def without_a_manifest(made: Writer) -> None:
    made.merged(9)
    for path in made.folder.glob("*.manifest.json"):
        path.unlink()


@pytest.mark.parametrize("lay", [of_1_4, of_1_7, while_it_is_changed, frozen, without_a_manifest])
def test_layouts_of_fast_plaid(
    tmp_path: Path, expected: torch.Tensor, lay: Callable[[Writer], None]
) -> None:
    made = Writer(tmp_path / "index")
    lay(made)
    store = Store.open(made.folder)
    assert store.embeddings.cu_seqlens.diff().tolist() == [3, 0, 5, 1, 4, 2]
    assert torch.equal(vectors(store), expected)
    assert (store.layout, store.is_mapped) == ("index of fast-plaid", False)


def test_what_no_file_has_is_missed(tmp_path: Path) -> None:
    made = Writer(tmp_path / "index")
    made.merged(merged=False)
    with pytest.raises(StoreError, match=r"has no 0\.codes\.npy, and merged_codes\.npy does not"):
        Store.open(made.folder)
    made.merged()
    np.save(made.folder / "merged_codes.npy", np.concatenate(made.codes)[:-1])
    with pytest.raises(StoreError, match=r"merged_codes\.npy holds 14 rows, expected at least 15"):
        Store.open(made.folder)


@pytest.mark.parametrize("bits", [2, 8, True, "4", None])
def test_metadata_of_other_bits(tmp_path: Path, bits: Any) -> None:
    made = Writer(tmp_path / "index")
    made.shards()
    made.say(nbits=bits)
    with pytest.raises(StoreError, match="bits, and there are weights of 4 bits"):
        Store.open(made.folder)


# Rewritten by its owner


def rewrite(made: Writer) -> None:
    """In place, as many bytes: fast-plaid deletes a document and takes another in."""
    for path in made.folder.glob("*residuals.npy"):
        with open(path, "r+b") as file:
            file.seek(-made.residuals[-1].size, os.SEEK_END)
            file.write(bytes(made.residuals[-1].size))


@pytest.mark.parametrize("change", [rewrite, lambda made: shutil.rmtree(made.folder)])
def test_an_open_index_is_as_it_was_opened(
    tmp_path: Path, change: Callable[[Writer], None]
) -> None:
    made = Writer(tmp_path / "index", chunks=[[3, 2]])
    made.shards()
    store = Store.open(made.folder)
    before = maxsim(torch.ones(2, SIZE), store)
    change(made)
    assert torch.equal(maxsim(torch.ones(2, SIZE), store), before)  # type: ignore[arg-type]


def test_an_index_that_does_not_fit_notices_a_change(
    tmp_path: Path, expected: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Writer(tmp_path / "index")
    made.merged()
    monkeypatch.setattr(indexes, "_is_large", lambda size: True)
    store = Store.open(made.folder)
    assert store.is_mapped and torch.equal(vectors(store), expected)
    rewrite(made)
    with pytest.raises(StoreError, match=r"merged_residuals\.npy was rewritten while it was open"):
        maxsim(torch.ones(2, SIZE), store)
    made.shards()  # of several files: read
    assert not Store.open(made.folder).is_mapped


def test_an_index_that_is_rewritten_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Writer(tmp_path / "index")
    made.shards()
    original = indexes._kept

    def late(*args: Any) -> Any:
        os.utime(made.folder / "doclens.0.json", ns=(1, 1))
        return original(*args)

    monkeypatch.setattr(indexes, "_kept", late)
    with pytest.raises(StoreError, match=r"doclens\.0\.json was rewritten while it was read"):
        Store.open(made.folder)


def test_an_index_that_is_locked(tmp_path: Path) -> None:
    made = Writer(tmp_path / "index")
    made.shards()
    with open(made.folder / "plaid.lock", "w") as file:
        assert len(Store.open(made.folder)) == 6
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="is being written by another process"):
            Store.open(made.folder)


# Tensors that are none


def test_tensors_of_every_kind(tmp_path: Path, expected: torch.Tensor) -> None:
    made = Writer(tmp_path / "index", colbert=True)
    made.shards()
    path = made.folder / "centroids.pt"
    centroids = torch.load(path)
    negated = torch._neg_view(-centroids)
    assert negated.is_neg()
    for same in (negated, centroids.t().contiguous().t(), centroids.double().requires_grad_()):
        torch.save(same, path)
        assert torch.equal(vectors(Store.open(made.folder)), expected)
    for wrong in (
        centroids.to_sparse(),
        centroids.to("meta"),
        centroids.to(torch.complex64),
        centroids.float().conj() * 1j,
        centroids[:1, :1].expand(1 << 40, SIZE),
        torch.tensor(1.0),
        centroids > 0,
        {"x": centroids},
    ):
        torch.save(wrong, path)
        with pytest.raises(StoreError, match=r"centroids\.pt"):
            Store.open(made.folder)


def test_lengths_beyond_what_there_is_take_no_memory(tmp_path: Path) -> None:
    made = Writer(tmp_path / "index")
    made.merged()
    (made.folder / "doclens.0.json").write_text(json.dumps([2**31 - 1] * 1000))
    with pytest.raises(StoreError, match=r"fewer rows|does not have its"):
        Store.open(made.folder)
    for shape in ("(1000000000000, 0)", "(-1, 8)", "()", "(99999999999999999999, 8)", "(15, 8, 1)"):
        header = f"{{'descr': '<u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
        start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
        made = Writer(tmp_path / "index")
        made.merged()
        (made.folder / "merged_residuals.npy").write_bytes(start + header + bytes(120))
        with pytest.raises(StoreError, match=r"merged_residuals\.npy"):
            Store.open(made.folder)
