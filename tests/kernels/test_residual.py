"""Residual codes against bytes worked out by hand and ColBERT's own definition."""

import numpy as np
import pytest
import torch

from packrank_kernels import Codec
from packrank_kernels.residual import pack_buckets, to_planes, unpack_buckets


def make(bits, size=16, centroids=7, spread=0.1):
    weights = (torch.randn(2**bits) * spread).sort().values
    cutoffs = (weights[1:] + weights[:-1]) / 2
    centers = torch.nn.functional.normalize(torch.randn(centroids, size))
    return Codec.of(centers, cutoffs, weights)


def colbert_pack(buckets, bits):
    """ColBERT's binarize and packbits: bit 0 first, and the first bit highest in the byte."""
    return np.packbits((buckets[..., None] >> np.arange(bits)) & 1).reshape(len(buckets), -1)


def colbert_unpack(packed, bits):
    """Its decompression: every field of a byte with its bits turned round."""
    stream = np.unpackbits(packed, axis=1).reshape(len(packed), -1, bits)
    return (stream << np.arange(bits)).sum(axis=2)


@pytest.mark.parametrize(
    ("bits", "buckets", "packed"),
    [
        (2, [1, 2, 3, 0], [0b10_01_11_00]),
        (1, [1, 0, 0, 0, 0, 0, 1, 1], [0b1000_0011]),
        (8, [1, 254], [0b1000_0000, 0b0111_1111]),
        (2, [0, 0, 0, 1, 2, 0, 0, 0], [0b00_00_00_10, 0b01_00_00_00]),
        (4, [1, 8], [0b1000_0001]),
        (4, [3, 14, 0, 15], [0b1100_0111, 0b0000_1111]),
    ],
)
def test_bytes_worked_out_by_hand(bits, buckets, packed):
    rows = torch.tensor([buckets], dtype=torch.uint8)
    assert pack_buckets(rows, bits).tolist() == [packed]
    assert unpack_buckets(torch.tensor([packed], dtype=torch.uint8), bits).tolist() == [buckets]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_bytes_are_those_of_colbert(bits):
    packed = torch.arange(256, dtype=torch.uint8).view(32, 8)
    buckets = unpack_buckets(packed, bits)
    np.testing.assert_array_equal(buckets, colbert_unpack(packed.numpy(), bits))
    np.testing.assert_array_equal(packed, colbert_pack(buckets.numpy(), bits))
    assert torch.equal(pack_buckets(buckets, bits), packed)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_decode_is_colberts(bits):
    codec = make(bits)
    codes = torch.randint(7, (50,), dtype=torch.int32)
    packed = torch.randint(256, (50, 16 * bits // 8), dtype=torch.uint8)
    buckets = colbert_unpack(packed.numpy(), bits)
    vectors = codec.centroids.numpy()[codes] + codec.bucket_weights.numpy()[buckets]
    np.testing.assert_array_equal(codec.decode(codes, packed), vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled = codec.decode(codes, packed) * codec.scales(codes, packed)[:, None]
    np.testing.assert_allclose(scaled, unit, rtol=1e-6)


def test_a_real_index(data_dir):
    """Unit vectors went in: what comes out is as long as they were in one order of bits only."""
    folder = data_dir / "weights/colbert-real-fragments/index"
    names = ("centroids", "bucket_cutoffs", "bucket_weights", "0.codes", "0.residuals")
    parts = [torch.from_numpy(np.load(folder / f"{name}.npy")) for name in names]
    codec, codes, packed = Codec.of(*parts[:3]), parts[3], parts[4]
    assert codec.bits == 4
    other = unpack_buckets(packed, 4).flip(1).contiguous()
    for name, residuals, is_right in (
        ("as it is", packed, True),
        ("nibbles swapped", (packed << 4) | (packed >> 4), False),
        ("dimensions reversed", pack_buckets(other, 4), False),
    ):
        lengths = codec.decode(codes, residuals).norm(dim=1)
        assert ((lengths - 1).abs().mean() < 0.003) == is_right, name


def test_encode_by_hand():
    """A tie goes to the first centroid, a value on a cutoff to the lower bucket."""
    centroids = torch.tensor([[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    weights = torch.tensor([-0.75, -0.25, 0.25, 0.75])
    codec = Codec.of(centroids, torch.tensor([-0.5, 0.0, 0.5]), weights)
    x = torch.tensor([[2.0, 1.0, 0.0, -0.5], [1.0, 1.0, 0.6, -0.6]])
    codes, residuals, scales = codec.encode(x)
    assert codes.tolist() == [1, 0]
    assert codes.dtype == torch.int32
    # Residuals 1, 1, 0, -0.5 and 1, 0, 0.6, -0.6: buckets 3, 3, 1, 0 and 3, 1, 3, 0.
    assert residuals.tolist() == [[0b11_11_10_00], [0b11_10_11_00]]
    first = np.sqrt(5.25) / np.linalg.norm([1.75, 0.75, -0.25, -0.75])
    second = np.sqrt(2.72) / np.linalg.norm([0.75, 0.75, 0.75, -0.75])
    np.testing.assert_allclose(scales, [first, second], rtol=1e-6)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_encode_is_the_definition(bits, dtype):
    codec = make(bits, 32, 50)
    x = torch.randn(300, 32, dtype=dtype)
    codes, residuals, scales = codec.encode(x)
    wide, centroids = x.double().numpy(), codec.centroids.double().numpy()
    products = wide @ centroids.T
    chosen = products[np.arange(300), codes]
    assert (products.max(axis=1) - chosen <= 1e-5).all()
    left = x.float().numpy() - codec.centroids.numpy()[codes]
    buckets = (left[..., None] > codec.bucket_cutoffs.numpy()).sum(axis=2)
    np.testing.assert_array_equal(residuals, colbert_pack(buckets, bits))
    lengths = (codec.decode(codes, residuals) * scales[:, None]).norm(dim=1)
    np.testing.assert_allclose(lengths, np.linalg.norm(wide, axis=1), rtol=1e-5)


def test_nothing_to_encode():
    codes, residuals, scales = make(4).encode(torch.zeros(0, 16))
    assert (codes.shape, residuals.shape, scales.shape) == ((0,), (0, 8), (0,))


def test_a_vector_of_zeros_has_scale_zero():
    codec = Codec.of(torch.zeros(1, 4), torch.zeros(3), torch.zeros(4))
    codes, residuals, scales = codec.encode(torch.ones(2, 4))
    assert codec.step == 1.0
    assert scales.tolist() == [0.0, 0.0]
    assert (codec.decode(codes, residuals) == 0).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("spread", [0.0, 1e-6, 0.1, 1.0, 1e4])
def test_integer_tables_never_leave_a_byte(bits, spread, thorough):
    for _ in range(5000 if thorough else 20):
        codec = make(bits, 16, 9, spread)
        rows, weights = codec.rows.int(), codec.weights.int()
        total = rows.max() + weights.max(), rows.min() + weights.min()
        assert total[0] <= 255
        assert total[1] >= 1, "-128 has no opposite"
        # By field as it lies and by plane, worked out again one dimension at a time.
        per_byte = 8 // bits
        for k in (0, 1, 5, 15):
            column = (k % per_byte) * (16 // per_byte) + k // per_byte
            for bucket in range(0, 2**bits, max(2**bits // 16, 1)):
                field = int(f"{bucket:0{bits}b}"[::-1], 2)
                whole = (rows[:, column] + weights[field] - 128).numpy()
                real = (codec.centroids[:, k] + codec.bucket_weights[bucket]).numpy()
                # Two roundings, half a step each.
                assert (np.abs(whole * codec.step - real) <= codec.step * 1.00001).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_step_is_as_small_as_can_be(bits):
    """A unit centroid and weights that add up to two: multiples of one 63rd."""
    weights = torch.linspace(-1, 1, 2**bits)
    codec = Codec.of(torch.eye(8) - torch.eye(8).flip(0), weights[1:] - 0.01, weights)
    assert codec.step == pytest.approx(2 / 126)
    assert codec.rows.int().max() + codec.weights.int().max() == 128 + 126
    assert codec.rows.int().min() + codec.weights.int().min() == 128 - 126


def test_planes():
    x = torch.arange(8)[None]
    assert to_planes(x, 4).tolist() == [[0, 4, 1, 5, 2, 6, 3, 7]]
    assert to_planes(x, 2).tolist() == [[0, 2, 4, 6, 1, 3, 5, 7]]


@pytest.mark.parametrize(
    ("centroids", "cutoffs", "weights", "message"),
    [
        (
            torch.zeros(2, 8),
            torch.zeros(7),
            torch.zeros(8),
            "8 bucket weights, expected 2, 4, 16 or 256",
        ),
        (torch.zeros(2, 8), torch.zeros(4), torch.zeros(4), r"shape \[4\], expected \[3\]"),
        (torch.zeros(8), torch.zeros(3), torch.zeros(4), r"shape \[8\], expected \[C, D\]"),
        (torch.zeros(2, 6), torch.zeros(3), torch.zeros(4), "of a multiple of 4 dimensions"),
        (torch.zeros(2, 7), torch.zeros(15), torch.zeros(16), "of a multiple of 2 dimensions"),
        (torch.zeros(0, 8), torch.zeros(3), torch.zeros(4), r"\[0, 8\], expected at least one"),
        (torch.full((2, 8), torch.nan), torch.zeros(3), torch.zeros(4), "not finite"),
        (torch.zeros(2, 8), torch.full((3,), torch.inf), torch.zeros(4), "not finite"),
        (torch.zeros(2, 8), torch.zeros(3), torch.full((4,), -torch.inf), "not finite"),
    ],
)
def test_refusals(centroids, cutoffs, weights, message):
    with pytest.raises(ValueError, match=message):
        Codec.of(centroids, cutoffs, weights)
