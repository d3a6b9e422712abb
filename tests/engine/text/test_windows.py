"""Where windows of long documents begin and end, and how each layout puts them together."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from long_documents import halves, read, windows
from prompts import encoder, rows
from tokenizer_folders import write_family

from packrank.documents import TokenizedText
from packrank.text.pairs import PairReader, TokenizerLayout
from packrank.text.tokenizer import Tokenizer
from packrank.text.truncation import SideLimits, Truncation
from packrank.text.windows import least_window, tokens_of_windows, windows_of


def by_loop(length: int, size: int) -> list[tuple[int, int]]:
    """Where each begins, and its tokens."""
    return [(run[0], len(run)) if run else (0, 0) for run in windows(list(range(length)), size)]


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 700)), max_size=8))
def test_windows_are_those_of_the_loop(given: list[tuple[int, int]]) -> None:
    lengths, sizes = np.array(given, dtype=np.int64).reshape(-1, 2).T
    of, begins, tokens = windows_of(lengths, sizes)
    want = [(n, *one) for n, pair in enumerate(given) for one in by_loop(*pair)]
    assert list(zip(of.tolist(), begins.tolist(), tokens.tolist(), strict=True)) == want
    for length, size in given:
        whole = sum(tokens for _, tokens in by_loop(length, size))
        count = len(by_loop(length, size))
        assert tokens_of_windows(length, size, 7) == whole + 7 * count


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 319, 320, 321, 500])
def test_sizes_at_the_edges(size: int) -> None:
    """One window at its size, two from one token more to a stride more, then three."""
    stride = size - min(80, size // 4)
    counts = {length: len(by_loop(length, size)) for length in range(2 * size + 4)}
    assert counts[size] == 1 and counts[size + 1] == counts[size + stride] == 2
    assert counts[size + stride + 1] == 3
    lengths = np.array([*counts], dtype=np.int64)
    of, begins, tokens = windows_of(lengths, np.full_like(lengths, size))
    assert np.bincount(of).tolist() == [*counts.values()]
    # The last ends where the document does; nothing in between is missing.
    ends = begins + tokens
    last = np.append(of[1:] != of[:-1], True)
    assert ends[last].tolist() == lengths.tolist()
    assert (begins[1:][~last[:-1]] <= ends[:-1][~last[:-1]]).all()


TEXTS = ["", "a", "ab a. b", "a b ab abc " * 2, "c ab ab a a b. " * 3, "a b c ab ba " * 9]
PAIRS = [(query, document) for query in TEXTS for document in TEXTS]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "roberta", "llama2"])
@pytest.mark.parametrize("limit", [512, 14, 15, 23])
def test_a_tokenizers_pairs(family: str, side: str, limit: int, tmp_path: Path) -> None:
    """By hand: the query as it is cut, and each window between the tokenizer's special tokens."""
    tokenizer = Tokenizer.from_folder(write_family(tmp_path, family, truncation_side=side))
    encode = encoder(tokenizer._backend)
    special = tokenizer.num_special_tokens(pair=True)
    layout = TokenizerLayout(tokenizer, limit, "longest_first", causal=family == "llama2")
    several = 0
    for (query, document), found in zip(PAIRS, read(layout, PAIRS), strict=True):
        kept, size = halves(encode(query), encode(document), limit - special)
        if side == "left":
            kept = encode(query)[len(encode(query)) - len(kept) :]
        parts = windows(encode(document), size)
        want = [
            tokenizer.pair(
                np.array(kept, np.int32), np.array(part, np.int32), None, "off"
            ).token_ids.tolist()
            for part in parts
        ]
        assert found == want, (query, document)
        several += len(parts) > 1
    assert (several > 5) == (limit < 512)


