"""What `make quality` measures of stored vectors."""

from pathlib import Path

import numpy as np
import pytest
import quality
import torch


@pytest.mark.parametrize("format", ["float32", "4bit"])
def test_vectors_are_stored_as_the_command_stores_them(tmp_path: Path, format: str) -> None:
    documents = {f"d{i}": f"text {i}" for i in range(20)}
    vectors = [torch.randn(1 + i % 7, 16) for i in range(20)]
    if format == "4bit":
        vectors = quality.dominated(vectors, 0.9)
    encoded = quality.Encoded(16, dict(zip(documents.values(), vectors, strict=True)))
    identity = {"name": "some model", "fingerprint": "abc", "length": 7}
    store = quality.stored(encoded, identity, documents, format, tmp_path)
    assert list(store.ids) == list(documents)
    query = torch.randn(3, 16)
    ids = ["d3", "d19", "d0"]
    decoded = quality.by_decoded(store, query, ids)
    np.testing.assert_allclose(quality.by_exact(store, query, ids), decoded, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(quality.by_store(store, query, ids), decoded, rtol=0.05, atol=0.05)
