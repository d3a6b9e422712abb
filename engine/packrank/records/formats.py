"""What a file is, by its first bytes and the end of its name; what is not read, by name.

The first bytes decide wherever they say something:

| they are | the file is |
|---|---|
| of a format that is not read, of another encoding than UTF-8, or of no text | refused |
| lines, most of which begin like a JSON object | JSON Lines |
| [ and then an object or a string, not a whole array a line | a JSON array |
| lines of a TREC run, where it may be one | that |
| a line of names, those of a record's fields among them, and the name says nothing | CSV or TSV |

Else the end of the name does (.jsonl, .ndjson, .json, .csv, .tsv, .tab), and of what is left a line
is a text. A format that is asked for is taken, unless the file is refused. All of it holds for what
is compressed by gzip or zstd too, which its first bytes tell; ".gz" and ".zst" of the name are
passed over. Parquet and Arrow are told by their first bytes before any of this: see `tables`.
"""

import codecs
import re
from pathlib import Path
from typing import Literal, get_args

from packrank.errors import InputError
from packrank.records.record import Kind
from packrank.records.splitting import cells

Format = Literal["jsonl", "json", "csv", "tsv", "text", "trec"]
FORMATS: tuple[Format, ...] = get_args(Format)[:-1]  # what any kind of record may be in
DELIMITERS = {"csv": ",", "tsv": "\t"}
GZIP = b"\x1f\x8b"

_SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".trec": "trec",
    ".run": "trec",
}
_RUN = re.compile(rb"\S+[ \t]+Q0[ \t]+\S+[ \t]+-?\d+[ \t]+\S+[ \t]+\S+\s*")
_LINES = "a file of JSON Lines, CSV or text"
_UNPACK = f"unpack it, and give {_LINES}"
_CONVERT = f"convert it to {_LINES}"
_PANDAS = (
    "convert it to JSON Lines, as pandas does with "
    "pandas.{reader}(...).to_json('documents.jsonl', orient='records', lines=True)"
)
_LFS = b"version https://git-lfs"
# Name, first bytes, ends of names, advice. First bytes that a text may have count before others.
_REFUSED: tuple[tuple[str, tuple[bytes, ...], tuple[str, ...], str], ...] = (
    ("Feather of version 1", (b"FEA1",), (), _PANDAS.format(reader="read_feather")),
    ("Parquet by its name alone", (), (".parquet",), "fetch or write it anew"),
    ("Arrow by its name alone", (), (".arrow", ".arrows", ".feather"), "fetch or write it anew"),
    ("ORC", (b"ORC",), (".orc",), _PANDAS.format(reader="read_orc")),
    ("Avro", (b"Obj\x01",), (".avro",), _CONVERT),
    ("an Excel sheet", (b"\xd0\xcf\x11\xe0",), (".xlsx", ".xls", ".ods"), "save it as CSV"),
    ("a zip archive", (b"PK\x03\x04", b"PK\x05\x06"), (".zip", ".npz", ".docx"), _UNPACK),
    ("a 7z archive", (b"7z\xbc\xaf\x27\x1c",), (".7z",), _UNPACK),
    ("a rar archive", (b"Rar!",), (".rar",), _UNPACK),
    ("compressed by bzip2", (b"BZh",), (".bz2",), _UNPACK),
    ("compressed by xz", (b"\xfd7zXZ",), (".xz",), _UNPACK),
    ("compressed by lz4", (b"\x04\x22\x4d\x18",), (".lz4",), _UNPACK),
    ("compressed by gzip twice", (GZIP,), (), _UNPACK),
    ("a tar archive", (), (".tar", ".tgz"), _UNPACK),
    ("PDF", (b"%PDF-",), (".pdf",), "extract its text"),
    ("a SQLite database", (b"SQLite format 3\0",), (".sqlite",), f"export {_LINES}"),
    ("of numpy", (b"\x93NUMPY",), (".npy",), _CONVERT),
    ("a pickle", tuple(b"\x80" + bytes([n]) for n in range(2, 6)), (".pkl", ".pickle"), _CONVERT),
    ("HDF5", (b"\x89HDF",), (".h5", ".hdf5"), _CONVERT),
    (
        "an image",
        (b"\x89PNG", b"\xff\xd8\xff", b"GIF8"),
        (".png", ".jpg", ".gif"),
        f"give {_LINES}",
    ),
    ("a pointer of Git LFS", (_LFS,), (), "fetch the file itself, with git lfs pull"),
)
_ENCODINGS = (
    ("UTF-32", codecs.BOM_UTF32_LE),
    ("UTF-32", codecs.BOM_UTF32_BE),
    ("UTF-16", codecs.BOM_UTF16_LE),
    ("UTF-16", codecs.BOM_UTF16_BE),
)
_MARKUP = re.compile(rb"<(!doctype\b|html\b|\?xml\b)", re.IGNORECASE)
_OBJECT = re.compile(rb'\{\s*("(?:[^"\\]|\\.)*(\Z|"\s*(:|\Z))|\}|\Z)', re.DOTALL)
_ARRAY = re.compile(rb'\[\s*(\{\s*["}]|"(?:[^"\\]|\\.)*(\Z|"\s*[,\]])|\]\s*\Z)', re.DOTALL)
_COLUMN = re.compile(r"[\w.-]{1,40}")
_KNOWN_COLUMNS = {"id", "_id", "title", "text", "query", "document", "query_id", "document_id"}
# Bytes that no text holds, but for form feed, escape and the like.
_CONTROL = re.compile(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f]")
_LEAST_STRAY = 4  # of such bytes, or ones that are no UTF-8, before they tell of no text
_STRAY_SHARE = 0.05
_BEGINNING = 64  # bytes, of formats that begin with numbers and go on with text