@pytest.mark.parametrize("truncation", ["longest_first", "only_second", "off"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_one_window_is_the_pair_as_it_is_cut(
    truncation: Truncation, side: str, tmp_path: Path
) -> None:
    """The first, or the last where starts are cut; a pair that fits is alike with and without."""
    tokenizer = Tokenizer.from_folder(write_family(tmp_path, "bert", truncation_side=side))
    for limits in (SideLimits(), SideLimits(3, 30), SideLimits(document=9)):
        cut = TokenizerLayout(tokenizer, 20, truncation, limits=limits)
        window = PairReader(cut, 1 << 20).window(PAIRS)
        whole = dict(zip(window.indices, rows(window.sequences), strict=True))
        for place, found in enumerate(read(cut, PAIRS)):
            if place in whole and found:
                assert found[0 if side == "right" else -1] == whole[place]
            if place in whole and len(whole[place]) < 20:
                assert found == [whole[place]]


def test_documents_may_be_tokens(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(write_family(tmp_path, "xlm-roberta"))
    layout = TokenizerLayout(tokenizer, 17, "longest_first")
    ids = [TokenizedText(tokenizer.encode([d])[0], layout.tokenization) for _, d in PAIRS]
    tokens = [(query, one) for (query, _), one in zip(PAIRS, ids, strict=True)]
    assert read(layout, tokens) == read(layout, PAIRS)


def test_a_query_too_long_fails_by_name(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(write_family(tmp_path, "bert"))
    special = tokenizer.num_special_tokens(pair=True)
    limit = special + 32
    least = least_window(32)
    assert least == 4
    for truncation in ("off", "only_second"):
        layout = TokenizerLayout(tokenizer, limit, truncation)  # type: ignore[arg-type]
        reader = PairReader(layout, 1 << 20, long_documents="windows")
        for length in range(27, 35):
            long = "a b " * 40
            window = reader.window([("a " * length, long), ("a " * length, "")])
            if length <= 32 - least:
                assert window.failures == {} and len(window.indices) > 2
            elif length < 32:
                assert window.failures[0] == (
                    f"the query leaves {32 - length} tokens for windows of the document within "
                    f"max_length {limit}, and a window has {least} at least; shorten it or raise "
                    "max_length"
                )
            else:
                assert window.failures[0].startswith(f"the query alone has {length} tokens")
            assert (1 in window.failures) == (length > 32)
    limited = TokenizerLayout(tokenizer, limit, "off", limits=SideLimits(3, 50))
    window = PairReader(limited, 1 << 20, long_documents="windows").window(
        [("a a a", "b " * 50), ("a a a a", "b"), ("a", "b " * 51)]
    )
    assert window.indices == [0, 0] and window.failures == {
        1: "the query has 4 tokens, more than query_length 3; shorten it or allow truncation",
        2: "the document has 51 tokens, more than document_length 50; shorten it or allow "
        "truncation",
    }


def test_a_window_that_the_model_cannot_take_fails_its_pair(tmp_path: Path) -> None:
    """All of its sequences are left out, and no other's."""
    tokenizer = Tokenizer.from_folder(write_family(tmp_path, "bert"))
    layout = TokenizerLayout(tokenizer, 10, "longest_first")
    encode = encoder(tokenizer._backend)
    highest = max(encode("a b ab abc"))
    reader = PairReader(layout, highest, long_documents="windows")
    odd = next(text for text in ("a", "b", "ab", "abc") if highest in encode(text))
    others = [text for text in ("a", "b", "ab") if highest not in encode(text)]
    sound = f"{others[0]} " * 30
    window = reader.window([(others[0], sound), (others[0], sound + odd), (others[0], sound)])
    assert set(window.indices) == {0, 2} and list(window.failures) == [1]
    assert f"it holds token {highest}" in window.failures[1]
    assert len(window.indices) == len(window.sequences)


def test_a_document_of_a_million_tokens_makes_no_more_than_its_windows(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(write_family(tmp_path, "bert"))
    layout = TokenizerLayout(tokenizer, 512, "longest_first")
    ids = np.full(1_000_000, encoder(tokenizer._backend)("a")[0], dtype=np.int32)
    document = TokenizedText(ids, layout.tokenization)
    reader = PairReader(layout, 1 << 20, long_documents="windows")
    [first, second] = reader.windows([("a", document), ("b", document)])
    assert (first.indices[0], second.indices[0]) == (0, 1)
    assert len(first.sequences.token_ids) < 1.25 * len(ids)
    assert first.sequences.max_seqlen == 512


def test_the_layouts_own_fields_are_kept(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(write_family(tmp_path, "bert"))
    layout = TokenizerLayout(tokenizer, 12, "longest_first", prompt="a b ")
    [found] = read(layout, [("c", "b " * 40)])
    [want] = read(dataclasses.replace(layout, prompt=""), [("a b c", "b " * 40)])
    assert found == want
