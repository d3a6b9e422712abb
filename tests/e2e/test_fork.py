"""After a fork everything works, with the same bits: torch's threads do not survive one."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from packrank import LateInteraction, Reranker, Store, maxsim, set_num_threads
from packrank.commands.cli import main
from packrank_kernels import TokenEmbeddings, get_num_threads

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

# Enough short pairs for packs of thousands of tokens, which torch's operations share out.
WORDS = "red blue fox owl"
DOCUMENTS = [f"{a} {b} fox owl " * 8 for a in WORDS.split() for b in WORDS.split()] * 8
PAIRS = [("red fox", document) for document in DOCUMENTS]


@pytest.fixture(autouse=True)
def threads(restored_threads: None) -> Iterator[None]:
    """Two, of which torch's have been started."""
    set_num_threads(2)
    assert torch.ones(1 << 20).add(1).sum() == 1 << 21
    yield


def same_in_child(compute: Callable[[], Any]) -> bool:
    """Whether a forked child computes what this process does; False where it never answers."""
    expected = compute()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(60)  # a child that waits for its parent's threads waits for ever
            status = 0 if get_num_threads() == 2 and equal(compute(), expected) else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def equal(found: Any, expected: Any) -> bool:
    if isinstance(expected, list | tuple):
        pairs = zip(found, expected, strict=True)
        return len(found) == len(expected) and all(equal(a, b) for a, b in pairs)
    if isinstance(expected, torch.Tensor):
        return torch.equal(found, expected)
    return bool(np.array_equal(found, expected))


@pytest.mark.parametrize("name", ["Bert", "Electra", "DistilBert", "ModernBert"])
def test_a_cross_encoder(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path: Path,
    name: str,
) -> None:
    shutil.copytree(checkpoint(name, num_labels=1), tmp_path / "model")
    save_tokenizer(tmp_path / "model", WORDS)
    loaded = Reranker(tmp_path / "model", device="cpu")
    assert same_in_child(lambda: loaded.score(PAIRS))
    assert same_in_child(lambda: Reranker(tmp_path / "model", device="cpu").score(PAIRS))


@pytest.mark.parametrize("name", ["qwen3", "bge-gemma", "bge-minicpm-layerwise", "logit-score"])
def test_a_decoder(reranker_case: Callable[[str], Any], name: str) -> None:
    loaded = reranker_case(name).open()
    few = DOCUMENTS[:32]
    assert same_in_child(lambda: [row.score for row in loaded.rank("red fox", few)])
    assert same_in_child(lambda: reranker_case(name).open().score(PAIRS[:8]))


def test_late_interaction(
    checkpoint: Callable[..., Path], save_tokenizer: Callable[..., None], tmp_path: Path
) -> None:
    folder, path = tmp_path / "model", tmp_path / "store"
    shutil.copytree(checkpoint("Bert", "Model"), folder)
    save_tokenizer(folder, WORDS)
    loaded = LateInteraction(folder, device="cpu")
    ids = [str(place) for place in range(len(DOCUMENTS))]
    loaded.encode_documents(DOCUMENTS, path, ids)
    stored = LateInteraction(folder, store=path, device="cpu")
    queries = loaded.encode_queries(["red fox", "owl"])
    for compute in (
        lambda: loaded.encode_documents(DOCUMENTS),
        lambda: loaded.score(PAIRS),
        lambda: [row.score for row in stored.rank("red fox")],
        lambda: maxsim(queries, Store.open(path)),
        lambda: maxsim(queries, stored.store),
        lambda: LateInteraction(folder, device="cpu").encode_queries(["red fox"]),
        lambda: [match.score for match in loaded.explain("red fox", "red owl").matches],
    ):
        assert same_in_child(compute)


@pytest.mark.parametrize("format", ["float32", "float16", "bfloat16", "int8"])
def test_token_embeddings(format: str) -> None:
    documents = torch.split(torch.randn(60_000, 64), 100)
    query = torch.randn(40, 64)

    def compute() -> Any:
        return maxsim(query, TokenEmbeddings.encode(documents, format))

    assert same_in_child(compute)


def test_the_commands(
    checkpoint: Callable[..., Path], save_tokenizer: Callable[..., None], tmp_path: Path
) -> None:
    folder, texts = tmp_path / "model", tmp_path / "texts.txt"
    shutil.copytree(checkpoint("Bert", "Model"), folder)
    save_tokenizer(folder, WORDS)
    texts.write_text("\n".join(DOCUMENTS))
    made = iter(range(9))

    def compute() -> Any:
        store = tmp_path / f"{os.getpid()}-{next(made)}"
        assert main(["encode", str(folder), str(texts), str(store), "--quiet"]) == 0
        return [(store / "values.bin").read_bytes()]

    assert same_in_child(compute)


def test_a_child_may_set_its_threads() -> None:
    query, documents = torch.randn(40, 64), [torch.randn(3000, 64)] * 8

    def compute() -> Any:
        before = get_num_threads()
        set_num_threads(1)
        one = maxsim(query, TokenEmbeddings.encode(documents, "int8"))
        set_num_threads(before)
        return [one, maxsim(query, TokenEmbeddings.encode(documents, "int8"))]

    assert same_in_child(compute)
