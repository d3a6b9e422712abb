"""How files are kept: how long one may be, what an import may do, what decides nothing."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from source_tree import (
    CPP,
    ENGINE,
    ENGINE_FILES,
    KERNEL_FILES,
    PYTHON,
    ROOT,
    name_of,
    packages,
    tree_of,
)


@pytest.mark.parametrize("path", [p for p in PYTHON if "tests" in p.parts], ids=name_of)
def test_tests_do_not_import_each_other(path: Path) -> None:
    tests = {other.stem for other in PYTHON if "tests" in other.parts}
    names = {name for name in tests if name.startswith("test_")} | {"conftest", "tests"}
    assert not packages(path) & names


@pytest.mark.parametrize("folder", ["engine", "kernels", "."])
def test_a_source_root_is_not_a_package(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.skipif(
    sys.version_info < (3, 11), reason="python -m puts the root on the path, -P is of Python 3.11"
)
def test_the_root_is_not_importable() -> None:
    """Started as `pytest` or `make test`; a bare `python -m pytest` puts it on the path."""
    assert ROOT not in [Path(entry).resolve() for entry in sys.path]


def edits_path(source: str) -> bool:
    return (
        re.search(r"sys\.path(\[[^]]*\])?\s*(\+?=(?!=)|\.(append|insert|extend))", source)
        is not None
    )


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_nobody_edits_the_path(path: Path) -> None:
    assert path == Path(__file__) or not edits_path(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("source", "edits"),
    [
        ("sys.path.insert(0, x)", True),
        ("sys.path[:0] = [x]", True),
        ("sys.path += [x]", True),
        ("os.pathsep.join(sys.path)", False),
        ("sys.path == y", False),
    ],
)
def test_what_counts_as_an_edit_of_the_path(source: str, edits: bool) -> None:
    assert edits_path(source) == edits


@pytest.mark.parametrize("path", PYTHON + CPP, ids=name_of)
def test_a_file_is_short(path: Path) -> None:
    limit = 600 if path.is_relative_to(ROOT / "csrc") else 400
    assert len(path.read_text(encoding="utf-8").splitlines()) <= limit


# Sets one for a moment: the tokenizers library asks it whether it may use more than one core.
SETS_ANOTHERS = ENGINE / "bench/speed/ceilings.py"


@pytest.mark.parametrize("path", ENGINE_FILES + KERNEL_FILES + CPP, ids=name_of)
def test_no_environment_variable_decides_anything(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert "getenv" not in source
    if path == SETS_ANOTHERS:
        source = source.replace('os.environ.get("TOKENIZERS_PARALLELISM")', "")
        source = source.replace('os.environ["TOKENIZERS_PARALLELISM"]', "")
    assert "os.environ" not in source


def test_importing_does_no_work() -> None:
    """In a fresh process, beside what the dependencies do: no thread, no environment, no output."""
    program = """
import os, sys, threading
import huggingface_hub, numpy, safetensors.torch, tokenizers, torch, tqdm

def threads():
    system = "/proc/self/task"
    return threading.active_count(), os.path.isdir(system) and len(os.listdir(system))

read = []
original = os._Environ.__getitem__
os._Environ.__getitem__ = lambda self, key: read.append(key) or original(self, key)
before = threads()
from packrank import *
assert threads() == before, (before, threads())
ours = [key for key in read if "PACKRANK" in str(key).upper()]
assert not ours, ours
assert not {"transformers", "sentence_transformers", "faiss"} & set(sys.modules)
os.environ.get("PACKRANK_PROBE")
assert read[-1] == "PACKRANK_PROBE", "the watch is blind"
"""
    roots = [str(ROOT / "engine"), str(ROOT / "kernels")]
    code = f"import sys; sys.path[:0] = {roots}{program}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_pinned_memory_names_its_device() -> None:
    """Else it is asked for on whatever torch's default device is, and refused there."""
    calls = [
        (f"{name_of(path)}:{node.lineno}", {keyword.arg for keyword in node.keywords})
        for path in ENGINE_FILES + KERNEL_FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
    ]
    pinned = [call for call in calls if "pin_memory" in call[1]]
    assert pinned
    assert [place for place, names in pinned if "device" not in names] == []
