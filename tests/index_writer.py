"""Small indexes, written as fast-plaid and ColBERT write them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from packrank.stores.store import Store

CHUNKS = [[3, 0, 5], [1], [], [4, 2]]
SIZE, CENTROIDS, BITS = 16, 7, 4


class Writer:
    """An index of CHUNKS, whose parts are written as fast-plaid or ColBERT do."""

    def __init__(self, folder: Path, colbert: bool = False, chunks: list[list[int]] = CHUNKS):
        rng = np.random.default_rng(3)
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.colbert, self.chunks = folder, colbert, chunks
        centroids = rng.normal(size=(CENTROIDS, SIZE)).astype(np.float16)
        weights = np.sort(rng.normal(size=2**BITS)).astype(np.float32)
        cutoffs = (weights[1:] + weights[:-1]) / 2
        self.save("centroids", centroids)
        if colbert:
            torch.save(
                (torch.from_numpy(cutoffs), torch.from_numpy(weights)), folder / "buckets.pt"
            )
        else:
            self.save("bucket_cutoffs", cutoffs)
            self.save("bucket_weights", weights)
        counts = [sum(chunk) for chunk in chunks]
        self.codes = [rng.integers(0, CENTROIDS, count) for count in counts]
        self.residuals = [rng.integers(0, 256, (count, SIZE // 2), np.uint8) for count in counts]
        self.say()
        for i, chunk in enumerate(chunks):
            (folder / f"doclens.{i}.json").write_text(json.dumps(chunk))

    def say(self, **words: Any) -> None:
        words = {"nbits": BITS, "num_chunks": len(self.chunks), **words}
        (self.folder / "metadata.json").write_text(json.dumps(words))

    def save(self, name: str, x: Any) -> None:
        if self.colbert:
            torch.save(torch.from_numpy(x), self.folder / f"{name}.pt")
        else:
            np.save(self.folder / f"{name}.npy", x)

    def shards(self, names: Sequence[str] = ("codes", "residuals"), *chunks: int) -> None:
        for name in names:
            for i in chunks or range(len(self.chunks)):
                self.save(f"{i}.{name}", getattr(self, name)[i])

    def merged(self, padding: int = 3, merged: bool = True) -> None:
        for name in ("codes", "residuals"):
            parts = getattr(self, name)
            self.save(f"merged_{name}", np.concatenate([*parts, parts[0][:1].repeat(padding, 0)]))
            said: dict[str, Any] = {"merged": True, "mtime": None} if merged else {"mtime": 1.5}
            entries = {
                f"{i}.{name}.npy": {"rows": len(part), **said}
                for i, part in enumerate(parts)
                if len(part)
            }
            path = self.folder / f"merged_{name}.manifest.json"
            path.write_text(json.dumps(entries))


def vectors(store: Store) -> torch.Tensor:
    return torch.cat([store.embeddings.decode(n) for n in range(len(store))])
