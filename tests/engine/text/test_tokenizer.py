import json
import sys
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


def test_special_tokens_are_named_by_the_config_or_by_custom() -> None:
    ours = Tokenizer(wordpiece())
    assert (ours.cls_token_id, ours.sep_token_id, ours.pad_token_id) == (2, 3, 0)
    assert (ours.mask_token_id, ours.unk_token_id) == (4, 1)
    assert (ours.token_id("ab"), ours.token_id("nowhere"), ours.vocab_size) == (10, None, 12)
    named = Tokenizer(wordpiece(), {"pad_token": {"content": "b"}, "mask_token": "nowhere"})
    assert (named.pad_token_id, named.mask_token_id) == (6, None)


def test_a_token_that_only_looks_special_is_not() -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "[CLS]": 1, "<unk>": 2}, "<unk>"))
    assert Tokenizer(backend).cls_token_id is None
    backend.add_tokens(["[CLS]"])
    assert Tokenizer(backend).cls_token_id is None
    backend.add_special_tokens(["[CLS]"])
    assert Tokenizer(backend).cls_token_id == 1


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


def write(folder: Path, name: str, content: object) -> None:
    (folder / name).write_text(
        content if isinstance(content, str) else json.dumps(content), "utf-8"
    )


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no tokenizer: expected tokenizer"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("truncation_side", ["left"]),
        ("model_input_names", "token_type_ids"),
        ("model_max_length", "long"),
        ("model_max_length", True),
        ("model_max_length", float("nan")),
        ("model_max_length", 0),
        ("model_max_length", -1),
        ("max_len", [512]),
        ("tokenizer_class", ["BertTokenizer"]),
        ("tokenize_chinese_chars", "no"),
        ("strip_accents", 1),
        ("do_lower_case", "false"),
        ("cls_token", 3),
        ("sep_token", ["[SEP]"]),
        ("pad_token", {"content": 3}),
        ("mask_token", True),
        ("unk_token", {"content": ["[UNK]"]}),
    ],
)
@pytest.mark.parametrize("source", ["tokenizer.json", "vocab.txt"])
def test_every_key_of_the_wrong_type_is_named(
    tmp_path: Path, key: str, value: object, source: str
) -> None:
    if source == "vocab.txt":
        write(tmp_path, source, "\n".join(BERT_VOCAB))
    else:
        wordpiece().save(str(tmp_path / source))
    write(tmp_path, "tokenizer_config.json", {key: value})
    with pytest.raises(ModelError, match=rf"tokenizer_config\.json: {key}.* is .*, expec") as info:
        Tokenizer.from_folder(tmp_path)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("content", ["", "{", '{"version": "1.0"}'])
def test_a_broken_tokenizer_file_is_refused_by_name(tmp_path: Path, content: str) -> None:
    write(tmp_path, "tokenizer.json", content)
    with pytest.raises(
        ModelError, match=r"tokenizer\.json cannot be read as a tokenizer: "
    ) as info:
        Tokenizer.from_folder(tmp_path)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "cannot be read as JSON"), ("[]", "holds a list, expected a JSON obj")],
)
def test_a_broken_config_is_refused_by_name(tmp_path: Path, content: str, message: str) -> None:
    wordpiece().save(str(tmp_path / "tokenizer.json"))
    write(tmp_path, "tokenizer_config.json", content)
    with pytest.raises(ModelError, match=rf"tokenizer_config\.json {message}"):
        Tokenizer.from_folder(tmp_path)


BERT_CONFIGS: list[dict[str, object]] = [
    {},
    {"do_lower_case": False},
    {"do_lower_case": False, "strip_accents": True, "tokenizer_class": "BertTokenizer"},
    {"strip_accents": False, "tokenize_chinese_chars": False, "mask_token": "[M]"},
]
BERT_TEXTS = ["Ab É [SEP] a漢b", "É", "é e\u0301 ABC", "[M] [MASK]", ""]
BERT_VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[M]", *"abceéABCEÉ漢", "##b", "##漢"]


