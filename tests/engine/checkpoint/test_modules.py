"""modules.json: where a model's parts lie, which is in its own folder."""

import json
from pathlib import Path

import pytest

from packrank.checkpoint.modules import encoder_folder, read_modules
from packrank.errors import ModelError


def listed(folder: Path, *paths: str) -> Path:
    (folder / "modules.json").write_text(
        json.dumps([{"path": path, "type": "a.B"} for path in paths])
    )
    return folder


def test_modules_lie_in_the_folder(tmp_path: Path) -> None:
    folder = listed(tmp_path, "", "1_Dense", "./2_Dense")
    assert [module.folder for module in read_modules(folder)] == [
        tmp_path,
        tmp_path / "1_Dense",
        tmp_path / "2_Dense",
    ]
    assert read_modules(folder)[0].name == "B"
    assert encoder_folder(folder) == tmp_path


@pytest.mark.parametrize("path", ["/etc", "..", "../other", "1_Dense/../../other", "C:/x"])
def test_none_lies_elsewhere(tmp_path: Path, path: str) -> None:
    with pytest.raises(ModelError, match=r"modules\.json names .*, which is outside its folder"):
        encoder_folder(listed(tmp_path, path))


def test_a_link_leads_nowhere_else(tmp_path: Path) -> None:
    inner = tmp_path / "model"
    inner.mkdir()
    (inner / "1_Dense").symlink_to(tmp_path)
    with pytest.raises(ModelError, match="a link to"):
        read_modules(listed(inner, "", "1_Dense"))


@pytest.mark.parametrize("path", ["a\0", "\udcff"])
def test_names_that_no_folder_can_have(tmp_path: Path, path: str) -> None:
    with pytest.raises(ModelError, match="which no file can be called"):
        read_modules(listed(tmp_path, path))
