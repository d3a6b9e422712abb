"""A small model and its documents, for a test to damage, and what a command must then say."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from packrank import Reranker


@pytest.fixture(scope="session")
def reranker_case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """reranker_case("qwen3"): that of `rerankers.BUILD`, made once; tests do not write to it."""
    from reranker_folders import BUILD, Case

    made: dict[str, Case] = {}

    def build(name: str) -> Case:
        if name not in made:
            torch.manual_seed(1)
            made[name] = BUILD[name](tmp_path_factory.mktemp(name))
        return made[name]

    return build


@pytest.fixture
def model(
    checkpoint: Callable[..., Path], save_tokenizer: Callable[..., None], tmp_path: Path
) -> Path:
    """A sound cross-encoder, for a test to damage."""
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("Bert", num_labels=1), folder)
    save_tokenizer(folder, "red blue fox owl")
    return folder


@pytest.fixture
def reranker(model: Path) -> Reranker:
    return Reranker(model, device="cpu")


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    path = tmp_path / "documents.txt"
    path.write_text("red fox\nblue owl\n")
    return path


@pytest.fixture
def one_sentence(capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """one_sentence("word", ...): nothing on stdout; on stderr one line with these words."""

    def check(*words: str) -> None:
        captured = capsys.readouterr()
        assert captured.out == ""
        [line] = captured.err.splitlines()
        assert line.startswith("packrank: ")
        for word in words:
            assert word in line

    return check


@pytest.fixture(scope="session")
def long_folder(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    found = tmp_path_factory.mktemp("long") / "model"
    shutil.copytree(checkpoint("Bert", num_labels=1), found)
    save_tokenizer(found, "red blue fox owl")
    return found


@pytest.fixture(scope="session")
def windowed(long_folder: Path) -> Reranker:
    return Reranker(long_folder, device="cpu", activation="identity", long_documents="windows")


@pytest.fixture(scope="session")
def cut(long_folder: Path) -> Reranker:
    return Reranker(long_folder, device="cpu", activation="identity")
