"""Several files read as one: folders, patterns, and where their records are."""

import gzip
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from packrank.errors import InputError
from packrank.records.file import RecordFile
from packrank.records.record import DOCUMENTS


def lines(path: Path, *texts: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def texts(path: str | list[str]) -> list[tuple[int, str, str]]:
    with RecordFile(path, DOCUMENTS) as file:
        return [(r.number, r.place, r.fields["text"]) for r in file.records()]


def test_a_folder_is_its_files_by_name(tmp_path: Path) -> None:
    lines(tmp_path / "b.jsonl", "three")
    lines(tmp_path / "a" / "z.jsonl", "one", "two")
    lines(tmp_path / "_job" / "a.jsonl", "not me")
    lines(tmp_path / ".a.jsonl", "nor me")
    (tmp_path / "README.md").write_text("nor me")
    (tmp_path / "dataset_info.json").write_text("{}")
    a, b = tmp_path / "a" / "z.jsonl", tmp_path / "b.jsonl"
    wanted = [(1, f"{a}, line 1", "one"), (2, f"{a}, line 2", "two"), (3, f"{b}, line 1", "three")]
    assert texts(str(tmp_path)) == wanted
    assert texts([str(a), str(b)]) == wanted
    assert texts([str(tmp_path / "[a]" / "**" / "*.jsonl"), str(b)]) == wanted
    with RecordFile(str(tmp_path), DOCUMENTS) as file:
        assert file.num_lines() == 3 and file.can_rewind and file.part == "line"
        first = list(file.records())
        file.rewind()
        assert list(file.records()) == first


def test_formats_may_differ_where_files_are_named(tmp_path: Path) -> None:
    plain = lines(tmp_path / "a.jsonl", "one")
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(lines(tmp_path / "c", "two").read_bytes()))
    table = tmp_path / "d.parquet"
    pq.write_table(pa.table({"text": ["three", "four"]}), table)
    csv = tmp_path / "e.csv"
    csv.write_text("text\nfive\n")
    found = texts([str(plain), str(packed), str(table), str(csv)])
    assert [text for *_, text in found] == ["one", "two", "three", "four", "five"]
    assert [number for number, *_ in found] == [1, 2, 3, 4, 6]  # the header is row 1
    assert found[-1][1] == f"{csv}, row 2"
    with pytest.raises(InputError, match=r"several formats, .*1 of csv and 2 of jsonl"):
        (tmp_path / "d.parquet").unlink()
        texts(str(tmp_path))


def test_what_stands_for_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no file whose name ends as"):
        texts(str(tmp_path))
    with pytest.raises(InputError, match=r"no file matches .*x\*"):
        texts(str(tmp_path / "x*"))
    one = str(lines(tmp_path / "a.jsonl", "one"))
    with pytest.raises(InputError, match="named 2 times"):
        texts([one, one])
    with pytest.raises(InputError, match="read by itself alone"):
        texts([one, "/dev/null"])
    with pytest.raises(InputError, match="No such file"):
        texts([one, str(tmp_path / "b.jsonl")])


def test_a_name_that_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    assert texts(str(lines(tmp_path / "a[1].jsonl", "one")))[0][2] == "one"


def test_every_file_is_looked_at_before_the_first_is_read(tmp_path: Path) -> None:
    one = str(lines(tmp_path / "a.jsonl", "one"))
    other = tmp_path / "b.parquet"
    pq.write_table(pa.table({"words": ["two"]}), other)
    with pytest.raises(InputError, match=r"b\.parquet has no column 'text'"):
        RecordFile([one, str(other)], DOCUMENTS)


def damaged(path: Path) -> Path:
    """Three row groups, the second of which is no longer what it was."""
    table = pa.table({"text": [f"text {n} {'x' * n}" for n in range(30)]})
    pq.write_table(table, path, row_group_size=10, use_dictionary=False, compression="zstd")
    column = pq.read_metadata(path).row_group(1).column(0)
    raw = bytearray(path.read_bytes())
    start = column.data_page_offset
    for place in range(start, start + column.total_compressed_size):
        raw[place] = 0xFF
    path.write_bytes(raw)
    return path


def test_a_damaged_row_group_ends_the_reading_or_is_rows_with_an_error(tmp_path: Path) -> None:
    path = damaged(tmp_path / "a.parquet")
    with RecordFile(str(path), DOCUMENTS) as file, pytest.raises(InputError, match="row group 1"):
        list(file.records())
    with RecordFile(str(path), DOCUMENTS, keep_damaged=True) as file:
        found = list(file.records())
    assert [record.number for record in found] == list(range(1, 31))
    assert [record.error is None for record in found] == [True] * 10 + [False] * 10 + [True] * 10
    assert "row group 1 of" in str(found[10].error)


def test_a_file_that_is_cut_off_is_one_error_and_the_next_is_read(tmp_path: Path) -> None:
    whole = gzip.compress(
        lines(tmp_path / "a", *(str(random.random()) for _ in range(20_000))).read_bytes()
    )
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    lines(tmp_path / "b.jsonl", "the next")
    with RecordFile(str(tmp_path / "*.jsonl*"), DOCUMENTS, keep_damaged=True) as file:
        found = list(file.records())
    assert [r.fields for r in found if r.error is None][-1] == {"text": "the next"}
    assert sum("damaged or cut off" in str(record.error) for record in found) == 1


def test_columns_are_told_before_records_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a"], "ids": [[1]]}), path)
    for one in (path, lines(tmp_path / "a.jsonl", "one")):
        with RecordFile(str(one), DOCUMENTS) as file:
            assert file.columns() == {"text": False} | ({"ids": True} if one is path else {})
            assert len(list(file.records())) == 1
