"""The files of the project, and what they import."""

import ast
import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENGINE = ROOT / "engine/packrank"
KERNELS = ROOT / "kernels/packrank_kernels"
PYTHON = sorted(
    path
    for folder in ("engine", "kernels", "tests", "benchmarks", "examples")
    for path in (ROOT / folder).rglob("*.py")
)
CPP = sorted(
    path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".cpp", ".h", ".inc", ".cu")
)
ENGINE_FILES = [path for path in PYTHON if path.is_relative_to(ENGINE)]
KERNEL_FILES = [path for path in PYTHON if path.is_relative_to(KERNELS)]


def extra(name: str) -> str:
    """The first package of an extra, and its version, as pip takes it."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(rf'^{name} = \["([^"]+)"', project, re.MULTILINE)
    assert found is not None
    return found[1]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.AST) -> Iterator[str]:
    """Every import at any depth, as dotted names: "from a import b" is "a.b"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages(path: Path) -> set[str]:
    """Packages that a file imports, the standard library aside."""
    return {name.split(".")[0] for name in imports(tree_of(path))} - set(sys.stdlib_module_names)


def modules(path: Path, root: Path) -> set[str]:
    """Modules of the package in `root` that a file imports: "errors", "models/base", "models"."""
    found = set()
    for name in imports(tree_of(path)):
        first, *parts = name.split(".")
        if first == root.name:
            inner = "/".join(parts[:-1]) or "__init__"
            whole = "/".join(parts)
            is_module = any(
                (root / f"{whole}{end}").is_file() for end in (".py", ".pyi", "/__init__.py")
            )
            found.add(whole if is_module else inner)
    return found
