"""Files scored by jobs: what reading, writing and the journal add to the forward of the same packs.

And sentence-transformers, which reads the same Parquet file, predicts, and writes one. Start-up
stands apart: the models are loaded, and weights are not read again for a fingerprint.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from bench_cross_encoder import drawn_pool, folder, pairs, tokenizer_folder  # noqa: F401

from packrank import Job, Reranker
from packrank.commands.cli import main
from packrank.request import Pack
from packrank.runtime.runner import Pending, Runner

NUM_PAIRS = {"float32": 192, "bfloat16": 384}
FAST = 100  # times as fast a forward is pretended to be
NUM_FAST = 20_000
ROUNDS = 3
OF_FORWARD = 9  # rounds: some hundredths are looked for, and a virtual machine's noise is a tenth


@pytest.fixture
def quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fingerprint without reading the weights."""
    monkeypatch.setattr("packrank.scoring.identity.fingerprint", lambda folder: str(folder))  # noqa: F811


def job_of(model: Reranker, source: Path, output: Path, **options: Any) -> Callable[[], None]:
    """A job that begins anew at every call."""

    def run() -> None:
        output.unlink(missing_ok=True)
        Job(model, source, output, **options).run()

    return run


def packs_of(model: Reranker, run: Callable[[], None]) -> tuple[list[Pack], float]:
    """The sequences that a run submits, batch by batch; and how full their packs are.

    Of packs that are not the last of a batch.
    """
    submitted: list[Pack] = []
    original = Runner.submit

    def submit(self: Runner, sequences: Any, cutoff_layers: Any = None) -> Pending:
        submitted.append(sequences)
        return original(self, sequences, cutoff_layers)

    from packrank.runtime.scheduler import plan

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, "submit", submit)
        run()
    budget = model._runner.budget_tokens
    full = [
        pack.lengths[indices].sum() / budget
        for pack in submitted
        for indices in plan(pack.lengths, budget)[:-1]
    ]
    return submitted, float(np.mean(full)) if full else 1.0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", NUM_PAIRS)
