"""Parquet and Arrow, written by pyarrow in each of its forms, and what zstd has compressed."""

import contextlib
import gzip
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from packrank.errors import InputError
from packrank.records.file import RecordFile
from packrank.records.record import DOCUMENTS, IDS, PAIRS, QUERIES, Kind

pa = pytest.importorskip("pyarrow")
feather = pytest.importorskip("pyarrow.feather")
parquet = pytest.importorskip("pyarrow.parquet")

PAIR = {"id": [7, None, 9], "query": ["a", "b", "ü"], "document": ["x", None, ""]}


def write(path: Path, table: Any, **options: Any) -> str:
    if path.suffix == ".parquet":
        parquet.write_table(table, path, **options)
    elif path.suffix == ".feather":
        feather.write_feather(table, path)
    else:
        new = pa.ipc.new_stream if path.suffix == ".arrows" else pa.ipc.new_file
        with pa.OSFile(str(path), "wb") as file, new(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    return str(path)


def read(path: str, kind: Kind) -> list[tuple[dict[str, Any], str | None]]:
    with RecordFile(path, kind) as file:
        found = list(file.records())
        file.rewind()
        assert list(file.records()) == found
        assert file.part == "row"
        assert [record.number for record in found] == list(range(1, len(found) + 1))
    return [(record.fields, record.error) for record in found]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.arrows", "a.feather", "named.anyhow"])
def test_rows_are_records(name: str, tmp_path: Path) -> None:
    found = read(write(tmp_path / name, pa.table(PAIR | {"other": [b"\0", b"", None]})), PAIRS)
    null = '"document" is null, expected a string'
    assert found == [
        ({"id": 7, "query": "a", "document": "x"}, None),
        ({"query": "b", "document": None}, null),
        ({"id": 9, "query": "ü", "document": ""}, None),
    ]


def test_many_row_groups_and_their_number(tmp_path: Path) -> None:
    table = pa.table({"text": [str(n) for n in range(2500)]})
    path = write(tmp_path / "a.parquet", table, row_group_size=7)
    with RecordFile(path, DOCUMENTS) as file:
        assert file.num_lines() == 2500
        assert [record.fields["text"] for record in file.records()] == table["text"].to_pylist()


def test_types_that_libraries_write(tmp_path: Path) -> None:
    """Large strings (pandas, polars), dictionaries (categories), titles, BEIR's _id."""
    columns = {
        "_id": pa.array([1, 2], pa.uint64()),
        "title": pa.array(["T", None]),
        "text": pa.array(["t", "u"], pa.large_string()),
    }
    joined = [{"text": "T t", "id": 1}, {"text": "u", "id": 2}]
    for text in (columns["text"], columns["text"].dictionary_encode()):
        path = write(tmp_path / "a.arrow", pa.table(columns | {"text": text}))
        found = read(path, DOCUMENTS)
        assert [{name: row[name] for name in ("text", "id")} for row, _ in found] == joined
    document = [{"title": "T", "text": "t"}, {"title": None, "text": "u"}]
    path = write(tmp_path / "b.parquet", pa.table({"query": ["q", "q"], "document": document}))
    assert [row["document"] for row, _ in read(path, PAIRS)] == ["T t", "u"]
    path = write(tmp_path / "c.parquet", pa.table({"id": ["x", None]}))
    assert [error for _, error in read(path, IDS)] == [None, 'the object has no "id"']


def test_bytes_that_are_no_text_are_of_their_row_alone(tmp_path: Path) -> None:
    data = pa.array([b"fine", b"\xff\xfe", None], pa.binary()).buffers()
    text = pa.Array.from_buffers(pa.string(), 3, data)
    path = write(tmp_path / "a.arrow", pa.table({"text": text}))
    assert [row["text"] for row, _ in read(path, DOCUMENTS)] == ["fine", "\udcff\udcfe", None]


@pytest.mark.parametrize(
    ("columns", "kind", "words"),
    [
        ({"id": ["a"]}, DOCUMENTS, "has no column 'text', and has 'id'"),
        ({"text": [1.5]}, DOCUMENTS, "the column 'text' of .* holds double, expected texts"),
        ({"text": [["a"]]}, DOCUMENTS, "the column 'text' of .* holds list"),
        ({"id": [1.5], "text": ["a"]}, QUERIES, "the column 'id' .* expected texts or whole"),
    ],
)
def test_columns_that_no_record_has(
    columns: dict[str, list[Any]], kind: Kind, words: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.parquet", pa.table(columns))
    with pytest.raises(InputError, match=words):
        RecordFile(path, kind)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.arrows"])
def test_what_is_cut_off_or_damaged_says_so(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write(path, pa.table({"text": [f"{n} {'x' * 50}" for n in range(5000)]}))
    whole = path.read_bytes()
    for size in (12, len(whole) // 2, len(whole) - 9):
        path.write_bytes(whole[:size])
        with (
            pytest.raises(InputError, match="is damaged or cut off"),
            RecordFile(str(path), DOCUMENTS) as file,
        ):
            list(file.records())


def test_names_and_formats_that_disagree(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_text('{"text": "a"}\n')
    with pytest.raises(InputError, match="is Parquet by its name alone"):
        RecordFile(str(path), DOCUMENTS)
    write(path, pa.table({"text": ["a"]}))
    with pytest.raises(InputError, match="is Parquet, not jsonl; leave out the format"):
        RecordFile(str(path), DOCUMENTS, "jsonl")
    packed = tmp_path / "a.parquet.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(InputError, match="compressed as a whole, which is not read; unpack"):
        RecordFile(str(packed), DOCUMENTS)


@contextlib.contextmanager
def piped(path: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The file as standard input, in one piece that the pipe has room for."""
    source, target = os.pipe()
    with open(target, "wb") as sink:
        sink.write(Path(path).read_bytes())
    with open(source) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield


def test_pipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow's streams come as they are read; what ends with where all lies cannot."""
    table = pa.table({"text": ["a", "b"]})
    with (
        piped(write(tmp_path / "a.arrows", table), monkeypatch),
        RecordFile("-", DOCUMENTS) as file,
    ):
        assert [record.fields["text"] for record in file.records()] == ["a", "b"]
        assert not file.can_rewind
    for name in ("a.parquet", "a.arrow"):
        path = write(tmp_path / name, table)
        with piped(path, monkeypatch), pytest.raises(InputError, match="from a pipe; name the"):
            RecordFile("-", DOCUMENTS)


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", pa.table({"text": ["a"]}))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install 'packrank\[tables\]'"):
        RecordFile(path, DOCUMENTS)


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.csv.zst", "anyhow"])
def test_zstd(name: str, tmp_path: Path) -> None:
    """Frames one after the other, as parallel compressors write them."""
    rows = ["text,id\n", *(f"text {n},{n}\n" for n in range(3000))]
    if "csv" not in name:
        rows = [f'{{"text": "text {n}", "id": {n}}}\n' for n in range(3000)]
    path, texts = tmp_path / name, [f"text {n}" for n in range(3000)]
    halves = "".join(rows[:1000]), "".join(rows[1000:])
    frames = [pa.compress(half.encode(), "zstd", asbytes=True) for half in halves]
    path.write_bytes(b"".join(frames))
    with RecordFile(str(path), DOCUMENTS) as file:
        for _ in range(2):
            assert [record.fields["text"] for record in file.records()] == texts
            file.rewind()
        assert file.num_lines() is None
    path.write_bytes(b"".join(frames)[:-10])
    with (
        pytest.raises(InputError, match="is damaged or cut off"),
        RecordFile(str(path), DOCUMENTS) as file,
    ):
        list(file.records())
