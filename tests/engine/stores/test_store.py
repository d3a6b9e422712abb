"""A store gives back what was written, whole, or says what is wrong with which file."""

import errno
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from packrank.errors import InputError, StoreError
from packrank.stores.appender import Appender
from packrank.stores.manifest import Manifest, Source
from packrank.stores.store import Store
from packrank_kernels import FORMATS, Codec, TokenEmbeddings

SIZE = 24
MODEL = {"name": "some model", "fingerprint": "abc", "length": 7}
IDS = ["a", "", "ü/€ 𝄞", "line\nbreak", "0", "x" * 300, "-1", " ", "\0", "A", "007", "end"]


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few of them, and one that has not ended."""
    monkeypatch.setattr("packrank.stores.segments._SEGMENT_TOKENS", 13)


class Stopped(BaseException):
    """As a kill, but the test goes on."""


def documents(seed: int = 0, scale: float = 1.0) -> list[Tensor]:
    """One of every id; lengths 0 to 9."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [3, 0, 9, 1, 5, 2, 0, 4, 8, 6, 7, 1]
    every = torch.randn(sum(lengths), SIZE, generator=generator)
    unit = every / every.norm(dim=1, keepdim=True)
    return list(torch.split(unit * scale, lengths))


def codec_of(bits: int) -> Codec:
    generator = torch.Generator().manual_seed(3)
    centroids = torch.randn(5, SIZE, generator=generator)
    steps = torch.linspace(-0.5, 0.5, 2**bits)
    centroids /= centroids.norm(dim=1, keepdim=True)
    return Codec.of(centroids, (steps[1:] + steps[:-1]) / 2, steps)


def codec_for(format: str) -> Codec | None:
    return codec_of(int(format[0])) if format.endswith("bit") else None


def write(path: Path, format: str = "int8", commits: int = 3) -> Path:
    """All documents, and so many commits."""
    with Appender(path) as writer:
        if writer.manifest is None:
            writer.create(format, SIZE, MODEL, codec_for(format))
        assert writer.manifest is not None
        every = list(zip(IDS, documents(), strict=True))
        size = len(every) // commits
        for start in range(writer.manifest.documents, len(every), size):
            for first in range(start, start + size, 2):
                ids, vectors = zip(*every[first : first + 2], strict=True)
                writer.append(ids, vectors)
            writer.commit(Source(lines=start + size))
    return path


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def expected(format: str) -> TokenEmbeddings:
    return TokenEmbeddings.encode(documents(), format, codec_for(format))


@pytest.mark.parametrize("format", FORMATS)
def test_a_store_gives_back_what_was_written(tmp_path: Path, format: str) -> None:
    store = Store.open(write(tmp_path / "store", format))
    wanted = expected(format)
    assert (store.format, store.size, len(store)) == (format, SIZE, len(IDS))
    assert (store.num_tokens, store.model, store.complete) == (46, MODEL, False)
    assert store.embeddings.values.dtype == wanted.values.dtype
    assert store.embeddings.bytes_per_token == wanted.bytes_per_token
    assert torch.equal(store.embeddings.cu_seqlens, wanted.cu_seqlens)
    for index, vectors in enumerate(documents()):
        # The residual formats see vectors brought to length 1 once more, which rounds.
        torch.testing.assert_close(
            store.embeddings.decode(index), wanted.decode(index), rtol=2e-6, atol=1e-6
        )
        bound = {"1bit": 0.9, "2bit": 0.8, "4bit": 0.4, "8bit": 0.4}.get(format, 0.01)
        assert store.embeddings.decode(index).shape == vectors.shape
        assert bool(((store.embeddings.decode(index) - vectors).abs() < bound).all())
    if not format.endswith("bit"):
        assert torch.equal(store.embeddings.values, wanted.values)


