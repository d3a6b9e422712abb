"""A file is read by what it is, each record or its fault in its place; what is none is refused."""

import codecs
import gzip
import io
import json
import os
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from packrank.errors import InputError
from packrank.records import opened as record_file
from packrank.records import splitting
from packrank.records.file import RecordFile
from packrank.records.formats import Format
from packrank.records.record import DOCUMENTS, IDS, PAIRS, Kind, Record

RECORDS: list[Any] = [
    {"_id": "a", "title": "T", "text": "one"},
    {"id": 7, "text": ' "two",\n[{\\" '},
    {"_id": "c", "title": "", "text": "\tthree "},
]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()
ARRAY = json.dumps(RECORDS).encode()
TABLE = b'_id,title,text\na,T,one\n7,," ""two"",\n[{\\"" "\nc,,"\tthree "\n'
WANTED = [("a", "T one"), (7, ' "two",\n[{\\" '), ("c", "three")]


def read(path: Path, kind: Kind = DOCUMENTS, format: Format | None = None) -> list[Record]:
    with RecordFile(str(path), kind, format) as file:
        return list(file.records())


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


class Pipe(io.BytesIO):
    def seekable(self) -> bool:
        return False


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.jsonl", LINES),
        ("d.ndjson", codecs.BOM_UTF8 + LINES.replace(b"\n", b"\r\n\n")),
        ("d.txt", LINES),
        ("d", LINES),
        ("d.json", LINES),
        ("d.json", ARRAY),
        ("d.json", codecs.BOM_UTF8 + json.dumps(RECORDS, indent=1).encode()),
        ("d.jsonl", ARRAY),
        ("d", ARRAY),
    ],
)
def test_the_first_bytes_say_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, zipped: bool
) -> None:
    if zipped:  # of several members, under a name that says so or not
        middle = len(content) // 2
        content = gzip.compress(content[:middle]) + gzip.compress(content[middle:])
    wanted = [(record["id"] if "id" in record else record["_id"]) for record in RECORDS]
    for path in (tmp_path / name, tmp_path / f"{name}.gz", None):
        if path is None:
            monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Pipe(content)))
            found = read(Path("-"))
        else:
            found = read(written(path, content))
        assert [record.fields["id"] for record in found] == wanted
        assert [record.fields["text"] for record in found] == [text for _, text in WANTED]
        assert all(record.error is None for record in found)


@pytest.mark.parametrize(
    ("name", "delimiter", "ending"),
    [("d.csv", ",", "\n"), ("d.tsv", "\t", "\n"), ("d.tab", "\t", "\r\n"), ("d.txt", ",", "\n")],
)
def test_a_table_has_the_columns_that_its_first_row_names(
    tmp_path: Path, name: str, delimiter: str, ending: str
) -> None:
    rows = [
        ["_id", " title", "text", "extra"],
        ["a", "T", 'one, ""x""', "z"],
        [],
        ["", "", 'a "two" b', ""],
    ]
    quoted = [delimiter.join(f'"{cell}"' if '""' in cell else cell for cell in row) for row in rows]
    content = codecs.BOM_UTF8 + ending.join(quoted).encode()
    first, second = read(written(tmp_path / name, content))
    if name == "d.txt":  # " title" is no word: a file of this name may be a text
        return
    assert (first.place, first.fields["id"], first.fields["text"]) == ("row 2", "a", 'T one, "x"')
    assert second.place == "row 4" and "id" not in second.fields
    assert second.fields["text"] == 'a "two" b'


def test_rows_fail_alone(tmp_path: Path) -> None:
    content = (
        b'id,text\n1,"a\nb"\n2\n3,x,y\n4,caf\xe9\n5,"x"y\n6,' + b"z" * 200_000 + b'\n7,"open\n'
    )
    found = read(written(tmp_path / "d.csv", content))
    assert [record.number for record in found] == [2, 3, 4, 5, 6, 7, 8]
    assert found[0].fields == {"id": "1", "text": "a\nb"}
    assert len(found[5].fields["text"]) == 200_000
    reasons = ["the row has 1 fields", "the row has 3 fields", "byte 0xe9", "not a row of a table"]
    for record, reason in zip([*found[1:5], found[6]], [*reasons, reasons[-1]], strict=True):
        assert record.error is not None and reason in record.error


def test_a_quotation_mark_of_a_text_does_not_swallow_rows_of_tsv(tmp_path: Path) -> None:
    content = b'id\ttext\n1\t"open\n2\tmiddle\n3\tclosed"\n4\tlast\n'
    first, last = read(written(tmp_path / "d.tsv", content))
    assert first.error is not None and "a quoted field holds tabs and ends of lines" in first.error
    assert (last.place, last.fields["text"]) == ("row 3", "last")


