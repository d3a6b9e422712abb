"""Formats of token embeddings: what is written, what comes back, and what is refused."""

import numpy as np
import pytest
import torch

from packrank_kernels import BITS, FORMATS, Codec, TokenEmbeddings
from packrank_kernels.testing import cu_seqlens
from packrank_kernels.token_embeddings import quantize_int8

STARTS = torch.tensor([0, 2, 2, 5])


def make_codec(bits, size=8):
    weights = torch.linspace(-0.3, 0.3, 2**bits)
    centroids = torch.nn.functional.normalize(torch.randn(20, size))
    return Codec.of(centroids, (weights[1:] + weights[:-1]) / 2, weights)


def codec_of(format, size=8):
    return make_codec(int(format[0]), size) if format in BITS else None


def test_int8_by_hand():
    x = torch.tensor([[127.0, -127.0, 0.5, 1.5], [0.0, 0.0, 0.0, 0.0], [-2.0, 1.0, 0.0, 0.5]])
    values, scales = quantize_int8(x)
    # 0.5 and 1.5 go to the even number; 63.5 and 31.75 are 1 and 0.5 of 2 / 127.
    assert values.tolist() == [[127, -127, 0, 2], [0, 0, 0, 0], [-127, 64, 0, 32]]
    assert scales.tolist() == [1.0, 1.0, np.float32(2) / np.float32(127)]
    assert (values.dtype, scales.dtype) == (torch.int8, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("magnitude", [1e-3, 1.0, 1e4])
def test_int8_is_off_by_half_a_step(dtype, magnitude):
    x = (torch.randn(200, 33) * magnitude).to(dtype)
    values, scales = quantize_int8(x)
    error = (x.double() - values.double() * scales[:, None].double()).abs()
    assert (error <= scales[:, None].double() * 0.50001).all()
    assert (values.abs().amax(dim=1) == 127).all(), "the largest takes the whole range"


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_int8_of_what_is_not_finite(value):
    x = torch.ones(3, 4)
    x[1, 2] = value
    values, scales = quantize_int8(x)
    assert scales.isfinite().tolist() == [True, False, True]
    assert values[[0, 2]].tolist() == [[127] * 4] * 2


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_int8_of_nothing(shape):
    values, scales = quantize_int8(torch.ones(shape))
    assert values.shape == shape
    assert scales.shape == shape[:1]


@pytest.mark.parametrize("format", FORMATS)
def test_round_trip(format):
    documents = [torch.nn.functional.normalize(torch.randn(n, 8)) for n in (3, 0, 1, 40)]
    embeddings = TokenEmbeddings.encode(documents, format, codec_of(format))
    assert embeddings.format == format
    assert (len(embeddings), embeddings.size) == (4, 8)
    assert embeddings.cu_seqlens.tolist() == [0, 3, 3, 4, 44]
    # Of a unit vector: half a unit in the last place, or half a step.
    bound = {"float32": 0, "float16": 2**-12, "bfloat16": 2**-9, "int8": 0.5 / 127}
    for n, document in enumerate(documents):
        decoded = embeddings.decode(n)
        assert (decoded.shape, decoded.dtype) == (document.shape, torch.float32)
        if format in bound:
            assert not len(document) or (decoded - document).abs().max() <= bound[format]
        else:
            np.testing.assert_allclose(decoded.norm(dim=1), 1.0, rtol=1e-5)
            assert not len(document) or (decoded * document).sum(dim=1).mean() > (
                0.8 if format == "1bit" else 0.9
            )


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        ("float32", 512),
        ("float16", 256),
        ("bfloat16", 256),
        ("int8", 132),
        ("8bit", 136),
        ("4bit", 72),
        ("2bit", 40),
        ("1bit", 24),
    ],
)
def test_bytes_per_token(format, expected):
    embeddings = TokenEmbeddings.encode([torch.randn(3, 128)], format, codec_of(format, 128))
    assert embeddings.bytes_per_token == expected


@pytest.mark.parametrize("format", FORMATS)
def test_a_slice_shares_memory(format):
    documents = [torch.randn(n, 8) for n in (3, 0, 1, 4)]
    embeddings = TokenEmbeddings.encode(documents, format, codec_of(format))
    part = embeddings.slice(1, 3)
    assert len(part) == 2
    assert part.values.data_ptr() == embeddings.values.data_ptr()
    for n in range(2):
        assert torch.equal(part.decode(n), embeddings.decode(n + 1))
    again = part.slice(1, 2)
    assert torch.equal(again.decode(0), embeddings.decode(2))


@pytest.mark.parametrize("format", FORMATS)
def test_to_a_device(format):
    embeddings = TokenEmbeddings.encode([torch.randn(3, 8)], format, codec_of(format))
    assert embeddings.to(torch.device("cpu")) is embeddings
    meta = embeddings.to(torch.device("meta"))
    tensors = [meta.values, meta.cu_seqlens, meta.scales, meta.codes]
    if meta.codec is not None:
        codec = meta.codec
        tensors += [codec.centroids, codec.bucket_cutoffs, codec.bucket_weights]
        tensors += [codec.rows, codec.weights]
    assert {x.device.type for x in tensors if x is not None} == {"meta"}
    assert meta.format == format
    assert meta.device.type == "meta"


