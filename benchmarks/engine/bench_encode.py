"""`packrank encode` against the encoder alone: what reading, quantizing and writing add.

The shipped sample, or scifact where there is --data; the default model; int8, the command's own
choice. The encoder alone gets all texts at once.
"""

import itertools
import json
import shutil
from pathlib import Path

import pytest
from tqdm import tqdm

from packrank import LateInteraction, ModelError, Store
from packrank.demo import default_model
from packrank.demo.report import Sample
from packrank.jobs.documents import Documents
from packrank.jobs.encode import encode_file

COUNT = 512  # of scifact's documents, evenly over its file
ROUNDS = 5


@pytest.fixture(scope="module")
def texts(data_dir: Path | None) -> list[str]:
    if data_dir is None:
        return Sample.load().documents
    corpus = (data_dir / "beir/scifact/corpus.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in corpus[:: len(corpus) // COUNT][:COUNT]]
    return [f"{record['title']} {record['text']}".strip() for record in records]


@pytest.fixture(scope="module")
def model() -> LateInteraction:
    try:
        return LateInteraction(default_model())
    except ModelError as error:
        pytest.skip(str(error))


def bench_encode(race, tmp_path, model, texts):
    source = tmp_path / "documents.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    identity, targets = model.identity, itertools.count()
    documents = Documents(str(source))

    def command() -> Path:
        target = tmp_path / str(next(targets))
        with tqdm(disable=True) as bar:
            encode_file(model, identity, documents, target, bar)
        return target

    def write_and_remove() -> None:
        shutil.rmtree(command())

    store = Store.open(command())
    vectors = model.encode_documents(texts)
    assert len(store) == len(texts)
    assert store.num_tokens == sum(map(len, vectors))
    where = "scifact" if len(texts) == COUNT else "the shipped sample"
    case = f"{len(texts)} documents of {where}, {store.num_tokens} tokens, to {store.format}"
    race(
        "encode",
        case,
        {"packrank": write_and_remove, "encoder alone": lambda: model.encode_documents(texts)},
        len(texts),
        "documents",
        rounds=ROUNDS,
    )
