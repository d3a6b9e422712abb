"""Long documents in windows, from texts to scores: by hand, on transformers, is the oracle."""

import asyncio
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from long_documents import (
    DOCUMENTS,
    LIMIT,
    OVER,
    PAIRS,
    ROOM,
    WORDS,
    halves,
    some_words,
    windows,
)
from prompts import MXBAI_END, MXBAI_HEAD, MXBAI_TASK, encoder
from reranker_folders import Case

from packrank import Engine, InputError, PairError, Reranker
from packrank.documents import TokenizedText
from packrank_kernels import set_num_threads


def logits_by_hand(folder: Path, pairs: list[tuple[str, str]]) -> np.ndarray:
    """[N, labels]: of each pair the maximum over windows, each run by itself by transformers."""
    from transformers import AutoModelForSequenceClassification

    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    found = []
    for query, document in pairs:
        asked, text = (
            backend.encode(one, add_special_tokens=False).ids for one in (query, document)
        )
        asked, size = halves(asked, text, ROOM)
        every = []
        for part in windows(text, size):
            ids = [2, *asked, 3, *part, 3]
            types = [0] * (len(asked) + 2) + [1] * (len(part) + 1)
            assert len(ids) <= LIMIT
            with torch.no_grad():
                out = model(torch.tensor([ids]), token_type_ids=torch.tensor([types]))
            every.append(out.logits[0].numpy())
        found.append(np.max(every, axis=0))
    return np.array(found)


def test_scores_are_those_by_hand(long_folder: Path, windowed: Reranker) -> None:
    want = logits_by_hand(long_folder, PAIRS)[:, 0]
    got = windowed.score(PAIRS)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    assert len(np.unique(got.round(4))) > len(PAIRS) / 2


