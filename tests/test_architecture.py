"""Who may import whom: imports run downwards, and where one that may not should go."""

import ast
import re
from graphlib import TopologicalSorter
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

import packrank
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
OPTIONAL = {
    "bench/peers/classifier.py": {"transformers"},
    "bench/peers/flag_embedding.py": {"FlagEmbedding"},
    "bench/peers/late_interaction_kernels.py": {"late_interaction_kernels"},
    "bench/peers/maxsim_cpu.py": {"maxsim_cpu"},
    "bench/peers/onnxruntime.py": {"onnxruntime"},
    "bench/peers/openvino.py": {"openvino", "nncf"},
    "bench/peers/sentence_transformers.py": {"sentence_transformers", "onnxruntime"},
    "bench/shown/page.py": {"plotly"},
    "bench/watch/nvml.py": {"pynvml"},
    "checkpoint/tokenizer_files.py": {"transformers"},
    "drop_in/surroundings.py": {"transformers"},
    "jobs/node.py": {"ray"},
    "ordering/windows.py": {"ftfy"},
    "quiet.py": {"transformers"},
    "records/tables.py": {"pyarrow"},
    "stores/codec_training.py": {"faiss"},
    "verify/cross_encoder.py": {"sentence_transformers"},
    "verify/multi_vector.py": {"sentence_transformers"},
    "verify/transformers_models.py": {"transformers"},
}


# Rooms that an extra is for: whoever imports them does so in a function.
EXTRAS = {
    "server": {
        *("fastapi", "fastapi_offline", "opentelemetry", "orjson", "prometheus_client"),
        *("pydantic", "starlette", "uvicorn"),
    },
}


@pytest.mark.parametrize("path", ENGINE_FILES, ids=name_of)
def test_the_engine_imports_what_is_installed_with_it(path: Path) -> None:
    name = path.relative_to(ENGINE).as_posix()
    allowed = runtime_dependencies() | {"packrank", "packrank_kernels"}
    allowed |= EXTRAS.get(name.split("/")[0], set())
    assert packages(path) <= allowed | OPTIONAL.get(name, set())


@pytest.mark.parametrize("path", ENGINE_FILES, ids=name_of)
def test_rooms_of_extras_are_opened_in_functions(path: Path) -> None:
    if path.relative_to(ENGINE).parts[0] in EXTRAS:
        return
    outside = [node for node in tree_of(path).body if not isinstance(node, ast.FunctionDef)]
    names = {name for node in outside for name in imports(node)}
    assert not [name for name in names if name.split(".")[1:2] and name.split(".")[1] in EXTRAS]


@pytest.mark.parametrize(("file", "optional"), OPTIONAL.items(), ids=list(OPTIONAL))
def test_what_is_optional_is_imported_only_where_it_is_needed(
    file: str, optional: set[str]
) -> None:
    assert optional <= packages(ENGINE / file)
    tree = tree_of(ENGINE / file)
    outside = [node for node in tree.body if not isinstance(node, ast.FunctionDef)]
    names = {name.split(".")[0] for node in outside for name in imports(node)}
    assert not names & optional


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
        assert packages(path) <= {"numpy", "huggingface_hub", "packrank"}, module
        coming |= modules(path, ENGINE) - seen


@pytest.mark.parametrize("path", CPP, ids=name_of)
def test_only_the_bindings_know_python(path: Path) -> None:
    included = re.findall(r'#\s*include\s*[<"]([^>"]+)', path.read_text(encoding="utf-8"))
    assert not [name for name in included if re.match(r"torch|ATen|c10", name)]
    if path.name not in ("bindings.cpp", "at_exit.h"):
        assert not [name for name in included if re.match(r"Python\.h|pybind11", name)]


