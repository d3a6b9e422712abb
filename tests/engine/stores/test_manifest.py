"""A manifest of anybody's making is a store, or refused: its checksum proves nothing."""

import json
import random
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from packrank.errors import StoreError
from packrank.stores.appender import Appender
from packrank.stores.manifest import Manifest, Source
from packrank.stores.store import Store
from packrank_kernels import Codec

SIZE = 8
IDS = ["a", "b", "c", "d"]
NUMBERS = [-1, 0, 1, 2, 3, 7, 16, 33, 1 << 31, 1 << 47, 1 << 63, 1 << 64, 10**400, -(10**400)]
OTHERS: list[Any] = [
    *(None, True, False, 1.0, 2.5, float("nan"), float("inf"), -0.0),
    *("", "8", "int8", "float32", "1bit", "9bit", "\ud800", "\0", "x" * 1000),
    *([], [1], {}, {"name": 3}, {"fingerprint": []}, {"": None}, [[]] * 3),
]


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them, and one that has not ended."""
    monkeypatch.setattr("packrank.stores.segments._SEGMENT_TOKENS", 3)


def documents() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(length, SIZE, generator=generator) for length in (3, 0, 5, 2)]


def write(folder: Path, format: str) -> Path:
    """Four documents, of which the last is in a segment that has not ended."""
    steps = torch.linspace(-1, 1, 16)
    codec = Codec.of(torch.eye(SIZE), (steps[1:] + steps[:-1]) / 2, steps)
    with Appender(folder) as writer:
        writer.create(format, SIZE, {"name": "m"}, codec if format == "4bit" else None)
        for start in (0, 2):
            writer.append(IDS[start : start + 2], documents()[start : start + 2])
            writer.commit(Source(lines=start + 2, earlier=["ab"]))
    return folder


def forge(path: Path, fields: dict[str, Any]) -> None:
    """As a writer would write it, its checksum right."""
    text = json.dumps(fields, indent=2)
    forged = json.dumps({**fields, "crc32": zlib.crc32(text.encode())}, indent=2)
    path.write_text(forged + "\n")


def mutations(fields: dict[str, Any], values: list[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """One value put in the place of another, added or left out, at every depth."""
    for name, old in fields.items():
        rest = {key: value for key, value in fields.items() if key != name}
        yield f"without {name}", rest
        for value in values:
            if type(value) is not type(old) or value != old:
                yield f"{name} = {value!r:.30}", {**fields, name: value}
        if isinstance(old, dict):
            for what, inner in mutations(old, values):
                yield f"{name}: {what}", {**fields, name: inner}
    yield "one more", {**fields, "more": 1}


# What a manifest may say without a word of what its files hold.
FREE = ("model", "source", "cut")


@pytest.mark.parametrize("format", ["int8", "4bit"])
def test_whatever_a_manifest_says_no_score_is_wrong(
    tmp_path: Path, format: str, thorough: bool
) -> None:
    folder = write(tmp_path / "store", format)
    path = folder / "store.json"
    fields = json.loads(path.read_bytes())
    fields.pop("crc32")
    expected = [Store.open(folder).embeddings.decode(n) for n in range(4)]
    refused = 0
    every = [*mutations(fields, [*NUMBERS, *OTHERS])]
    if not thorough:
        every = random.Random(format).sample(every, 120)
    for what, mutated in every:
        forge(path, mutated)
        try:
            store = Store.open(folder)
            assert what.startswith(FREE), what
            assert isinstance(store.model, dict | None)
            assert [*store.ids] == IDS
            for n in range(4):
                assert torch.equal(store.embeddings.decode(n), expected[n]), what
        except StoreError as error:
            assert len(str(error)) < 2000
            refused += 1
        try:  # without checksums it is believed what the files have room for
            store = Store.open(folder, verify=False)
            vectors = [store.embeddings.decode(n) for n in range(len(store))]
            assert len(vectors) == len([*store.ids]) <= 4
        except StoreError:
            pass
        if thorough:
            try:
                Appender(folder).close()
            except StoreError:
                pass
            else:
                assert what.startswith(FREE), what
    assert refused > 60
    forge(path, fields)
    assert len(Store.open(folder)) == 4


def test_a_newer_or_forged_manifest_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "store", "int8")
    path = folder / "store.json"
    fields = json.loads(path.read_bytes())
    for raw, message in (
        (json.dumps({**fields, "packrank_store": 3}), "of version 3 .* reads versions up to 2"),
        (json.dumps({**fields, "documents": 3}), "damaged"),
        (json.dumps([1]), "damaged"),
        ("", "damaged"),
        ("[" * 100_000, "damaged"),
        ('{"packrank_store": 1, "crc32": 0}', "damaged"),
        ('{"packrank_store": 1, "crc32": 0, "source": 3}', "damaged"),
    ):
        path.write_text(raw)
        with pytest.raises(StoreError, match=message):
            Store.open(folder)
        with pytest.raises(StoreError, match=message):
            Appender(folder)
    path.write_bytes(Manifest("3bit", SIZE, None).dump())
    with pytest.raises(StoreError, match="damaged"):
        Store.open(folder)


def test_segments_add_up_to_the_manifest(tmp_path: Path) -> None:
    folder = write(tmp_path / "store", "int8")
    path, segments = folder / "store.json", folder / "segments.bin"
    fields = json.loads(path.read_bytes())
    fields.pop("crc32")
    sound = np.fromfile(segments, "<i8").reshape(2, 9)
    hostile = {
        "none": sound[:0],
        "one": sound[:1],
        "the same twice": sound[[0, 0]],
        "one more": sound[[0, 1, 1]],
        "negative": sound * [[-1], [1]],
        "the tail as well": np.vstack([sound, fields["tail"]]),
        "huge": sound + np.array([[1 << 62] + [0] * 8, [-(1 << 62)] + [0] * 8]),
        "past the end": sound + np.array([[0, 1000] + [0] * 7, [0] * 9]),
        "overlapping": sound + np.array([[1] + [0] * 8, [0] * 9]),
    }
    for records in hostile.values():
        raw = records.astype("<i8").tobytes()
        segments.write_bytes(raw)
        forge(path, {**fields, "segments": len(records), "segments_crc32": zlib.crc32(raw)})
        with pytest.raises(StoreError, match=r"damaged|holds"):
            Store.open(folder)
        with pytest.raises(StoreError, match=r"damaged|holds"):
            Appender(folder)
    segments.write_bytes(sound.astype("<i8").tobytes())
    for tail in ([], fields["tail"][:-1], [0] * 9, [2, *fields["tail"][1:]], [-1] * 9):
        forge(path, {**fields, "tail": tail})
        with pytest.raises(StoreError, match="damaged"):
            Store.open(folder)
    forge(path, fields)
    assert len(Store.open(folder)) == 4


def test_a_store_of_version_1_opens_and_grows(tmp_path: Path) -> None:
    """Its segments ended wherever something was committed, and it has no more of them than that."""
    folder = write(tmp_path / "store", "int8")
    path, segments = folder / "store.json", folder / "segments.bin"
    fields = json.loads(path.read_bytes())
    fields.pop("crc32")
    records = np.append(np.fromfile(segments, "<i8"), fields.pop("tail")).astype("<i8").tobytes()
    del fields["cut"]
    segments.write_bytes(records)
    counted = {"segments": len(records) // 72, "segments_crc32": zlib.crc32(records)}
    forge(path, {**fields, **counted, "packrank_store": 1})
    before = Store.open(folder)
    assert [*before.ids] == IDS and before.num_cut is None
    with Appender(folder) as writer:
        writer.append(["e", "f"], documents()[2:], cut=1)
        writer.commit()
    after = Store.open(folder)
    assert [*after.ids] == [*IDS, "e", "f"] and after.num_cut is None
    assert torch.equal(after.embeddings.values[:10], before.embeddings.values)
    assert json.loads(path.read_bytes())["packrank_store"] == 2


@pytest.mark.parametrize(
    "parts",
    [
        {"centroids": torch.eye(SIZE)},
        {"centroids": torch.zeros(())},
        {"centroids": torch.zeros(0, SIZE)},
        {"centroids": torch.eye(SIZE).to(torch.complex64)},
        {"centroids": torch.eye(SIZE).bool()},
        {"centroids": torch.eye(SIZE) * torch.nan},
        {"centroids": torch.eye(2 * SIZE), "bits": 2},
        {"centroids": torch.eye(2 * SIZE)},
    ],
    ids=["no buckets", "0-d", "none", "complex", "bool", "nan", "of 2 bits", "too wide"],
)
def test_a_codec_of_anybody_is_refused(tmp_path: Path, parts: dict[str, Any]) -> None:
    """Of 2 bits and twice the size rows have as many bytes."""
    folder = write(tmp_path / "store", "4bit")
    steps = torch.linspace(-1, 1, 2 ** parts.get("bits", 4))
    content = {"centroids": parts["centroids"]}
    if parts["centroids"].shape != (SIZE, SIZE) or parts["centroids"].dtype != torch.float32:
        content |= {"bucket_weights": steps, "bucket_cutoffs": (steps[1:] + steps[:-1]) / 2}
    save_file(content, folder / "codec.safetensors")
    path = folder / "store.json"
    fields = json.loads(path.read_bytes())
    fields.pop("crc32")
    raw = (folder / "codec.safetensors").read_bytes()
    forge(path, {**fields, "codec_crc32": zlib.crc32(raw)})
    for verify in (True, False):
        with pytest.raises(StoreError, match=r"codec\.safetensors is damaged"):
            Store.open(folder, verify=verify)
