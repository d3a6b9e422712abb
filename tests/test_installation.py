"""How packages that are installed in place are found, from whatever folder Python is started in."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from source_tree import ENGINE, KERNELS


def installed_in_place() -> bool:
    """As `make` and `pip install -e .` do; PYTHONPATH alone is no installation."""
    places = [text for dist in importlib.metadata.distributions(name="packrank")
              if (text := dist.read_text("direct_url.json"))]  # fmt: skip
    return any(json.loads(text).get("dir_info", {}).get("editable") for text in places)


@pytest.mark.skipif(not installed_in_place(), reason="needs an editable installation: make install")
@pytest.mark.parametrize("folder", [ENGINE, KERNELS], ids=lambda folder: folder.name)
def test_a_clone_named_like_a_package_hides_nothing_beside_it(folder: Path, tmp_path: Path) -> None:
    """`python -c` in the folder of the clone: there its name is a namespace package's."""
    (tmp_path / folder.name).mkdir()
    program = f"import importlib.util; print(importlib.util.find_spec({folder.name!r}).origin)"
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    command = [sys.executable, "-c", program]
    origin = subprocess.check_output(command, cwd=tmp_path, env=kept, text=True).strip()
    assert Path(origin).name == "__init__.py"
    assert Path(origin).parent.name == folder.name
