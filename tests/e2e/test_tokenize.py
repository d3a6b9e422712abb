"""`packrank tokenize`, and rerankers that score its tokens: the same bits as from texts."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from killing import run_killed
from tokenizer_folders import write_family

from packrank import FlagReranker, InputError, ModelError, Reranker, TokenStore
from packrank.commands.cli import main
from packrank.jobs import documents as documents_file
from packrank.stores.appender import Appender

TEXTS = ["ab a b", "", "É é ABC", "漢 [SEP]ab", "a b ab " * 30, "ab", "ab"]
QUERIES = ["ab", "", "a b " * 12]


def tokenize(*arguments: object) -> int:
    return main(["tokenize", *map(str, arguments), "--quiet"])


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture(scope="module")
def bert(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_tokenizer(checkpoint("Bert", num_labels=1), "bert", tmp_path_factory.mktemp("b"))


def with_tokenizer(model: Path, family: str, root: Path, **config: Any) -> Path:
    saved = (model / "config.json").read_text()
    folder = shutil.copytree(model, root / family)
    write_family(folder, family, **config)
    (folder / "config.json").write_text(saved)
    return folder


def check_alike(
    folder: Path, store: Path, texts: list[str], model: dict[str, Any], call: dict[str, Any]
) -> Reranker:
    """Scores and rankings of tokens are those of texts, bit by bit, and so is what fails."""
    reranker, tokens = Reranker(folder, device="cpu", **model), TokenStore.open(store)
    tokens.check(reranker.tokenization)
    documents = [tokens[str(number)] for number in range(1, len(texts) + 1)]
    pairs = [[(q, d) for q in QUERIES for d in these] for these in (texts, documents)]
    (wanted, reasons), (found, others) = (reranker.try_score(x, **call) for x in pairs)
    assert wanted.tobytes() == found.tobytes()
    assert reasons == others and len(reasons) < len(pairs[0])
    requests = [[(q, these) for q in QUERIES] for these in (texts, documents)]
    rankings = [
        [
            ([(one.index, one.score) for one in ranking], failures)
            for ranking, failures in reranker.try_rank_many(each, 3, **call)
        ]
        for each in requests
    ]
    assert rankings[0] == rankings[1]
    return reranker


@pytest.mark.parametrize(
    ("name", "family", "side"),
    [
        ("Bert", "bert", "right"),
        ("XLMRoberta", "xlm-roberta", "left"),
        ("Roberta", "roberta", "right"),
    ],
)
def test_encoders_score_tokens_as_texts(
    checkpoint: Callable[..., Path], tmp_path: Path, name: str, family: str, side: str
) -> None:
    model = checkpoint(name, num_labels=1, vocab_size=300)
    folder = with_tokenizer(model, family, tmp_path, truncation_side=side)
    assert tokenize(folder, write(tmp_path / "d.jsonl", TEXTS), tmp_path / "store") == 0
    for truncation in ("longest_first", "only_second", "off"):
        for call in ({}, {"max_length": 12}, {"document_length": 4}):
            check_alike(folder, tmp_path / "store", TEXTS, {"truncation": truncation}, call)
    # As the tokenizers library makes them, whole.
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens = TokenStore.open(tmp_path / "store")
    for number, text in enumerate(TEXTS, start=1):
        ids = backend.encode(text, add_special_tokens=False).ids
        assert tokens[str(number)].token_ids.tolist() == ids


@pytest.mark.parametrize("name", ["bge-gemma2-lightweight", "mxbai-v2", "qwen3", "llama"])
def test_decoders_score_tokens_as_texts(
    reranker_case: Callable[[str], Any], tmp_path: Path, name: str
) -> None:
    case = reranker_case(name)
    template = case.options.get("template")
    options = [] if template is None else ["--template", template]
    documents = write(tmp_path / "d.jsonl", TEXTS)
    assert tokenize(case.folder, documents, tmp_path / "store", *options) == 0
    reranker = check_alike(case.folder, tmp_path / "store", TEXTS, case.options, {})
    if reranker.template is not None:
        check_alike(case.folder, tmp_path / "store", TEXTS, {**case.options, "max_length": 200}, {})
    else:
        assert reranker.tokenization is not None
        assert (reranker.tokenization.before, reranker.tokenization.after) == ("", "")


def test_the_stream_of_a_job_takes_tokens(bert: Path, tmp_path: Path) -> None:
    assert tokenize(bert, write(tmp_path / "d.jsonl", TEXTS), tmp_path / "store") == 0
    tokens, reranker = TokenStore.open(tmp_path / "store"), Reranker(bert, device="cpu")
    batches = [[("ab", tokens[id]) for id in tokens.ids], [("b", tokens["1"]), ("b", 7)]]
    texts = [[("ab", text) for text in TEXTS], [("b", TEXTS[0]), ("b", 7)]]
    found = [list(reranker.score_stream(each)) for each in (batches, texts)]
    for (logits, failures), (wanted, reasons) in zip(*found, strict=True):
        assert logits.tobytes() == wanted.tobytes() and failures == reasons
    [score] = reranker.score([("ab", tokens["1"])])
    assert reranker.score(("ab", tokens["1"])) == score


def test_records_that_cannot_be_used_are_said(
    bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        '{"text": "ab", "id": "x"}',
        '{"text": "a", "id": "x"}',
        '{"txt": "a"}',
        "",
        '{"text": "a\\ud800"}',
        '{"title": "b", "text": "a", "_id": "y"}',
        '{"text": ""}',
    ]
    documents, store = tmp_path / "d.jsonl", tmp_path / "store"
    documents.write_text("\n".join(lines))
    assert main(["tokenize", str(bert), str(documents), str(store)]) == 1
    said = capsys.readouterr().err.splitlines()
    reasons = ("the id 'x' already", '"text"', "lone surrogate")
    for line, number, words in zip(said, (2, 3, 5), reasons, strict=False):
        assert line.startswith(f"packrank: line {number} was left out: ") and words in line
    assert said[3].startswith("documents tokenized: 3, tokens: 3, 4 bytes/token, lines failed: 3, ")
    assert len(said) == 4
    tokens = TokenStore.open(store)
    assert [*tokens.ids] == ["x", "y", "7"]
    backend = tokenizers.Tokenizer.from_file(str(bert / "tokenizer.json"))
    assert tokens["y"].token_ids.tolist() == backend.encode("b a", add_special_tokens=False).ids
    before = bytes_of(store)
    assert main(["tokenize", str(bert), str(documents), str(store)]) == 1
    assert "lines tokenized before: 7" in capsys.readouterr().err
    assert bytes_of(store) == before
    assert main(["info", str(store)]) == 0
    info = capsys.readouterr().out
    for line in (f"tokenized by     {bert}", "documents        3", "complete         yes"):
        assert line in info.splitlines()


def test_what_cannot_be_done_is_one_sentence(
    bert: Path,
    model: Path,
    checkpoint: Callable[..., Path],
    tmp_path: Path,
    one_sentence: Callable[..., None],
) -> None:
    documents, store = write(tmp_path / "d.jsonl", TEXTS), tmp_path / "store"
    late = shutil.copytree(bert, tmp_path / "late")
    for path in checkpoint("Bert", "Model").iterdir():
        shutil.copy(path, late)
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n")
    assert tokenize(bert, empty, tmp_path / "nothing") == 2
    one_sentence("empty.txt holds no document")
    assert not (tmp_path / "nothing").exists()
    assert main(["encode", str(late), str(documents), str(tmp_path / "v"), "--quiet"]) == 0
    assert tokenize(bert, documents, store) == 0
    more = write(tmp_path / "more.jsonl", ["b"])
    for arguments, words in (
        ((late, documents, tmp_path / "n"), ("LateInteraction scores by its token vectors",)),
        ((model, documents, store), (f"tokenizer of {bert} made them, and {model} has another",)),
        ((bert, documents, tmp_path / "v"), ("holds token embeddings, from packrank encode",)),
        ((store, documents, tmp_path / "n"), ("holds a store of token ids",)),
        ((bert, more, store), ("does not begin with the 7 lines added last", "--append")),
        ((bert, tmp_path / "no.txt", store), ("no.txt", "No such file")),
        ((bert, documents, bert), ("is no store", "name a folder")),
    ):
        before = bytes_of(store)
        assert tokenize(*arguments) == 2
        one_sentence(*words)
        assert bytes_of(store) == before
    assert main(["encode", str(late), str(documents), str(store), "--quiet"]) == 2
    one_sentence("holds token ids, from packrank tokenize")
    assert main(["rank", str(late), "--query", "a", "--store", str(store)]) == 2
    one_sentence("holds token ids, from packrank tokenize")
    with Appender(store, of_tokens=True):
        assert tokenize(bert, documents, store) == 2
        one_sentence("is being written by another process")
    assert tokenize(bert, more, store, "--append") == 0
    assert [*TokenStore.open(store).ids] == [str(number) for number in range(1, 9)]


def test_prompts_that_are_tokenized_whole_have_no_store(
    reranker_case: Callable[[str], Any], tmp_path: Path, one_sentence: Callable[..., None]
) -> None:
    case = reranker_case("logit-score")
    assert Reranker(case.folder, device="cpu").tokenization is None
    assert tokenize(case.folder, write(tmp_path / "d.jsonl", ["a"]), tmp_path / "store") == 2
    one_sentence("together with what stands around it", "score its texts")
    assert not (tmp_path / "store").exists()


def test_an_instruction_is_never_put_around_tokens(bert: Path, tmp_path: Path) -> None:
    assert tokenize(bert, write(tmp_path / "d.jsonl", TEXTS), tmp_path / "store") == 0
    tokens = TokenStore.open(tmp_path / "store")
    plain = FlagReranker(
        str(bert), query_instruction_for_rerank="a", query_instruction_format="{}{}"
    )
    pair = [("ab", tokens["1"])]
    assert plain.compute_score(pair) == plain.compute_score([("ab", TEXTS[0])])
    instructed = FlagReranker(
        str(bert), passage_instruction_for_rerank="a", passage_instruction_format="{}{}"
    )
    with pytest.raises(InputError, match="given as tokens, and here its text is needed"):
        instructed.compute_score(pair)


def test_no_weights_are_read(bert: Path, tmp_path: Path) -> None:
    """But for their names: these are none."""
    folder = shutil.copytree(bert, tmp_path / "model")
    raw = (folder / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    (folder / "model.safetensors").write_bytes(raw[:start] + b"\xff" * (len(raw) - start))
    with pytest.raises(ModelError):
        Reranker(folder, device="cpu")
    assert tokenize(folder, write(tmp_path / "d.jsonl", TEXTS), tmp_path / "store") == 0


def test_killed_at_random_moments_the_store_is_the_same(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, thorough: bool
) -> None:
    monkeypatch.setattr("packrank.stores.segments._SEGMENT_TOKENS", 60)
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["ab", "a", "é"], n)) for n in rng.integers(0, 20, 90)]
    documents = write(tmp_path / "d.jsonl", texts)
    assert tokenize(bert, documents, tmp_path / "undisturbed") == 0
    stores = tmp_path / "undisturbed", tmp_path / "killed"
    run_killed(200 if thorough else 2, stores[0], "tokenize", bert, documents, stores[1])
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "undisturbed")
    assert len(TokenStore.open(tmp_path / "killed")) == 90


@pytest.mark.parametrize("commits", range(1, 5))
def test_a_run_that_was_stopped_goes_on(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commits: int
) -> None:
    """What was committed is not tokenized again, and is there for who opens it meanwhile."""
    monkeypatch.setattr(documents_file, "_WINDOW_DOCUMENTS", 2)
    monkeypatch.setattr("packrank.stores.appender._COMMIT_SECONDS", 0.0)
    documents = write(tmp_path / "d.jsonl", TEXTS)
    assert tokenize(bert, documents, tmp_path / "undisturbed") == 0
    original, left = Appender.commit, commits

    def commit(self: Appender, *args: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise InputError("stopped")
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Appender, "commit", commit)
        assert tokenize(bert, documents, tmp_path / "store") == 2
    store = TokenStore.open(tmp_path / "store")
    assert (len(store), store.complete) == (2 * (commits - 1), False)
    assert tokenize(bert, documents, tmp_path / "store") == 0
    assert bytes_of(tmp_path / "store") == bytes_of(tmp_path / "undisturbed")
