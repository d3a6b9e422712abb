"""Explanations: their scores make up the rank's, and every token is shown as what it is."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch

from packrank import InputError, LateInteraction, Store
from packrank.late import explanation_page
from packrank.late.explanation import Explanation, Match
from packrank.late.explanation_page import page
from packrank.request import Token
from packrank.text.tokenizer import Tokenizer
from packrank_kernels import TokenEmbeddings

WORDS = "[unused0] [unused1] a query red fox owl night ##s ##ly , . x"
QUERY = "red owls"
DOCUMENT = "A red fox,  nightly: an owl."


@pytest.fixture(scope="module")
def save(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Path]:
    """save(**config): a PyLate folder."""

    def make(**config: object) -> Path:
        folder = tmp_path_factory.mktemp("late") / "model"
        shutil.copytree(checkpoint("Bert", "Model"), folder)
        save_tokenizer(folder, WORDS)
        given = {
            "model_type": "ColBERT",
            "query_prefix": "[unused0]",
            "document_prefix": "[unused1]",
            "query_length": 10,
            "document_length": 14,
            "skiplist_words": [",", "."],
        }
        path = folder / "config_sentence_transformers.json"
        path.write_text(json.dumps(given | config))
        return folder

    return make


@pytest.fixture(scope="module")
def folder(save: Callable[..., Path]) -> Path:
    return save()


@pytest.fixture(scope="module")
def model(folder: Path) -> LateInteraction:
    return LateInteraction(folder, device="cpu")


def total(matches: tuple[Match, ...]) -> float:
    """The sum in the order of MaxSim, by hand."""
    lanes = [np.float32(0)] * 32
    for i, match in enumerate(matches):
        lanes[i % 32] += np.float32(match.score)
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [lanes[i] + lanes[i + half] for i in range(half)]
    return float(lanes[0])


def kinds(tokens: tuple[Token, ...]) -> list[tuple[str, str, bool]]:
    return [(token.text, token.kind, token.scored) for token in tokens]


def test_tokens_are_what_the_model_read(model: LateInteraction) -> None:
    found = model.explain(QUERY, DOCUMENT)
    assert kinds(found.query_tokens) == [
        ("[CLS]", "special", True),
        ("[unused0]", "marker", True),
        ("red", "text", True),
        ("owl", "text", True),
        ("s", "text", True),
        ("[SEP]", "special", True),
        *[("[MASK]", "expansion", True)] * 4,
    ]
    assert kinds(found.document_tokens) == [
        ("[CLS]", "special", True),
        ("[unused1]", "marker", True),
        ("A", "text", True),
        ("red", "text", True),
        ("fox", "text", True),
        (",", "text", False),
        ("night", "text", True),
        ("ly", "text", True),
        (":", "text", True),
        ("an", "text", True),
        ("owl", "text", True),
        (".", "text", False),
        ("[SEP]", "special", True),
    ]
    spans = [(t.start, t.stop) for t in found.document_tokens if t.kind == "text"]
    assert [DOCUMENT[start:stop] for start, stop in spans] == [
        t.text for t in found.document_tokens if t.kind == "text"
    ]
    assert len(model.encode_queries([QUERY])[0]) == sum(t.scored for t in found.query_tokens)
    vectors = model.encode_documents([DOCUMENT])[0]
    assert len(vectors) == sum(t.scored for t in found.document_tokens)


def test_what_does_not_fit_is_not_there(model: LateInteraction) -> None:
    found = model.explain("x " * 30, "fox " * 30)
    assert kinds(found.query_tokens)[2:] == [("x", "text", True)] * 7 + [("[SEP]", "special", True)]
    assert len(found.document_tokens) == 14
    assert found.document_tokens[12].stop == 11 * 4 - 1


def test_a_prompt_is_one(save: Callable[..., Path]) -> None:
    prompts = {"prompts": {"ask": "query red,"}, "default_prompt_name": "ask"}
    model = LateInteraction(save(**prompts), device="cpu")
    found = model.explain("red fox", "owl")
    assert kinds(found.query_tokens)[2:7] == [
        ("query", "prompt", True),
        ("red", "prompt", True),
        (",", "prompt", True),
        ("red", "text", True),
        ("fox", "text", True),
    ]
    assert (found.query_tokens[5].start, found.query_tokens[5].stop) == (0, 3)
    assert found.document_tokens[4] == Token(",", "prompt", False)


@pytest.mark.parametrize("kind", ["bytes", "metaspace", "words"])
def test_offsets_are_of_the_tokens_that_are_encoded(kind: str) -> None:
    """Also where a token is part of a character, or stands for a space that it does not hold."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet)
    pre = tokenizers.pre_tokenizers
    backend.pre_tokenizer = {
        "bytes": pre.ByteLevel(add_prefix_space=False),
        "metaspace": pre.Metaspace(),
        "words": pre.Whitespace(),
    }[kind]
    text = "owl owl nightly 🙂 é,owl"
    backend.train_from_iterator([text * 5], trainer)
    tokenizer = Tokenizer(backend)
    ids, offsets = tokenizer.offsets(text)
    assert ids.tolist() == tokenizer.encode([text])[0].tolist()
    read = "".join(
        text[max(start, end) : stop] for (_, end), (start, stop) in pairwise([(0, 0), *offsets])
    )
    assert read.replace(" ", "") == text.replace(" ", "")
    assert "owl" in [text[start:stop].strip() for start, stop in offsets]


