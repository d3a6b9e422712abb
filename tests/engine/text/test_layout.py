"""Layout and truncation: the `tokenizers` library's own pair encoding is the oracle throughout."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers, processors

from packrank.errors import InputError, ModelError
from packrank.request import Sequence
from packrank.text.tokenizer import Tokenizer
from packrank.text.truncation import Truncation

# Of dozens of lengths each; all of them in the long form.
SOME = settings.default.max_examples if settings.default.max_examples > 100 else 33
ALPHABET = "abcdé ▁\n.,!漢🦙\u0301\u200d"
TEXTS = st.text(ALPHABET, max_size=20)
STRATEGIES: tuple[Truncation, ...] = ("longest_first", "only_second")


def wordpiece() -> tokenizers.Tokenizer:
    """BERT's layout: [CLS] A [SEP] B [SEP], token types 0 and 1."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "##a", "##b", "ab", "."]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.add_special_tokens(pieces[:5])
    return backend


def byte_bpe(post_processor: object) -> tokenizers.Tokenizer:
    """Byte-level BPE with two merges, ids from 4 up."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocab = {piece: i for i, piece in enumerate([*pieces, "ab", "Ġa"])}
    backend = tokenizers.Tokenizer(models.BPE(vocab, [("a", "b"), ("Ġ", "a")], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = post_processor
    return backend


def roberta() -> tokenizers.Tokenizer:
    """RoBERTa's layout: <s> A </s></s> B </s>."""
    return byte_bpe(processors.RobertaProcessing(("</s>", 2), ("<s>", 0)))


def without_template() -> tokenizers.Tokenizer:
    """A decoder's tokenizer: A B, nothing between."""
    return byte_bpe(processors.ByteLevel(trim_offsets=False))


def sequence() -> tokenizers.Tokenizer:
    """A post-processor in two steps, the second of which lays out."""
    template = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B:1 </s>:1",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return byte_bpe(processors.Sequence([processors.ByteLevel(trim_offsets=True), template]))


def unigram() -> tokenizers.Tokenizer:
    """XLM-R's layout, and a token type 2 on special tokens as in XLNet."""
    pieces = [("<s>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -2.0), ("a", -2.5), ("▁ab", -3.0)]
    backend = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=2))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s>:2 $A </s>",
        pair="<s>:2 $A </s> </s>:1 $B:1 </s>:2",
        special_tokens=[("<s>", 0), ("</s>", 1)],
    )
    return backend


def document_first() -> tokenizers.Tokenizer:
    """The second text stands before the first."""
    template = processors.TemplateProcessing(
        single="$A </s>", pair="$B:1 </s> $A", special_tokens=[("</s>", 2)]
    )
    return byte_bpe(template)


BUILDERS = (wordpiece, roberta, without_template, sequence, unigram, document_first)
OURS = {build: Tokenizer(build()) for build in BUILDERS}
ORACLES = {build: build() for build in BUILDERS}
Builder = Callable[[], tokenizers.Tokenizer]


def expected(oracle: tokenizers.Tokenizer, *texts: str) -> tuple[list[int], list[int]]:
    encoding = oracle.encode(*texts)
    return encoding.ids, encoding.type_ids


def found(laid_out: Sequence) -> tuple[list[int], list[int]]:
    assert laid_out.token_ids.dtype == laid_out.token_types.dtype == np.int32
    return laid_out.token_ids.tolist(), laid_out.token_types.tolist()


def check_every_length(
    ours: Tokenizer, oracle: tokenizers.Tokenizer, texts: tuple[str, ...], side: str = "right"
) -> None:
    """One or two texts at every max_length from their special tokens alone to one too many.

    Where the oracle refuses only_second, or empties the query for it, ours is an InputError.
    """
    ids = ours.encode(texts)
    oracle.no_truncation()
    full = len(oracle.encode(*texts).ids)
    special = oracle.num_special_tokens_to_add(len(texts) == 2)
    for max_length in range(special, full + 2):
        for truncation in STRATEGIES[: len(texts)]:
            oracle.enable_truncation(max_length, strategy=truncation, direction=side)
            filled = max_length < full and max_length - special <= len(ids[0])
            if truncation == "only_second" and filled:
                with pytest.raises(InputError, match=rf"the query alone has {len(ids[0])} tokens"):
                    ours.pair(*ids, max_length, truncation)
            elif len(texts) == 2:
                laid_out = ours.pair(*ids, max_length, truncation)
                assert found(laid_out) == expected(oracle, *texts), (max_length, truncation)
            else:
                laid_out = ours.single(ids[0], max_length, truncation)
                assert found(laid_out) == expected(oracle, *texts), max_length
    oracle.no_truncation()


