"""The programs of benchmarks/gpu as modules, without their folder on the path."""

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
HERE = ROOT / "benchmarks/gpu"
_IMPORT = re.compile(r"^(?:from|import) (\w+)", re.MULTILINE)


def load(name: str) -> ModuleType:
    """A program of the folder; what it imports of it stays imported."""
    path = HERE / f"{name}.py"
    _load_imports_of(path)
    return _load(name, path)


def visit(name: str) -> ModuleType:
    """A module of the package that `make gpu` runs."""
    _load_package("visit")
    return importlib.import_module(f"visit.{name}")


def _load_imports_of(path: Path) -> None:
    for name in _IMPORT.findall(path.read_text()):
        if name in sys.modules:
            continue
        if (HERE / name).is_dir():
            _load_package(name)
        elif (HERE / f"{name}.py").exists():
            sys.modules[name] = load(name)


def _load_package(name: str) -> None:
    """With what its modules import."""
    if name not in sys.modules:
        folder = HERE / name
        sys.modules[name] = _load(name, folder / "__init__.py", [str(folder)])
    for path in (HERE / name).glob("*.py"):
        _load_imports_of(path)


def _load(name: str, path: Path, inner: list[str] | None = None) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=inner)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
