"""The programs of benchmarks/gpu as modules, without their folder on the path."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
HERE = ROOT / "benchmarks/gpu"


def load(name: str) -> ModuleType:
    """A program of the folder that imports none of the others."""
    return _load(name, HERE / f"{name}.py")


def visit(name: str) -> ModuleType:
    """A module of the package that `make gpu` runs."""
    if "visit" not in sys.modules:
        sys.modules["visit"] = _load("visit", HERE / "visit/__init__.py", [str(HERE / "visit")])
    return importlib.import_module(f"visit.{name}")


def _load(name: str, path: Path, inner: list[str] | None = None) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=inner)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
