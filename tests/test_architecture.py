"""The rules of the layout: what may import what, how long a file may be, what import may do."""

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import packrank_kernels

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


@pytest.mark.parametrize("root", [ENGINE, KERNELS], ids=lambda root: root.name)
def test_no_file_imports_itself_by_way_of_others(root: Path) -> None:
    graph = {
        path.relative_to(root).with_suffix("").as_posix().removesuffix("/__init__"): modules(
            path, root
        )
        for path in PYTHON
        if path.is_relative_to(root)
    }
    assert len(graph) > 20
    tuple(TopologicalSorter(graph).static_order())


# Room -> the rooms below that it may import. Files at the top of a package are in the rooms of
# PLACES; __init__ and __main__ are rooms of their own.
PLACES = {
    "packrank": {
        "ground": ("errors", "request", "work", "arguments", "lines"),
        "doors": ("reranker", "late_interaction"),
    },
    "packrank_kernels": {
        "extensions": ("_cpu", "_cuda"),
        "ground": ("packed", "checks", "top_k", "testing"),
        "reference": ("reference",),
        "dispatch": ("dispatch",),
        "ops": (
            *("attention", "embedding", "head", "layer_norm", "linear", "maxsim", "residual"),
            *("rms_norm", "rows", "token_embeddings", "threads", "info"),
        ),
    },
}
FLOORS: dict[str, dict[str, tuple[str, ...]]] = {
    "packrank": {
        "ground": (),
        "checkpoint": ("ground",),
        "text": ("ground", "checkpoint"),
        "models": ("ground", "checkpoint"),
        "runtime": ("ground", "checkpoint", "models"),
        "stores": ("ground", "runtime"),
        "exits": ("ground", "text", "models", "runtime"),
        "late": ("ground", "checkpoint", "text", "models", "runtime", "stores"),
        "scoring": ("ground", "checkpoint", "text", "models", "runtime", "exits"),
        "doors": ("ground", "checkpoint", "text", "runtime", "stores", "exits", "late", "scoring"),
        "jobs": ("ground", "checkpoint", "text", "stores", "late", "doors"),
        "demo": ("ground", "doors"),
        "commands": (
            *("ground", "checkpoint", "text", "runtime", "stores", "exits", "late", "scoring"),
            *("doors", "jobs", "demo", "__init__"),
        ),
        "__init__": ("ground", "text", "stores", "exits", "late", "doors"),
        "__main__": ("commands",),
    },
    "packrank_kernels": {
        "extensions": (),
        "ground": (),
        "reference": ("ground",),
        "backend": ("extensions", "ground"),
        "dispatch": ("reference", "backend"),
        "ops": ("ground", "backend", "dispatch"),
        "__init__": ("ground", "ops"),
    },
}
MODULES = [
    (root, path.relative_to(root).with_suffix("").as_posix())
    for root in (ENGINE, KERNELS)
    for path in PYTHON
    if path.is_relative_to(root)
]


def room_of(module: str, root: Path) -> str:
    """The room of a module, such as "models/base" or "errors"."""
    top = module.split("/")[0]
    places = PLACES[root.name]
    return next((room for room, files in places.items() if top in files), top)


def misplaced(module: str, imported: set[str], root: Path) -> list[str]:
    """What is wrong with the imports of a module, a sentence for each."""
    floors = FLOORS[root.name]
    here, sentences = room_of(module, root), []
    for other in sorted(imported):
        there = room_of(other, root)
        if there == here or there in floors[here]:
            continue
        above = [room for room, below in floors.items() if {here, there} <= {*below, room}]
        sentences.append(
            f"{root.name}/{module}.py imports {other}: {here} may import "
            f"{', '.join(floors[here]) or 'nothing'}. Move what it needs of {other} down into one "
            f"of these, or the code that needs it up into {' or '.join(above)}"
        )
    return sentences


@pytest.mark.parametrize(("root", "module"), MODULES, ids=lambda part: getattr(part, "name", part))
def test_imports_run_downwards(root: Path, module: str) -> None:
    wrong = misplaced(module, modules(root / f"{module}.py", root), root)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("root", [ENGINE, KERNELS], ids=lambda root: root.name)
def test_floors_are_a_table_of_rooms_that_there_are(root: Path) -> None:
    """Without a circle, without a room that nobody made, and without leave that nobody takes."""
    floors = FLOORS[root.name]
    tuple(TopologicalSorter(floors).static_order())
    taken: dict[str, set[str]] = {room: set() for room in PLACES[root.name]}
    for _, module in (each for each in MODULES if each[0] == root):
        here = room_of(module, root)
        found = {room_of(other, root) for other in modules(root / f"{module}.py", root)}
        taken[here] = taken.get(here, set()) | (found - {here})
    assert taken == {room: set(below) for room, below in floors.items()}


def test_an_import_that_runs_upwards_is_told_where_it_should_go() -> None:
    right = {"text/pairs", "errors", "scoring/recognition"}
    assert misplaced("scoring/assembly", right, ENGINE) == []
    [sentence] = misplaced("text/pairs", {"stores/store"}, ENGINE)
    assert sentence.startswith("packrank/text/pairs.py imports stores/store: text may import gro")
    assert "down into one of these" in sentence
    assert sentence.endswith("up into late or doors or jobs or commands or __init__")
    [sentence] = misplaced("backend/native", {"maxsim"}, KERNELS)
    assert (
        "backend may import extensions, ground. Move what it needs of maxsim down into" in sentence
    )


@pytest.mark.parametrize("path", ENGINE_FILES + KERNEL_FILES, ids=name_of)
def test_no_circle_hides_behind_types(path: Path) -> None:
    assert "TYPE_CHECKING" not in path.read_text(encoding="utf-8")


ROOMS = [*ENGINE.glob("*/__init__.py"), *KERNELS.glob("**/__init__.py")]


@pytest.mark.parametrize("init", ROOMS, ids=name_of)
def test_a_room_says_in_a_sentence_what_it_is_for(init: Path) -> None:
    said = ast.get_docstring(tree_of(init)) or ""
    assert 20 < len(said.splitlines()[0]) <= 100
    assert said.splitlines()[0].endswith(".")


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
