from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from packrank.arguments import check_text
from packrank.errors import InputError, ModelError
from packrank.text.tokenizer import Tokenizer, batches

Awkward = Callable[[str], list[str]]


def wordpiece() -> tokenizers.Tokenizer:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "##a", "##b", "ab", "."]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.add_special_tokens(pieces[:5])
    return backend


def pair_ids(tokenizer: Tokenizer, query: str, document: str) -> list[int]:
    return tokenizer.pair(*tokenizer.encode([query, document]), None, "off").token_ids.tolist()


def test_every_distinct_text_is_tokenized_once() -> None:
    backend = wordpiece()
    ours = Tokenizer(backend)
    seen: list[str] = []

    class Counting:
        def encode_batch_fast(self, texts: list[str], **options: bool) -> object:
            seen.extend(texts)
            return backend.encode_batch_fast(texts, **options)

    ours._backend = Counting()  # type: ignore[assignment]
    ids = ours.encode(["a", "b a", "a", "", "b a"])
    assert [x.tolist() for x in ids] == [[5], [6, 5], [5], [], [6, 5]]
    assert all(x.dtype == np.int32 for x in ids)
    assert seen == ["a", "b a", ""]


def test_more_texts_than_are_encoded_at_once_keep_their_order() -> None:
    texts = [f"{'a ' * (i % 30)}{'b ' * (i // 30)}" for i in range(2500)]
    lengths = [len(ids) for ids in Tokenizer(wordpiece()).encode(texts)]
    assert lengths == [i % 30 + i // 30 for i in range(2500)]


def test_texts_are_handed_over_in_batches_of_bounded_size() -> None:
    texts = ["a" * n for n in (1, 700_000, 299_999, 1, 2_000_000, 3, 4)]
    assert [[len(text) for text in part] for part in batches(texts, len, 3, 1_000_000)] == [
        [1, 700_000, 299_999],
        [1],
        [2_000_000],
        [3, 4],
    ]
    assert list(batches([], len, 3, 9)) == []
    assert [list(part) for part in batches(range(5), lambda i: 0, 2, 9)] == [[0, 1], [2, 3], [4]]
    backend, sizes = wordpiece(), []

    class Sizing:
        def encode_batch_fast(self, texts: list[str], **options: bool) -> object:
            sizes.append(sum(map(len, texts)))
            return backend.encode_batch_fast(texts, **options)

    ours = Tokenizer(backend)
    ours._backend = Sizing()  # type: ignore[assignment]
    ids = ours.encode([f"{'. ' * 100_000}{'a ' * n}" for n in range(12)])
    assert [len(x) for x in ids] == [100_000 + n for n in range(12)]
    assert max(sizes) <= 1_000_000 and len(sizes) == 3


def test_no_texts_give_no_ids() -> None:
    assert Tokenizer(wordpiece()).encode([]) == []


def test_a_lone_surrogate_is_refused_by_position() -> None:
    with pytest.raises(InputError, match="lone surrogate at character 2"):
        Tokenizer(wordpiece()).encode(["fine", "ab\ud800"])
    check_text("é 漢 🦙 \ufffd")


def test_special_tokens_are_those_that_the_config_names() -> None:
    named = {"pad_token": {"content": "b"}, "mask_token": "nowhere", "cls_token": None}
    ours = Tokenizer(wordpiece(), named)
    assert (ours.pad_token_id, ours.mask_token_id, ours.cls_token_id) == (6, None, None)
    assert Tokenizer(wordpiece()).sep_token_id is None
    assert (ours.token_id("ab"), ours.token_id("nowhere"), ours.vocab_size) == (10, None, 12)


@pytest.mark.parametrize(
    ("limit", "known"), [(512, 512), (128.0, 128), (int(1e30), None), (1e30, None), (None, None)]
)
def test_model_max_length(limit: float | None, known: int | None) -> None:
    assert Tokenizer(wordpiece(), {"model_max_length": limit}).model_max_length == known


def test_a_model_max_length_that_is_no_number_is_refused() -> None:
    with pytest.raises(ModelError, match="model_max_length is 'long', expected a number"):
        Tokenizer(wordpiece(), {"model_max_length": "long"})


def test_a_tokenizer_without_tokens_is_refused() -> None:
    with pytest.raises(ModelError, match="no token for any text"):
        Tokenizer(tokenizers.Tokenizer(models.BPE()))


@pytest.mark.parametrize(("name", "vocabulary"), [("bert-uncased", "bert-bge"), ("qwen2", "qwen2")])
def test_published_ids_of_awkward_strings(
    data_dir: Path, awkward_strings: Awkward, name: str, vocabulary: str
) -> None:
    texts = awkward_strings(vocabulary)
    path = data_dir / f"tokenizers/ggml-vectors/ggml-vocab-{vocabulary}.gguf.out"
    published = [[int(x) for x in line.split()] for line in path.read_text().splitlines()]
    ours = Tokenizer.from_folder(data_dir / "tokenizers" / name)
    assert [ids.tolist() for ids in ours.encode(texts)] == published
