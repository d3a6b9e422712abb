"""JSON of records is strict, and a line that is bad says so in short."""

from pathlib import Path

import pytest

from packrank.records.file import RecordFile
from packrank.records.record import DOCUMENTS


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"text": "a", "n": NaN}', "NaN is not a JSON number"),
        (b'["text"]', "expected a JSON object"),
        (b'{"id": 3}', 'no "text"'),
        (b'{"text": 3}', '"text" is 3, expected a string'),
        (b'{"text": "x", "title": ["y"]}', '"title" is ["y"], expected a string'),
        (b'{"text": "caf\xe9"}', "byte 14 is 0xe9"),
    ],
)
def test_a_bad_line_fails_alone(tmp_path: Path, raw: bytes, reason: str) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'{"text": "x"}\n' + raw + b'\n{"text": "y"}')
    with RecordFile(str(path), DOCUMENTS) as file:
        first, bad, last = file.records()
    assert (first.error, last.error) == (None, None)
    assert bad.place == "line 2"
    assert bad.error is not None and reason in bad.error
    assert len(bad.error) < 120


def test_plain_lines_keep_their_numbers_and_their_spaces(tmp_path: Path) -> None:
    path = tmp_path / "d.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\n  two \n\xff\nthree")
    with RecordFile(str(path), DOCUMENTS) as file:
        lines = list(file.records())
    assert [line.number for line in lines] == [1, 3, 4, 5]
    assert [line.fields.get("text") for line in lines] == ["one", "  two ", None, "three"]
    assert lines[2].error == "byte 1 is 0xff, which is not valid UTF-8"
