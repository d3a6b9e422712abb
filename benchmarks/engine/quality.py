"""nDCG@10 of BM25, and of the default model over BM25's candidates, on public test collections.

    python benchmarks/engine/quality.py --data FOLDER [--formats] [--dominant SHARE] [--json FILE]

FOLDER/beir/SET holds corpus.jsonl (_id, title, text), queries.jsonl (_id, text), qrels.tsv (query,
document, grade) and bm25.top100.tsv (query, document, rank, score): the candidates. A document is
its title and its text. Each is encoded once, however many queries it is a candidate of, so
candidates/s is pairs of query and candidate over the time of all encoding and scoring.

--formats keeps the documents as `packrank encode` does, in each format in turn, and scores what was
kept, its codecs trained as the command trains them: by the format's own scores, by `exact=True`,
and by numpy in float64 from what the store decodes to. --dominant gives one dimension of every
vector that share of its length, which tells no document from another and leaves integers little.
"""

import argparse
import datetime
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from packrank import (
    LateInteraction,
    PackrankError,
    Store,
    __version__,
    get_num_threads,
    set_num_threads,
)
from packrank.demo import default_model
from packrank.demo.metrics import Qrels, ndcg, read_qrels
from packrank.jobs.documents import Documents
from packrank.jobs.encode import encode_file
from packrank.late.identity import Identity
from packrank_kernels import FORMATS, maxsim

SETS = ("adi", "cranfield", "medline", "scifact", "cosqa")


@dataclass(frozen=True)
class Collection:
    """A test collection.

    Attributes:
        documents: id -> text, of those that are candidates.
        queries: id -> text.
        candidates: query id -> document ids in the order of BM25.
        qrels: query id -> document id -> grade.
    """

    documents: dict[str, str]
    queries: dict[str, str]
    candidates: dict[str, list[str]]
    qrels: Qrels

    @classmethod
    def load(cls, folder: Path) -> "Collection":
        candidates: dict[str, list[str]] = {}
        for line in (folder / "bm25.top100.tsv").read_text(encoding="utf-8").splitlines():
            query_id, document_id, *_ = line.split("\t")
            candidates.setdefault(query_id, []).append(document_id)
        wanted = {document_id for ids in candidates.values() for document_id in ids}
        return cls(
            documents={
                record["_id"]: f"{record['title']} {record['text']}".strip()
                for record in _read_jsonl(folder / "corpus.jsonl")
                if record["_id"] in wanted
            },
            queries={r["_id"]: r["text"] for r in _read_jsonl(folder / "queries.jsonl")},
            candidates=candidates,
            qrels=read_qrels(folder / "qrels.tsv"),
        )


@dataclass(frozen=True)
class Row:
    """What one collection came to, in one format; means are over the judged queries.

    `exact` is by exact=True, `decoded` in float64 from decoded vectors; of stored ones only.
    """

    name: str
    format: str
    bytes_per_token: float
    queries: int
    documents: int
    candidates: int
    tokens: int
    seconds: float
    bm25: float
    reranked: float
    exact: float | None = None
    decoded: float | None = None


CPU = torch.device("cpu")


@dataclass(frozen=True)
class Encoded:
    """Vectors of texts; stands for the model that made them where they are stored.

    Attributes:
        size: D.
        vectors: text -> [L, D].
        device: where they are.
        document_length: no text is cut here.
    """

    size: int
    vectors: dict[str, Tensor]
    device: torch.device = CPU
    document_length: int = 1 << 20

    def try_encode_documents(
        self, texts: list[str], cut: set[str] | None = None
    ) -> tuple[list[Tensor], dict[int, str]]:
        return [self.vectors[text] for text in texts], {}


Score = Callable[[Tensor, list[str]], NDArray[np.floating]]


def measure(
    model: LateInteraction, name: str, collection: Collection, formats: list[str], share: float
) -> Iterator[Row]:
    """A row for each format; without, one for the model's own vectors."""
    start, first_token = time.perf_counter(), model.num_tokens
    texts, asked = list(collection.documents.values()), list(collection.candidates)
    vectors = model.encode_documents(texts)
    queries = model.encode_queries([collection.queries[query_id] for query_id in asked])
    if share:
        vectors, queries = dominated(vectors, share), dominated(queries, share)
        name = f"{name}, one dimension {share:g}"
    encoded = Encoded(model.size, dict(zip(texts, vectors, strict=True)))
    encoding = time.perf_counter() - start
    for format in formats or [""]:
        start, others = time.perf_counter(), {}
        with tempfile.TemporaryDirectory() as folder:
            if format:
                store = stored(encoded, model.identity, collection.documents, format, Path(folder))
                kept, bytes_per_token = format, store.embeddings.bytes_per_token
                score = partial(by_store, store)
            else:
                kept = str(queries[0].dtype).removeprefix("torch.")
                bytes_per_token = float(model.size * queries[0].itemsize)
                score = partial(by_model, model, encoded, collection.documents)
            by_id = dict(zip(asked, queries, strict=True))
            reranked = rank(collection, by_id, score)
            seconds = encoding + time.perf_counter() - start
            if format:
                for kind in ("exact", "decoded"):
                    ranked = rank(collection, by_id, partial(SCORES[kind], store))
                    others[kind] = _mean_ndcg(ranked, collection.qrels)
            del score
        yield Row(
            name=name,
            format=kept,
            bytes_per_token=bytes_per_token,
            queries=len(collection.qrels),
            documents=len(collection.documents),
            candidates=sum(map(len, collection.candidates.values())),
            tokens=model.num_tokens - first_token,
            seconds=seconds,
            bm25=_mean_ndcg(collection.candidates, collection.qrels),
            reranked=_mean_ndcg(reranked, collection.qrels),
            **others,
        )


