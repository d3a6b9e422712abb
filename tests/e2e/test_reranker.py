"""Reranker over a small BERT of random weights: texts in, scores out, transformers as oracle."""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from packrank import Reranker

SomePairs = Callable[[int], list[tuple[str, str]]]


@pytest.fixture(scope="module")
def tiny_bert(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of random weights that reads words of a, b, c, d and e."""
    folder = tmp_path_factory.mktemp("tiny_bert")
    shutil.copytree(checkpoint("Bert", num_labels=1), folder, dirs_exist_ok=True)
    letters = "abcde"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{x}" for x in letters)]
    (folder / "vocab.txt").write_text(
        "\n".join([*pieces, *(x + y for x in letters for y in "abc")])
    )
    return folder


REAL_PAIRS = [
    ("a bc", "de abc e"),
    ("", "a"),
    ("abcde", ""),
    ("unknown words", "a"),
    ("a b", "e d c b a " * 12),
    ("ab " * 30, "cb " * 30),
]


def oracle_scores(folder: Path, max_length: int) -> np.ndarray:
    """transformers, one pair at a time, logits through a float64 sigmoid."""
    from transformers import AutoModelForSequenceClassification, BertTokenizer

    tokenizer = BertTokenizer.from_pretrained(str(folder)).backend_tokenizer
    tokenizer.enable_truncation(max_length)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    logits = []
    for query, document in REAL_PAIRS:
        encoding = tokenizer.encode(query, document)
        ids, types = torch.tensor([encoding.ids]), torch.tensor([encoding.type_ids])
        with torch.no_grad():
            logits.append(model(input_ids=ids, token_type_ids=types).logits[0, 0].item())
    return 1 / (1 + np.exp(-np.array(logits)))


@pytest.mark.parametrize("max_length", [40, 17])
def test_a_real_model_equals_transformers(tiny_bert: Path, max_length: int) -> None:
    scores = Reranker(tiny_bert, max_length=max_length).score(REAL_PAIRS)
    expected = oracle_scores(tiny_bert, max_length)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_rank_and_score_agree_to_the_bit(tiny_bert: Path) -> None:
    model = Reranker(tiny_bert)
    documents = [document for _, document in REAL_PAIRS]
    scores = model.score([("ab c", document) for document in documents])
    ranked = model.rank("ab c", documents)
    assert [r.score for r in ranked] == [float(scores[r.index]) for r in ranked]
    assert sorted(r.index for r in ranked) == list(range(len(documents)))


@pytest.mark.parametrize("budget", [1, 41, 10_000])
def test_scores_have_the_same_bits_in_any_company(
    tiny_bert: Path, budget: int, some_pairs: SomePairs
) -> None:
    given = [*REAL_PAIRS, *some_pairs(0)]
    together = Reranker(tiny_bert, budget_tokens=budget).score(given[::-1])[::-1]
    model = Reranker(tiny_bert)
    alone = [model.score([pair])[0] for pair in given]
    np.testing.assert_array_equal(together, alone)


def test_threads_may_share_a_real_model(tiny_bert: Path, some_pairs: SomePairs) -> None:
    model = Reranker(tiny_bert)
    alone = [model.score(some_pairs(seed)) for seed in range(16)]
    with ThreadPoolExecutor(8) as pool:
        together = pool.map(lambda seed: model.score(some_pairs(seed)), range(16))
        for scores, expected in zip(together, alone, strict=True):
            np.testing.assert_array_equal(scores, expected)


def test_a_tokenizer_that_knows_more_tokens_than_the_model_loads(
    tiny_bert: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_bert, tmp_path, dirs_exist_ok=True)
    with (tmp_path / "vocab.txt").open("a") as file:
        file.write("".join(f"\nz{i}" for i in range(100)))
    scores, failures = Reranker(tmp_path).try_score([("a", "b"), ("a", "z99")])
    assert np.isfinite(scores[0])
    assert "the model knows 97" in failures[1]