@pytest.mark.parametrize("config", BERT_CONFIGS)
def test_a_bert_vocabulary_alone_equals_transformers(
    tmp_path: Path, config: dict[str, object]
) -> None:
    from transformers import BertTokenizer

    write(tmp_path, "vocab.txt", "\n".join(BERT_VOCAB) + "\n")
    write(tmp_path, "tokenizer_config.json", config)
    ours = Tokenizer.from_folder(tmp_path)
    oracle = BertTokenizer.from_pretrained(str(tmp_path)).backend_tokenizer
    for query, document in zip(BERT_TEXTS, BERT_TEXTS[::-1], strict=True):
        assert pair_ids(ours, query, document) == oracle.encode(query, document).ids


@pytest.mark.parametrize("config", BERT_CONFIGS)
def test_the_config_overrules_the_normalizer_in_the_file(
    tmp_path: Path, config: dict[str, object]
) -> None:
    write(tmp_path, "vocab.txt", "\n".join(BERT_VOCAB))
    write(tmp_path, "tokenizer_config.json", config)
    from_vocab = Tokenizer.from_folder(tmp_path)
    write(tmp_path, "tokenizer_config.json", {})
    Tokenizer.from_folder(tmp_path)._backend.save(str(tmp_path / "tokenizer.json"))
    write(tmp_path, "tokenizer_config.json", config)
    (tmp_path / "vocab.txt").unlink()
    overruled = Tokenizer.from_folder(tmp_path)
    texts = BERT_TEXTS[:3]
    for ours, theirs in zip(overruled.encode(texts), from_vocab.encode(texts), strict=True):
        assert ours.tolist() == theirs.tolist()


def test_a_vocabulary_without_special_tokens_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "vocab.txt", "a\nb\n[SEP]")
    with pytest.raises(ModelError, match=r"is not a BERT vocabulary: it lacks \[CLS\], \[UNK\]"):
        Tokenizer.from_folder(tmp_path)


def test_a_vocabulary_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match=r"vocab\.txt cannot be read as a vocabulary"):
        Tokenizer.from_folder(tmp_path)


@pytest.fixture
def roberta_files(tmp_path: Path) -> Path:
    """A folder as RoBERTa's were before tokenizer.json."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *"abc", "Ġ", "ab", "Ġa"]
    write(tmp_path, "vocab.json", {piece: i for i, piece in enumerate(pieces)})
    write(tmp_path, "merges.txt", "#version: 0.2\na b\nĠ a\n")
    write(tmp_path, "tokenizer_config.json", {"tokenizer_class": "RobertaTokenizer"})
    write(tmp_path, "config.json", {"model_type": "roberta"})
    return tmp_path


def test_what_only_transformers_can_read_is_converted(roberta_files: Path) -> None:
    ours = Tokenizer.from_folder(roberta_files)
    assert pair_ids(ours, "ab", "c a") == [0, 8, 2, 2, 6, 9, 2]


def test_without_transformers_the_error_says_what_to_do(
    roberta_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match="transformers, which might convert what it has, is not"):
        Tokenizer.from_folder(roberta_files)


def test_what_transformers_cannot_convert_either_is_refused(roberta_files: Path) -> None:
    write(roberta_files, "vocab.json", "{")
    with pytest.raises(ModelError, match="transformers cannot convert what it has") as info:
        Tokenizer.from_folder(roberta_files)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(("name", "vocabulary"), [("bert-uncased", "bert-bge"), ("qwen2", "qwen2")])
def test_published_ids_of_awkward_strings(
    data_dir: Path, awkward_strings: Awkward, name: str, vocabulary: str
) -> None:
    texts = awkward_strings(vocabulary)
    path = data_dir / f"tokenizers/ggml-vectors/ggml-vocab-{vocabulary}.gguf.out"
    published = [[int(x) for x in line.split()] for line in path.read_text().splitlines()]
    ours = Tokenizer.from_folder(data_dir / "tokenizers" / name)
    assert [ids.tolist() for ids in ours.encode(texts)] == published


def test_the_vocabulary_file_equals_the_tokenizer_file(
    data_dir: Path, awkward_strings: Awkward, tmp_path: Path
) -> None:
    source = data_dir / "tokenizers/bert-uncased"
    for name in ("vocab.txt", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    texts = awkward_strings("bert-bge")
    built, saved = Tokenizer.from_folder(tmp_path), Tokenizer.from_folder(source)
    for left, right in zip(built.encode(texts), saved.encode(texts), strict=True):
        assert left.tolist() == right.tolist()
