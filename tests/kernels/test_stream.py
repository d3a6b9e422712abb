"""Memory read and copied: every value, by every backend, and what is refused."""

import pytest
import torch

from packrank_kernels import stream
from packrank_kernels.dispatch import TABLE

BACKENDS = [backend.name for backend in TABLE["stream"]]
SIZES = [1, 7, 128, 129, 4096, 100_003]


def of(backend: str, *args: torch.Tensor, repeats: int = 1) -> torch.Tensor:
    try:
        return stream(*args, repeats=repeats, backend=backend)
    except ValueError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", SIZES)
def test_every_value_is_read(backend: str, size: int) -> None:
    for place in {0, size // 2, size - 1}:
        x = torch.full((size,), -3.0)
        x[place] = -1.5
        assert of(backend, x, repeats=2).item() == -1.5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", SIZES)
def test_every_value_is_copied(backend: str, size: int) -> None:
    x, out = torch.randn(size), torch.full((size + 2,), torch.nan)
    found = of(backend, x, out[1:-1], repeats=3)
    assert found.data_ptr() == out[1:].data_ptr()
    assert torch.equal(out[1:-1], x)
    assert out[[0, -1]].isnan().all()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"x": torch.ones(0)}, "hold a value"),
        ({"x": torch.ones(8)[::2]}, "contiguous"),
        ({"x": torch.ones(2, 2)}, r"x has shape"),
        ({"x": torch.ones(4, dtype=torch.float64)}, "float32"),
        ({"out": torch.ones(3)}, "out"),
        ({"out": torch.ones(8)[::2]}, "contiguous"),
        ({"repeats": 0}, "repeats is 0"),
        ({"backend": "mmx"}, "no backend 'mmx'"),
    ],
)
def test_what_cannot_be_streamed_is_refused(change: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        stream(**{"x": torch.ones(4)} | change)


def test_an_overlapping_copy_is_refused() -> None:
    x = torch.ones(8)
    with pytest.raises(ValueError, match="over each other"):
        stream(x[:6], x[2:])