@pytest.mark.parametrize("mutation", ["mean", "no last", "no overlap", "cut"])
def test_what_is_not_the_rule_is_found(
    mutation: str, long_folder: Path, windowed: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from packrank.scoring import pair_scorer
    from packrank.text import cutting
    from packrank.text import windows as rule

    if mutation == "mean":

        def mean(best: Any, places: list[int], found: Any) -> None:
            for place in set(places):
                best[place] = found[np.array(places) == place].mean(0)

        monkeypatch.setattr(pair_scorer, "keep_best", mean)
    elif mutation == "no last":

        def without_last(lengths: Any, sizes: Any) -> Any:
            of, begins, tokens = rule.windows_of(lengths, sizes)
            stays = np.append(of[1:] == of[:-1], False) | (np.bincount(of)[of] == 1)
            return of[stays], begins[stays], tokens[stays]

        monkeypatch.setattr(cutting, "windows_of", without_last)
    elif mutation == "no overlap":
        monkeypatch.setattr(rule, "OVERLAP", 0)
    else:
        windowed = Reranker(long_folder, device="cpu", activation="identity")
    got, want = windowed.score(PAIRS), logits_by_hand(long_folder, PAIRS)[:, 0]
    assert np.abs(got - want).max() > 1e-3


def test_what_fits_has_the_bits_it_had_and_windows_score_no_less(
    windowed: Reranker, cut: Reranker
) -> None:
    """The first window is the pair as it is cut."""
    got, want = windowed.score(PAIRS), cut.score(PAIRS)
    fits = [len(q.split()) + len(d.split()) <= ROOM for q, d in PAIRS]
    assert 5 < sum(fits) < len(PAIRS) - 5
    assert np.array_equal(got[fits], want[fits])
    assert (got >= want).all() and (got > want).any()


def test_labels_have_a_maximum_each(
    checkpoint: Callable[..., Path], save_tokenizer: Callable[..., None], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("Bert", num_labels=3), folder)
    save_tokenizer(folder, " ".join(WORDS))
    model = Reranker(folder, activation="identity", long_documents="windows")
    got = model.score(PAIRS)
    np.testing.assert_allclose(got, logits_by_hand(folder, PAIRS), rtol=0, atol=1e-5)
    ranking = model.rank("red fox", DOCUMENTS, label=1)
    asked = got[: len(DOCUMENTS)]
    assert [r.index for r in ranking] == np.argsort(-asked[:, 1], kind="stable").tolist()
    # An activation is of these maxima.
    softmax = np.exp(asked) / np.exp(asked).sum(1, keepdims=True)
    np.testing.assert_allclose(model.score(PAIRS, activation="softmax")[: len(asked)], softmax,
                               rtol=1e-5)  # fmt: skip


def test_every_form_of_a_call(windowed: Reranker, cut: Reranker) -> None:
    """Said of the model or of a call, of one query, of several, in coroutines, in batches."""
    how: Any = {"long_documents": "windows"}
    scores = windowed.score(PAIRS)
    assert np.array_equal(cut.score(PAIRS, **how), scores)
    assert np.array_equal(cut.try_score(PAIRS, **how)[0], scores)
    assert np.array_equal(asyncio.run(cut.score_async(PAIRS, **how)), scores)
    assert np.array_equal(windowed.score(PAIRS, long_documents="truncate"), cut.score(PAIRS))
    assert windowed.score(PAIRS[8]) == scores[8]
    best = np.argsort(-scores[: len(DOCUMENTS)], kind="stable").tolist()
    want = [(index, float(scores[index]), DOCUMENTS[index]) for index in best]
    ranking = windowed.rank("red fox", DOCUMENTS)
    assert ranking == want == cut.rank("red fox", DOCUMENTS, **how)
    assert ranking.num_layers.tolist() == [3] * len(DOCUMENTS)
    assert cut.try_rank("red fox", DOCUMENTS, 2, **how) == (want[:2], {})
    requests = [("red fox", DOCUMENTS), ("", DOCUMENTS[:3])]
    many = windowed.rank_many(requests)
    assert many[0] == want and many == cut.rank_many(requests, **how)
    assert asyncio.run(cut.try_rank_many_async(requests, **how)) == [(one, {}) for one in many]
    batches = [PAIRS[:5], [], PAIRS[5:]]
    with closing(windowed.score_stream(batches)) as stream:
        found = [logits for logits, _ in stream]
    assert [len(one) for one in found] == [5, 0, len(PAIRS) - 5]
    assert np.array_equal(np.concatenate(found)[:, 0], scores)
    whole = [pair for pair in PAIRS if all(pair)]  # an empty text is an error of a table's
    table = pa.table({"query": [q for q, _ in whole], "document": [d for _, d in whole]})
    [scored] = windowed.score_batches(table)
    assert scored["score"].to_pylist() == windowed.score(whole).tolist()


def test_tokens_and_work_are_counted(windowed: Reranker) -> None:
    before = windowed.num_tokens
    ranking = windowed.rank("red fox", [DOCUMENTS[-1]])
    count = len(windows([0] * 200, OVER))
    assert windowed.num_tokens - before == count * LIMIT
    assert ranking.work is not None and ranking.work.total == count * LIMIT * 3


@settings(max_examples=25)
@given(
    order=st.permutations(range(12)),
    budget=st.sampled_from([1, 41, 90, 4096]),
    threads=st.sampled_from([1, 3]),
)
def test_company_changes_no_score(
    order: list[int], budget: int, threads: int, windowed: Reranker
) -> None:
    """Nor order, budget (windows of one document in several packs) or threads."""
    from packrank_kernels import get_num_threads

    before, runner = get_num_threads(), windowed._runner
    usual = runner.budget_tokens
    pairs = [PAIRS[2 * n] for n in order]
    want = np.concatenate([windowed.score([pair]) for pair in pairs])
    try:
        runner.budget_tokens = budget
        set_num_threads(threads)
        assert np.array_equal(windowed.score(pairs), want)
    finally:
        set_num_threads(before)
        runner.budget_tokens = usual


def test_several_devices_and_threads(long_folder: Path, windowed: Reranker) -> None:
    scores = windowed.score(PAIRS)
    options: Any = {"activation": "identity", "long_documents": "windows", "budget_tokens": 100}
    fleet = Reranker(long_folder, device=["cpu", "cpu"], **options)
    assert np.array_equal(fleet.score(PAIRS), scores)
    assert fleet.rank("red fox", DOCUMENTS) == windowed.rank("red fox", DOCUMENTS)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: windowed.score(PAIRS), range(6)))
    assert all(np.array_equal(one, scores) for one in found)


def test_tokens_for_documents(long_folder: Path, windowed: Reranker) -> None:
    backend = tokenizers.Tokenizer.from_file(str(long_folder / "tokenizer.json"))
    how = windowed.tokenization
    assert how is not None
    given = [
        (q, TokenizedText(np.array(backend.encode(d, add_special_tokens=False).ids, np.int32), how))
        for q, d in PAIRS
    ]
    assert np.array_equal(windowed.score(given), windowed.score(PAIRS))


def test_a_query_too_long_fails_alone(long_folder: Path) -> None:
    model = Reranker(long_folder, truncation="off", long_documents="windows")
    long = some_words(36, 0)
    ranking, failures = model.try_rank(long, ["red", DOCUMENTS[-1]])
    assert [one.index for one in ranking] == [0] and list(failures) == [1]
    assert "the query leaves 1 tokens for windows of the document" in failures[1]
    assert ranking.num_layers.tolist() == [3, 0]
    with pytest.raises(PairError) as raised:
        model.score([("red", DOCUMENTS[-1]), (some_words(60, 1), "red")])
    assert raised.value.index == 1
    scores, failures = model.try_score([("red", DOCUMENTS[-1]), ("red", "\ud800")])
    assert np.isfinite(scores[0]) and np.isnan(scores[1]) and list(failures) == [1]


