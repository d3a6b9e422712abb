"""Documents given as tokens are laid out as their texts; what would be guessed is refused."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from prompts import gemma, joining, minicpm, rows, small_qwen
from tokenizer_folders import TEXTS, write_family

from packrank.documents import TokenizedText, document_of
from packrank.late.text_scores import score_texts
from packrank.text.chat_template import ChatLayout, ChatTemplate
from packrank.text.pairs import PairLayout, PairReader, TokenizerLayout, Window, is_pair
from packrank.text.prompt import PromptLayout
from packrank.text.templates import TEMPLATES
from packrank.text.tokenizer import Tokenizer
from packrank.text.truncation import SideLimits

QUERIES = ["ab", "", "É é ab", "a b ab " * 5]
DOCUMENTS = [*TEXTS, "ab b a " * 9, "é"]
PAIRS = list(itertools.product(QUERIES, DOCUMENTS))


def library(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(tokenizer.serialized)


def tokenized(layout: PairLayout, backend: tokenizers.Tokenizer, text: str) -> TokenizedText:
    """The ids that the library gives a document, with what stands around it."""
    how = layout.tokenization
    assert how is not None
    found = backend.encode(f"{how.before}{text}{how.after}", add_special_tokens=False).ids
    return TokenizedText(np.array(found, dtype=np.int32), how)


def check_alike(layout: PairLayout, backend: tokenizers.Tokenizer) -> Window:
    reader = PairReader(layout, backend.get_vocab_size())
    texts = reader.window(PAIRS)
    tokens = reader.window([(q, tokenized(layout, backend, d)) for q, d in PAIRS])
    assert (tokens.indices, tokens.failures) == (texts.indices, texts.failures)
    for part in ("token_ids", "token_types", "cu_seqlens", "shared"):
        one, other = (getattr(x.sequences, part) for x in (texts, tokens))
        assert (one is None) == (other is None)
        assert one is None or (one.dtype == other.dtype and np.array_equal(one, other))
    # Numbers of queries may be others, where a query's text is that of a document too.
    queries = [x.sequences.queries for x in (texts, tokens)]
    if queries[0] is not None and queries[1] is not None:
        alike = [q[:, None] == q[None, :] for q in queries if q is not None]
        assert np.array_equal(*alike)
    return texts


@pytest.mark.parametrize("truncation", ["longest_first", "only_second", "off"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "roberta", "llama2"])
def test_the_layout_of_a_tokenizer(family: str, side: str, truncation: Any, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(write_family(tmp_path, family, truncation_side=side))
    assert tokenizer.keeps_end == (side == "left")
    outcomes: set[bool] = set()
    for limit, limits in ((512, SideLimits()), (14, SideLimits()), (40, SideLimits(3, 6))):
        layout = TokenizerLayout(tokenizer, limit, truncation, "a b ", family == "llama2", limits)
        window = check_alike(layout, library(tokenizer))
        outcomes |= {bool(window.failures)}
        assert window.indices or (truncation, limit) == ("off", 40)
    assert outcomes == ({False} if truncation == "longest_first" else {False, True})


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("bge-gemma", gemma),
        ("bge-minicpm-layerwise", minicpm),
        ("bge-gemma2-lightweight", gemma),
        ("mxbai-v2", small_qwen),
        ("qwen3", small_qwen),
        ("qwen3-chat", small_qwen),
    ],
)
@pytest.mark.parametrize("truncate", [True, False])
def test_the_prompt_of_a_decoder(
    name: str,
    make: Callable[[], tuple[Tokenizer, Any]],
    truncate: bool,
) -> None:
    """A document's tokens are those of its part of the prompt, the template's words included."""
    tokenizer, _ = make()
    whole = PromptLayout(TEMPLATES[name], tokenizer, 9999).lay_out([("a b ab", "")])[0]
    for more in (0, 12, 30):
        limit = len(whole.token_ids) + more
        layout = PromptLayout(TEMPLATES[name], tokenizer, 9999, max_length=limit, truncate=truncate)
        assert layout.tokenization is not None
        assert layout.tokenization.before == TEMPLATES[name].document.split("{")[0] != ""
        window = check_alike(layout, library(tokenizer))
        assert window.indices and window.sequences.shared is not None


def test_equal_tokens_are_one_document(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(write_family(tmp_path, "bert"))
    layout, backend = TokenizerLayout(tokenizer, 9, "off"), library(tokenizer)
    one, same, other = (tokenized(layout, backend, text) for text in ("ab", "AB", "a"))
    assert one == same != other and hash(one) == hash(same) and len({one, same, other}) == 2
    assert one != "ab" and len(one) == 1
    elsewhere = Tokenizer.from_folder(write_family(tmp_path, "bert-cased")).fingerprint
    assert elsewhere != tokenizer.fingerprint
    how = type(one.tokenization)("this model", elsewhere)
    assert TokenizedText(one.token_ids, how) != one
    assert Tokenizer.from_folder(write_family(tmp_path, "distilbert")).fingerprint == (
        tokenizer.fingerprint
    )
    lowered = Tokenizer.from_folder(write_family(tmp_path, "bert-cased"), lower_case=True)
    assert lowered.fingerprint not in (elsewhere, tokenizer.fingerprint)


def test_a_document_may_be_tokens_in_every_form(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(write_family(tmp_path, "bert"))
    layout = TokenizerLayout(tokenizer, 9, "off")
    tokens = tokenized(layout, library(tokenizer), "ab")
    given: list[Any] = [tokens, (7, tokens), {"text": tokens, "_id": "7", "more": 1}]
    assert [document_of(x).id for x in given] == [None, "7", "7"]
    assert all(document_of(x).text is tokens for x in given)
    reader = PairReader(layout, tokenizer.vocab_size)
    found = rows(reader.window([("a", x) for x in [*given, "ab"]]).sequences)
    assert found == [found[0]] * 4
    assert is_pair(("a", tokens)) and not is_pair((tokens, "a"))


def refusals(layout: PairLayout, documents: list[Any]) -> list[str]:
    window = PairReader(layout, 1 << 20).window([("a", document) for document in documents])
    assert window.indices == []
    return [window.failures[place] for place in range(len(documents))]


def test_what_was_made_otherwise_is_refused(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(write_family(tmp_path, "bert"))
    mine = TokenizerLayout(tokenizer, 9, "off")
    tokens = tokenized(mine, library(tokenizer), "ab")
    qwen, _ = small_qwen()
    prompts = [PromptLayout(TEMPLATES[name], qwen, 999) for name in ("mxbai-v2", "qwen3")]
    parts = [tokenized(prompt, library(qwen), "ab") for prompt in prompts]
    [other] = refusals(mine, [parts[0]])
    assert "the tokenizer of this model made them" in other
    [other] = refusals(prompts[1], [parts[0]])
    assert "'document: ...'" in other and "reads ' ...'" in other
    [other] = refusals(TokenizerLayout(qwen, 9, "off"), [parts[0]])
    assert "'document: ...'" in other and "reads '...'" in other
    joined, _ = joining()
    whole = PromptLayout(TEMPLATES["qwen3"], joined, 999)
    chat = ChatLayout(
        ChatTemplate("{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"), qwen, 99
    )
    for layout in (whole, chat):
        assert layout.tokenization is None
        [other] = refusals(layout, [parts[1]])
        assert "together with what stands around it" in other
    [titled, number, query] = refusals(
        mine, [{"text": tokens, "title": "a"}, {"text": [1, 2]}, [tokens, tokens, tokens]]
    )
    assert "title beside its tokens" in titled
    assert "text is a list" in number and "list of 3" in query
    window = PairReader(mine, 99).window([(tokens, tokens)])
    assert window.failures == {0: "the query is a TokenizedText, expected a str"}


def test_names_are_said_of_both() -> None:
    how = TokenizerLayout(small_qwen()[0], 9, "off").tokenization
    known = type(how)("here/one", "1")
    assert known.refusal(type(how)("there/two", "1")) is None
    assert known.refusal(type(how)("there/two", "2")) == (
        "the tokenizer of here/one made them, and there/two has another"
    )
    assert "it has changed since" in str(known.refusal(type(how)("here/one", "2")))


def test_late_interaction_reads_texts() -> None:
    class NoVectors:
        def encode(self, texts: Any) -> tuple[Mapping[str, Any], Mapping[str, str]]:
            assert list(texts) == []
            return {}, {}

    how = TokenizerLayout(gemma()[0], 9, "off").tokenization
    side: Any = NoVectors()
    pairs = [("a", TokenizedText(np.zeros(1, np.int32), how))]
    scores, failures = score_texts(pairs, side, side, False)
    assert np.isnan(scores).all()
    assert "given as tokens, and here its text is needed" in failures[0]
