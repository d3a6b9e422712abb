"""Tables that other libraries write are scored, and what is written they read."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import duckdb
import ir_measures
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from ir_measures import nDCG
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.util import mine_hard_negatives
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from packrank import Job, Reranker

WORDS = ["red", "blue", "fox", "owl", "dog", "snake", "sea", "sun"]
ROWS = {
    "query": ["red fox", "blue owl", "red fox"],
    "document": ["fox", "owl in the sea", "sun"],
    "n": [1, 2, 3],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small cross-encoder."""
    torch.manual_seed(0)
    target = tmp_path_factory.mktemp("model") / "bert"
    vocab = {t: i for i, t in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    backend = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    tokenizer = transformers.BertTokenizerFast(tokenizer_object=backend, **names)
    config = transformers.BertConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        num_labels=1,
        initializer_range=0.6,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


@pytest.fixture(scope="module")
def reranker(folder: Path) -> Reranker:
    return Reranker(folder, device="cpu")


@pytest.fixture
def want(reranker: Reranker) -> list[float]:
    found: list[float] = reranker.score(
        list(zip(ROWS["query"], ROWS["document"], strict=True))
    ).tolist()
    return found


def polars_lists(path: Path) -> None:
    pl.DataFrame({"query": ["red fox"], "documents": [["fox", "sun"]]}).write_parquet(path)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "pandas.parquet": lambda path: pd.DataFrame(ROWS).to_parquet(path),
    "pandas.feather": lambda path: pd.DataFrame(ROWS).to_feather(path),
    "pandas.jsonl": lambda path: pd.DataFrame(ROWS).to_json(path, orient="records", lines=True),
    "pandas.csv": lambda path: pd.DataFrame(ROWS).to_csv(path, index=False),
    "polars.parquet": lambda path: pl.DataFrame(ROWS).write_parquet(path),
    "polars.arrow": lambda path: pl.DataFrame(ROWS).write_ipc(path, compression="zstd"),
    "polars.jsonl": lambda path: pl.DataFrame(ROWS).write_ndjson(path),
    "datasets.parquet": lambda path: datasets.Dataset.from_dict(ROWS).to_parquet(path),
    "datasets": lambda path: datasets.Dataset.from_dict(ROWS).save_to_disk(path),
    "duckdb.parquet": lambda path: duckdb.from_arrow(pa.table(ROWS)).write_parquet(str(path)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_a_library_writes_is_scored(
    reranker: Reranker, tmp_path: Path, want: list[float], name: str
) -> None:
    WRITERS[name](tmp_path / name)
    summary = Job(reranker, tmp_path / name, tmp_path / "o.parquet").run()
    assert summary.rows == 3 and not summary.failed
    found = pq.read_table(tmp_path / "o.parquet")
    assert found["score"].to_pylist() == want
    assert found["n"].cast(pa.int64()).to_pylist() == ROWS["n"]


def test_what_is_written_is_read(reranker: Reranker, tmp_path: Path, want: list[float]) -> None:
    pq.write_table(pa.table(ROWS), tmp_path / "in.parquet")
    out = tmp_path / "out"
    Job(reranker, tmp_path / "in.parquet", f"{out}/", output_format="parquet").run()
    score = np.array(want, np.float32)
    assert np.array_equal(pd.read_parquet(out)["score"].to_numpy(), score)
    assert np.array_equal(pl.read_parquet(out / "*.parquet")["score"].to_numpy(), score)
    read = duckdb.sql(f"select score from '{out}/*.parquet'").fetchnumpy()["score"]
    assert np.array_equal(read, score)
    loaded = datasets.load_dataset("parquet", data_files=f"{out}/*.parquet", split="train")
    assert np.array_equal(np.array(loaded["score"], np.float32), score)


def test_tables_in_memory(reranker: Reranker, want: list[float]) -> None:
    rows = datasets.Dataset.from_dict(ROWS).with_format("arrow")
    tables = [pd.DataFrame(ROWS), pl.DataFrame(ROWS), duckdb.from_arrow(pa.table(ROWS))]
    for scored in reranker.score_batches([*tables, *rows.iter(batch_size=2)][:3]):
        assert scored["score"].to_pylist() == want
    parts = list(reranker.score_batches(rows.iter(batch_size=2)))
    assert [x for part in parts for x in part["score"].to_pylist()] == want


def test_lists_of_polars(reranker: Reranker, tmp_path: Path) -> None:
    polars_lists(tmp_path / "in.parquet")
    Job(reranker, tmp_path / "in.parquet", tmp_path / "o.parquet").run()
    [found] = pl.read_parquet(tmp_path / "o.parquet")["scores"].to_list()
    assert found == reranker.score([("red fox", "fox"), ("red fox", "sun")]).tolist()


def test_a_run_is_measured_as_its_scores_are(reranker: Reranker, tmp_path: Path) -> None:
    """ir_measures reads the run, and its nDCG is that of the scores themselves."""
    rng = np.random.default_rng(0)
    queries = {f"q{n}": " ".join(rng.choice(WORDS, 2)) for n in range(5)}
    documents = {f"d{n}": " ".join(rng.choice(WORDS, 5)) for n in range(12)}
    for name, texts in (("queries", queries), ("documents", documents)):
        rows = [{"id": id, "text": text} for id, text in texts.items()]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = [(q, d) for q in queries for d in documents]
    first = tmp_path / "first.run"
    first.write_text("".join(f"{q} Q0 {d} 1 0 x\n" for q, d in pairs))
    Job(
        reranker,
        first,
        tmp_path / "o.run",
        queries=tmp_path / "queries.jsonl",
        documents=tmp_path / "documents.jsonl",
    ).run()
    run = list(ir_measures.read_trec_run(str(tmp_path / "o.run")))
    scores = reranker.score([(queries[q], documents[d]) for q, d in pairs]).tolist()
    assert {(r.query_id, r.doc_id): r.score for r in run} == dict(zip(pairs, scores, strict=True))
    qrels = [ir_measures.Qrel(q, d, int(rng.integers(0, 3))) for q, d in pairs]
    ours = ir_measures.calc_aggregate([nDCG @ 10], qrels, run)
    ranked = [ir_measures.ScoredDoc(q, d, s) for (q, d), s in zip(pairs, scores, strict=True)]
    assert ours == ir_measures.calc_aggregate([nDCG @ 10], qrels, ranked)


class Retriever(SentenceTransformer):
    """Finds whatever there is, in the order of a corpus, so that the cross-encoder decides."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.similarity_fn_name = "cosine"

    def encode(self, sentences: Any, **_: Any) -> np.ndarray:
        rng = np.random.default_rng(0)
        found = rng.normal(size=(len(sentences), 8)).astype(np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    encode_query = encode_document = encode

    def start_multi_process_pool(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("one process")


@pytest.mark.parametrize("margin", [{}, {"absolute_margin": 0.01}, {"relative_margin": 0.02}])
def test_mined_triplets_are_those_of_mine_hard_negatives(
    reranker: Reranker, folder: Path, tmp_path: Path, margin: dict[str, float]
) -> None:
    """By the same cross-encoder, over all candidates."""
    from packrank.jobs.mining import Mining
    from packrank.jobs.negatives import Form, Rules

    corpus = [f"{a} {b}" for a in WORDS for b in WORDS[:3]]
    queries = [f"{a} {b} {a}" for a, b in itertools.pairwise(WORDS)]
    positives = [corpus[3 * n] for n in range(len(queries))]
    given = datasets.Dataset.from_dict({"anchor": queries, "positive": positives})
    peer = CrossEncoder(str(folder), device="cpu")
    # Asked for no margin, it asks its cross-encoder only if a limit is set.
    limits = margin or {"max_score": 2.0}
    mined = mine_hard_negatives(
        given,
        Retriever(),
        corpus=corpus,
        cross_encoder=peer,
        range_max=len(corpus),
        num_negatives=3,
        sampling_strategy="top",
        output_format="triplet",
        use_faiss=False,
        verbose=False,
        **limits,
    )
    want = {(row["anchor"], row["positive"], row["negative"]) for row in mined}
    rows = [
        {"query": q, "pos": [p], "neg": [d for d in corpus if d != p]}
        for q, p in zip(queries, positives, strict=True)
    ]
    source, out = tmp_path / "in.jsonl", tmp_path / "o.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rules = Rules(3, **{k: v for k, v in limits.items() if k.endswith("margin")})
    Job(reranker, source, out, mining=Mining(rules, Form())).run()
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert {tuple(row.values()) for row in found} == want
