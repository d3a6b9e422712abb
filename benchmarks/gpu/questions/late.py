"""MaxSim, in every format."""

import torch

from packrank_kernels import Codec, TokenEmbeddings, maxsim
from packrank_kernels.packed import BITS, FLOATS
from packrank_kernels.testing import assert_close
from questions.asking import LENGTHS, Device


def scores(at: Device, name: str, tokens: int) -> None:
    """Of documents in every format: integers exactly, sums of halves in another order."""
    backend = at.named("maxsim", name)
    queries = [torch.randn(tokens, 128), torch.randn(tokens - 3, 128)]
    drawn = [torch.randn(length, 128) for length in (*LENGTHS, 300)]
    for format in ("float16", "bfloat16", "int8", "4bit", "2bit"):
        codec = None
        if format in BITS:
            weights = torch.randn(2 ** BITS[format]).sort().values
            codec = Codec.of(torch.randn(9, 128), (weights[1:] + weights[:-1]) / 2, weights)
        documents = TokenEmbeddings.encode(drawn, format, codec)
        expected = maxsim(queries, documents, backend="reference")
        actual = maxsim(
            [query.to(at.device) for query in queries], documents.to(at.device), backend=backend
        )
        assert_close(actual.cpu(), expected, 1e-4 if format in FLOATS else 0.0)
