"""The rules of the layout: who knows what, how long a file may be, what an import may do."""

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
    KERNELS,
    PYTHON,
    ROOT,
    imports,
    modules,
    name_of,
    packages,
    tree_of,
)

import packrank_kernels


def runtime_dependencies() -> set[str]:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    assert listed is not None
    return set(re.findall(r'"(\w+)', listed[1]))


def test_the_rules_have_files_to_hold_for() -> None:
    assert len(ENGINE_FILES) > 10
    assert len(KERNEL_FILES) > 5
    assert len(CPP) > 3
    assert {"torch", "numpy", "tokenizers"} <= runtime_dependencies()


@pytest.mark.parametrize("path", KERNEL_FILES, ids=name_of)
def test_kernels_know_tensors_only(path: Path) -> None:
    allowed = {"torch", "numpy", "packrank_kernels"}
    if path.is_relative_to(KERNELS / "backend/triton"):
        allowed.add("triton")
    assert packages(path) <= allowed


# Packages that are looked for when they are needed, by the one file that does.
OPTIONAL = {"checkpoint/tokenizer_files.py": "transformers", "stores/codec_training.py": "faiss"}


@pytest.mark.parametrize("path", ENGINE_FILES, ids=name_of)
def test_the_engine_imports_what_is_installed_with_it(path: Path) -> None:
    allowed = runtime_dependencies() | {"packrank", "packrank_kernels"}
    assert packages(path) <= allowed | {OPTIONAL.get(path.relative_to(ENGINE).as_posix())}


@pytest.mark.parametrize(("file", "package"), OPTIONAL.items())
def test_what_is_optional_is_imported_only_where_it_is_needed(file: str, package: str) -> None:
    tree = tree_of(ENGINE / file)
    outside = [node for node in tree.body if not isinstance(node, ast.FunctionDef)]
    names = [name for node in outside for name in imports(node)]
    assert not [name for name in names if name.startswith(package)]


@pytest.mark.parametrize("path", ENGINE_FILES, ids=name_of)
def test_the_engine_uses_public_names_of_the_kernels(path: Path) -> None:
    tree = tree_of(path)
    taken = {name for name in imports(tree) if name.startswith("packrank_kernels.")}
    used = {
        f"packrank_kernels.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "packrank_kernels"
    }
    assert taken | used <= {f"packrank_kernels.{name}" for name in packrank_kernels.__all__}


@pytest.mark.parametrize(
    "name", ["runtime/scheduler", "checkpoint/config", "text/templates", "request", "errors"]
)
def test_what_decides_knows_no_tensor(name: str) -> None:
    """Nor does anything that it imports from the engine."""
    seen: set[str] = set()
    coming = {name}
    while coming:
        module = coming.pop()
        seen.add(module)
        path = ENGINE / f"{module}.py"
        assert packages(path) <= {"numpy", "packrank"}, module
        coming |= modules(path, ENGINE) - seen


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


@pytest.mark.parametrize("path", CPP, ids=name_of)
def test_only_the_bindings_know_python(path: Path) -> None:
    included = re.findall(r'#\s*include\s*[<"]([^>"]+)', path.read_text(encoding="utf-8"))
    assert not [name for name in included if re.match(r"torch|ATen|c10", name)]
    if path.name != "bindings.cpp":
        assert not [name for name in included if re.match(r"Python\.h|pybind11", name)]


@pytest.mark.parametrize("path", CPP, ids=name_of)
def test_devices_share_only_what_is_common(path: Path) -> None:
    included = re.findall(r'#\s*include\s*"(.*/[^"]+)"', path.read_text(encoding="utf-8"))
    if path.parent != ROOT / "csrc":
        assert {Path(name).parent.as_posix() for name in included} <= {"../common"}


@pytest.mark.parametrize("path", PYTHON + CPP, ids=name_of)
def test_a_file_is_short(path: Path) -> None:
    limit = 600 if path.is_relative_to(ROOT / "csrc") else 400
    assert len(path.read_text(encoding="utf-8").splitlines()) <= limit


@pytest.mark.parametrize("path", ENGINE_FILES + KERNEL_FILES + CPP, ids=name_of)
def test_no_environment_variable_decides_anything(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert "getenv" not in source
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
import packrank
assert threads() == before, (before, threads())
ours = [key for key in read if "PACKRANK" in str(key).upper()]
assert not ours, ours
assert not {"transformers", "faiss"} & set(sys.modules)
os.environ.get("PACKRANK_PROBE")
assert read[-1] == "PACKRANK_PROBE", "the watch is blind"
"""
    roots = [str(ROOT / "engine"), str(ROOT / "kernels")]
    code = f"import sys; sys.path[:0] = {roots}{program}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
