"""MaxSim of one query against documents in memory, in every format."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from packrank.bench.peers.late import disagreement
from packrank.bench.peers.opening import opened_maxsim
from packrank.bench.report import Result
from packrank.bench.speed.roofs import Roofs
from packrank.bench.timing import turns
from packrank_kernels import BITS, FORMATS, Codec, TokenEmbeddings, maxsim

QUERY_TOKENS, DOCUMENTS, LENGTH, SIZE = 32, 1000, 180, 128
COPIES_BYTES = 64 << 20  # more than caches hold, mostly, so that documents come from memory
_CENTROIDS = 256
_DRAWN = 50  # documents; the others are the same again, elsewhere in memory
_WORKLOAD, _ROUNDS = "Offline", 9


def measure(
    device: torch.device, roofs: Roofs, most_s: float, *, peers: bool = False
) -> tuple[list[Result], list[str]]:
    """Documents a second, a result a format, in turns; and of peers why some have none.

    Args:
        device: where documents are.
        roofs: what bounds it.
        most_s: seconds after which no round begins.
        peers: whether other packages race, as far as they are installed.
    """
    generator = torch.Generator().manual_seed(0)
    tokens = DOCUMENTS * LENGTH
    vectors = torch.randn(_DRAWN * LENGTH, SIZE, generator=generator)
    vectors /= vectors.norm(dim=1, keepdim=True)
    query = torch.randn(QUERY_TOKENS, SIZE, generator=generator)
    query = (query / query.norm(dim=1, keepdim=True)).to(device)
    codec = _codecs(vectors, generator)
    calls: dict[str, Callable[[], object]] = {}
    results: list[Result] = []
    for format in FORMATS:
        drawn = _encoded(format, vectors, codec).to(device)
        _check(query, drawn, format)
        documents = _repeated(drawn, DOCUMENTS // _DRAWN)
        moved = tokens * documents.bytes_per_token
        copies = [documents]
        while len(copies) * moved < COPIES_BYTES:
            copies.append(_repeated(documents, 1))
        calls[format] = partial(_next, query, cycle(copies), device)
        operations = 2.0 * QUERY_TOKENS * tokens * SIZE
        facts: dict[str, Any] = {
            "candidates": DOCUMENTS,
            "tokens_per_candidate": LENGTH,
            "bytes": moved,
            "operations": operations,
            "bytes_per_token": documents.bytes_per_token,
        }
        kind = format if format in roofs.operations else "int8"
        bound = roofs.bound(kind, operations, moved)
        name = f"MaxSim {QUERY_TOKENS} x {LENGTH} tokens of {SIZE}"
        result = Result(_WORKLOAD, name, format, f"{LENGTH} tokens", "rate", "candidates/s", [],
                        facts=facts)  # fmt: skip
        results.append(result)
        if bound is not None:
            facts |= {"possible_s": bound.seconds, "bound_by": bound.by}
    sentences: list[str] = []
    if peers:
        others, sentences = _peers(query, vectors.to(device), results[0])
        results += [result for result, _ in others]
        calls |= {result.by: call for result, call in others}
    times = turns(calls, rounds=_ROUNDS, least_rounds=5, seconds=most_s)
    for result in results:
        name = result.dtype if result.by == "packrank" else result.by
        result.samples = [DOCUMENTS / taken for taken in times[name]]
        if "possible_s" in result.facts:
            result.facts["share_of_ceiling"] = result.facts["possible_s"] * result.value / DOCUMENTS
    return results, sentences


def _peers(
    query: Tensor, vectors: Tensor, ours: Result
) -> tuple[list[tuple[Result, Callable[[], object]]], list[str]]:
    """Other packages over the same documents, checked on those that differ."""
    expected = _scores(query, TokenEmbeddings.encode(torch.split(vectors, LENGTH), "float32"))
    found: list[tuple[Result, Callable[[], object]]] = []
    peers, sentences = opened_maxsim(query.device)
    for peer in peers:
        few = peer.prepare(query, vectors, [LENGTH] * _DRAWN)()
        if (wrong := disagreement(peer, few, expected.cpu().numpy())) is not None:
            sentences.append(wrong)
            continue
        every = vectors.repeat(DOCUMENTS // _DRAWN, 1)
        kept = ("candidates", "tokens_per_candidate", "operations")
        facts = {name: ours.facts[name] for name in kept}
        result = replace(ours, dtype=peer.dtype, by=peer.name, samples=[], facts=facts)
        found.append((result, peer.prepare(query, every, [LENGTH] * DOCUMENTS)))
    return found, [f"MaxSim: {one}" for one in sentences]


def _next(query: Tensor, copies: "cycle[TokenEmbeddings]", device: torch.device) -> None:
    scores = _scores(query, next(copies))
    if device.type == "cuda":
        scores.cpu()  # whoever asks waits for them


def _scores(query: Tensor, documents: TokenEmbeddings, backend: str = "auto") -> Tensor:
    found = maxsim(query, documents, backend=backend)
    assert isinstance(found, Tensor)
    return found


def _codecs(vectors: Tensor, generator: torch.Generator) -> dict[str, Codec]:
    """A codec a number of bits, by centroids picked among the tokens."""
    picked = torch.randperm(len(vectors), generator=generator)[:_CENTROIDS]
    centroids = vectors[picked]
    sample = vectors[:: max(len(vectors) // 8192, 1)]
    residuals = (sample - centroids[(sample @ centroids.T).argmax(1)]).flatten().sort().values
    found = {}
    for format in BITS:
        count = 2 ** int(format[0])
        places = torch.arange(1, 2 * count, dtype=torch.float64) / (2 * count)
        edges = residuals[(places * (len(residuals) - 1)).long()]
        found[format] = Codec.of(centroids, edges[1::2], edges[::2])
    return found


def _check(query: Tensor, documents: TokenEmbeddings, format: str) -> None:
    expected = _scores(query, documents, backend="reference")
    tolerance = 1e-3 * float(expected.abs().max())
    if not torch.allclose(_scores(query, documents), expected, rtol=0, atol=tolerance):
        raise ValueError(f"MaxSim of {format} is not what the reference says")


def _encoded(format: str, vectors: Tensor, codecs: dict[str, Codec]) -> TokenEmbeddings:
    if format not in BITS:
        return TokenEmbeddings.encode(torch.split(vectors, LENGTH), format)
    codec, starts = codecs[format], torch.arange(_DRAWN + 1) * LENGTH
    codes, residuals, scales = codec.encode(vectors)
    return TokenEmbeddings.of(residuals, starts, scales, codes, codec)


def _repeated(documents: TokenEmbeddings, times: int) -> TokenEmbeddings:
    """The same documents so many times, in memory of their own."""

    def again(x: Tensor | None) -> Tensor | None:
        return None if x is None else torch.cat([x] * times)

    starts = torch.arange(len(documents) * times + 1, device=documents.values.device) * LENGTH
    values = torch.cat([documents.values] * times)
    scales, codes = again(documents.scales), again(documents.codes)
    return TokenEmbeddings.of(values, starts, scales, codes, documents.codec)
