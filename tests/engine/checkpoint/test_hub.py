"""Folders as they are, hub names through the hub, and one sentence for all else."""

from pathlib import Path
from typing import Any

import pytest

from packrank.checkpoint import hub
from packrank.errors import ModelError


def test_a_folder_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.resolve(tmp_path) == tmp_path
    assert hub.resolve(str(tmp_path)) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert hub.resolve(f"~/{tmp_path.name}") == tmp_path


def test_a_folder_hides_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub.resolve("org/name") == Path("org/name")


def test_a_name_is_fetched_without_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "config.json": True,
        "1_Dense/model.safetensors": True,
        "adapter_config.json": True,
        "adapter_model.safetensors": True,
        "adapter_model.bin": False,
        "vocab.txt": True,
        "sentencepiece.bpe.model": True,
        "artifact.metadata": True,
        "pytorch_model.bin": False,
        "model.onnx": False,
        "onnx/config.json": False,
        "README.md": False,
    }
    from huggingface_hub.utils import filter_repo_objects

    def snapshot_download(
        name: str,
        *,
        revision: str | None,
        allow_patterns: list[str],
        ignore_patterns: list[str],
        **others: object,
    ) -> str:
        assert (name, revision) == ("org/name", None)
        assert others == {"token": None, "cache_dir": None, "local_files_only": False}
        kept = filter_repo_objects(
            files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        )
        assert set(kept) == {file for file, wanted in files.items() if wanted}
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert hub.resolve("org/name") == tmp_path


@pytest.mark.parametrize(
    "model",
    [
        *("no/such/folder", "./nothing", ".nothing", "/nothing", "~nobody-here/x", "", "a b"),
        *("folder/", "a\\b", "a..b/c", "a--b", "org/name.git", "x" * 97, "größe/x"),
        Path("org/name"),
    ],
)
def test_neither_folder_nor_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str | Path
) -> None:
    """The hub is not asked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    with pytest.raises(ModelError, match=r"there is no folder .*; pass a model folder or a hub n"):
        hub.resolve(model)


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    with pytest.raises(ModelError, match=r"is a file; pass the folder that holds config\.json"):
        hub.resolve(tmp_path / "config.json")


def test_offline_is_one_sentence() -> None:
    """The hub is switched off in conftest.py, so the client itself fails here."""
    with pytest.raises(ModelError, match="pass a local model folder") as raised:
        hub.resolve("packrank-test/no-such-model")
    assert "packrank-test/no-such-model is not a folder" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("model", [5, None, b"bytes", ["list"], 1.5])
def test_what_is_no_path_is_refused(model: Any) -> None:
    kind = type(model).__name__
    with pytest.raises(ModelError, match=f"the model is a {kind}, expected a folder or a hub name"):
        hub.resolve(model)