def test_offsets_may_end_before_the_values():
    embeddings = TokenEmbeddings.of(torch.zeros(9, 8), STARTS)
    assert [len(embeddings.decode(n)) for n in range(3)] == [2, 0, 3]


def test_refusals_of_encode():
    documents = [torch.ones(2, 8)]
    with pytest.raises(ValueError, match="no format 'int4'; there are"):
        TokenEmbeddings.encode(documents, "int4")
    for format, codec in (("4bit", None), ("2bit", make_codec(4)), ("4bit", make_codec(2))):
        with pytest.raises(ValueError, match=f"format {format} takes a codec of its bits"):
            TokenEmbeddings.encode(documents, format, codec)
    with pytest.raises(ValueError, match="format int8 takes no codec"):
        TokenEmbeddings.encode(documents, "int8", make_codec(4))
    with pytest.raises(ValueError, match="there is no document"):
        TokenEmbeddings.encode([], "int8")
    for value in (torch.nan, torch.inf):
        for format in ("int8", *BITS):
            with pytest.raises(ValueError, match=f"not finite, {format} cannot write it"):
                TokenEmbeddings.encode([torch.full((1, 8), value)], format, codec_of(format))
        assert (
            not TokenEmbeddings.encode([torch.full((1, 8), value)], "float16")
            .decode(0)
            .isfinite()
            .any()
        )


FLOATS, BYTES, PACKED = torch.zeros(5, 8), torch.zeros(5, 8).char(), torch.zeros(5, 4).byte()
SCALES, CODES, CODEC = torch.ones(5), torch.zeros(5).int(), make_codec(4)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((FLOATS.long(), STARTS), "values are torch.int64, expected float32"),
        ((PACKED, STARTS, SCALES, CODES), r"values are torch.uint8 without a codec"),
        ((FLOATS[0], STARTS), r"values has shape \[8\], expected \[T, D\]"),
        ((FLOATS, STARTS.int()), "cu_seqlens is torch.int32, expected torch.int64"),
        ((FLOATS, STARTS[:0]), r"cu_seqlens has shape \[0\], expected \[N \+ 1\]"),
        ((FLOATS, torch.tensor([0, 3, 2])), "must rise from 0 to 5 without falling"),
        ((FLOATS, torch.tensor([1, 3])), "must rise from 0 to 5"),
        ((FLOATS, torch.tensor([0, 6])), "must rise from 0 to 5"),
        ((FLOATS, STARTS, SCALES), "format float32 has scales"),
        ((FLOATS, STARTS, None, CODES), "format float32 has codes"),
        ((FLOATS, STARTS, None, None, CODEC), "format float32 has codec"),
        ((BYTES, STARTS), "format int8 misses scales"),
        ((BYTES, STARTS, SCALES, CODES), "format int8 has codes"),
        ((BYTES, STARTS, SCALES[:4]), r"scales has shape \[4\], expected \[5\]"),
        ((BYTES, STARTS, SCALES.double()), "scales is torch.float64, expected torch.float32"),
        ((PACKED, STARTS, None, CODES, CODEC), "format 4bit misses scales"),
        ((PACKED, STARTS, SCALES, None, CODEC), "format 4bit misses codes"),
        (
            (PACKED, STARTS, SCALES, CODES.long(), CODEC),
            "codes is torch.int64, expected torch.int32",
        ),
        ((PACKED[:, :3], STARTS, SCALES, CODES, CODEC), r"shape \[5, 3\], expected \[T, 4\]"),
        ((torch.zeros(8, 5).T, STARTS), "every tensor must be contiguous"),
    ],
)
def test_refusals(parts, message):
    with pytest.raises(ValueError, match=f"token embeddings: .*{message}"):
        TokenEmbeddings.of(*parts)


def test_documents_of_one_length_after_another():
    lengths = [4, 0, 3]
    embeddings = TokenEmbeddings.of(torch.arange(7.0)[:, None], cu_seqlens(lengths, torch.int64))
    assert [embeddings.decode(n).flatten().tolist() for n in range(3)] == [
        [0.0, 1.0, 2.0, 3.0],
        [],
        [4.0, 5.0, 6.0],
    ]


def test_refusals_of_places():
    embeddings = TokenEmbeddings.of(torch.zeros(9, 8), STARTS)
    with pytest.raises(IndexError, match="document 3 is not among 3"):
        embeddings.decode(3)
    for start, stop in ((-1, 1), (2, 1), (0, 4)):
        with pytest.raises(ValueError, match="are not among 3"):
            embeddings.slice(start, stop)


def test_sizes_that_are_refused():
    with pytest.raises(ValueError, match="values have no dimensions"):
        TokenEmbeddings.of(torch.zeros(5, 0), STARTS)
    wide = torch.zeros(5, 2**16 + 1, dtype=torch.int8)
    with pytest.raises(ValueError, match="65537 dimensions, and sums of int8 are exact to 65536"):
        TokenEmbeddings.of(wide, STARTS, torch.ones(5))
    with pytest.raises(ValueError, match="bucket_cutoffs fall"):
        Codec.of(torch.ones(3, 8), torch.tensor([0.0, -1.0, 1.0]), torch.arange(4.0))
    with pytest.raises(ValueError, match="out of range"):
        Codec.of(torch.full((3, 8), 3e38), torch.arange(3.0), torch.full((4,), 3e38))