def test_one_window_without_a_number_fails_its_pair(
    windowed: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the others say, and whichever it is."""
    model = windowed._runner.model  # type: ignore[union-attr]
    usual = model.logits
    marked = 8  # owl

    def logits(pack: Any) -> Any:
        found = usual(pack)
        for place, sequence in enumerate(pack):
            if sequence.token_ids.tolist().count(marked) > 5:
                found[place] = float("nan")
        return found

    monkeypatch.setattr(model, "logits", logits)
    text = "red " * 50 + "owl " * 6 + "blue " * 90
    for pairs in ([("fox", text), ("fox", "red " * 90)], [("fox", "red"), ("fox", text)]):
        bad = [text == document for _, document in pairs].index(True)
        scores, failures = windowed.try_score(pairs)
        assert np.isnan(scores).tolist() == [n == bad for n in range(2)]
        assert failures == {bad: "the model's logits for it are not finite numbers"}
        with Engine(windowed) as engine, pytest.raises(PairError) as raised:
            engine.submit_pairs(pairs).result(60)
        assert raised.value.index == bad


def test_chats(reranker_case: Callable[[str], Case], tmp_path: Path) -> None:
    """One that shows the query first is read in windows; of another the query would be cut."""
    case = reranker_case("logit-score")
    cut, model = case.open(), case.open(long_documents="windows")
    pairs = [("is it", "a panda"), ("is it", "it was " * 90), ("a", "no yes " * 60)]
    got, plain = model.score(pairs), cut.score(pairs)
    assert got[0] == plain[0] and (got >= plain).all() and (got[1:] > plain[1:]).any()
    with Engine(model) as engine:
        assert np.array_equal(engine.submit_pairs(pairs).result(60), got)
    folder = tmp_path / "reversed"
    shutil.copytree(case.folder, folder)
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("in messages", "in messages | reverse"))
    said = (
        "the model cannot read long documents in windows: where its chat template is cut, the "
        "query does not stay; leave long_documents at 'truncate'"
    )
    with pytest.raises(InputError, match=said):
        Reranker(folder, long_documents="windows")
    with pytest.raises(InputError, match=said):
        Reranker(folder).score([("a", "b")], long_documents="windows")


@pytest.mark.parametrize("name", ["mxbai-v2", "llama"])
def test_decoders(reranker_case: Callable[[str], Case], name: str) -> None:
    """What begins alike is computed once, and the best of the windows is that by hand."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    case = reranker_case(name)
    encode = encoder(tokenizers.Tokenizer.from_file(str(case.folder / "tokenizer.json")))
    query, texts = "is it", ["a panda", "the passage was what it is " * 8, "it " * 60]
    door = AutoModelForCausalLM if name == "mxbai-v2" else AutoModelForSequenceClassification
    model = door.from_pretrained(case.folder).eval()
    want = []
    for text in texts:
        if name == "mxbai-v2":
            separator, asked = encode("\n"), encode(f"query: {query}")
            size = 40 - len(asked) - len(separator)
            part, before = encode(f"document: {text}"), encode("document:")
            parts = [before + one for one in windows(part[len(before) :], size - len(before))]
            head = encode(MXBAI_HEAD) + asked + separator
            tail = separator + encode(MXBAI_TASK) + encode(MXBAI_END)
            every = [head + part + tail for part in parts]
        else:
            asked, size = halves(encode(query), encode(text), 38)
            every = [[1, *asked, 1, *part] for part in windows(encode(text), size)]
        found = []
        for ids in every:
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0]
            if name == "mxbai-v2":
                one, zero = (encode(token)[0] for token in "10")
                found.append(float(logits[-1, one] - logits[-1, zero]))
            else:
                found.append(float(logits[0]))
        want.append(max(found))
    ours = case.open(long_documents="windows", activation="identity")
    got = ours.score([(query, text) for text in texts])
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)
    ranking = ours.rank(query, texts)
    assert {one.index: one.score for one in ranking} == dict(enumerate(got.tolist()))
    assert ranking.work is not None and ranking.work.saved_by_prefix > 0
    plain = case.open(activation="identity").score([(query, text) for text in texts])
    assert plain[0] == got[0] and (got >= plain).all() and (got > plain).any()


def test_compressed_documents(reranker_case: Callable[[str], Case]) -> None:
    """Each window is compressed by itself."""
    case = reranker_case("bge-gemma2-lightweight")
    text = "the passage was what it is " * 9
    cut, model = case.open(), case.open(long_documents="windows")
    assert model.score([("is it", "a panda")]) == cut.score([("is it", "a panda")])
    assert model.score([("is it", text)]) >= cut.score([("is it", text)])
    scores = model.score([("is it", text), ("what is a panda", text), ("is it", "a")])
    small = case.open(long_documents="windows", budget_tokens=64)
    again = small.score([("is it", "a"), ("what is a panda", text), ("is it", text)])
    assert np.array_equal(again[::-1], scores)
