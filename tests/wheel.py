"""Look into the wheel in dist/, then use it as a stranger would: `make try-wheel`.

A bare environment, no compiler within reach, another working directory. Each step prints what it
found; the first that fails ends it with a sentence and exit status 1.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
BUILD = ROOT / "build" / "try-wheel"
PACKAGES = {"packrank": ROOT / "engine", "packrank_kernels": ROOT / "kernels"}
PROGRAM = ROOT / "tests" / "stranger.py"


def only(pattern: str) -> Path:
    found = sorted(DIST.glob(pattern))
    if len(found) != 1:
        raise SystemExit(f"{DIST} has {len(found)} {pattern}, expected one; run make wheel")
    return found[0]


def sources(*folders: Path, ending: str = "") -> Iterator[Path]:
    """Files of the project, without what compilers and Python leave among them."""
    for folder in folders:
        for path in folder.rglob(f"*{ending}"):
            left = {".so", ".pyc"}.isdisjoint(path.suffixes)
            if path.is_file() and left and not path.parent.name.endswith(".egg-info"):
                yield path


def check_names(what: Path, names: set[str], expected: Iterable[str], foreign: set[str]) -> None:
    missing = sorted(set(expected) - names)
    strays = sorted(name for name in names if foreign & set(PurePosixPath(name).parts))
    if missing or strays:
        raise SystemExit(f"{what.name} lacks {missing[:5]} and should not have {strays[:5]}")
    print(f"{what.name}: {len(names)} files, {what.stat().st_size / 1e6:.1f} MB")


def check_sdist(path: Path) -> None:
    """All that is compiled or installed, and nothing that needs the rest of the project."""
    with tarfile.open(path) as archive:
        files = [member.name for member in archive.getmembers() if member.isfile()]
    names = {name.partition("/")[2] for name in files}
    wanted = [*sources(ROOT / "csrc", *PACKAGES.values()), ROOT / "setup.py"]
    expected = [file.relative_to(ROOT).as_posix() for file in wanted]
    check_names(path, names, expected, {"tests", "benchmarks", ".github", ".ci"})


def check_wheel(path: Path) -> None:
    """Every module and its data, the compiled one, and neither sources of it nor tests."""
    with zipfile.ZipFile(path) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    expected = [
        file.relative_to(root).as_posix() for root in PACKAGES.values() for file in sources(root)
    ]
    check_names(path, names, expected, {"tests", "benchmarks", "csrc", "engine", "kernels"})
    if not any(re.match(r"packrank_kernels/_cpu\.[^/]+\.(so|pyd)$", name) for name in names):
        raise SystemExit(f"{path.name} has no compiled packrank_kernels/_cpu")
    tops = {name.partition("/")[0] for name in names}
    if strays := {top for top in tops - PACKAGES.keys() if not top.endswith(".dist-info")}:
        raise SystemExit(f"{path.name} would install {sorted(strays)} beside the packages")


class Stranger:
    """Who has Python, pip, and a working directory in which a clone of this project lies."""

    def __init__(self) -> None:
        shutil.rmtree(BUILD, ignore_errors=True)
        self.home = BUILD / "home"
        (self.home / "packrank").mkdir(parents=True)
        self._bin = BUILD / "venv" / ("Scripts" if os.name == "nt" else "bin")
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        self._environment = {
            **kept, "PATH": str(self._bin), "CC": "no-compiler", "CXX": "no-compiler",
            "HF_HUB_OFFLINE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }  # fmt: skip
        subprocess.run([sys.executable, "-m", "venv", str(BUILD / "venv")], check=True)

    def run(self, *command: str, stdin: str = "") -> str:
        """What a program of the environment prints; it must succeed."""
        done = subprocess.run(
            [str(self._bin / command[0]), *command[1:]],
            cwd=self.home,
            env=self._environment,
            input=stdin,
            stdout=subprocess.PIPE,
            text=True,
        )
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def install(self, wheel: Path) -> None:
        """With its dependencies, all of them as wheels, in the tested versions."""
        options = ["-q", "--no-compile", "--only-binary=:all:", "-c", str(ROOT / "constraints.txt")]
        self.run("python", "-m", "pip", "install", *options, str(wheel))
        self.run("python", "-m", "pip", "check")
        print("installed, with dependencies, without a compiler")

    def use(self) -> None:
        """The packages, then the commands, on small models with random weights."""
        for line in self.run("python", "-", stdin=PROGRAM.read_text("utf-8")).splitlines():
            if BUILD / "venv" not in Path(line).parents:
                raise SystemExit(f"{line} was imported in place of what the wheel installed")
        info = self.run("packrank", "info")
        if not re.search(r"^ +linear +(amx|avx512|avx2|scalar)\b", info, re.MULTILINE):
            raise SystemExit(f"packrank info names no kernel of the wheel for linear:\n{info}")
        ask = ["--query", "how do snakes find prey", "--top-k", "3"]
        ranked = self.run("packrank", "rank", "cross-encoder", *ask, "--documents", "documents.txt")
        stored = self.run("packrank", "rank", "encoder", *ask, "--store", "sample.store")
        for table in (ranked, stored):
            if len(table.splitlines()) != 4:
                raise SystemExit(f"packrank rank --top-k 3 printed\n{table}")
        print("imported, scored, stored and ranked, in Python and by command")


def main() -> None:
    sdist, wheel = only("packrank-*.tar.gz"), only("packrank-*.whl")
    check_sdist(sdist)
    check_wheel(wheel)
    stranger = Stranger()
    stranger.install(wheel)
    stranger.use()
    shutil.rmtree(BUILD)


if __name__ == "__main__":
    main()
