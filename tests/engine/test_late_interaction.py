"""Rankings and scores of late interaction, and what it refuses; see test_token_vectors too."""

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

from packrank.commands import cli
from packrank.errors import InputError, PairError
from packrank.late import text_scores, token_vectors
from packrank.late.token_vectors import TokenVectors
from packrank.late_interaction import LateInteraction
from packrank.models import MODELS

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[Q]", "[D]"]
LETTERS = [*string.ascii_lowercase, *(f"##{c}" for c in string.ascii_lowercase)]
VOCAB = [*SPECIAL, *string.punctuation, *LETTERS, "the", "sea"]

QUERIES = ["the sea", "", "a longer query, of more words than the others have", "sea? the sea!"]
DOCUMENTS = ["the sea, the sea.", "", "?!...", "x", "a document that goes on and on; " * 9, "?!..."]


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def save_encoder(folder: Path, *added: str) -> None:
    """A BERT, and its tokenizer with tokens that it does not know."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCAB))
    tokenizer = transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt"))
    tokenizer.add_tokens(list(added))
    tokenizer.save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(VOCAB),
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    transformers.BertModel(config).save_pretrained(folder)


def save_pylate(folder: Path, **config: object) -> None:
    save_encoder(folder)
    kinds = {"": "sentence_transformers.models.Transformer", "1_Dense": "pylate.models.Dense.Dense"}
    write(folder / "modules.json", [{"path": path, "type": kind} for path, kind in kinds.items()])
    sizes = {"in_features": 24, "out_features": 8, "bias": False}
    write(folder / "1_Dense/config.json", sizes)
    save_file({"linear.weight": torch.randn(8, 24)}, folder / "1_Dense/model.safetensors")
    kind = {"model_type": "ColBERT", "query_prefix": "[Q]", "document_prefix": "[D]"}
    lengths = {"query_length": 16, "document_length": 40}
    write(folder / "config_sentence_transformers.json", kind | lengths | config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("models") / "pylate"
    save_pylate(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> LateInteraction:
    return LateInteraction(folder, device="cpu")


@pytest.fixture
def skipping(tmp_path: Path) -> Path:
    """A model that scores no token of "?", nor of any document of such tokens."""
    save_pylate(tmp_path / "skipping", skiplist_words=["[CLS]", "[D]", "[SEP]", "?"])
    return tmp_path / "skipping"


def test_order_of_documents_changes_no_score(model: LateInteraction) -> None:
    forward = model.rank("the sea", DOCUMENTS)
    backward = model.rank("the sea", DOCUMENTS[::-1])
    assert {(r.document, r.score) for r in forward} == {(r.document, r.score) for r in backward}


def test_rank_is_best_first_ties_by_index_and_cut_to_top_k(model: LateInteraction) -> None:
    ranked = model.rank("the sea", DOCUMENTS)
    assert sorted(r.index for r in ranked) == list(range(len(DOCUMENTS)))
    assert all(r.document == DOCUMENTS[r.index] for r in ranked)
    scores = [r.score for r in ranked]
    assert scores == sorted(scores, reverse=True)
    order = [r.index for r in model.rank("the sea", ["x", "the sea"] * 50)]
    assert order in ([*range(0, 100, 2), *range(1, 100, 2)], [*range(1, 100, 2), *range(0, 100, 2)])
    assert model.rank("the sea", DOCUMENTS, top_k=2) == ranked[:2]
    assert model.rank("the sea", []) == []


def test_many_queries_of_the_same_documents_encode_each_text_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_scores, "_PAIRS_AT_ONCE", 4)
    documents = [f"{a} {b}" for a in "abcd" for b in "wxyz"] + ["the sea " * 30]
    queries = ["the sea", "a sea", "b " * 40]
    model, single = (LateInteraction(folder, device="cpu") for _ in range(2))
    encoded: list[str] = []
    original = TokenVectors._encode_window

    def counted(self: TokenVectors, texts: list[str], *rest: object) -> list[str]:
        encoded.extend(texts)
        return original(self, texts, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(TokenVectors, "_encode_window", counted)
        found = model.try_rank_many([(query, documents) for query in queries], 5)
    assert sorted(encoded) == sorted(queries + documents)
    assert (model.num_cut_queries, model.num_cut_documents) == (1, 1)
    assert found == [single.try_rank(query, documents, 5) for query in queries]
    # Others are ranked too, and a few queries at a time where there are many documents.
    monkeypatch.setattr(text_scores, "SCORES_AT_ONCE", 2 * len(documents))
    requests = [(queries[0], documents[:2]), *((query, documents) for query in queries)]
    expected = [single.rank(query, texts) for query, texts in requests]
    assert model.rank_many(requests) == expected
    assert model.rank_many([]) == []


@pytest.mark.parametrize("bad", [None, 7, "\ud800"])
def test_a_query_that_is_no_text_fails_alone(model: LateInteraction, bad: Any) -> None:
    same = ["the", "sea", ""]
    requests: Any = [("sea", same), (bad, same), ("the", same), (bad, []), ("sea", ["sea"])]
    found = model.try_rank_many(requests)
    for place in (0, 2, 4):
        assert found[place] == model.try_rank(*requests[place])
    assert (found[1][0], found[3]) == ([], ([], {}))
    assert list(found[1][1]) == [0, 1, 2]
    assert all(reason.startswith("the query of requests[1]") for reason in found[1][1].values())
    with pytest.raises(InputError, match=r"^the query of requests\[1\]"):
        model.rank_many(requests)


def test_a_query_that_cannot_be_encoded_fails_alone(
    model: LateInteraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = TokenVectors.encode

    def fails(self: TokenVectors, texts: Any, *rest: Any) -> Any:
        vectors, broken = original(self, texts, *rest)
        return {t: v for t, v in vectors.items() if t != "the"}, broken | (
            {"the": "no"} if "the" in vectors else {}
        )

    requests = [("sea", ["a", "b"]), ("the", ["a", "b"]), ("a", ["a", "b"])]
    expected = model.try_rank_many(requests)
    monkeypatch.setattr(TokenVectors, "encode", fails)
    found = model.try_rank_many(requests)
    assert found == [expected[0], ([], {0: "no", 1: "no"}), expected[2]]
    with pytest.raises(InputError, match=r"^no$"):
        model.rank_many(requests)


def test_what_is_wrong_with_one_of_many_requests(model: LateInteraction) -> None:
    documents = ["the", "\ud800", "sea"]
    requests = [("sea", ["sea"]), ("the", documents), ("sea", documents)]
    found = model.try_rank_many(requests)
    assert found == [model.try_rank(query, texts) for query, texts in requests]
    assert list(found[1][1]) == [1]
    with pytest.raises(PairError) as caught:
        model.rank_many(requests)
    assert (caught.value.index, caught.value.instead) == (2, "try_rank_many")
    with pytest.raises(InputError, match=r"requests\[1\] is a str"):
        model.rank_many([("sea", ["sea"]), "the"])  # type: ignore[list-item]


def test_a_document_without_vectors_is_last(skipping: Path) -> None:
    documents = ["??", "the", "?", "sea"]
    for budget in (1, 4096):
        model = LateInteraction(skipping, device="cpu", budget_tokens=budget)
        assert [len(vectors) for vectors in model.encode_documents(documents)] == [0, 1, 0, 1]
        ranking, failures = model.try_rank("sea", documents)
        assert [r.index for r in ranking][2:] == [0, 2]
        assert [r.score for r in ranking][2:] == [-np.inf, -np.inf]
        assert (ranking, failures) == (model.rank("sea", documents), {})
        scores, failures = model.try_score([("sea", document) for document in documents])
        assert np.isneginf(scores).tolist() == [True, False, True, False]
        assert not failures
    assert model.similarity(model.encode_queries(["sea"])[0], []).shape == (0,)


def test_a_document_without_vectors_has_an_error_in_a_job_and_null_in_a_ranking(
    skipping: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs, documents, out = (tmp_path / name for name in ("pairs.jsonl", "texts.txt", "out.jsonl"))
    write(pairs, {"query": "sea", "document": "?"})
    documents.write_text("?\nsea\n")
    assert cli.main(["score", str(skipping), str(pairs), "--output", str(out), "--quiet"]) == 1
    found = json.loads(out.read_text())
    assert "no token of the document is compared" in found.pop("error")
    assert found == {"query": "sea", "document": "?", "score": None}
    capsys.readouterr()
    query = ["--query", "sea", "--documents", str(documents), "--json"]
    assert not cli.main(["rank", str(skipping), *query])
    first, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["line"], last) == (2, {"rank": 2, "score": None, "line": 1, "text": "?"})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_finite_number_fails_alone(
    model: LateInteraction, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    broken = np.array([1, value, 2], dtype=np.float32)
    monkeypatch.setattr(text_scores, "score_of", lambda *_: torch.from_numpy(broken))
    failures = {1: "its score is not a finite number"}
    scores, reasons = model.try_score([("the", document) for document in "abc"])
    np.testing.assert_array_equal(scores, [1, np.nan, 2])
    assert reasons == failures
    ranking, reasons = model.try_rank("the", list("abc"))
    assert [r.index for r in ranking] == [2, 0]
    assert reasons == failures
    with pytest.raises(PairError, match="pair 1: its score"):
        model.rank("the", list("abc"))


def test_broken_documents_are_left_out_by_name(model: LateInteraction) -> None:
    texts = ["x", "\udc00", "the sea", "\ud800"]
    ranking, failures = model.try_rank("the sea", texts)
    sound = model.rank("the sea", ["x", "the sea"])
    assert [(r.document, r.score) for r in ranking] == [(r.document, r.score) for r in sound]
    assert all(texts[r.index] == r.document for r in ranking)
    assert list(failures) == [1, 3]
    assert all("lone surrogate" in reason for reason in failures.values())
    assert model.try_rank("the sea", texts, top_k=1) == (ranking[:1], failures)


def test_pairs_that_cannot_be_scored_fail_alone(model: LateInteraction) -> None:
    pairs = [("the", "sea"), "ab", ("a", "b", "c"), ("\ud800", "x"), ("x", None), ["x", "x"]]
    scores, failures = model.try_score(pairs)  # type: ignore[arg-type]
    assert np.isnan(scores).tolist() == [False, True, True, True, True, False]
    assert list(failures) == [1, 2, 3, 4]
    for index, reason in ((1, "is a str"), (2, "tuple of 3"), (3, "surrogate"), (4, "NoneType")):
        assert reason in failures[index]
    good = [("the", "sea"), ("x", "x")]
    np.testing.assert_array_equal(model.score(good), scores[[0, 5]])
    with pytest.raises(PairError, match=r"pair 1: .* expected \(query, document\)"):
        model.score([*good[:1], "ab"])  # type: ignore[list-item]


def test_a_token_that_the_model_does_not_know_fails_alone(tmp_path: Path) -> None:
    save_encoder(tmp_path, "novel")
    model = LateInteraction(tmp_path, device="cpu")
    reason = f"holds token {len(VOCAB)}, and the model knows {len(VOCAB)}; is the tokenizer"
    ranking, failures = model.try_rank("sea", ["the sea", "a novel"])
    assert [r.index for r in ranking] == [0]
    assert failures[1].startswith(f"the document {reason}")
    _, failures = model.try_score([("novel", "sea"), ("sea", "sea")])
    assert [*failures] == [0]
    assert failures[0].startswith(f"the query {reason}")
    with pytest.raises(InputError, match=rf"^the query {reason}"):
        model.rank("a novel", ["sea"])


def test_pairs_of_distinct_queries_share_packs(
    model: LateInteraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    bert = MODELS["BertForSequenceClassification"]
    run, passes = bert.hidden_states, []
    monkeypatch.setattr(bert, "hidden_states", lambda *a: passes.append(a) or run(*a))
    texts = [f"{a}{b}" for a in "abcdefghij" for b in "abcdefghij"]
    scores = model.score([(text, text[::-1]) for text in texts])
    assert len(passes) == 2
    one_by_one = [model.rank(text, [text[::-1]])[0].score for text in texts[:20]]
    assert scores[:20].tolist() == one_by_one


def test_a_text_is_encoded_once(model: LateInteraction) -> None:
    before = model.num_tokens
    model.score([(query, document) for query in ("x", "the") for document in ("sea", "?!", "sea")])
    expected = 2 * 16 + 4 + 5  # expanded queries, [CLS] [D] sea [SEP], [CLS] [D] ? ! [SEP]
    assert model.num_tokens - before == expected


def test_more_texts_and_pairs_than_run_at_once(
    model: LateInteraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, ranking = model.encode_documents(DOCUMENTS), model.rank("the sea", DOCUMENTS)
    scores = model.score([(query, "the sea") for query in QUERIES])
    monkeypatch.setattr(token_vectors, "WINDOW_TEXTS", 2)
    monkeypatch.setattr("packrank.late.text_scores._PAIRS_AT_ONCE", 2)
    for a, b in zip(model.encode_documents(DOCUMENTS), vectors, strict=True):
        assert torch.equal(a, b)
    assert model.rank("the sea", DOCUMENTS) == ranking
    assert model.score([(query, "the sea") for query in QUERIES]).tolist() == scores.tolist()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.rank(7, ["a"]), "query is a int, expected a str"),
        (lambda m: m.rank("q", ["a", None]), "pair 1: the document is a NoneType"),
        (lambda m: m.rank("q", "abc"), "documents is a str, expected a sequence of strings"),
        (lambda m: m.encode_queries("abc"), "queries is a str, expected a sequence of strings"),
        (lambda m: m.rank("q", ["a", "\ud800"]), "pair 1: .* surrogate"),
        (lambda m: m.rank("\ud800", ["a"]), "^the query holds a lone surrogate"),
        (lambda m: m.rank("\ud800", []), "^the query holds a lone surrogate"),
        (
            lambda m: m.encode_queries(["a", "\ud800"]),
            r"^queries\[1\]: the query holds a lone surrogate",
        ),
        (lambda m: m.try_score("abc"), "pairs is a str, expected a sequence of"),
        (lambda m: m.try_rank("q", ["a"], top_k=True), "top_k is True"),
        (lambda m: m.rank("q", ["a"], top_k=0), "top_k is 0, expected a whole number of at least"),
    ],
)
def test_refuses_what_is_no_text(
    model: LateInteraction, call: Callable[[LateInteraction], object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        call(model)