@pytest.mark.parametrize("format", ["4bit", "2bit"])
def test_residuals_are_those_of_directions(tmp_path: Path, format: str) -> None:
    """Vectors of any length fit a codec, and zeros stay zeros."""
    for scale in (1.0, 64.0):
        with Appender(tmp_path / str(scale)) as writer:
            writer.create(format, SIZE, None, codec_for(format))
            writer.append(["a", "zero"], [documents(scale=scale)[2], torch.zeros(1, SIZE)])
            writer.append(["empty"], [torch.zeros(0, SIZE)])
            writer.commit()
    one, many = (Store.open(tmp_path / str(scale)).embeddings for scale in (1.0, 64.0))
    torch.testing.assert_close(many.decode(0), 64 * one.decode(0), rtol=1e-5, atol=1e-6)
    assert not many.decode(1).any()
    assert not many.values.equal(torch.zeros_like(many.values))


def test_ids_are_any_strings(tmp_path: Path) -> None:
    store = Store.open(write(tmp_path / "store"))
    assert list(store.ids) == IDS
    assert [store.ids[i] for i in range(len(IDS))] == IDS
    assert store.ids[-1] == "end" and store.ids[2:5] == IDS[2:5]
    with pytest.raises(IndexError):
        store.ids[len(IDS)]
    assert store.indices(["end", "", "end"]).tolist() == [11, 1, 11]
    assert store.indices([]).tolist() == []
    for id in ("b", "a ", "\udcff"):
        with pytest.raises(InputError, match=r"no document of .* has the id"):
            store.indices(["a", id])
    with pytest.raises(InputError, match="ids is a str"):
        store.indices("a")


def test_ids_of_one_hash_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(write(tmp_path / "store"))
    monkeypatch.setattr("packrank.stores.store.hash", lambda id: len(id) % 2, raising=False)
    assert store.indices(IDS).tolist() == list(range(len(IDS)))


def test_vectors_are_mapped_not_read(tmp_path: Path) -> None:
    """What changes in the files changes in the tensors."""
    folder = write(tmp_path / "store")
    embeddings = Store.open(folder).embeddings
    assert int(embeddings.values[0, 0]) != 77
    with open(folder / "values.bin", "r+b") as file:
        file.write(bytes([77]))
    assert int(embeddings.values[0, 0]) == 77
    assert embeddings.scales is not None
    addresses = {x.data_ptr() % 4096 for x in (embeddings.values, embeddings.scales)}
    assert addresses == {0}


def test_a_store_past_2_31_elements(tmp_path: Path) -> None:
    """Of files with holes: only the last document was written."""
    tokens, size = (1 << 31) // 128 + 5, 128
    manifest = Manifest("int8", size, None, documents=2, tokens=tokens, id_bytes=2)
    offsets = np.array([0, tokens - 2, tokens], "<i8").tobytes()
    (tmp_path / "cu_seqlens.bin").write_bytes(offsets)
    (tmp_path / "ids.bin").write_bytes(b"ab")
    (tmp_path / "id_offsets.bin").write_bytes(np.array([0, 1, 2], "<i8").tobytes())
    (tmp_path / "segments.bin").touch()
    for name, last in (("values.bin", b"\x05" * size), ("scales.bin", np.float32(0.5).tobytes())):
        with open(tmp_path / name, "wb") as file:
            file.seek(manifest.sizes()[name] - len(last))
            file.write(last)
    (tmp_path / "store.json").write_bytes(manifest.dump())
    store = Store.open(tmp_path, verify=False)
    assert store.embeddings.values.numel() > 1 << 31
    assert store.embeddings.decode(1).tolist() == [[0.0] * size, [2.5] * size]


def test_who_reads_is_not_disturbed_by_who_writes(tmp_path: Path) -> None:
    with Appender(tmp_path / "store") as writer:
        writer.create("int8", SIZE, MODEL)
        assert len(Store.open(tmp_path / "store")) == 0
        writer.append(IDS[:4], documents()[:4])
        assert len(Store.open(tmp_path / "store")) == 0
        writer.commit()
        store = Store.open(tmp_path / "store")
        before = store.embeddings.values.clone()
        writer.append(IDS[4:6], documents()[4:6])
        assert len(Store.open(tmp_path / "store")) == 4
        writer.commit()
        assert len(Store.open(tmp_path / "store")) == 6
        assert len(store) == 4 and torch.equal(store.embeddings.values, before)


