"""Files of a store are its own, regular, and as they were opened; else it is refused."""

import mmap
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from packrank.errors import InputError, StoreError
from packrank.stores.appender import Appender
from packrank.stores.files import MappedFile
from packrank.stores.store import Store
from packrank.stores.streaming import maxsim

SIZE = 8
NAMES = (
    *("values.bin", "scales.bin", "cu_seqlens.bin", "ids.bin", "id_offsets.bin"),
    *("segments.bin", "store.json", "lock"),
)


def write(folder: Path) -> Path:
    with Appender(folder) as writer:
        writer.create("int8", SIZE, None)
        writer.append(["a", "b"], list(torch.eye(SIZE)[:4].split([3, 1])))
        writer.commit()
    return folder


def append(folder: Path) -> None:
    with Appender(folder) as writer:
        writer.append(["c"], [torch.eye(SIZE)])
        writer.commit()


def link(path: Path, victim: Path) -> None:
    path.unlink()
    path.symlink_to(victim)


def second_name(path: Path, victim: Path) -> None:
    path.unlink()
    path.hardlink_to(victim)


def pipe(path: Path, victim: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("replace", [link, second_name, pipe])
def test_nobody_elses_file_is_written(
    tmp_path: Path, name: str, replace: Callable[[Path, Path], None]
) -> None:
    folder = write(tmp_path / "store")
    victim = tmp_path / "victim"
    content = (folder / name).read_bytes() + b"precious" * 100
    victim.write_bytes(content if name != "store.json" else (folder / name).read_bytes())
    before = victim.read_bytes()
    replace(folder / name, victim)
    if (name, replace) != ("store.json", second_name):  # takes its place, and leaves it as it is
        with pytest.raises(StoreError, match=r"is a symbolic|another name|no regular|holds"):
            append(folder)
    else:
        append(folder)
    assert victim.read_bytes() == before


@pytest.mark.parametrize("name", ["lock", "values.bin", "store.json.unfinished", "store.json"])
def test_a_new_store_goes_through_no_link(tmp_path: Path, name: str) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / name).symlink_to(tmp_path / "victim")
    with suppress(StoreError):
        write(tmp_path / "store")
    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.parametrize("name", NAMES[:-1])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "store")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(StoreError, match=r"no regular file|is no store"):
        Store.open(folder)


def test_a_store_may_be_read_through_links(tmp_path: Path) -> None:
    """As a cache of downloads holds files."""
    folder = write(tmp_path / "store")
    (tmp_path / "links").mkdir()
    for path in folder.iterdir():
        (tmp_path / "links" / path.name).symlink_to(path)
    assert [*Store.open(tmp_path / "links").ids] == ["a", "b"]


@pytest.mark.parametrize("name", ["values.bin", "scales.bin", "ids.bin"])
def test_a_store_that_is_cut_off_while_it_is_open(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "store")
    store = Store.open(folder)
    os.truncate(folder / name, 1)
    with pytest.raises(StoreError, match=rf"{name} was cut off while it was open; open it again"):
        list(store.ids)
        maxsim(torch.eye(SIZE)[:2], store)


def test_offsets_are_held_in_memory(tmp_path: Path) -> None:
    folder = write(tmp_path / "store")
    store = Store.open(folder)
    before = maxsim(torch.eye(SIZE)[:2], store)
    for name in ("cu_seqlens.bin", "id_offsets.bin"):
        wrong = np.full(3, 1 << 40, "<i8")
        with open(folder / name, "r+b") as file:
            file.write(wrong.tobytes())
    assert torch.equal(maxsim(torch.eye(SIZE)[:2], store), before)  # type: ignore[arg-type]
    assert [*store.ids] == [store.ids[0], store.ids[1]] == ["a", "b"]


def test_who_writes_to_vectors_changes_no_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "store")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for mode in (0o644, 0o444):
        for path in folder.iterdir():
            path.chmod(mode)
        embeddings = Store.open(folder).embeddings
        embeddings.values[0, 0] = 3  # of a mapping that is read-only, the end of the process
        embeddings.cu_seqlens.zero_()
        assert int(embeddings.values[0, 0]) == 3
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_system_that_counts_every_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a private mapping is refused for want of memory, a shared one is read."""
    original, refused = mmap.mmap, []

    def refuse(*args: Any, **options: Any) -> mmap.mmap:
        if options["prot"] & mmap.PROT_WRITE:
            refused.append(args)
            raise OSError(12, "Cannot allocate memory")
        return original(*args, **options)

    (tmp_path / "x").write_bytes(bytes(range(64)))
    monkeypatch.setattr(mmap, "mmap", refuse)
    mapped = MappedFile(tmp_path / "x", "u1", 3, 5)
    assert torch.from_numpy(mapped.numbers).tolist() == [5, 6, 7] and refused


@pytest.mark.parametrize("path", [None, 3, b"store", ["store"], "a\0b"])
def test_what_is_no_path(path: Any) -> None:
    for call in (Store.open, Appender):
        with pytest.raises(InputError, match="the path of a store is"):
            call(path)
    assert not Store.is_one(path)


def test_paths_that_the_system_refuses(tmp_path: Path) -> None:
    for path in (tmp_path / ("x" * 300), tmp_path / "x" / ("y/" * 5000), Path("/proc/1/fdinfo/x")):
        assert not Store.is_one(path)
        with pytest.raises(StoreError):
            Store.open(path)
        with pytest.raises(StoreError):
            Appender(path)


def test_a_folder_of_stores_names_one(tmp_path: Path) -> None:
    write(tmp_path / "passages")
    with pytest.raises(StoreError, match="pass a folder that it holds, such as passages"):
        Store.open(tmp_path)
