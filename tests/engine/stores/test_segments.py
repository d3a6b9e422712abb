"""Where segments end, and their checksums, follow from the documents alone."""

import random
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from packrank.stores import appender as appender_file
from packrank.stores.appender import Appender
from packrank.stores.store import Store
from packrank_kernels import Codec

SIZE = 8
LENGTHS = [3, 0, 9, 1, 0, 25, 2, 0, 4, 8, 6, 7, 1, 0, 0]
IDS = [f"{'ü' * (number % 4)}{number}" for number in range(len(LENGTHS))]


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packrank.stores.segments._SEGMENT_TOKENS", 10)


def documents() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    every = torch.randn(sum(LENGTHS), SIZE, generator=generator)
    return list(torch.split(every, LENGTHS))


def pieces(seed: int) -> Iterator[tuple[int, int]]:
    rng = random.Random(seed)
    cuts = sorted(rng.sample(range(1, len(LENGTHS)), rng.randint(0, 9)))
    yield from pairwise([0, *cuts, len(LENGTHS)])


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("format", ["int8", "2bit", "float16"])
def test_bytes_follow_from_the_documents(tmp_path: Path, format: str, thorough: bool) -> None:
    """However many are appended at once, and wherever they are committed or the writer stops."""
    steps = torch.linspace(-0.5, 0.5, 4)
    codec = Codec.of(torch.eye(SIZE), (steps[1:] + steps[:-1]) / 2, steps)
    found = []
    for seed in range(100 if thorough else 4):
        rng, folder = random.Random(seed), tmp_path / str(seed)
        writer = Appender(folder)
        writer.create(format, SIZE, None, codec if format == "2bit" else None)
        for start, stop in pieces(seed):
            writer.append(IDS[start:stop], documents()[start:stop], cut=stop - start)
            if rng.random() < 0.5 or stop == len(LENGTHS):
                writer.commit()
            if writer.manifest is not None and writer.manifest.documents == stop:
                writer.close()
                writer = Appender(folder)
        writer.close()
        assert len(Store.open(folder)) == len(LENGTHS)
        found.append(bytes_of(folder))
    assert all(content == found[0] for content in found)


def test_a_segment_ends_with_the_document_that_fills_it(tmp_path: Path) -> None:
    """And its record sums up the files' bytes, which are summed here in another way."""
    folder = tmp_path / "store"
    with Appender(folder) as writer:
        writer.create("int8", SIZE, None)
        writer.append(IDS, documents())
        manifest = writer.commit()
    records = np.fromfile(folder / "segments.bin", "<i8").reshape(-1, 9)
    assert records[:, 0].tolist() == [3, 3, 4, 2] and records[:, 1].tolist() == [12, 26, 14, 13]
    assert manifest.tail[:2] == [3, 1]
    every = np.vstack([records, manifest.tail])
    values = (folder / "values.bin").read_bytes()
    ends = [0, *(every[:, 1].cumsum() * SIZE).tolist()]
    assert every[:, 3].tolist() == [zlib.crc32(values[a:b]) for a, b in pairwise(ends)]


def test_what_was_appended_is_due_by_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(appender_file, "monotonic", lambda: now)
    with Appender(tmp_path / "store") as writer:
        writer.create("int8", SIZE, None)
        writer.append(["a"], documents()[:1])
        assert writer.is_due
        writer.commit()
        now += appender_file._COMMIT_SECONDS - 0.1
        assert not writer.is_due
        now += 0.2
        assert writer.is_due
        writer.commit()
        assert not writer.is_due