# Stopped


CALLS = ("pwrite", "fsync", "replace", "ftruncate", "open", "unlink")


@pytest.mark.parametrize(
    ("format", "failure"),
    [("int8", Stopped()), ("2bit", Stopped()), ("int8", OSError(errno.ENOSPC, "disk full"))],
)
def test_stopped_at_any_moment_the_store_goes_on(
    tmp_path: Path, format: str, failure: Any, monkeypatch: pytest.MonkeyPatch, thorough: bool
) -> None:
    """Before each call to the system, and half way through each write; or every third of them."""
    monkeypatch.setattr(os, "fsync", lambda file: None)  # slow; a kill does not undo it
    undisturbed = bytes_of(write(tmp_path / "undisturbed", format))
    left = 0

    def stop_at(name: str) -> Callable[..., object]:
        original = getattr(os, name)

        def call(*args: object, **options: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                if name == "pwrite":
                    file, content, offset = args
                    original(file, memoryview(content)[: len(content) // 2], offset)  # type: ignore[arg-type]
                raise failure
            return original(*args, **options)

        return call

    moments = 0
    for moment in range(1, 1000, 1 if thorough else 3):
        folder, left = tmp_path / str(moment), moment
        with monkeypatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, stop_at(name))
            try:
                write(folder, format)
                break
            except (Stopped, StoreError):
                moments += 1
        if (folder / "store.json").exists():
            store = Store.open(folder)
            assert len(store) in (0, 4, 8, 12)
            assert list(store.ids) == IDS[: len(store)]
        write(folder, format)
        assert bytes_of(folder) == undisturbed
        shutil.rmtree(folder)
    assert moments > (70 if thorough else 23)


def test_what_lies_beyond_the_totals_is_cut_off(tmp_path: Path) -> None:
    folder = write(tmp_path / "store")
    before = bytes_of(folder)
    for path in folder.glob("*.bin"):
        path.write_bytes(path.read_bytes() + b"rest")
    (folder / "store.json.unfinished").write_bytes(b"{")
    assert list(Store.open(folder).ids) == IDS
    Appender(folder).close()
    assert bytes_of(folder) == before


def test_a_full_disk_leaves_the_last_commit(tmp_path: Path) -> None:
    undisturbed = bytes_of(write(tmp_path / "undisturbed", commits=1))
    folder, soft_hard = tmp_path / "store", resource.getrlimit(resource.RLIMIT_FSIZE)
    with Appender(folder) as writer:
        writer.create("int8", SIZE, MODEL)
        writer.append(IDS[:4], documents()[:4])
        writer.commit()
        writer.append(IDS[4:5], documents()[4:5])
        resource.setrlimit(resource.RLIMIT_FSIZE, (15 * SIZE, soft_hard[1]))
        try:
            with pytest.raises(StoreError, match=r"cannot be written: .*last commit, 4 documents"):
                writer.append(IDS[5:], documents()[5:])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, soft_hard)
        assert list(Store.open(folder).ids) == IDS[:4]
        writer.append(IDS[4:], documents()[4:])
        writer.commit(Source(lines=12))
    found = bytes_of(folder)
    for name in ("values.bin", "scales.bin", "cu_seqlens.bin", "ids.bin", "id_offsets.bin"):
        assert found[name] == undisturbed[name]
    assert len(Store.open(folder)) == len(IDS)


def test_one_writes_at_a_time(tmp_path: Path) -> None:
    with Appender(tmp_path / "store"), pytest.raises(StoreError, match="another process"):
        Appender(tmp_path / "store")
    Appender(tmp_path / "store").close()


def test_an_id_is_there_once(tmp_path: Path) -> None:
    folder = write(tmp_path / "store")
    with Appender(folder) as writer:
        assert writer.holds("end") and not writer.holds("new")
        for ids in (["end", "new"], ["new", "new"]):
            with pytest.raises(StoreError, match=r"has a document '(end|new)' already"):
                writer.append(ids, documents()[:2])
        writer.append(["new"], documents()[1:2])
        assert writer.holds("new")
        with pytest.raises(StoreError, match="already"):
            writer.append(["new"], documents()[:1])
        writer.commit()
    assert list(Store.open(folder).ids) == [*IDS, "new"]


def test_what_cannot_be_appended(tmp_path: Path) -> None:
    with Appender(tmp_path / "store") as writer:
        with pytest.raises(StoreError, match="no format"):
            writer.create("3bit", SIZE, MODEL)
        for format, codec in (("int8", codec_of(2)), ("4bit", codec_of(2)), ("2bit", None)):
            with pytest.raises(StoreError, match="codec does not fit"):
                writer.create(format, SIZE, MODEL, codec)
        writer.create("int8", SIZE, MODEL)
        with pytest.raises(ValueError, match="must be"):
            writer.append(["a"], [torch.zeros(1, SIZE + 1)])
        with pytest.raises(ValueError, match="ids of"):
            writer.append(["a", "b"], [torch.zeros(1, SIZE)])
        with pytest.raises(ValueError, match="not finite"):
            writer.append(["a"], [torch.full((1, SIZE), torch.inf)])
        writer.commit()
    assert len(Store.open(tmp_path / "store")) == 0


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(StoreError, match=r"holds 'thesis\.tex'"):
        Appender(tmp_path)
    with pytest.raises(StoreError, match="is no store"):
        Store.open(tmp_path)
    assert bytes_of(tmp_path) == {"thesis.tex": b"precious"}
    with pytest.raises(StoreError, match="cannot be written"):
        Appender(tmp_path / "thesis.tex")
    with pytest.raises(StoreError, match="cannot be written: No such"):
        Appender(tmp_path / "no" / "such")
    with pytest.raises(StoreError, match="is not there"):
        Store.open(tmp_path / "nowhere")


# Damaged


def test_a_byte_that_flips_is_found(tmp_path: Path, thorough: bool) -> None:
    folder = write(tmp_path / "store", "4bit")
    sound = bytes_of(folder)
    assert len(sound) == 10
    for name, content in sound.items():
        steps = 1 if thorough else max(len(content) // 40, 1)
        for place in {*range(0, len(content), steps), *range(-8, 0)} if content else ():
            flipped = bytearray(content)
            flipped[place] ^= 1 << (place % 8)
            (folder / name).write_bytes(flipped)
            with pytest.raises(StoreError, match=r"damaged|version") as caught:
                Store.open(folder)
            assert name in str(caught.value) or name.startswith("cu_seqlens"), (name, place)
        (folder / name).write_bytes(content)
    assert len(Store.open(folder)) == len(IDS)


@pytest.mark.parametrize("verify", [True, False])
def test_a_file_that_was_cut_off_or_lost_is_named(tmp_path: Path, verify: bool) -> None:
    folder = write(tmp_path / "store", "4bit")
    for name, content in bytes_of(folder).items():
        if name == "lock":
            continue
        (folder / name).write_bytes(content[:-1])
        with pytest.raises(StoreError, match=name):
            Store.open(folder, verify=verify)
        with pytest.raises(StoreError, match=name):
            Appender(folder)
        (folder / name).unlink()
        with pytest.raises(StoreError, match=name):
            Store.open(folder, verify=verify)
        (folder / name).write_bytes(content)
    assert len(Store.open(folder)) == len(IDS)


def test_without_checksums_nothing_points_outside(tmp_path: Path) -> None:
    folder = write(tmp_path / "store")
    for name in ("cu_seqlens.bin", "id_offsets.bin"):
        content = (folder / name).read_bytes()
        for place in range(0, len(content), 8):
            for value in (-1, 1 << 40):
                wrong = content[:place] + np.int64(value).tobytes() + content[place + 8 :]
                (folder / name).write_bytes(wrong)
                with pytest.raises(StoreError, match="damaged"):
                    Store.open(folder, verify=False)
        (folder / name).write_bytes(content)
    flipped = bytearray((folder / "values.bin").read_bytes())
    flipped[7] ^= 1
    (folder / "values.bin").write_bytes(flipped)
    assert len(Store.open(folder, verify=False)) == len(IDS)
