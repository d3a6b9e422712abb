"""A writer destroys nothing that is not its own, and has on the disk what it says is there."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from packrank.errors import StoreError
from packrank.stores.appender import Appender
from packrank.stores.store import Store
from packrank_kernels import Codec, maxsim

SIZE = 8


def codec() -> Codec:
    steps = torch.linspace(-0.5, 0.5, 4)
    return Codec.of(torch.eye(SIZE)[:5], (steps[1:] + steps[:-1]) / 2, steps)


def write(folder: Path) -> Path:
    """Two documents of three tokens and one token."""
    with Appender(folder) as writer:
        writer.create("2bit", SIZE, None, codec())
        writer.append(["a", "b"], list(torch.eye(SIZE)[:4].split([3, 1])))
        writer.commit()
    return folder


def test_what_came_since_the_folder_was_taken_stays(tmp_path: Path) -> None:
    """A codec is trained for minutes between the two."""
    with Appender(tmp_path / "store") as writer:
        (tmp_path / "store/notes.txt").write_text("precious")
        with pytest.raises(StoreError, match=r"holds 'notes\.txt'"):
            writer.create("int8", SIZE, None)
        assert (tmp_path / "store/notes.txt").read_text() == "precious"
        (tmp_path / "store/notes.txt").unlink()
        writer.create("int8", SIZE, None)
    assert len(Store.open(tmp_path / "store")) == 0


def test_vectors_without_a_manifest_stay(tmp_path: Path) -> None:
    folder = write(tmp_path / "store")
    (folder / "store.json").rename(tmp_path / "store.json")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(StoreError, match=r"holds documents and no store\.json; bring that back"):
        Appender(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "store.json").rename(folder / "store.json")
    assert len(Store.open(folder)) == 2


def test_a_damaged_codec_is_never_used(tmp_path: Path) -> None:
    path = write(tmp_path / "store") / "codec.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # of a number: the codec can still be read
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"codec\.safetensors is damaged: its checksum is wrong"):
        Appender(path.parent)
    with pytest.raises(StoreError, match=r"codec\.safetensors is damaged: its checksum is wrong"):
        Store.open(path.parent, verify=False)


@pytest.mark.parametrize("code", [-1, 5, 2**31 - 1])
def test_a_code_that_no_centroid_has_costs_its_document_only(tmp_path: Path, code: int) -> None:
    path = write(tmp_path / "store") / "codes.bin"
    codes = np.fromfile(path, "<i4")
    codes[1] = code
    codes.tofile(path)
    with pytest.raises(StoreError, match=r"codes\.bin is damaged"):
        Store.open(path.parent)
    scores = maxsim(torch.eye(SIZE)[3:4], Store.open(path.parent, verify=False).embeddings)
    assert isinstance(scores, torch.Tensor)
    assert scores.isnan().tolist() == [True, False]


def test_a_manifest_tells_of_what_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file that was written is synced before the manifest that counts it takes its place."""
    dirty: set[str] = set()
    originals: dict[str, Any] = {
        name: getattr(os, name) for name in ("pwrite", "fsync", "replace", "mkdir", "open")
    }

    def name_of(file: int) -> str:
        return os.readlink(f"/proc/self/fd/{file}")

    def pwrite(file: int, *args: Any) -> Any:
        dirty.add(name_of(file))
        return originals["pwrite"](file, *args)

    def fsync(file: int) -> None:
        dirty.discard(name_of(file))
        originals["fsync"](file)

    def replace(old: Path, new: Path) -> None:
        assert not dirty
        originals["replace"](old, new)
        dirty.add(str(new.parent))

    def mkdir(path: Path, *args: Any) -> None:
        originals["mkdir"](path, *args)
        dirty.add(str(Path(path).parent))

    def open(path: Any, flags: int, *args: Any, **options: Any) -> Any:
        if flags & os.O_TRUNC:
            dirty.add(str(path))
        return originals["open"](path, flags, *args, **options)

    for call in (pwrite, fsync, replace, mkdir, open):
        monkeypatch.setattr(os, call.__name__, call)
    with Appender(tmp_path / "store") as writer:
        assert dirty == {str(tmp_path)}
        writer.create("2bit", SIZE, None, codec())
        assert not dirty
        for id in "ab":
            writer.append([id], [torch.eye(SIZE)])
            assert len(dirty) == 6
            writer.commit()
            assert not dirty


def test_a_writer_lets_go_once(tmp_path: Path) -> None:
    """The numbers of its files may be those of others by then."""
    writer = Appender(tmp_path / "store")
    writer.create("int8", SIZE, None)
    writer.close()
    others = [os.open(tmp_path, os.O_RDONLY) for _ in range(9)]
    writer.close()
    for file in others:
        os.close(file)  # raises if it is closed
