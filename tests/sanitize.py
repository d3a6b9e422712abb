"""Run the C++ under sanitizers: the thread pool for races, then tests/fuzz.py on all of it.

Needs g++ with its sanitizer libraries. Stops with a report at the first race, bad address,
undefined operation, or result that leaves its bound.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "sanitize"
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g1"


def check_thread_pool() -> None:
    """tests/thread_pool.cpp under ThreadSanitizer."""
    BUILD.mkdir(parents=True, exist_ok=True)
    program = BUILD / "thread_pool"
    sources = [ROOT / "tests" / "thread_pool.cpp", ROOT / "csrc" / "common" / "thread_pool.cpp"]
    flags = ["-std=c++17", "-O1", "-g1", "-fsanitize=thread", "-pthread"]
    subprocess.run(["g++", *flags, *map(str, sources), "-o", str(program)], check=True)
    subprocess.run([str(program)], check=True)
    print("thread pool        no race")


def main() -> int:
    cases = sys.argv[1] if len(sys.argv) > 1 else "2000"
    check_thread_pool()
    package = BUILD / "lib" / "packrank_kernels"
    shutil.rmtree(BUILD / "lib", ignore_errors=True)
    command = [sys.executable, "setup.py", "-q", "build_ext"]
    folders = ["--build-lib", str(BUILD / "lib"), "--build-temp", str(BUILD / "temp")]
    flags = {
        name: f"{os.environ.get(name, '')} {FLAGS}" for name in ("CFLAGS", "CXXFLAGS", "LDFLAGS")
    }
    subprocess.run([*command, *folders], cwd=ROOT, env={**os.environ, **flags}, check=True)
    (module,) = package.glob("_cpu*.so")
    symbols = subprocess.check_output(["nm", "-D", "--undefined-only", str(module)], text=True)
    if "__asan_load" not in symbols and "__asan_report_load" not in symbols:
        raise SystemExit("the sanitizer's flags did not reach the compiler")
    sources = ROOT / "kernels" / "packrank_kernels"
    shutil.copytree(sources, package, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.so"))

    def library(name: str) -> str:
        found = subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip()
        if not Path(found).is_absolute():
            raise SystemExit(f"g++ has no {name}; install its sanitizer libraries")
        return found

    env = {
        **os.environ,
        "PYTHONPATH": str(BUILD / "lib"),
        # libstdc++ too: the sanitizer looks for __cxa_throw as it starts, before torch brings it.
        "LD_PRELOAD": " ".join(map(library, ("libasan.so", "libubsan.so", "libstdc++.so"))),
        # Python and torch keep memory to the end of the process on purpose.
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    return subprocess.call([sys.executable, str(ROOT / "tests" / "fuzz.py"), cases], env=env)


if __name__ == "__main__":
    sys.exit(main())
