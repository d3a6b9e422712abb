"""Lines are read, or fail alone; a file appears whole or not at all."""

import io
from pathlib import Path

import pytest

from packrank.lines import read_jsonl, read_plain, replacing


def test_plain_lines_keep_their_numbers_and_their_spaces() -> None:
    source = io.BytesIO(b"\xef\xbb\xbfone\r\n\n  two \n\xff\nthree")
    lines = list(read_plain(source))
    assert [line.number for line in lines] == [1, 3, 4, 5]
    assert [line.fields.get("text") for line in lines] == ["one", "  two ", None, "three"]
    assert lines[2].error == "byte 1 is 0xff, which is not valid UTF-8"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"text": "a", "n": NaN}', "NaN is not a JSON number"),
        (b'["text"]', "expected a JSON object"),
        (b'{"id": 3}', 'no "text"'),
        (b'{"text": 3}', '"text" is 3, expected a string'),
        (b'{"text": "caf\xe9"}', "byte 14 is 0xe9"),
    ],
)
def test_a_bad_jsonl_line_fails_alone(raw: bytes, reason: str) -> None:
    first, bad, last = read_jsonl([b'{"text": "x"}\n', raw + b"\n", b'{"text": "y"}'], "text")
    assert (first.error, last.error) == (None, None)
    assert bad.number == 2
    assert bad.error is not None and reason in bad.error
    assert len(bad.error) < 120


def test_an_output_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("before")
    with pytest.raises(KeyError), replacing(out) as sink:
        sink.write("half")
        raise KeyError
    assert out.read_text() == "before"
    with replacing(out) as sink:
        sink.write("after")
        assert out.read_text() == "before"
    assert out.read_text() == "after"
    assert list(tmp_path.iterdir()) == [out]
