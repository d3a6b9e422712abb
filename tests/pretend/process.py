"""Programs of this folder in processes of their own: a test's own has Triton's interpreter."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from source_tree import ROOT


def run(program: str, *options: object, path: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    """What it prints, a JSON object a line; folders of `path` come first among the modules'."""
    need_it_pretended()
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    roots = (*path, *(ROOT / name for name in ("engine", "kernels", "tests")))
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(program)), *map(str, options)],
        capture_output=True,
        text=True,
        env=environment | {"PYTHONPATH": os.pathsep.join(map(str, roots))},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def need_it_pretended() -> None:
    """Skip where there is a device, or where nothing can be compiled."""
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device, which tests/gpu is for")
    if find_spec("triton") is None or shutil.which("g++") is None:
        pytest.skip("needs triton and g++")
