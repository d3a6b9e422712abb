"""A tokenizer from every kind of file, and a sentence for what cannot be read."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizer_folders import write, write_family

from packrank.checkpoint.tokenizer_files import load_tokenizer
from packrank.errors import ModelError
from packrank.text.tokenizer import Tokenizer


def convert(folder: Path) -> None:
    """tokenizer.json in place of vocab.txt."""
    backend, _ = load_tokenizer(folder)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").unlink()


def pair_ids(tokenizer: Tokenizer, query: str, document: str) -> list[int]:
    return tokenizer.pair(*tokenizer.encode([query, document]), None, "off").token_ids.tolist()


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
    write(tmp_path, "config.json", {"model_type": "bert"})
    write(tmp_path, "vocab.txt", "\n".join(BERT_VOCAB))
    if source == "tokenizer.json":
        convert(tmp_path)
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
    write(tmp_path, "vocab.txt", "\n".join(BERT_VOCAB))
    convert(tmp_path)
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
    write(tmp_path, "config.json", {"model_type": "bert"})
    write(tmp_path, "vocab.txt", "\n".join(BERT_VOCAB))
    write(tmp_path, "tokenizer_config.json", config)
    from_vocab = Tokenizer.from_folder(tmp_path)
    write(tmp_path, "tokenizer_config.json", {})
    convert(tmp_path)
    write(tmp_path, "tokenizer_config.json", config)
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


def test_the_vocabulary_file_equals_the_tokenizer_file(
    data_dir: Path, awkward_strings: Callable[[str], list[str]], tmp_path: Path
) -> None:
    source = data_dir / "tokenizers/bert-uncased"
    for name in ("vocab.txt", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    texts = awkward_strings("bert-bge")
    built, saved = Tokenizer.from_folder(tmp_path), Tokenizer.from_folder(source)
    for left, right in zip(built.encode(texts), saved.encode(texts), strict=True):
        assert left.tolist() == right.tolist()


def test_tokens_beside_a_vocabulary_equal_transformers(tmp_path: Path) -> None:
    from transformers import BertTokenizer

    write(tmp_path, "vocab.txt", "\n".join(BERT_VOCAB) + "\n")
    write(tmp_path, "added_tokens.json", {"<new>": len(BERT_VOCAB), "Ab": len(BERT_VOCAB) + 1})
    write(tmp_path, "special_tokens_map.json", {"additional_special_tokens": ["[N]"]})
    ours = Tokenizer.from_folder(tmp_path)
    oracle = BertTokenizer.from_pretrained(str(tmp_path)).backend_tokenizer
    for text in ("a<new>b Ab", "[N]ab", *BERT_TEXTS):
        assert pair_ids(ours, text, "<new>") == oracle.encode(text, "<new>").ids
    assert ours.vocab_size == len(BERT_VOCAB) + 3


def test_what_a_class_of_transformers_alone_makes_is_converted(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    write_family(tmp_path, "qwen3", tokenizer_class="GPT2Tokenizer", add_prefix_space=True)
    theirs = AutoTokenizer.from_pretrained(str(tmp_path))
    ours = Tokenizer.from_folder(tmp_path)
    assert pair_ids(ours, "ab a", "b") == theirs("ab a", "b")["input_ids"]
    assert ours.special_tokens == theirs.special_tokens_map


def test_a_class_of_transformers_alone_is_refused_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    write_family(tmp_path, "qwen3", tokenizer_class="GPT2Tokenizer")
    with pytest.raises(ModelError, match="asks for a GPT2Tokenizer, and transformers, which might"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.gguf", "GGUF", "GGUF files are not read"),
        ("tokenizer.json", "version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("tokenizer.model", "no such model", "transformers cannot convert what it has"),
        ("tekken.json", "{}", "transformers cannot convert what it has"),
    ],
)
def test_files_that_are_no_tokenizer_are_refused_in_a_sentence(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    write(tmp_path, "config.json", {"model_type": "llama"})
    write(tmp_path, name, content)
    with pytest.raises(ModelError, match=message) as info:
        Tokenizer.from_folder(tmp_path)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("family", ["roberta", "llama3"])
def test_nothing_is_dropped_at_random(tmp_path: Path, family: str) -> None:
    write_family(tmp_path, family)
    content = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    content["model"]["dropout"] = 0.5
    write(tmp_path, "tokenizer.json", content)
    ours = Tokenizer.from_folder(tmp_path)
    [once] = ours.encode(["ab ab ab ab ab ab"])
    for _ in range(5):
        [again] = ours.encode(["ab ab ab ab ab ab"])
        assert again.tolist() == once.tolist()


def test_the_regular_expression_of_old_mistrals_is_refused(tmp_path: Path) -> None:
    """transformers would put another in its place."""
    write_family(tmp_path, "mistral", fix_mistral_regex=True)
    content = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    content["model"]["vocab"] |= {f"long{i}": 1000 + i for i in range(100_000)}
    content["pre_tokenizer"] = {"type": "Whitespace"}
    write(tmp_path, "tokenizer.json", content)
    write(tmp_path, "config.json", {"model_type": "mistral", "transformers_version": "5.0.0"})
    Tokenizer.from_folder(tmp_path)
    write(tmp_path, "config.json", {"model_type": "mistral", "transformers_version": "4.57.1"})
    with pytest.raises(ModelError, match="fix_mistral_regex is not supported"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt", "tokenizer.model", "vocab.json"])
def test_a_pointer_is_no_tokenizer(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\n")
    with pytest.raises(ModelError, match=rf"{name} is a Git LFS pointer.*run: git lfs pull in /"):
        Tokenizer.from_folder(tmp_path)