def test_elements_fail_alone(tmp_path: Path) -> None:
    content = b'[{"text": "a"}, {"text": NaN}, 3, , "b", {"text": {"x": [1]}}, {"text": "c"},]'
    found = read(written(tmp_path / "d.json", content))
    assert [record.place for record in found] == [f"element {n}" for n in range(1, 9)]
    assert [record.fields.get("text") for record in found if record.error is None] == [*"abc"]
    assert [record.number for record in found if record.error] == [2, 3, 4, 6, 8]
    assert read(written(tmp_path / "d.json", b" [ ] ")) == []


def random_value(rng: random.Random, depth: int) -> Any:
    if depth and rng.random() < 0.5:
        inner = [random_value(rng, depth - 1) for _ in range(rng.randrange(4))]
        return inner if rng.random() < 0.5 else {f'{n}]"': one for n, one in enumerate(inner)}
    text = "".join(rng.choices('a\\"[]{},: \né🦝', k=rng.randrange(9)))
    return rng.choice([None, True, -12.5e3, 7, "", text, text])


@pytest.mark.parametrize("seed", range(40))
def test_elements_are_those_that_json_reads(seed: int) -> None:
    """Wherever chunks of the stream end."""
    rng = random.Random(seed)
    values = [random_value(rng, 3) for _ in range(rng.randrange(6))]
    raw = json.dumps(values, indent=rng.choice([None, 0, 2]), ensure_ascii=seed % 2 == 0).encode()
    chunk = rng.randint(1, 9)
    before, splitting._CHUNK = splitting._CHUNK, chunk
    try:
        found = list(splitting.elements(io.BytesIO(raw), "d.json"))
    finally:
        splitting._CHUNK = before
    assert [json.loads(element) for element in found] == values


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("d.parquet", b"PAR1\x15\x04" + bytes(40), ["Parquet", "damaged or cut off"]),
        ("d", b"FEA1\x15\x04" + bytes(40), ["Feather of version 1", "to_json"]),
        ("d.parquet", b"", ["Parquet"]),
        ("d.arrow", b"ARROW1\0\0" + bytes(40), ["Arrow"]),
        ("d.csv", b"PK\x03\x04" + bytes(40), ["zip"]),
        ("d.xlsx", b"PK\x03\x04" + bytes(40), ["Excel", "CSV"]),
        ("d.jsonl", b"\x28\xb5\x2f\xfd" + bytes(40), ["damaged or cut off"]),
        ("d.bz2", b"BZh91AY&SY\x8f", ["bzip2"]),
        ("d.xz", b"\xfd7zXZ\0\0", ["xz"]),
        ("d.gz", gzip.compress(gzip.compress(b"x", mtime=0), mtime=0), ["gzip twice"]),
        ("d.gz", gzip.compress(b"PAR1\x15\x04" + bytes(40), mtime=0), ["Parquet"]),
        ("d.pdf", b"%PDF-1.7\n%\xe2\xe3", ["PDF"]),
        ("d", b"SQLite format 3\0" + bytes(40), ["SQLite"]),
        ("d", b"\x93NUMPY\x01\0" + bytes(40), ["numpy"]),
        ("d", b"\x80\x04\x95" + bytes(40), ["pickle"]),
        ("d", b"\x89PNG\r\n\x1a\n", ["image"]),
        ("d", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", ["git lfs pull"]),
        ("d.txt", "red fox".encode("utf-16"), ["UTF-16", "iconv"]),
        ("d.txt", "red fox".encode("utf-16-le"), ["UTF-16", "iconv"]),
        ("d.txt", "red fox\n".encode("utf-16-be"), ["UTF-16", "iconv"]),
        ("d.txt", "red fox".encode("utf-32"), ["UTF-32", "iconv"]),
        ("d.txt", "красный лис".encode("cp1251"), ["UTF-8", "iconv"]),
        ("d.txt", random.Random(0).randbytes(999), ["no text in UTF-8"]),
        ("d.txt", bytes(99), ["no text in UTF-8"]),
        ("d.txt", b"one\rtwo\r", ["carriage returns"]),
        ("d.csv", b"text\rone\r", ["carriage returns"]),
        ("d.txt", b"<!DOCTYPE html>\n<html>", ["HTML"]),
        ("d.json", b'{\n "a": 1\n}', ["neither a JSON array nor JSON Lines"]),
        ("d.txt", b'{\n "a": [{"text": "x"}]\n}', ["neither a JSON array nor JSON Lines"]),
        ("d.json", b"[1, 2]", ["neither a JSON array nor JSON Lines"]),
        ("d.json", ARRAY[:-9], ["was cut off", "after 2 whole elements"]),
        ("d.json", ARRAY + b" {}", ["goes on after its array of 3 elements"]),
        ("d.csv", b"id;text\n1;x\n", ["no column 'text'", "has 'id;text'"]),
        ("d.csv", b"passage,url\nx,y\n", ["no column 'text'", "'passage', 'url'"]),
        ("d.tsv", b"1\tfox\n", ["no column 'text'", "'1', 'fox'"]),
        ("d.csv", b"text,text\nx,y\n", ["two columns 'text'"]),
    ],
)
def test_what_is_not_read_is_refused_in_a_sentence(
    tmp_path: Path, name: str, content: bytes, words: list[str]
) -> None:
    path = written(tmp_path / name, content)
    with pytest.raises(InputError) as error:
        read(path)
    message = str(error.value)
    assert str(path) in message and "\n" not in message
    assert all(word in message for word in words)