def dominated(vectors: list[Tensor], share: float) -> list[Tensor]:
    """Unit vectors whose first dimension is a share of their length."""
    found = []
    for x in vectors:
        rest = x.clone()
        rest[:, 0] = 0.0
        rest *= (1 - share**2) ** 0.5 / rest.norm(dim=1, keepdim=True).clamp_min(1e-12)
        rest[:, 0] = share
        found.append(rest)
    return found


def rank(collection: Collection, queries: dict[str, Tensor], score: Score) -> dict[str, list[str]]:
    """Each query's candidates, best first; equal scores in the order of BM25."""
    reranked = {}
    for query_id, ids in collection.candidates.items():
        scores = score(queries[query_id], ids)
        reranked[query_id] = [ids[i] for i in np.argsort(-scores, kind="stable")]
    return reranked


def by_model(
    model: LateInteraction, encoded: Encoded, documents: dict[str, str], query: Tensor,
    ids: list[str],
) -> NDArray[np.float32]:  # fmt: skip
    return model.similarity(query, [encoded.vectors[documents[id]] for id in ids])


def by_store(store: Store, query: Tensor, ids: list[str]) -> NDArray[np.float32]:
    scores = maxsim(query.cpu(), store.embeddings, store.indices(ids))
    assert isinstance(scores, Tensor)
    return scores.numpy()


def by_exact(store: Store, query: Tensor, ids: list[str]) -> NDArray[np.float32]:
    scores = maxsim(query.cpu(), store.embeddings, store.indices(ids), exact=True)
    assert isinstance(scores, Tensor)
    return scores.numpy()


def by_decoded(store: Store, query: Tensor, ids: list[str]) -> NDArray[np.float64]:
    wide = query.cpu().double().numpy()
    scores = np.full(len(ids), -np.inf)
    for place, document in enumerate(store.indices(ids).tolist()):
        vectors = store.embeddings.decode(document).double().numpy()
        if len(vectors):
            scores[place] = (wide @ vectors.T).max(axis=1).sum()
    return scores


SCORES = {"exact": by_exact, "decoded": by_decoded}


def stored(
    encoded: Encoded, identity: Identity, documents: dict[str, str], format: str, folder: Path
) -> Store:
    """What `packrank encode --format` makes of the documents, without encoding them again."""
    source, target = folder / "documents.jsonl", folder / "store"
    with source.open("w", encoding="utf-8") as lines:
        for id, text in documents.items():
            lines.write(json.dumps({"id": id, "text": text}) + "\n")
    with tqdm(disable=True) as bar:
        done = encode_file(encoded, identity, Documents(str(source)), target, bar, format=format)
    assert not done.failures, done.failures[0]
    return Store.open(target, verify=False)


def main() -> int:
    parser = argparse.ArgumentParser(description="nDCG@10 before and after reranking.")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS, metavar="SET")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows here")
    parser.add_argument(
        "--formats",
        nargs="*",
        choices=FORMATS,
        metavar="FORMAT",
        help=f"measure stored vectors; all formats if none is named: {', '.join(FORMATS)}",
    )
    parser.add_argument("--dominant", type=float, default=0.0, metavar="SHARE")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--threads", type=int, metavar="N")
    args = parser.parse_args()
    missing = [name for name in args.sets if not (args.data / "beir" / name).is_dir()]
    if missing:
        parser.error(f"{args.data / 'beir'} has no folder {', '.join(missing)}")
    try:
        if args.threads:
            set_num_threads(args.threads)
        model = LateInteraction(default_model(), dtype=args.dtype)
    except PackrankError as error:
        parser.error(str(error))
    model.rank("warm", ["up"])
    print(
        f"{'set':<10} {'queries':>7} {'documents':>9} {'candidates':>10}  {'format':<8} "
        f"{'B/token':>7}  {'BM25':>6} {'reranked':>8} {'change':>7}  {'exact':>8} {'decoded':>8}  "
        f"{'cand./s':>8} {'tokens/s':>8}"
    )
    formats = [] if args.formats is None else args.formats or list(FORMATS)
    rows = []
    for name in args.sets:
        collection = Collection.load(args.data / "beir" / name)
        for row in measure(model, name, collection, formats, args.dominant):
            rows.append(row)
            print(
                f"{row.name:<10} {row.queries:>7} {row.documents:>9} {row.candidates:>10}  "
                f"{row.format:<8} {row.bytes_per_token:>7g}  "
                f"{row.bm25:>6.4f} {row.reranked:>8.4f} {row.reranked - row.bm25:>+7.4f}  "
                f"{'' if row.exact is None else f'{row.exact:>8.4f} {row.decoded:>8.4f}'}  "
                f"{row.candidates / row.seconds:>8,.0f} {row.tokens / row.seconds:>8,.0f}",
                flush=True,
            )
    if args.json:
        machine = {
            "packrank": __version__,
            "torch": torch.__version__,
            "processor": _processor(),
            "threads": get_num_threads(),
            "dtype": args.dtype,
            "model": "all-MiniLM-L6-v2",
            "date": datetime.date.today().isoformat(),
        }
        content = [asdict(row) | machine for row in rows]
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


def _mean_ndcg(rankings: dict[str, list[str]], qrels: Qrels) -> float:
    return fmean(ndcg(rankings.get(query_id, []), grades) for query_id, grades in qrels.items())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _read_jsonl(path: Path) -> Iterator[dict[str, str]]:
    with open(path, encoding="utf-8") as file:
        yield from map(json.loads, file)


if __name__ == "__main__":
    sys.exit(main())