def format_of(head: bytes, name: str, path: str, kind: Kind, asked: Format | None) -> Format:
    """The format of a file.

    Args:
        head: what it begins with, decompressed.
        name: for messages.
        path: of the file, "-" if it has none.
        kind: what it should be a list of.
        asked: the format that is asked for.

    Raises:
        InputError: a file like this is not read.
    """
    end = Path(path.removesuffix(".gz").removesuffix(".zst")).suffix.lower()
    _refuse_other_formats(head, name, end)
    _refuse_other_encodings(head, name)
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    found = asked or _guess(text, name, _SUFFIXES.get(end), kind)
    if found != "json" and b"\n" not in head and b"\r" in head.strip():
        raise InputError(
            f"the lines of {name} end in carriage returns alone; convert it, as with "
            r"tr '\r' '\n'"
        )
    return found


def _guess(text: bytes, name: str, by_name: Format | None, kind: Kind) -> Format:
    if by_name in DELIMITERS:
        return by_name
    lines = text.split(b"\n")
    if by_name == "trec" and not kind.is_run:
        by_name = None
    if kind.is_run and (by_name == "trec" or _RUN.fullmatch(lines[0])):
        return "trec"
    beginnings = [line.lstrip() for line in lines[:100] if line.strip()]
    if beginnings and 2 * sum(map(_begins_object, beginnings)) >= len(beginnings):
        return "jsonl"
    if _ARRAY.match(text):
        return "jsonl" if len(beginnings) > 1 and _closes(beginnings[0]) else "json"
    if by_name == "json" or (by_name is None and _OBJECT.match(text)):
        raise InputError(
            f"{name} is neither a JSON array nor JSON Lines; expected an array of objects, or an "
            "object a line"
        )
    if _MARKUP.match(text):
        raise InputError(f"{name} is HTML or XML; extract its texts, or ask for the format text")
    if by_name is None:
        for format, delimiter in DELIMITERS.items():
            columns = header(lines[0], delimiter)
            known = _KNOWN_COLUMNS.intersection(columns)
            sound = all(map(_COLUMN.fullmatch, columns))
            if sound and len(known) > 1 and not kind.lacks(columns):
                return "csv" if format == "csv" else "tsv"
    return by_name or ("jsonl" if kind.plain is None else "text")


def header(row: bytes, delimiter: str) -> list[str]:
    """The names of columns in a table's first row; none where it is no row."""
    try:
        return [cell.strip() for cell in cells(row, delimiter)]
    except InputError:
        return []


def _begins_object(line: bytes) -> bool:
    """Whether a line begins as an object of JSON Lines does: it does not end before a name."""
    return line.rstrip() != b"{" and _OBJECT.match(line) is not None


def _closes(line: bytes) -> bool:
    """Whether a line is a whole array."""
    depth = 0
    for mark in re.findall(rb'"(?:[^"\\]|\\.)*"|[{}\[\]]', line):
        depth += (mark in b"{[") - (mark in b"}]")
    return not depth


def _refuse_other_formats(head: bytes, name: str, end: str) -> None:
    is_text = is_text_alone(head)
    for what, marks, ends, advice in _REFUSED:
        if end in ends or (head.startswith(marks) and (not is_text or marks == (_LFS,))):
            raise InputError(f"{name} is {what}, which is not read; {advice}")


def _refuse_other_encodings(head: bytes, name: str) -> None:
    even, odd = head[::2].count(0), head[1::2].count(0)
    encoding = next((one for one, bom in _ENCODINGS if head.startswith(bom)), None)
    if encoding is None and len(head) >= 4 and 4 * max(even, odd) > len(head) > 16 * min(even, odd):
        encoding = "UTF-16"
    if encoding is not None:
        raise InputError(
            f"{name} is {encoding}, which is not read; convert it, as with iconv -f {encoding} "
            "-t UTF-8"
        )
    for part in (head, head[:_BEGINNING]):
        if _stray(part) >= max(_LEAST_STRAY, _STRAY_SHARE * len(part)):
            raise InputError(
                f"{name} holds no text in UTF-8; if it is text, convert it, as with iconv -t UTF-8"
            )


def is_text_alone(head: bytes) -> bool:
    """Whether no byte tells of anything else."""
    return not _stray(head)


def _stray(head: bytes) -> int:
    """How many bytes there are that are no UTF-8, or that no text holds."""
    text = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode(head)
    return len(re.findall("[\udc80-\udcff]", text)) + len(_CONTROL.findall(head))
