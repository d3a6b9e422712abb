"""Margins are kept in a file and never used for anything that they were not measured for."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from packrank.errors import InputError
from packrank.exits.margins import FILE, Margins, find, load, save

SETTINGS = {"template": "yes-no", "compress_layers": [8, 24], "instruction": None}
MARGINS = Margins(
    model="tiny",
    fingerprint="a1" * 32,
    settings=SETTINGS,
    top_k=10,
    final_layer=40,
    layers=(8, 16, 28),
    margins=(math.inf, 2.5, 0.1),
    recall=0.99,
    held_out_recall=0.995,
    held_out_low=0.981,
    held_out_high=0.999,
    dropped=(0.0, 0.25, 1 / 3),
    saved=0.2,
    num_fitted=50,
    num_held_out=49,
    num_left_out=1,
    num_candidates=100,
    extrapolated=True,
)
ASKED: dict[str, Any] = {
    "fingerprint": "a1" * 32,
    "top_k": 10,
    "final_layer": 40,
    "settings": SETTINGS,
}


def test_margins_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / FILE
    others = [replace(MARGINS, top_k=3), replace(MARGINS, settings={"template": "\u732b"})]
    for margins in (MARGINS, *others):
        save(path, margins)
    assert load(path) == [MARGINS, *others]
    assert load(path)[0].margins == (math.inf, 2.5, 0.1)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "change",
    [
        {"top_k": 9},
        {"final_layer": 41},
        {"fingerprint": "b2" * 32},
        {"settings": {**SETTINGS, "template": "other"}},
        {"settings": {}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_was_measured_anew_replaces_itself_alone(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    path, other, better = tmp_path / FILE, replace(MARGINS, **change), replace(MARGINS, saved=0.3)
    for margins in (MARGINS, other, better):
        save(path, margins)
    assert load(path) == [other, better]
    assert find(path, **ASKED) == better
    assert find(path, **ASKED | change) == other


def test_settings_are_those_of_json(tmp_path: Path) -> None:
    save(tmp_path / FILE, replace(MARGINS, settings={**SETTINGS, "compress_layers": (8, 24)}))
    assert find(tmp_path / FILE, **ASKED).settings == SETTINGS
    as_tuple = {**ASKED, "settings": {**SETTINGS, "compress_layers": (8, 24)}}
    assert find(tmp_path / FILE, **as_tuple).settings == SETTINGS


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"top_k": 20}, "measured with top_k 10, not with top_k 20;"),
        ({"final_layer": 28}, "measured with cutoff_layer 40, not with cutoff_layer 28;"),
        ({"fingerprint": "b2" * 32}, "measured for tiny, and this is another model, or its files"),
        ({"settings": {**SETTINGS, "template": "x"}}, 'template "yes-no", not with template "x"'),
        ({"settings": {}}, "not with template null, compress_layers null;"),
        ({"settings": {**SETTINGS, "ratio": 2}}, "ratio null, not with ratio 2"),
    ],
)
def test_margins_serve_nothing_else(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    further = replace(MARGINS, top_k=500, final_layer=99, settings={"template": "none"})
    save(tmp_path / FILE, further)
    save(tmp_path / FILE, MARGINS)
    MARGINS.check(**ASKED)
    for refuse in (MARGINS.check, lambda **asked: find(tmp_path / FILE, **asked)):
        with pytest.raises(InputError, match=r"the margins .*were measured") as caught:
            refuse(**ASKED | change)
        assert words in str(caught.value)
        assert len(str(caught.value)) < 300


def test_a_damaged_file_is_refused_by_name_and_kept(tmp_path: Path) -> None:
    path = tmp_path / FILE
    save(path, MARGINS)
    sound = path.read_bytes()
    fields = json.loads(sound)
    damages = [
        b"",
        b"\xff",
        b"[]",
        b"[" * 100_000,
        sound[:-9],
        sound.replace(b"2.5", b"1.5"),
        sound.replace(b'"saved"', b'"spared"'),
        json.dumps({**fields, "entries": []}).encode(),
        json.dumps({**fields, "entries": [1]}).encode(),
        json.dumps({**fields, "packrank_exits": "1"}).encode(),
    ]
    for damage in damages:
        path.write_bytes(damage)
        for use in (lambda: load(path), lambda: save(path, MARGINS)):
            with pytest.raises(
                InputError, match=r"\.json is (a damaged|no) file of margins; "
            ) as caught:
                use()
            marked = b'"packrank_exits"' in damage
            assert marked == ("is a damaged file of margins" in str(caught.value))
        assert path.read_bytes() == damage


def test_other_files_are_refused_too(tmp_path: Path) -> None:
    path = tmp_path / FILE
    with pytest.raises(InputError, match=r"no margins in .*; measure them with packrank calibrate"):
        find(path, **ASKED)
    path.write_text('{"packrank_exits": 2, "curves": []}')
    with pytest.raises(InputError, match="version 2 of the format, and this Packrank reads"):
        load(path)
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"layers": (8, 8, 28)}, "expected ascending ones"),
        ({"layers": (8, 16, 40)}, "before layer 40"),
        ({"margins": (1.0, 2.0)}, "one of at least 0 for each"),
        ({"margins": (1.0, -0.5, 0.0)}, "at least 0"),
        ({"margins": (1.0, math.nan, 0.0)}, "at least 0"),
        ({"margins": (1.0, "2", 0.0)}, "at least 0"),
        ({"margins": 1.0}, "margins is a float, expected a sequence of numbers"),
        ({"layers": "abc"}, "layers is a str, expected a sequence"),
        ({"layers": (8, 16.0, 28)}, "layers: 16.0 is not a whole number of at least 1"),
        ({"layers": (True, 16, 28)}, "layers: True is not"),
        ({"top_k": 0}, "top_k: 0 is not"),
        ({"top_k": True}, "top_k: True is not"),
        ({"top_k": "10"}, "top_k: '10' is not"),
        ({"final_layer": 40.0}, "final_layer: 40.0 is not"),
        ({"final_layer": None}, "final_layer: None is not"),
        ({"num_candidates": 99.5}, "num_candidates: 99.5 is not"),
    ],
)
def test_margins_that_cannot_be(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        replace(MARGINS, **change)