@pytest.mark.parametrize("damage", ["cut", "checksum", "after"])
def test_damaged_gzip_is_named(tmp_path: Path, damage: str) -> None:
    content = bytearray(gzip.compress(os.urandom(99).hex().encode() * 9 + b"\n" * 200_000))
    if damage == "cut":
        content = content[:-20]
    elif damage == "checksum":
        content[-6] ^= 1
    else:
        content += b"rubbish"
    path = written(tmp_path / "d.txt.gz", bytes(content))
    with pytest.raises(
        InputError, match=r"d\.txt\.gz is damaged or cut off: .*; fetch or compress"
    ):
        read(path)


@pytest.mark.parametrize(
    "content",
    [
        "[1] a footnote\nmore",
        "{{Infobox}}\nfox",
        "PAR1 receptors",
        "ORC and BZhang",
        "red\0fox\nblue owl",
        "a\n\rb\n",
        "caf\u00e9 \u732b \U0001f99d",
        "the,text\nfox",
        '"quoted" words\nmore',
    ],
)
def test_text_is_text(tmp_path: Path, content: str) -> None:
    path = written(tmp_path / "d.txt", content.encode())
    lines = [line for line in content.split("\n") if line.strip()]
    assert [record.fields["text"] for record in read(path)] == [x.rstrip("\r") for x in lines]


def test_a_format_that_is_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path / "d.jsonl", LINES)
    assert [record.fields["text"] for record in read(path, format="text")] == [
        line.decode() for line in LINES.splitlines()
    ]
    path = written(tmp_path / "d.txt", b"text,x\na,b\n")
    assert [record.fields["text"] for record in read(path, format="csv")] == ["a"]
    with pytest.raises(InputError, match="does not begin with"):
        read(path, format="json")
    with pytest.raises(InputError, match="is no path of a file"):
        read(Path("a\0b"))


def test_documents_of_pairs(tmp_path: Path) -> None:
    records: list[Any] = [
        {"query": "q", "document": {"title": "T", "text": " d "}, "_id": 3},
        {"query": "q", "document": " d ", "title": "T"},
        {"query": "q", "document": " d ", "title": None},
        {"query": "q", "document": {"title": "T"}},
        {"query": "q", "document": "d", "title": 3},
        {"query": 3, "document": "d"},
    ]
    path = written(
        tmp_path / "p.jsonl", "".join(map("{}\n".format, map(json.dumps, records))).encode()
    )
    found = read(path, PAIRS)
    assert [record.fields["document"] for record in found[:3]] == ["T  d", "T  d", " d "]
    assert found[0].fields["id"] == 3
    reasons = ['no "text"', '"title" is 3', '"query" is 3']
    for record, reason in zip(found[3:], reasons, strict=True):
        assert record.error is not None and reason in record.error
    for name, content in (("p.csv", b"query,document\nq,d\n"), ("p", b"query\tdocument\nq\td\n")):
        [record] = read(written(tmp_path / name, content), PAIRS)
        assert (record.fields["query"], record.fields["document"]) == ("q", "d")


@pytest.mark.parametrize(
    "content",
    [b"a\n\n 7\n", b'{"id": "a"}\n{"_id": " 7"}', b'["a", " 7"]', b"_id,title\na,\n 7,\n"],
)
def test_ids(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path / ("i.csv" if content.startswith(b"_") else "i"), content)
    assert [record.fields["id"] for record in read(path, IDS)] == ["a", " 7"]


def test_a_file_is_read_again(tmp_path: Path) -> None:
    for name, content in (("d.csv", TABLE), ("d.json", ARRAY), ("d.gz", gzip.compress(LINES))):
        with RecordFile(str(written(tmp_path / name, content)), DOCUMENTS) as file:
            assert file.can_rewind
            first = list(file.records())
            # A row always has a title, if an empty one.
            wanted = [text.strip() if name == "d.csv" else text for _, text in WANTED]
            assert [record.fields["text"] for record in first] == wanted
            file.rewind()
            raw = list(file.raw())
            # From any part on, by the same numbers.
            for taken in range(len(raw) + 1):
                rest = list(file.records(raw[taken:]))
                assert rest == [record for record in first if record.number > taken]


def test_memory_does_not_grow_with_an_array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    class Counted(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            sizes.append(size or 0)
            return super().read(size)

    content = json.dumps([{"text": "x" * 1000}] * 1000).encode()
    monkeypatch.setattr(record_file, "_open", lambda _: Counted(content))
    with RecordFile("d.json", DOCUMENTS) as file:
        assert len(list(file.records())) == 1000
    assert len(sizes) > 10 and max(sizes) <= 1 << 16
