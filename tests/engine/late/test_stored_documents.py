"""Documents are encoded into a store from Python: all or none of them, and each once."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from packrank import InputError, LateInteraction, PairError, Store, StoreError
from packrank.stores.appender import Appender
from packrank_kernels import TokenEmbeddings

DOCUMENTS = ["the sea a sea", "", "boat", "sea", "a longer document of words " * 5, "boat"]
CONFIG = {"model_type": "ColBERT", "query_length": 16, "document_length": 24}


@pytest.fixture(scope="module")
def folder(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    path = tmp_path_factory.mktemp("late") / "model"
    shutil.copytree(checkpoint("Bert", "Model"), path)
    save_tokenizer(path, "the sea a boat longer query document of more words than others")
    (path / "config_sentence_transformers.json").write_text(json.dumps(CONFIG))
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> LateInteraction:
    return LateInteraction(folder, device="cpu")


def test_documents_are_encoded_into_a_store(
    model: LateInteraction, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("packrank.late.attached._DOCUMENTS_AT_ONCE", 2)
    path = tmp_path / "store"
    assert model.encode_documents(DOCUMENTS[:3], path) == []
    opened = Store.open(path)
    model.encode_documents(DOCUMENTS[3:], opened, [*"xyz"])
    assert len(opened) == 3
    store = Store.open(path)
    assert (store.format, [*store.ids]) == ("int8", ["0", "1", "2", "x", "y", "z"])
    expected = TokenEmbeddings.encode(model.encode_documents(DOCUMENTS), "int8")
    assert torch.equal(store.embeddings.values, expected.values)
    assert torch.equal(store.embeddings.cu_seqlens, expected.cu_seqlens)
    assert LateInteraction(folder, device="cpu", store=store).rank("sea", candidates=["y"])


def test_all_documents_get_into_a_store_or_none(
    model: LateInteraction, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("packrank.late.attached._DOCUMENTS_AT_ONCE", 2)
    path = tmp_path / "store"
    model.encode_documents(["sea"], path)
    for error, call, message in (
        (
            PairError,
            lambda: model.encode_documents([*"abc", "\ud800"], path),
            "pair 3: .*surrogate",
        ),
        (InputError, lambda: model.encode_documents([*"ab"], path, ["a"]), "1 ids for 2 documents"),
        (InputError, lambda: model.encode_documents(["a"], path, ["\ud800"]), "id of document 0"),
        (InputError, lambda: model.encode_documents(["a"], path, "a"), "ids is a str"),
        (InputError, lambda: model.encode_documents(["a"], ids=["a"]), "name one"),
        (
            InputError,
            lambda: model.encode_documents([*"abc"], path, [*"xyx"]),
            r"ids\[0\] and ids\[2\] are both 'x'; ids must differ",
        ),
    ):
        with pytest.raises(error, match=message):
            call()
        assert [*Store.open(path).ids] == ["0"]
    other = LateInteraction(shutil.copytree(folder, tmp_path / "other"), device="cpu")
    other.encode_documents(["the sea"], path)  # the same files elsewhere are the same model
    (tmp_path / "other/config_sentence_transformers.json").write_text('{"model_type": "ColBERT"}')
    with pytest.raises(StoreError, match="was encoded with document_length 24, and this model"):
        LateInteraction(tmp_path / "other", device="cpu").encode_documents(["x"], path)


def test_ids_that_are_there_are_said_before_anything_is_encoded(
    model: LateInteraction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a program that is run twice."""
    path = tmp_path / "store"
    model.encode_documents(["sea", "boat"], path, ["a", "b"])
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    monkeypatch.setattr(model, "try_encode_documents", None)
    for ids, message in (
        (["a", "b"], r"store has documents by all of these ids already; open it as it is with Lat"),
        (["c", "b"], r"by 1 of the 2 ids already, the first of them 'b'; leave those out, or name"),
    ):
        with pytest.raises(StoreError, match=message):
            model.encode_documents(["sea", "boat"], path, ids)
        with pytest.raises(InputError, match=r"ids\[0\] and ids\[1\] are both 'k'"):
            model.encode_documents(["sea", "boat"], tmp_path / "new", ["k", "k"])
        assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_encoded_leaves_no_store(model: LateInteraction, tmp_path: Path) -> None:
    with pytest.raises(PairError, match="pair 1"):
        model.encode_documents(["a", "\ud800"], tmp_path / "store")
    assert not (tmp_path / "store").exists()
    model.encode_documents([], tmp_path / "store")
    assert len(Store.open(tmp_path / "store")) == 0


def test_a_store_remembers_how_many_documents_were_cut(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("packrank.late.attached._DOCUMENTS_AT_ONCE", 2)
    short = LateInteraction(folder, device="cpu", document_length=6)
    long = "sea " * 9
    short.encode_documents([long, "sea", long, "boat", long], tmp_path / "store")
    assert Store.open(tmp_path / "store").num_cut == 3 == short.num_cut_documents
    short.encode_documents([long], tmp_path / "store")
    assert Store.open(tmp_path / "store").num_cut == 4


@pytest.mark.parametrize(
    ("format", "factor", "fits"),
    [("int8", 1e6, True), ("float16", 1e6, False), ("int8", torch.inf, False)],
)
def test_vectors_that_a_format_cannot_hold_are_named(
    model: LateInteraction,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    format: str,
    factor: float,
    fits: bool,
) -> None:
    encode = model.try_encode_documents
    (vectors,) = model.encode_documents(["sea"])
    monkeypatch.setattr(
        model,
        "try_encode_documents",
        lambda t, cut: ([x * factor for x in encode(t)[0] if x is not None], {}),
    )
    with Appender(tmp_path / "store") as writer:
        writer.create(format, model.size, model.identity)
    if fits:
        model.encode_documents(["sea"], tmp_path / "store")
        kept = Store.open(tmp_path / "store").embeddings.decode(0)
        assert (kept / factor - vectors).abs().max() < 1 / 127
        return
    reason = f"pair 0: a value of its vectors is not finite in {format}"
    with pytest.raises(PairError, match=reason):
        model.encode_documents(["sea"], tmp_path / "store")
