"""JSON of a model folder: a value, a default, or one sentence."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from packrank.checkpoint.files import field, read_list, read_object
from packrank.errors import ModelError


def test_what_is_there_is_read(tmp_path: Path) -> None:
    for content, read in ({"a": ["é"]}, read_object), ([{"a": 1}], read_list):
        (tmp_path / "x.json").write_text(json.dumps(content, ensure_ascii=False), "utf-8")
        assert read(tmp_path / "x.json") == content


@pytest.mark.parametrize("read", [read_object, read_list])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "has no x.json"),
        (b"", "x.json cannot be read as JSON"),
        (b"{", "x.json cannot be read as JSON"),
        (b'{"a": "\xff"}', "x.json cannot be read as JSON"),
        (b"[" * 100_000, "x.json cannot be read as JSON"),
        (b"3", "x.json holds a int, expected a JSON "),
        (b"null", "x.json holds a NoneType, expected a JSON "),
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            "x.json is a Git LFS pointer",
        ),
        (b"<!doctype HTML>", "x.json is a web page, not the file"),
    ],
)
def test_what_cannot_be_read_is_named(
    tmp_path: Path, read: Callable[[Path], Any], content: bytes | None, reason: str
) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError) as raised:
        read(path)
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        read_object(tmp_path)


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(ModelError, match="it is no regular file"):
        read_object(tmp_path / "x.json")


def test_the_other_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(ModelError, match="holds a list, expected a JSON object"):
        read_object(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ModelError, match="holds a dict, expected a JSON list"):
        read_list(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (int, [0, -3], [True, 1.0, "1", [], {}]),
        (float, [0, 1.5], [True, "1", [], {}]),
        (bool, [True, False], [0, 1, "true", []]),
        (str, ["", "a"], [1, False, ["a"], {}]),
        (list, [[], [1]], ["a", {}, 1]),
        (dict, [{}, {"a": 1}], ["a", [], 1]),
        ((str, dict), ["a", {}], [1, True, []]),
        ((bool, int), [True, 3], [1.5, "a"]),
    ],
)
def test_a_field_is_of_its_kind(kind: Any, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert field({"key": value}, "key", kind, "default", "x.json") is value
    for value in bad:
        with pytest.raises(ModelError, match=r"^x\.json: key is .*, expected ") as raised:
            field({"key": value}, "key", kind, "default", "x.json")
        assert repr(value) in str(raised.value)


def test_absent_and_null_are_the_default() -> None:
    assert field({}, "key", int, 7, "x.json") == 7
    assert field({"key": None}, "key", int, 7, "x.json") == 7


def test_a_long_value_is_cut() -> None:
    with pytest.raises(ModelError) as raised:
        field({"key": ["a"] * 1000}, "key", int, None, "x.json")
    assert len(str(raised.value)) < 150