def test_a_token_that_the_model_does_not_know_is_named(save: Callable[..., Path]) -> None:
    folder = save()
    vocab = json.loads((folder / "tokenizer.json").read_text())
    vocab["model"]["vocab"]["novel"] = 500
    (folder / "tokenizer.json").write_text(json.dumps(vocab))
    model = LateInteraction(folder, device="cpu")
    for texts, side in (("novel", "x"), "query"), (("x", "novel"), "document"):
        with pytest.raises(InputError, match=f"^the {side} holds token 500, and the model knows"):
            model.explain(*texts)


def test_matches_are_those_of_the_definition(model: LateInteraction) -> None:
    found = model.explain(QUERY, DOCUMENT)
    query = model.encode_queries([QUERY])[0].double().numpy()
    document = model.encode_documents([DOCUMENT])[0].double().numpy()
    similarities = query @ document.T
    scored = [i for i, token in enumerate(found.document_tokens) if token.scored]
    assert [match.query_token for match in found.matches] == list(range(10))
    assert [match.document_token for match in found.matches] == [
        scored[j] for j in similarities.argmax(1)
    ]
    np.testing.assert_allclose([m.score for m in found.matches], similarities.max(1), rtol=1e-5)
    assert sum(found.shares.values()) == pytest.approx(found.score)


@pytest.mark.parametrize("query", [QUERY, "", "x", "red fox owl night a query red fox owl"])
@pytest.mark.parametrize("document", [DOCUMENT, "owl", "a" * 9])
def test_the_sum_is_the_score_of_rank(model: LateInteraction, query: str, document: str) -> None:
    found = model.explain(query, document)
    assert found.score == model.rank(query, [document])[0].score
    assert total(found.matches) == found.score
    assert not found.mean


def test_the_mean_is_the_score_of_rank(folder: Path) -> None:
    model = LateInteraction(folder, device="cpu")
    model.settings = replace(model.settings, mean=True)
    found = model.explain(QUERY, DOCUMENT)
    assert found.mean
    assert found.score == model.rank(QUERY, [DOCUMENT])[0].score
    assert np.float32(total(found.matches)) / np.float32(10) == np.float32(found.score)
    assert found.summary == f"score {found.score:.4f}, the mean of 10 matches"


def test_a_document_without_vectors(save: Callable[..., Path]) -> None:
    skipped = ["[CLS]", "[unused1]", "[SEP]", "x"]
    model = LateInteraction(save(skiplist_words=skipped), device="cpu")
    found = model.explain(QUERY, "x x")
    assert not any(token.scored for token in found.document_tokens)
    assert {(m.document_token, m.score) for m in found.matches} == {(None, -np.inf)}
    assert found.score == -np.inf == model.rank(QUERY, ["x x"])[0].score
    fields = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert fields["score"] is None
    assert fields["matches"][0] == {"query_token": 0, "document_token": None, "score": None}
    assert "nothing" in page(found)


