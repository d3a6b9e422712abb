"""Token vectors and MaxSim on the device against the CPU, and streamed against resident there."""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import packrank_kernels
from packrank import LateInteraction
from packrank.runtime.graphs import PATIENCE
from packrank.stores import streaming
from packrank_kernels import Codec, TokenEmbeddings

pytestmark = pytest.mark.gpu

QUERY = "a c b"


@pytest.fixture(scope="module")
def encoder(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """An encoder with heads of 32 that reads the words a, b and c."""
    folder = tmp_path_factory.mktemp("late") / "model"
    options = {"hidden_size": 96, "num_attention_heads": 3}
    shutil.copytree(checkpoint("Bert", "Model", **options), folder)
    save_tokenizer(folder, "a b c")
    return folder


@pytest.fixture
def texts(some_pairs: Callable[[int], list[tuple[str, str]]]) -> list[str]:
    return [document for seed in range(3) for _, document in some_pairs(seed)]


# Of unit vectors; float32 differs by the order of sums, halves by some roundings in each layer.
@pytest.mark.parametrize(
    ("dtype", "bound"), [("float32", 1e-5), ("float16", 2**-6), ("bfloat16", 2**-3)]
)
def test_vectors_and_scores(
    cuda: torch.device, encoder: Path, texts: list[str], dtype: str, bound: float
) -> None:
    exact = LateInteraction(encoder, device="cpu")
    model = LateInteraction(encoder, device="cuda", dtype=dtype)
    for ours, theirs in zip(
        model.encode_documents(texts), exact.encode_documents(texts), strict=True
    ):
        assert ours.device.type == "cuda"
        assert ours.shape == theirs.shape
        assert (ours.float().cpu() - theirs).norm(dim=1).max() <= bound
    pairs = [(QUERY, text) for text in texts]
    tokens = len(exact.encode_queries([QUERY])[0])
    difference = np.abs(model.score(pairs) - exact.score(pairs)).max()
    assert difference <= 2 * tokens * bound


def test_replays_have_the_bits_of_what_runs_as_it_is(
    cuda: torch.device, encoder: Path, texts: list[str]
) -> None:
    """Of all documents and of few, in turns, while other threads encode too."""
    model = LateInteraction(encoder, device="cuda", dtype="float16")
    graphs, sets = model._documents._runner.graphs, [texts, texts[:3], [QUERY]]
    assert graphs is not None
    eager = [model.encode_documents(some) for some in sets]
    assert graphs.num_graphs == 0
    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(
            lambda _: [model.encode_documents(some) for some in sets], range(PATIENCE + 3)
        ):
            for ours, expected in zip(found, eager, strict=True):
                assert all(map(torch.equal, ours, expected))
    assert graphs.num_graphs > 1


def test_auto_is_float16(cuda: torch.device, encoder: Path) -> None:
    assert LateInteraction(encoder, device="cuda").encode_queries(["a"])[0].dtype == torch.float16


def test_company_moves_a_vector_by_a_rounding_at_most(
    cuda: torch.device, encoder: Path, texts: list[str]
) -> None:
    together = LateInteraction(encoder, device="cuda").encode_documents(texts)
    model = LateInteraction(encoder, device="cuda", budget_tokens=1)
    for text, vectors in zip(texts, together, strict=True):
        (alone,) = model.encode_documents([text])
        assert (alone.float() - vectors.float()).norm(dim=1).max() <= 2**-6


def encoded(format: str) -> TokenEmbeddings:
    """700 documents, some empty, one of them larger than a run of the tests below."""
    lengths = np.random.default_rng(0).lognormal(3.5, 1, 700).astype(int)
    lengths[[0, 350, 699]] = 0
    lengths[77] = 5000
    x = torch.nn.functional.normalize(torch.randn(int(lengths.sum()), 128))
    codec = None
    if format in ("4bit", "2bit"):
        weights = torch.linspace(-0.1, 0.1, 2 ** int(format[0]))
        codec = Codec.of(x[:64].clone(), (weights[1:] + weights[:-1]) / 2, weights)
    return TokenEmbeddings.encode(x.split(lengths.tolist()), format, codec)


def assert_same(found: object, expected: object) -> None:
    """Bit for bit, scores or the best with their indices."""
    pairs = zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]
    for a, b in pairs:
        assert torch.equal(a.cpu(), b.cpu())


@pytest.mark.parametrize("format", ["float16", "bfloat16", "int8", "4bit", "2bit"])
@pytest.mark.parametrize("top_k", [None, 10])
def test_streamed_documents_have_the_bits_of_resident_ones(
    cuda: torch.device, monkeypatch: pytest.MonkeyPatch, format: str, top_k: int | None
) -> None:
    documents = encoded(format)
    queries = [torch.randn(rows, 128) for rows in (32, 7)]
    there = [query.to(cuda) for query in queries]
    resident = documents.to(cuda)
    monkeypatch.setattr(streaming, "RUN_BYTES", 1 << 18)
    for candidates in (None, torch.randint(0, 700, (200,))):
        on_device = None if candidates is None else candidates.to(cuda)
        expected = packrank_kernels.maxsim(there, resident, on_device, top_k)
        for _ in range(3):
            found = streaming.maxsim(queries, documents, candidates, top_k, device="cuda")
            assert_same(found, expected)
        if format in ("int8", "4bit", "2bit"):
            assert_same(found, packrank_kernels.maxsim(queries, documents, candidates, top_k))


def test_a_store_ranks_alike_on_the_device_and_streamed_to_it(
    cuda: torch.device,
    encoder: Path,
    texts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "store"
    model = LateInteraction(encoder, device="cuda")
    ids = [f"id {i}" for i in range(len(texts))]
    model.encode_documents(texts, path, ids)
    resident = LateInteraction(encoder, device="cuda", store=path)
    monkeypatch.setattr(streaming, "_free_memory", lambda device: 0)
    monkeypatch.setattr(streaming, "RUN_BYTES", 1 << 12)
    streamed = LateInteraction(encoder, device="cuda", store=path)
    on_cpu = LateInteraction(encoder, device="cpu", store=path)
    expected = resident.rank(QUERY)
    assert streamed.rank(QUERY) == expected
    some = ids[::3]
    assert streamed.rank(QUERY, candidates=some, top_k=3) == resident.rank(
        QUERY, candidates=some, top_k=3
    )
    near = {found.id: found.score for found in on_cpu.rank(QUERY)}
    assert all(abs(near[found.id] - found.score) < 0.1 for found in expected)
    for one in (resident, streamed):
        found = one.explain(QUERY, texts[4], candidate=ids[4])
        assert found.score == next(r.score for r in expected if r.id == ids[4])
