"""MaxSim of one query against documents in memory, in every format."""

from collections.abc import Callable
from functools import partial
from itertools import cycle

import torch
from torch import Tensor

from packrank.bench.peers.late import disagreement
from packrank.bench.peers.opening import opened_maxsim
from packrank.bench.report import Result
from packrank.bench.speed.offline import Racer
from packrank.bench.speed.roofs import Roofs
from packrank.bench.timing import Call, clock_of, repeats_for
from packrank.bench.watch.energy import Meter
from packrank.quiet import reason_of
from packrank_kernels import BITS, FORMATS, Codec, TokenEmbeddings, maxsim

QUERY_TOKENS, DOCUMENTS, LENGTH, SIZE = 32, 1000, 180, 128
COPIES_BYTES = 64 << 20  # more than caches hold, mostly, so that documents come from memory
_CENTROIDS = 256
_DRAWN = 50  # documents; the others are the same again, elsewhere in memory
SAMPLE_S = 0.05  # of a round, about


def racers(
    device: torch.device, roofs: Roofs, meter: Callable[[], Meter], *, peers: bool = False
) -> tuple[list[Racer], list[str]]:
    """Whatever scores the documents, ours in each format; and sentences on what does not.

    Args:
        device: where documents are.
        roofs: what bounds it.
        meter: makes one of energy.
        peers: whether other packages race, as far as they are installed.
    """
    generator = torch.Generator().manual_seed(0)
    tokens = DOCUMENTS * LENGTH
    vectors = torch.randn(_DRAWN * LENGTH, SIZE, generator=generator)
    vectors /= vectors.norm(dim=1, keepdim=True)
    query = torch.randn(QUERY_TOKENS, SIZE, generator=generator)
    query = (query / query.norm(dim=1, keepdim=True)).to(device)
    codec = _codecs(vectors, generator)
    found: list[Racer] = []
    sentences: list[str] = []
    for format in FORMATS:
        drawn = _encoded(format, vectors, codec).to(device)
        if not _is_right(query, drawn):
            sentences.append(f"MaxSim of {format} is not what the reference says")
            continue
        documents = _repeated(drawn, DOCUMENTS // _DRAWN)
        moved = tokens * documents.bytes_per_token
        copies = [documents]
        while len(copies) * moved < COPIES_BYTES:
            copies.append(_repeated(documents, 1))
        result = _result(format)
        result.facts |= {"bytes": moved, "bytes_per_token": documents.bytes_per_token}
        kind, held = format if format in roofs.operations else "int8", len(copies) * moved
        bound = roofs.bound(kind, result.facts["operations"], moved, held=held)
        if bound is not None:
            result.facts |= {"possible_s": bound.seconds, "bound_by": bound.by}
        found.append(_racer(result, partial(_next, query, cycle(copies), device), device, meter()))
    if peers:
        others, why = _peers(query, vectors.to(device), meter)
        found += others
        sentences += [f"MaxSim: {one}" for one in why]
    return found, sentences


def _peers(
    query: Tensor, vectors: Tensor, meter: Callable[[], Meter]
) -> tuple[list[Racer], list[str]]:
    """Other packages over the same documents, checked on those that differ."""
    few = TokenEmbeddings.encode(torch.split(vectors, LENGTH), "float32")
    expected = _scores(query, few).cpu().numpy()
    every = vectors.repeat(DOCUMENTS // _DRAWN, 1)
    found: list[Racer] = []
    peers, sentences = opened_maxsim(query.device)
    for peer in peers:
        try:
            scores = peer.prepare(query, vectors, [LENGTH] * _DRAWN)()
            if (wrong := disagreement(peer, scores, expected)) is not None:
                sentences.append(wrong)
                continue
            call = peer.prepare(query, every, [LENGTH] * DOCUMENTS)
            found.append(_racer(_result(peer.dtype, peer.name), call, query.device, meter()))
        except Exception as error:  # whatever another package raises
            sentences.append(f"{peer.name} does not race: {reason_of(error)}")
    return found, sentences


def _result(dtype: str, by: str = "packrank") -> Result:
    name = f"MaxSim {QUERY_TOKENS} x {LENGTH} tokens of {SIZE}"
    facts = {
        "candidates": DOCUMENTS,
        "tokens_per_candidate": LENGTH,
        "operations": 2.0 * QUERY_TOKENS * DOCUMENTS * LENGTH * SIZE,
    }
    lengths = f"{LENGTH} tokens"
    return Result("Offline", name, dtype, lengths, "rate", "candidates/s", [], by, facts)


def _racer(result: Result, call: Call, device: torch.device, meter: Meter) -> Racer:
    """Calls repeat, so that a round is long enough to tell."""
    clock = clock_of(device)

    def often(times: int) -> None:
        for _ in range(times):
            call()

    times = repeats_for(often, SAMPLE_S, clock)
    return Racer(result, partial(often, times), DOCUMENTS * times, meter, clock)


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


def _is_right(query: Tensor, documents: TokenEmbeddings) -> bool:
    expected = _scores(query, documents, backend="reference")
    tolerance = 1e-3 * float(expected.abs().max())
    return torch.allclose(_scores(query, documents), expected, rtol=0, atol=tolerance)


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
