import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_model import Open, toy_opener


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """toy(config changes, **options of Reranker): a Reranker over a ToyModel."""
    return toy_opener(tmp_path, monkeypatch)


@pytest.fixture(scope="session")
def small_bert(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reranker of random weights over words of the letters a to e."""
    folder = tmp_path_factory.mktemp("small_bert")
    shutil.copytree(checkpoint("Bert", num_labels=1), folder, dirs_exist_ok=True)
    letters = "abcde"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{x}" for x in letters)]
    (folder / "vocab.txt").write_text("\n".join(pieces))
    return folder
