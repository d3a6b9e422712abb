from pathlib import Path

import pytest
from toy_model import Open, toy_opener


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """toy(config changes, **options of Reranker): a Reranker over a ToyModel."""
    return toy_opener(tmp_path, monkeypatch)
