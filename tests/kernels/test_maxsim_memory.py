"""MaxSim of documents in a mapped file: no byte beyond a tensor's last is read."""

import ctypes
import mmap
from dataclasses import replace

import pytest
import torch

from packrank_kernels import BITS, FORMATS, Codec, TokenEmbeddings, matches, maxsim
from packrank_kernels.packed import PackedOutliers
from packrank_kernels.testing import cu_seqlens

OP = "maxsim"
INF = float("inf")


def guarded(x):
    """A copy of x whose last byte is the last of a page, before one that nobody may touch."""
    pages = -(-max(x.nbytes, 1) // mmap.PAGESIZE)
    memory = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    end = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + pages * mmap.PAGESIZE
    none = 0
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(end), mmap.PAGESIZE, none) == 0
    start = pages * mmap.PAGESIZE - x.nbytes
    out = torch.frombuffer(memory, dtype=x.dtype, count=x.numel(), offset=start).view(x.shape)
    return out.copy_(x)


def codec_of(bits, size):
    weights = torch.randn(2**bits).sort().values
    centroids = torch.randn(3, size)
    centroids[:, -1] *= 1e3
    codec = Codec.of(centroids, (weights[1:] + weights[:-1]) / 2, weights)
    if codec.outliers is not None:
        parts = {name: guarded(x) for name, x in vars(codec.outliers).items()}
        codec = replace(codec, outliers=PackedOutliers(**parts))
    return replace(codec, rows=guarded(codec.rows), weights=guarded(codec.weights))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("units", [1, 3, 13, 17, 33])
def test_nothing_is_read_beyond_the_end(backend, device, format, units, thorough):
    if device.type != "cpu":
        pytest.skip("guards memory of the CPU")
    if backend == "triton" and units % 16 == 1 and not thorough:
        pytest.skip("runs with --thorough")
    bits = BITS.get(format)
    size = units if bits is None else units * 8 // bits
    lengths = [5, 0, 14, 1]
    made = TokenEmbeddings.encode(
        [torch.randn(length, size) for length in lengths],
        format,
        None if bits is None else codec_of(bits, size),
    )
    documents = TokenEmbeddings.of(
        guarded(made.values),
        guarded(made.cu_seqlens),
        None if made.scales is None else guarded(made.scales),
        None if made.codes is None else guarded(made.codes),
        made.codec,
    )
    query = guarded(torch.randn(3, size))
    try:
        scores = maxsim(query, documents, backend=backend)
        found = matches(query, documents, guarded(torch.tensor([3, 2])), backend=backend)
    except ValueError as refusal:
        pytest.skip(str(refusal))
    assert torch.equal(scores, maxsim(query, made, backend=backend))
    assert (found.tokens >= 0).all()


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # of Triton's interpreter
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_row_ends_where_the_next_begins(backend, device, dtype):
    values = torch.ones(2, 13)
    values[1, 0] = INF
    cu = cu_seqlens([1, 1], torch.int64).to(device)
    documents = TokenEmbeddings.of(values.to(dtype).to(device), cu)
    query = torch.ones(2, 13, device=device)
    try:
        scores = maxsim(query, documents, backend=backend)
    except ValueError as refusal:
        pytest.skip(str(refusal))
    assert scores.tolist() == [26.0, INF]