def test_a_stored_document_counts_by_its_stored_vectors(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "store"
    texts = ["an owl", DOCUMENT, "red fox"]
    LateInteraction(folder, device="cpu").encode_documents(texts, path, ["a", "b", "c"])
    model = LateInteraction(folder, device="cpu", store=path)
    found = model.explain(QUERY, DOCUMENT, candidate="b")
    [ranked] = model.rank(QUERY, candidates=["b"])
    assert found.score == ranked.score
    assert total(found.matches) == found.score
    assert found.score != model.explain(QUERY, DOCUMENT).score, "int8 is rounded"
    with pytest.raises(InputError, match=r"'c' of the store has 5 vectors, and this text 11; give"):
        model.explain(QUERY, DOCUMENT, candidate="c")
    with pytest.raises(InputError, match=r"no document of .* has the id 'z'"):
        model.explain(QUERY, DOCUMENT, candidate="z")
    with pytest.raises(InputError, match="there is no store"):
        LateInteraction(folder, device="cpu").explain(QUERY, DOCUMENT, candidate="a")


def test_refuses_what_cannot_be_explained(folder: Path, model: LateInteraction) -> None:
    for query, document, reason in (
        (3, "x", "query is a int"),
        ("x", None, "document is a NoneType"),
        ("\ud800", "x", "the query holds a lone surrogate"),
        ("x", "\ud800", "the document holds a lone surrogate"),
    ):
        with pytest.raises(InputError, match=reason):
            model.explain(query, document)  # type: ignore[arg-type]
    vectors = model.encode_documents(["fox"])[0]
    broken = TokenEmbeddings.encode([vectors * float("nan")], "float32")
    stored = LateInteraction(folder, device="cpu", store=Store(folder, broken, ["a"]))
    with pytest.raises(InputError, match="its score is not a finite number"):
        stored.explain(QUERY, "fox", candidate="a")


class Texts(HTMLParser):
    """What a reader sees of a page, and what the page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)


def read(*explanations: Explanation, model: str = "") -> Texts:
    parser = Texts()
    parser.feed(page(*explanations, model=model))
    parser.close()
    assert not parser.open
    return parser


HOSTILE = "<script>alert(1)</script> & \"red\" 'owl'\n\n</title> <x onclick=x>"


def test_a_page_holds_texts_as_they_are_and_fetches_nothing() -> None:
    edges = (0, 8, 8, 16, 16, 25, 26, 27, 28, 33, 41, len(HOSTILE))
    tokens = (Token("[CLS]", "special", True), *characters(HOSTILE, *edges))
    matches = tuple(Match(i, i, 1.0) for i in range(len(tokens)))
    seen = read(Explanation(HOSTILE, HOSTILE, tokens, tokens, matches, 1.0))
    plain = read(Explanation("x", "x", tokens[:1] * 7, tokens[:1] * 7, matches, 1.0))
    assert [tag for tag, _ in seen.tags if tag != "span"] == [
        tag for tag, _ in plain.tags if tag != "span"
    ]
    assert "".join(seen.texts).count(f"[CLS]{HOSTILE}") == 2
    shown = [attributes["title"] for tag, attributes in seen.tags if "title" in attributes]
    assert shown[6] == "</title> <x onclick=x>: 1.0000"
    for _, attributes in seen.tags:
        assert not attributes.keys() & {"src", "href", "action", "data", "onclick"}
    page_text = page(Explanation(HOSTILE, HOSTILE, tokens, tokens, matches, 1.0))
    assert "url(" not in page_text and "@import" not in page_text


def test_a_page_links_query_tokens_to_what_they_matched(model: LateInteraction) -> None:
    found = model.explain(QUERY, DOCUMENT)
    seen = read(found)
    links = [a["data-match"] for _, a in seen.tags if "data-match" in a]
    assert links == [f"d1-{match.document_token}" for match in found.matches]
    places = {a["id"] for _, a in seen.tags if "id" in a}
    assert places == set(links)
    assert sum(tag == "tr" for tag, _ in seen.tags) == 1 + len(found.matches)


def test_a_page_of_several_documents_has_a_section_of_each(model: LateInteraction) -> None:
    found = [model.explain(QUERY, text) for text in (DOCUMENT, "fox", DOCUMENT)]
    seen = read(*found, model="<my> model")
    ids = [a["id"] for _, a in seen.tags if "id" in a]
    assert len(ids) == len(set(ids)) == sum(len(each.shares) for each in found)
    assert {a["data-match"] for _, a in seen.tags if "data-match" in a} == set(ids)
    headings = [text for text in seen.texts if text[:3] in ("1. ", "2. ", "3. ")]
    assert headings == [f"{number}. {each.summary}" for number, each in enumerate(found, 1)]
    assert sum("<my> model" in text for text in seen.texts) == 1
    assert [tag for tag, _ in seen.tags].count("section") == 3


def test_a_page_joins_the_pieces_of_a_word(model: LateInteraction) -> None:
    """As they stand in the text; in the table the piece is marked in its word."""
    html = page(model.explain("owls, red", "fox nightly-owl"))
    body = html.partition("<section>")[2]
    shown = re.findall(r'<span class="word">(.*?</span>)</span>', body)
    assert [re.findall(r">([^<]+)</span>", word) for word in shown] == [
        ["owl", "s"],
        ["night", "ly"],
    ]
    assert "<td><mark>owl</mark>s</td>" in body
    assert "<td>owl<mark>s</mark></td>" in body
    assert "<td>red</td>" in body


@pytest.mark.parametrize(
    ("text", "edges", "words"),
    [
        ("nightly owl", (0, 5, 5, 7, 8, 11), [[0, 1], [2]]),
        ("no-one", (0, 2, 2, 3, 3, 6), [[0], [1], [2]]),
        ("नमस्ते", (0, 2, 2, 6), [[0, 1]]),
        ("海边x", (0, 1, 1, 2, 2, 3), [[0], [1], [2]]),
        ("a🙂b", (0, 1, 1, 2, 1, 2, 1, 2, 2, 3), [[0], [1, 2, 3], [4]]),
        ("a b", (0, 1, 1, 3), [[0], [1]]),
        ("", (), []),
    ],
)
def test_the_pieces_of_a_word(text: str, edges: tuple[int, ...], words: list[list[int]]) -> None:
    tokens = tuple(characters(text, *edges))
    assert [list(places) for places in explanation_page._words(text, tokens)] == words
    added = (Token("[CLS]", "special", True), *tokens, Token("[SEP]", "special", True))
    shifted = [[place + 1 for place in word] for word in words]
    last = len(tokens) + 1
    found = [list(places) for places in explanation_page._words(text, added)]
    assert found == [[0], *shifted, [last]]


def test_a_page_has_a_legend_of_what_it_shows(model: LateInteraction) -> None:
    html = page(model.explain(QUERY, DOCUMENT))
    legend = html.partition("<section>")[0].partition('<ul class="legend">')[2]
    for name in ("token", "word", "token added", "token unscored", "token on"):
        assert f'class="{name}"' in legend


def characters(text: str, *edges: int) -> Iterator[Token]:
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        yield Token(text[start:stop], "text", True, start, stop)


def test_a_page_shows_what_was_cut_and_what_shares_a_character() -> None:
    text = "é is cut"
    tokens = (Token("[CLS]", "special", True), *characters(text, 0, 1, 0, 1, 2, 4))
    found = Explanation(
        "q", text, (Token("q", "text", True, 0, 1),), tokens, (Match(0, 2, 1.0),), 1.0
    )
    seen = "".join(read(found).texts)
    assert "é·" in seen
    assert '<span class="cut"> cut</span>' in page(found)


def test_an_explanation_of_many_tokens_sums_in_lanes(save: Callable[..., Path]) -> None:
    model = LateInteraction(save(query_length=39, document_length=39), device="cpu")
    torch.manual_seed(3)
    for query in ("red", "owl fox " * 17):
        found = model.explain(query, DOCUMENT)
        assert len(found.matches) == 39
        assert total(found.matches) == found.score == model.rank(query, [DOCUMENT])[0].score
