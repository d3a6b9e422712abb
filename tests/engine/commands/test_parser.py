"""What is said of the command line itself comes at once, and says what there is."""

import os
import subprocess
import sys
from argparse import Namespace
from typing import get_args

import packrank_kernels
from packrank import __version__
from packrank.commands.options import VECTOR_FORMATS
from packrank.commands.parser import parse
from packrank.scoring.assembly import HeadIndex

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


def test_choices_are_those_of_what_takes_seconds_to_import() -> None:
    assert set(VECTOR_FORMATS) == set(packrank_kernels.FORMATS)
    for choice in get_args(HeadIndex):
        parse(["score", "model", "pairs", "--output", "-", "--head-index", choice], Namespace())


def test_older_names_of_formats_are_taken() -> None:
    rank = ["rank", "model", "--query", "x", "--documents", "d"]
    for argv, input_format, output_format in (
        (rank, None, "table"),
        ([*rank, "--format", "csv", "--json"], "csv", "jsonl"),
        ([*rank, "--input-format", "tsv", "--output-format", "jsonl"], "tsv", "jsonl"),
    ):
        args = Namespace()
        parse(argv, args)
        assert (args.input_format, args.output_format) == (input_format, output_format)
    parse(["score", "model", "pairs", "--output", "-", "--format", "json"], args)
    assert args.input_format == "json"
    parse(["encode", "model", "d", "s", "--format", "2bit", "--input-format", "csv"], args)
    assert (args.format, args.input_format) == ("2bit", "csv")
