import json
from pathlib import Path
from typing import Any

import pytest

from packrank.checkpoint.config import ModelConfig, load_config


@pytest.fixture
def load(tmp_path: Path) -> Any:
    """load(raw): what is read of a config.json that holds this."""

    def write_and_load(raw: Any) -> ModelConfig:
        (tmp_path / "config.json").write_text(json.dumps(raw))
        return load_config(tmp_path)

    return write_and_load
