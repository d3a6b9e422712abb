"""What is said of the command line itself comes at once, and says what there is."""

import os
import subprocess
import sys

import packrank_kernels
from packrank import __version__
from packrank.commands.options import VECTOR_FORMATS

# What it takes seconds to import, or reaches for a network.
HEAVY = ("torch", "numpy", "tokenizers", "transformers", "huggingface_hub", "safetensors")

PROGRAM = f"""
import sys
from packrank.commands.cli import main

for argv in {{argvs}}:
    try:
        status = main(argv)
    except SystemExit as stop:
        status = stop.code
    print("STATE", status, sorted(set({HEAVY}) & set(sys.modules)))
"""
COMMANDS = ("rank", "score", "encode", "explain", "calibrate", "info")


def test_words_of_usage_come_without_what_takes_seconds() -> None:
    wrong = [
        [],
        ["sort"],
        ["rank", "model"],
        ["rank", "model", "--query", "x"],
        ["rank", "model", "--query", "x", "--documents", "d", "--nonsense"],
        ["score", "model", "pairs", "--output", "o", "--activation", "square"],
        ["score", "model", "pairs", "--output", "o", "--truncation", "left"],
        ["encode", "model", "documents", "store", "--format", "3bit"],
        ["encode", "model", "documents", "store", "--input-format", "xml"],
        ["calibrate", "model", "--queries", "q", "--candidates", "c", "--recall", "2"],
    ]
    helps = [["--help"], ["--version"], *([command, "--help"] for command in COMMANDS)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(argvs=[*helps, *wrong])],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=120,
    )
    assert f"\npackrank {__version__}\n" in done.stdout
    states = [line[6:] for line in done.stdout.splitlines() if line.startswith("STATE ")]
    assert states == ["0 []"] * len(helps) + ["2 []"] * len(wrong), done.stderr
    assert "Traceback" not in done.stderr


def test_formats_of_vectors_are_those_of_the_kernels() -> None:
    assert set(VECTOR_FORMATS) == set(packrank_kernels.FORMATS)