@pytest.mark.parametrize("build", BUILDERS)
@settings(max_examples=SOME)
@given(query=TEXTS, document=TEXTS)
def test_pairs_equal_the_library_at_every_length(build: Builder, query: str, document: str) -> None:
    check_every_length(OURS[build], ORACLES[build], (query, document))


@pytest.mark.parametrize("build", BUILDERS)
@given(text=TEXTS)
def test_singles_equal_the_library_at_every_length(build: Builder, text: str) -> None:
    check_every_length(OURS[build], ORACLES[build], (text,))


@pytest.mark.parametrize("build", BUILDERS)
def test_left_truncation_equals_the_library(build: Builder) -> None:
    ours = Tokenizer(build(), {"truncation_side": "left"})
    check_every_length(ours, build(), ("ab a. b", "c ab ab a a b."), side="left")
    check_every_length(ours, build(), ("ab a. b c",), side="left")


def test_left_truncation_stored_in_the_file_counts_unless_the_config_says_otherwise() -> None:
    backend = wordpiece()
    backend.enable_truncation(4, direction="left")
    ids = np.array([5, 6, 7], dtype=np.int32)
    stored = Tokenizer(tokenizers.Tokenizer.from_str(backend.to_str()))
    assert stored.single(ids, 4, "longest_first").token_ids.tolist() == [2, 6, 7, 3]
    overruled = Tokenizer(backend, {"truncation_side": "right"})
    assert overruled.single(ids, 4, "longest_first").token_ids.tolist() == [2, 5, 6, 3]


def test_an_unknown_truncation_side_is_refused() -> None:
    with pytest.raises(ModelError, match="truncation_side is 'middle', expected 'left' or 'right'"):
        Tokenizer(wordpiece(), {"truncation_side": "middle"})


@pytest.mark.parametrize(
    ("build", "ids", "types"),
    [
        (wordpiece, [2, 3, 3], [0, 0, 1]),
        (roberta, [0, 2, 2, 2], [0, 0, 0, 0]),
        (without_template, [], []),
        (sequence, [0, 2, 2], [0, 0, 1]),
        (unigram, [0, 1, 1, 1], [2, 0, 1, 2]),
    ],
)
def test_an_empty_pair_keeps_the_layout_of_a_pair(
    build: Builder, ids: list[int], types: list[int]
) -> None:
    empty = np.array([], dtype=np.int32)
    assert found(OURS[build].pair(empty, empty, None, "off")) == (ids, types)
    assert OURS[build].num_special_tokens(pair=True) == len(ids)


def test_truncation_and_padding_stored_in_the_file_are_switched_off() -> None:
    backend = wordpiece()
    backend.enable_truncation(4)
    backend.enable_padding(length=32)
    ours = Tokenizer(backend)
    (ids,) = ours.encode(["a b c a b c"])
    assert ids.tolist() == [5, 6, 7, 5, 6, 7]
    assert found(ours.pair(ids, ids, None, "off")) == expected(wordpiece(), *["a b c a b c"] * 2)


@pytest.mark.parametrize(
    ("names", "types"),
    [
        (["input_ids", "attention_mask"], [0, 0, 0, 0, 0]),
        (["input_ids", "token_type_ids", "attention_mask"], [0, 0, 0, 1, 1]),
        (None, [0, 0, 0, 1, 1]),
    ],
)
def test_token_types_are_zero_where_the_model_is_given_none(
    names: list[str] | None, types: list[int]
) -> None:
    ours = Tokenizer(wordpiece(), {"model_input_names": names})
    laid_out = ours.pair(*ours.encode(["a", "b"]), None, "off")
    assert found(laid_out) == ([2, 5, 3, 6, 3], types)