def bench_job(race, folder, pairs, tmp_path, quick_start, dtype):  # noqa: F811
    """MiniLM-L6's shape: half of the documents repeat among queries."""
    from sentence_transformers import CrossEncoder

    path, count = folder("MiniLM-L6"), NUM_PAIRS[dtype]
    batch = pairs(count)
    documents = [document for _, document in batch]
    documents[count // 2 :] = documents[: count - count // 2]
    texts = {"query": [query for query, _ in batch], "document": documents}
    ids = {text: f"d{n}" for n, text in enumerate(dict.fromkeys(documents))}
    columns = {"document_id": [ids[text] for text in documents]}
    source, by_id, corpus = (tmp_path / f"{n}.parquet" for n in ("texts", "ids", "corpus"))
    pq.write_table(pa.table(texts), source)
    pq.write_table(pa.table({"query": texts["query"], **columns}), by_id)
    pq.write_table(pa.table({"id": [*ids.values()], "text": [*ids]}), corpus)
    tokens = tmp_path / "tokens"
    assert main(["tokenize", str(path), str(corpus), str(tokens), "--quiet"]) == 0
    ours = Reranker(path, dtype=dtype)
    peer = CrossEncoder(str(path), device="cpu", max_length=512)
    narrow = CrossEncoder(str(path), device="cpu", model_kwargs={"dtype": torch.bfloat16})
    narrow.max_length = 512

    def predict(model: CrossEncoder, output: Path) -> None:
        table = pq.read_table(source)
        rows = list(zip(table["query"].to_pylist(), table["document"].to_pylist(), strict=True))
        found = model.predict(rows, batch_size=32, show_progress_bar=False)
        pq.write_table(table.append_column("score", pa.array(found, pa.float32())), output)

    text_job = job_of(ours, source, tmp_path / "t.parquet")
    token_job = job_of(ours, by_id, tmp_path / "i.parquet", tokens=tokens)
    submitted, fill = packs_of(ours, text_job)
    assert fill >= 0.97, fill
    token_job()
    predict(peer, tmp_path / "peer.parquet")
    found, again, theirs = (
        pq.read_table(tmp_path / name)["score"].to_numpy()
        for name in ("t.parquet", "i.parquet", "peer.parquet")
    )
    assert np.array_equal(found, again)
    assert np.abs(found - theirs).max() <= (1e-5 if dtype == "float32" else 2**-6)

    def forward() -> None:
        for pack in submitted:
            ours._runner.submit(pack).result()

    length = sum(len(pack.token_ids) for pack in submitted) / count
    case = f"MiniLM-L6 {dtype}, {count} rows of Parquet, {length:.0f} tokens on average"
    contestants = {
        "packrank": text_job,
        "packrank, by a token store": token_job,
        "the forward of the same packs alone": forward,
    }
    race("jobs", case, contestants, count, "pairs", rounds=OF_FORWARD)
    contestants = {
        "packrank": text_job,
        "sentence-transformers (float32, batch 32)": lambda: predict(peer, tmp_path / "p.parquet"),
    }
    if dtype == "bfloat16":
        name = "sentence-transformers (bfloat16, batch 32)"
        contestants[name] = lambda: predict(narrow, tmp_path / "n.parquet")
    race("jobs beside a peer", case, contestants, count, "pairs", rounds=ROUNDS)


def bench_fast_forward(race, folder, tokenizer_folder, tmp_path, quick_start, monkeypatch):  # noqa: F811
    """A device that is a hundred times as fast: which stage binds then, and at what rate."""
    path = folder("MiniLM-L6")
    pool = drawn_pool(tokenizer_folder)
    batch = [(query, pool[n % len(pool)][1]) for n, (query, _) in enumerate(pool * 10)][:NUM_FAST]
    ids = {text: f"d{n}" for n, text in enumerate(dict.fromkeys(d for _, d in batch))}
    source, by_id, corpus = (tmp_path / f"{n}.parquet" for n in ("texts", "ids", "corpus"))
    queries = [f"{query} {n % 100}" for n, (query, _) in enumerate(batch)]
    pq.write_table(pa.table({"query": queries, "document": [d for _, d in batch]}), source)
    pq.write_table(pa.table({"query": queries, "document_id": [ids[d] for _, d in batch]}), by_id)
    pq.write_table(pa.table({"id": [*ids.values()], "text": [*ids]}), corpus)
    tokens = tmp_path / "tokens"
    assert main(["tokenize", str(path), str(corpus), str(tokens), "--quiet"]) == 0
    ours = Reranker(path)
    some = batch[:64]
    start = time.perf_counter()
    before = ours.num_tokens
    ours.score(some)
    seconds = (time.perf_counter() - start) / (ours.num_tokens - before) / FAST

    class Ready:
        failures: ClassVar[dict[int, str]] = {}

        def __init__(self, count: int) -> None:
            self._count = count

        def result(self) -> np.ndarray:
            return np.zeros((self._count, 1), dtype=np.float32)

    def submit(self: Runner, sequences: Pack, cutoff_layers: Any = None) -> Any:
        time.sleep(len(sequences.token_ids) * seconds)
        return Ready(len(sequences))

    monkeypatch.setattr(Runner, "submit", submit)
    summaries: dict[str, Any] = {}

    def job(name: str, given: Path, **options: Any) -> Callable[[], None]:
        def run() -> None:
            output = tmp_path / f"{name}.parquet"
            output.unlink(missing_ok=True)
            summaries[name] = Job(ours, given, output, **options).run()

        return run

    job("text", source)()
    length = summaries["text"].tokens / NUM_FAST
    contestants = {
        "packrank": job("text", source),
        "packrank, by a token store": job("tokens", by_id, tokens=tokens),
        "the pretended forward alone": lambda: time.sleep(NUM_FAST * length * seconds),
    }
    case = f"a forward of {1 / (length * seconds):,.0f} pairs/s, {length:.0f} tokens on average"
    race("jobs beside a fast device", case, contestants, NUM_FAST, "pairs", rounds=3)
    for name, summary in summaries.items():
        spent = {k: round(v / summary.seconds, 2) for k, v in vars(summary.stages).items()}
        print(f"\n{name}: shares of {summary.seconds:.1f} s {spent}")
