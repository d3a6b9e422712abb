"""Token ids on disk: what was written is what is read, mapped; what is damaged is refused."""

import dataclasses
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from packrank import InputError, LateInteraction, Store, StoreError, StoreWriter, TokenStore
from packrank.checkpoint.kind import TOKEN_IDS, expect, kind_of
from packrank.documents import Tokenization
from packrank.errors import ModelError
from packrank.stores.appender import Appender
from packrank.stores.manifest import Manifest

HOW = Tokenization("here/one", "f00d", "B: ")
DOCUMENTS = {"a": [5, 6, 7], "é": [], "10": [2**31 - 1, 0]}


def write(folder: Path, documents: dict[str, Sequence[int]] = DOCUMENTS, how: Any = HOW) -> Path:
    with Appender(folder, of_tokens=True) as writer:
        if writer.manifest is None:
            writer.create(TOKEN_IDS, 1, dataclasses.asdict(how))
        rows = [torch.tensor(ids, dtype=torch.int32)[:, None] for ids in documents.values()]
        writer.append(list(documents), rows, 0)
        writer.commit()
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    store = TokenStore.open(write(tmp_path / "store"))
    assert ([*store.ids], len(store), store.num_tokens) == (["a", "é", "10"], 3, 5)
    assert {id: store[id].token_ids.tolist() for id in store.ids} == DOCUMENTS
    assert all(store[id].token_ids.dtype == np.int32 for id in store.ids)
    assert store["a"].tokenization is store.tokenization == HOW
    assert "a" in store and "b" not in store and 0 not in store
    assert store.complete and repr(store).endswith("3 documents of 5 tokens)")
    for id, words in (("b", "no document of .* has the id 'b'"), (0, "the id is a int")):
        with pytest.raises(InputError, match=words):
            store[id]  # type: ignore[index]
    values = np.fromfile(tmp_path / "store/values.bin", "<i4")
    assert values.tolist() == [5, 6, 7, 2**31 - 1, 0]


def test_ids_are_mapped_and_not_copied(tmp_path: Path) -> None:
    store = TokenStore.open(write(tmp_path / "store"))
    one, same = store["a"].token_ids, store["a"].token_ids
    assert np.shares_memory(one, same)
    write(tmp_path / "store", {"more": [1]})
    assert len(store) == 3 and "more" not in store
    again = TokenStore.open(tmp_path / "store")
    assert again["more"].token_ids.tolist() == [1]
    other = TokenStore.open(write(tmp_path / "other", {**DOCUMENTS, "more": [2]}))
    assert len({store.digest, again.digest, other.digest}) == 3
    assert TokenStore.open(write(tmp_path / "same")).digest == store.digest


def test_a_store_without_tokens(tmp_path: Path) -> None:
    store = TokenStore.open(write(tmp_path / "store", {"": []}))
    assert (len(store), store.num_tokens, len(store[""])) == (1, 0, 0)


@pytest.mark.parametrize("name", ["values", "cu_seqlens", "ids", "id_offsets", "segments"])
def test_every_damaged_byte_is_seen(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("packrank.stores.segments._SEGMENT_TOKENS", 2)
    path = write(tmp_path / "store") / f"{name}.bin"
    content = path.read_bytes()
    assert content
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=f"{name}.bin is damaged"):
            TokenStore.open(path.parent)
    path.write_bytes(content[:-1])
    with pytest.raises(StoreError, match=rf"{name}\.bin holds .* it was cut off"):
        TokenStore.open(path.parent, verify=False)
    path.unlink()
    with pytest.raises(StoreError, match=rf"has no {name}\.bin"):
        Appender(path.parent, of_tokens=True)


def test_ids_that_are_none_are_not_handed_out(tmp_path: Path) -> None:
    path = write(tmp_path / "store") / "values.bin"
    values = np.fromfile(path, "<i4")
    values[1] = -1
    values.tofile(path)
    store = TokenStore.open(path.parent, verify=False)
    with pytest.raises(StoreError, match=r"values\.bin is damaged: document 'a' has a token id"):
        store["a"]
    assert len(store["10"]) == 2
    path.write_bytes(b"")
    with pytest.raises(StoreError, match="was cut off while it was open"):
        store["10"]