def test_a_pair_over_the_limit_with_truncation_off_gives_both_lengths() -> None:
    ids = np.array([5, 6, 7], dtype=np.int32)
    assert len(OURS[wordpiece].pair(ids, ids, 9, "off").token_ids) == 9
    with pytest.raises(InputError, match="the pair has 9 tokens, more than max_length 8"):
        OURS[wordpiece].pair(ids, ids, 8, "off")
    with pytest.raises(InputError, match="the text has 5 tokens, more than max_length 4"):
        OURS[wordpiece].single(ids, 4, "off")


@pytest.mark.parametrize("truncation", ["longest_first", "only_second", "off"])
def test_a_limit_below_the_special_tokens_is_refused(truncation: Truncation) -> None:
    ids = np.array([5], dtype=np.int32)
    with pytest.raises(InputError, match="max_length is 2, but a pair has 3 special tokens"):
        OURS[wordpiece].pair(ids, ids, 2, truncation)


def test_an_unknown_truncation_is_refused() -> None:
    ids = np.array([5], dtype=np.int32)
    with pytest.raises(InputError, match="truncation is 'both', expected one of 'longest_first', "):
        OURS[wordpiece].pair(ids, ids, 4, "both")  # type: ignore[arg-type]


@pytest.mark.parametrize("pair", ["$A $A $B", "$A $B $A", "$B:1 $A:0 $A:1"])
def test_a_layout_with_a_text_in_two_places_is_refused(pair: str) -> None:
    backend = wordpiece()
    backend.post_processor = processors.TemplateProcessing("$A", pair, [])
    tokenizer = Tokenizer(backend)
    assert tokenizer.num_special_tokens(pair=False) == 0
    with pytest.raises(ModelError, match="puts a text in several places"):
        tokenizer.num_special_tokens(pair=True)


@pytest.mark.parametrize("left", ["A", "B"])
def test_a_pair_that_leaves_out_a_text_is_refused(left: str) -> None:
    """As files have it; every document, or every query, would have one score."""
    content = json.loads(wordpiece().to_str())
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": left, "type_id": 0}}],
        "special_tokens": {},
    }
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(content)))
    ids = np.array([5], dtype=np.int32)
    assert tokenizer.single(ids, None, "off").token_ids.tolist() == [5]
    for ask in (
        lambda: tokenizer.num_special_tokens(pair=True),
        lambda: tokenizer.pair(ids, ids, None, "off"),
    ):
        with pytest.raises(ModelError, match="leaves out a text, on which no score would"):
            ask()


REAL = ("bert-uncased", "xlm-roberta", "qwen2", "modernbert")


@pytest.fixture(scope="module")
def real(data_dir: Path) -> Callable[[str], tuple[Tokenizer, tokenizers.Tokenizer]]:
    """Ours and the oracle by name, loaded once."""
    loaded: dict[str, tuple[Tokenizer, tokenizers.Tokenizer]] = {}

    def load(name: str) -> tuple[Tokenizer, tokenizers.Tokenizer]:
        if name not in loaded:
            folder = data_dir / "tokenizers" / name
            oracle = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            ours = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            loaded[name] = Tokenizer(ours), oracle
        return loaded[name]

    return load


Awkward = Callable[[str], list[str]]
Real = Callable[[str], tuple[Tokenizer, tokenizers.Tokenizer]]


@pytest.mark.parametrize("name", REAL)
def test_awkward_singles_equal_the_library(
    awkward_strings: Awkward, real: Real, name: str, thorough: bool
) -> None:
    for text in awkward_strings("qwen2"):
        if thorough or len(text) < 200:
            check_every_length(*real(name), (text,))


@pytest.mark.parametrize("name", REAL)
def test_awkward_pairs_equal_the_library(awkward_strings: Awkward, real: Real, name: str) -> None:
    ours, oracle = real(name)
    texts = awkward_strings("qwen2")
    for query in texts:
        for document in texts:
            laid_out = ours.pair(*ours.encode([query, document]), None, "off")
            assert found(laid_out) == expected(oracle, query, document)


@pytest.mark.parametrize("name", REAL)
def test_awkward_pairs_equal_the_library_at_every_length(
    awkward_strings: Awkward, real: Real, name: str
) -> None:
    texts = awkward_strings("qwen2")
    for query, document in zip(texts, texts[7:] + texts[:7], strict=True):
        check_every_length(*real(name), (query, document))
