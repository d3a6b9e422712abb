import pytest
import torch

from packrank_kernels import reference, take_sequences
from packrank_kernels.testing import cu_seqlens

OP = "take_sequences"


def make(lengths, size, device, dtype=torch.float32):
    x = torch.randn(sum(lengths), size, device=device).to(dtype)
    return x, cu_seqlens(lengths).to(device)


def indices(kept, device):
    return torch.tensor(kept, dtype=torch.int32, device=device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [1, 5, 48, 100, 1500])
def test_equals_slices(backend, device, dtype, size):
    lengths = [4, 0, 17, 1, 9, 0, 3]
    x, starts = make(lengths, size, device, dtype)
    rows = x.split(lengths)
    for kept in ([3], [0, 1, 2, 3, 4, 5, 6], [6, 4, 1], [5, 0, 0, 3]):
        expected = torch.cat([rows[n] for n in kept])
        total = len(expected)
        out, new = take_sequences(x, starts, indices(kept, device), total, backend=backend)
        assert torch.equal(out, expected)
        assert torch.equal(new.cpu(), cu_seqlens([lengths[n] for n in kept]))
        assert out.dtype == dtype


@pytest.mark.parametrize("kept", [[], [1], [2, 5, 0]], ids=str)
def test_rows_past_the_last_are_zeros(backend, device, kept):
    x, starts = make([4, 0, 17, 1, 9, 0], 48, device)
    out, new = take_sequences(x, starts, indices(kept, device), 200, backend=backend)
    assert torch.equal(out[int(new[-1]) :], torch.zeros(200 - int(new[-1]), 48, device=device))
    assert torch.equal(out[: int(new[-1])], torch.cat([x[4:21], x[:4]])[: int(new[-1])])
    assert len(new) == len(kept) + 1


def test_thousands_of_sequences(backend, device):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(0, 3, (5000,), generator=generator).tolist()
    x, starts = make(lengths, 3, device)
    kept = torch.randperm(5000, generator=generator)[:3100].to(torch.int32)
    total = sum(lengths[n] for n in kept)
    out, new = take_sequences(x, starts, kept.to(device), total, backend=backend)
    expected = reference.take_sequences(x, starts, kept.to(device), total)
    assert torch.equal(out, expected[0])
    assert torch.equal(new, expected[1])


def test_values_are_copied_bit_for_bit(backend, device):
    x = torch.tensor([[float("nan"), -0.0, float("inf"), 1e-42]], device=device)
    out, _ = take_sequences(x, cu_seqlens([1]).to(device), indices([0], device), 1, backend=backend)
    assert torch.equal(out.view(torch.int32), x.view(torch.int32))


def test_views_are_read_as_they_are(backend, device):
    x = torch.randn(6, 20, device=device).T
    starts, kept = cu_seqlens([5, 15]).to(device), indices([1, 9, 0, 9], device)[::2]
    out, _ = take_sequences(x, starts, kept, 20, backend=backend)
    assert torch.equal(out, torch.cat([x[5:], x[:5]]))


def test_refusals():
    x, starts = make([2, 3], 4, torch.device("cpu"))
    with pytest.raises(IndexError, match=r"kept spans 0..2, there are 2 sequences"):
        take_sequences(x, starts, indices([0, 2], "cpu"), 9)
    with pytest.raises(ValueError, match="total is 4, the kept sequences have 5 rows"):
        take_sequences(x, starts, indices([0, 1], "cpu"), 4)
    with pytest.raises(ValueError, match=r"kept is torch.int64, expected torch.int32"):
        take_sequences(x, starts, indices([0], "cpu").long(), 4)