@pytest.mark.parametrize(
    "change",
    [
        {"size": 2},
        {"model": None},
        {"model": {**dataclasses.asdict(HOW), "tokenizer": 7}},
        {"model": {"name": "here/one", "tokenizer": "f00d"}},
        {"format": "token id"},
        {"cut": 4},
    ],
)
def test_a_manifest_that_nobody_wrote_is_damaged(tmp_path: Path, change: dict[str, Any]) -> None:
    path = write(tmp_path / "store") / "store.json"
    fields = json.loads(path.read_bytes()) | change
    del fields["crc32"]
    crc32 = zlib.crc32(json.dumps(fields, indent=2).encode())
    path.write_text(json.dumps({**fields, "crc32": crc32}, indent=2) + "\n")
    for attempt in (TokenStore.open, lambda folder: Appender(folder, of_tokens=True)):
        with pytest.raises(StoreError, match=r"store\.json is damaged"):
            attempt(path.parent)


def test_kinds_of_stores_refuse_each_other(tmp_path: Path) -> None:
    tokens, vectors = write(tmp_path / "tokens"), tmp_path / "vectors"
    with StoreWriter(vectors) as writer:
        writer.append(["a"], [np.ones((1, 8))])
    before = bytes_of(tokens), bytes_of(vectors)
    assert (kind_of(tokens), kind_of(vectors)) == ("token store", "store")
    for attempt in (Store.open, StoreWriter, Appender):
        with pytest.raises(StoreError, match="holds token ids, from packrank tokenize, and what"):
            attempt(tokens)  # type: ignore[operator]
    for attempt in (TokenStore.open, lambda folder: Appender(folder, of_tokens=True)):
        with pytest.raises(StoreError, match="holds token embeddings, from packrank encode, and"):
            attempt(vectors)
    with pytest.raises(ModelError, match="holds a store of token ids; name the model"):
        LateInteraction(tokens)
    with pytest.raises(ModelError, match="holds a store of token ids; name the model"):
        expect(tokens, ("decoder",))
    assert before == (bytes_of(tokens), bytes_of(vectors))
    (tokens / "store.json").write_text("{")
    assert kind_of(tokens) == "store"  # which says what is wrong with it
    for path in (tmp_path / "none", tmp_path / "file"):
        (tmp_path / "file").touch()
        with pytest.raises(StoreError, match="pass a folder made by packrank tokenize"):
            TokenStore.open(path)
    with pytest.raises(StoreError, match=r"has no store\.json"):
        TokenStore.open(tmp_path)


def test_another_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    store = TokenStore.open(write(tmp_path / "store"))
    store.check(dataclasses.replace(HOW, name="a/copy"))
    for wanted, words in (
        (Tokenization("there/two", "beef", "B: "), "of here/one made them, and there/two has ano"),
        (Tokenization("here/one", "beef", "B: "), "it has changed since"),
        (Tokenization("there/two", "f00d"), "'B: ...', and there/two reads '...'"),
        (Tokenization("there/two", "f00d", "B: ", "."), "and there/two reads 'B: ....'"),
        (None, "together with what stands around it"),
    ):
        with pytest.raises(StoreError, match=r"the token ids of .*store cannot be used: ") as error:
            store.check(wanted)
        assert words in str(error.value)


def test_sizes_follow_from_the_manifest(tmp_path: Path) -> None:
    """As written down: no scales, no codes, four bytes a token."""
    manifest = Manifest.load(write(tmp_path / "store"))
    assert manifest.bytes_per_token == 4.0
    sizes = {name: len(raw) for name, raw in bytes_of(tmp_path / "store").items()}
    del sizes["store.json"]
    assert sizes == {
        "values.bin": 20,
        "cu_seqlens.bin": 32,
        "ids.bin": 5,
        "id_offsets.bin": 32,
        "segments.bin": 0,
        "lock": 0,
    }