@pytest.mark.parametrize("path", CPP, ids=name_of)
def test_devices_share_only_what_is_common(path: Path) -> None:
    included = re.findall(r'#\s*include\s*"(.*/[^"]+)"', path.read_text(encoding="utf-8"))
    if path.parent != ROOT / "csrc":
        assert {Path(name).parent.as_posix() for name in included} <= {"../common"}


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
        "ground": (
            *("ahead", "closing", "errors", "request", "work", "arguments", "documents", "threads"),
            *("output_file", "quiet", "screen"),
        ),
        "doors": ("reranker", "late_interaction", "listwise", "pairwise", "setwise"),
        "pipelines": ("ray",),
    },
    "packrank_kernels": {
        "extensions": ("_cpu", "_cuda"),
        "ground": ("packed", "checks", "top_k", "testing"),
        "reference": ("reference",),
        "dispatch": ("dispatch",),
        "ops": (
            *(
                "attention",
                "embedding",
                "head",
                "layer_norm",
                "linear",
                "maxsim",
                "paged_attention",
            ),
            *("residual", "rms_norm", "rows", "stream", "token_embeddings", "threads", "info"),
        ),
    },
}
FLOORS: dict[str, dict[str, tuple[str, ...]]] = {
    "packrank": {
        "ground": (),
        "records": ("ground",),
        "checkpoint": ("ground",),
        "text": ("ground", "checkpoint"),
        "models": ("ground", "checkpoint"),
        "runtime": ("ground", "checkpoint", "models"),
        "stores": ("ground", "checkpoint", "runtime"),
        "exits": ("ground", "text", "models", "runtime"),
        "late": ("ground", "checkpoint", "text", "models", "runtime", "stores"),
        "scoring": ("ground", "records", "checkpoint", "text", "models", "runtime", "exits"),
        "ordering": ("ground", "checkpoint", "text", "models", "runtime"),
        "doors": (
            *("ground", "records", "checkpoint", "text", "runtime", "stores", "exits", "late"),
            *("scoring", "ordering"),
        ),
        "drop_in": ("ground", "checkpoint", "text", "scoring", "doors"),
        "pipelines": ("ground", "records", "checkpoint", "doors"),
        "jobs": (
            *("ground", "records", "checkpoint", "text", "stores", "late", "scoring", "doors"),
            *("ordering", "pipelines"),
        ),
        "serving": ("ground", "text", "runtime", "exits", "late", "scoring", "doors"),
        "server": ("ground", "checkpoint", "late", "scoring", "doors", "serving", "__init__"),
        "bench": (
            *("ground", "records", "checkpoint", "text", "runtime", "late", "doors", "demo"),
        ),
        "verify": ("ground", "checkpoint", "text", "runtime", "late", "scoring", "doors"),
        "demo": ("ground", "records", "doors"),
        "commands": (
            *("ground", "records", "checkpoint", "text", "models", "runtime", "stores", "exits"),
            *("late", "scoring", "ordering", "doors", "jobs", "verify", "demo", "bench"),
            *("serving", "server", "__init__"),
        ),
        "__init__": (
            *("ground", "text", "stores", "exits", "late", "doors", "drop_in", "jobs", "serving"),
        ),
        "__main__": ("commands",),
    },
    "packrank_kernels": {
        "extensions": (),
        "ground": (),
        "reference": ("ground",),
        "backend": ("extensions", "ground"),
        "dispatch": ("reference", "backend"),
        "ops": ("ground", "backend", "dispatch"),
        "__init__": ("ground", "dispatch", "ops"),
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
    if here not in floors:
        return [
            f"{root.name}/{module}.py is in no room; move it into one, name it in PLACES, or give "
            f"{here}/ a row in FLOORS"
        ]
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
    differ = {
        room: f"imports {sorted(taken.get(room, ()))}, FLOORS says {sorted(floors.get(room, ()))}"
        for room in taken.keys() | floors.keys()
        if taken.get(room) != set(floors.get(room, ()))
    }
    assert not differ, f"{differ}; take out of FLOORS what a room imports no longer"


def test_an_import_that_runs_upwards_is_told_where_it_should_go() -> None:
    right = {"text/pairs", "errors", "scoring/recognition"}
    assert misplaced("scoring/assembly", right, ENGINE) == []
    [sentence] = misplaced("text/pairs", {"stores/store"}, ENGINE)
    assert sentence.startswith("packrank/text/pairs.py imports stores/store: text may import gro")
    assert "down into one of these" in sentence
    assert " up into late or doors or " in sentence
    [sentence] = misplaced("helpers", {"errors"}, ENGINE)
    assert sentence.startswith("packrank/helpers.py is in no room; move it into one, name it in")
    [sentence] = misplaced("backend/native", {"maxsim"}, KERNELS)
    assert (
        "backend may import extensions, ground. Move what it needs of maxsim down into" in sentence
    )


# Who imports by a name made at run time, which the floors do not see: what may be missing. The
# engine's surface does, by the names that it imports for type checkers, which the floors see.
AT_RUN_TIME = {"dispatch.py", "backend/varlen.py"}
SURFACE = ENGINE / "__init__.py"


@pytest.mark.parametrize("path", ENGINE_FILES + KERNEL_FILES, ids=name_of)
def test_no_import_hides_from_the_floors(path: Path) -> None:
    source, tree = path.read_text(encoding="utf-8"), tree_of(path)
    name = path.relative_to(ENGINE if path.is_relative_to(ENGINE) else KERNELS).as_posix()
    if path != SURFACE:
        assert "TYPE_CHECKING" not in source
        assert name in AT_RUN_TIME or not re.search(r"import_module|__import__", source)
    whole = [
        alias for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    ]
    ours = [alias for alias in whole if alias.name.split(".")[0] in ("packrank", KERNELS.name)]
    assert all(alias.name == KERNELS.name and alias.asname is None for alias in ours)


def test_the_surface_imports_at_run_time_what_it_imports_for_type_checkers() -> None:
    shown = {name for name in imports(tree_of(SURFACE)) if name.startswith("packrank")}
    assert {f"{home}.{name}" for name, home in packrank._HOMES.items()} == shown


@pytest.mark.parametrize("root", [ENGINE, KERNELS], ids=lambda root: root.name)
def test_every_folder_is_a_package(root: Path) -> None:
    folders = {path.parent for path in root.rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders)


ROOMS = [*ENGINE.glob("*/__init__.py"), *KERNELS.glob("**/__init__.py")]


@pytest.mark.parametrize("init", ROOMS, ids=name_of)
def test_a_room_says_in_a_sentence_what_it_is_for(init: Path) -> None:
    said = ast.get_docstring(tree_of(init)) or ""
    assert 20 < len(said.splitlines()[0]) <= 100
    assert said.splitlines()[0].endswith(".")
