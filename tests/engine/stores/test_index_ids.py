"""An index opens with the ids that lie beside it, and without what was deleted."""

import json
import pickle
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from index_writer import SIZE, Writer, vectors

from packrank.errors import InputError, StoreError
from packrank.stores.store import Store
from packrank.stores.streaming import maxsim


@pytest.fixture
def expected(tmp_path: Path) -> torch.Tensor:
    """By the chunks' own files."""
    made = Writer(tmp_path / "plain")
    made.shards()
    return vectors(Store.open(made.folder))


# Deleted


def test_what_colbert_deleted_is_gone(tmp_path: Path, expected: torch.Tensor) -> None:
    made = Writer(tmp_path / "index", colbert=True)
    made.shards()
    made.say(config={"checkpoint": "some/colbert", "nbits": 4})
    store = Store.open(made.folder)
    assert [*store.ids] == ["0", "2", "3", "4", "5"] and store.deleted == 1
    assert store.model == {"name": "some/colbert"}
    assert store.indices(["2", "5"]).tolist() == [1, 4]
    with pytest.raises(InputError, match="has the id '1'"):
        store.indices(["1"])
    scores = maxsim(torch.ones(2, SIZE), store)
    assert isinstance(scores, torch.Tensor) and len(scores) == 5 and scores.isfinite().all()
    assert torch.equal(vectors(store), expected)


def test_an_empty_document_of_fast_plaid_stays(tmp_path: Path) -> None:
    made = Writer(tmp_path / "index")
    made.shards()
    store = Store.open(made.folder)
    assert (len(store), store.deleted, [*store.ids][1]) == (6, 0, "1")


# Ids

NAMES = ["a", "ü", "", "3", "d", "é" * 300]


def pickled(folder: Path, ids: dict[Any, Any]) -> None:
    (folder / "plaid_ids_to_documents_ids.pkl").write_bytes(pickle.dumps(ids))


def tabled(folder: Path, ids: dict[Any, Any]) -> None:
    path = folder / "plaid_ids_to_documents_ids.sqlite"
    database = sqlite3.connect(path)
    database.execute('CREATE TABLE "unnamed" (key TEXT PRIMARY KEY, value BLOB)')
    rows = [(place, pickle.dumps(id)) for place, id in ids.items()]
    database.executemany('INSERT INTO "unnamed" VALUES (?, ?)', rows)
    database.commit()
    database.close()


def mapped(folder: Path, ids: dict[Any, Any]) -> None:
    (folder / "pid_docid_map.json").write_text(json.dumps(ids))


@pytest.mark.parametrize(
    ("inner", "save"),
    [
        *((".", save) for save in (pickled, tabled, mapped)),
        *(("fast_plaid_index", save) for save in (pickled, tabled)),
    ],
)
def test_ids_beside_an_index(
    tmp_path: Path, expected: torch.Tensor, inner: str, save: Callable[[Path, Any], None]
) -> None:
    folder = tmp_path / "index"
    made = Writer(folder / inner, colbert=inner == ".")
    made.shards()
    save(folder, dict(enumerate(NAMES)))
    store = Store.open(folder)
    assert [*store.ids] == NAMES and store.deleted == 0  # an empty document that has an id
    assert store.indices(["d", "ü"]).tolist() == [4, 1]
    assert torch.equal(vectors(store), expected)
    assert "with the ids of" in store.layout


@pytest.mark.parametrize("save", [pickled, tabled])
def test_numbers_as_ids(tmp_path: Path, save: Callable[[Path, Any], None]) -> None:
    made = Writer(tmp_path / "index")
    made.shards()
    ids = [10, np.int64(11), np.str_("ü€"), np.uint8(200), np.int32(-1), 10**30]
    save(made.folder, dict(enumerate(ids)))
    assert [*Store.open(made.folder).ids] == [str(id) for id in ids]


def test_what_pylate_removed_is_gone(tmp_path: Path, expected: torch.Tensor) -> None:
    """Of fast-plaid's, what has no id is never found."""
    made = Writer(tmp_path / "index")
    made.shards()
    pickled(made.folder, {0: "a", 3: "d", 5: "f"})
    store = Store.open(made.folder)
    assert ([*store.ids], store.deleted) == (["a", "d", "f"], 3)
    assert torch.equal(vectors(store), torch.cat([expected[:3], expected[8:9], expected[-2:]]))
    assert store.embeddings.cu_seqlens.tolist() == [0, 3, 4, 6]


def test_passages_of_one_document(tmp_path: Path) -> None:
    made = Writer(tmp_path / "index", colbert=True)
    made.shards()
    mapped(made.folder, dict(enumerate(["a", "b", "b", "c", "a", "a"])))
    store = Store.open(made.folder)
    assert [*store.ids] == ["a", "b", "b", "c", "a", "a"]
    assert store.indices(["c"]).tolist() == [3]
    with pytest.raises(InputError, match=r"3 documents of .* have the id 'a', .* 0 and 4; pass"):
        store.indices(["c", "a"])


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("save", [pickled, tabled])
def test_ids_that_are_a_program_do_not_run(
    tmp_path: Path, save: Callable[[Path, Any], None]
) -> None:
    made = Writer(tmp_path / "index")
    made.shards()
    save(made.folder, {0: "a", 1: Payload(tmp_path / "ran")})
    with pytest.raises(StoreError, match="it names pathlib"):
        Store.open(made.folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        ({9: "a"}, "has an id of document 9, and .* has 6"),
        ({-1: "a"}, "-1 is no place"),
        ({True: "a"}, "True is no place"),
        ({0: None}, "is a NoneType"),
        ({0: ("a",)}, "is a tuple"),
        ({0: np.float64(1)}, "no string or whole number"),
        ({0: "a"}, "has no id of document 2"),
        (["a"], "holds a list"),
    ],
)
def test_ids_that_do_not_fit(tmp_path: Path, ids: Any, reason: str) -> None:
    made = Writer(tmp_path / "index", colbert=True)
    made.shards()
    pickled(made.folder, ids)
    with pytest.raises(StoreError, match=reason):
        Store.open(made.folder)


def test_damaged_ids(tmp_path: Path) -> None:
    made = Writer(tmp_path / "index", colbert=True)
    made.shards()
    for name in ("pid_docid_map.json", "plaid_ids_to_documents_ids.sqlite"):
        for content in (
            b"",
            b"\x80",
            b"[",
            b"[]",
            b'{"01": "a"}',
            b'{"0": 1.5}',
            b"SQLite format 3",
        ):
            (made.folder / name).write_bytes(content)
            with pytest.raises(StoreError, match=name):
                Store.open(made.folder)
        (made.folder / name).unlink()


def test_folders_that_contradict_themselves(tmp_path: Path) -> None:
    made = Writer(tmp_path / "index")
    made.shards()
    shutil.copytree(made.folder, made.folder / "fast_plaid_index")
    with pytest.raises(StoreError, match=r"without plaid_ids_to_documents_ids\.pkl"):
        Store.open(made.folder)
    pickled(made.folder, dict(enumerate(NAMES)))
    with pytest.raises(StoreError, match="holds more than one index"):
        Store.open(made.folder)
    shutil.rmtree(made.folder / "fast_plaid_index")
    mapped(made.folder, dict(enumerate(NAMES)))
    with pytest.raises(StoreError, match="leave those there"):
        Store.open(made.folder)
    assert Store.is_one(tmp_path / "index") and not Store.is_one(tmp_path)
