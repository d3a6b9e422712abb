"""Options that several commands have: the model, where it runs, what a reranker takes."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from packrank.arguments import check_text
from packrank.checkpoint.config import Activation
from packrank.checkpoint.hub import resolve
from packrank.demo import default_model
from packrank.errors import InputError
from packrank.records.formats import FORMATS
from packrank.text.truncation import LongDocuments, Truncation

MODEL_HELP = 'a model folder, a hub name (organisation/name), or "default"'
OBJECTS = [format for format in FORMATS if format != "text"]
RECORDS = "JSON Lines, a JSON array, CSV or TSV, also in .gz,"
# Those of `packrank_kernels.FORMATS`, which comes with torch.
VECTOR_FORMATS = ("float32", "float16", "bfloat16", "int8", "8bit", "4bit", "2bit", "1bit")
FORMAT_HELP = "by default as its first bytes and its name say"
_MOST_THREADS = 4  # a processor; with many more a call takes minutes
_DEVICES = "auto, cpu, cuda, cuda:N, or several: cuda:0,cuda:1"
_OPTIONS = (
    "dtype",
    "max_length",
    "truncation",
    "long_documents",
    "template",
    "instruction",
    "compress_ratio",
    "compress_layers",
    "head_index",
    "activation",
)


def folder_of(model: str) -> Path:
    """The folder of a model as `MODEL_HELP` names it."""
    return default_model() if model == "default" else resolve(model)


def add_input_format(
    parser: argparse.ArgumentParser, what: str, formats: Sequence[str] = FORMATS
) -> None:
    """What files are, where neither bytes nor names say it; `--format` is an older name."""
    parser.add_argument("--input-format", choices=formats, help=f"of {what}; {FORMAT_HELP}")
    parser.add_argument(
        "--format",
        dest="input_format",
        choices=formats,
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )


def add_output_format(parser: argparse.ArgumentParser, help: str, *formats: str) -> None:
    """How results are written; `--json` is an older name of "jsonl"."""
    parser.add_argument("--output-format", choices=formats, default=formats[0], help=help)
    parser.add_argument(
        "--json",
        dest="output_format",
        action="store_const",
        const="jsonl",
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )


def add_device_options(parser: argparse.ArgumentParser, devices: str) -> None:
    """Where and how a model runs."""
    parser.add_argument("--device", default="auto", help=f"{devices} (default: auto)")
    parser.add_argument(
        "--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16")
    )
    parser.add_argument("--threads", type=threads, metavar="N", help="of the processor")


def add_length_option(parser: argparse.ArgumentParser, *sides: str) -> None:
    """How long texts of these sides, "query" or "document", may be in late interaction."""
    for side in sides:
        parser.add_argument(
            f"--{side}-length",
            type=positive,
            metavar="N",
            help=f"tokens of a {side} in late interaction, in place of what the model's files say",
        )


def add_reranker_options(parser: argparse.ArgumentParser) -> None:
    """How a reranker is opened, but for its activation."""
    add_device_options(parser, _DEVICES)
    parser.add_argument("--max-length", type=positive, metavar="N", help="tokens of a pair")
    parser.add_argument("--truncation", choices=get_args(Truncation), help="of longer pairs")
    parser.add_argument(
        "--long-documents",
        choices=get_args(LongDocuments),
        help="cut what does not fit (default), or read it in windows, of which the best counts",
    )
    parser.add_argument(
        "--template", metavar="NAME", help='of a decoder\'s input, a .json file, or "pair": none'
    )
    parser.add_argument(
        "--instruction", type=valid_text, metavar="TEXT", help="in place of the template's own"
    )
    parser.add_argument(
        "--compress-ratio",
        type=positive,
        metavar="N",
        help="document tokens that become one: 1, 2, 4 or 8",
    )
    parser.add_argument(
        "--compress-layers", type=layer_numbers, metavar="L,L,...", help="before which layers"
    )
    parser.add_argument(
        "--head-index",
        choices=("upstream", "layer"),
        help="which head each cutoff layer of bge-reranker-v2.5-gemma2-lightweight has",
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """How a reranker or late interaction is opened, whichever the model is."""
    add_reranker_options(parser)
    parser.add_argument("--activation", choices=get_args(Activation), help="of logits")
    add_length_option(parser, "query", "document")


def reranker_options(args: argparse.Namespace) -> dict[str, Any]:
    """Of the options of `Reranker`, those that are given."""
    given = {name: getattr(args, name, None) for name in _OPTIONS}
    given["device"] = args.device.split(",") if "," in args.device else args.device
    return {name: value for name, value in given.items() if value is not None}


def positive(text: str) -> int:
    """An option that is a whole number of at least 1."""
    value = int(text) if text.isdecimal() and len(text) < 20 else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def threads(text: str) -> int:
    """An option that is a number of threads."""
    value, processors = positive(text), max(os.cpu_count() or 1, 4)
    if value > _MOST_THREADS * processors:
        raise argparse.ArgumentTypeError(
            f"{text} is more than {_MOST_THREADS * processors}, {_MOST_THREADS} a processor"
        )
    return value


def valid_text(text: str) -> str:
    """An option that is a text."""
    try:
        check_text(text)
    except InputError:
        raise argparse.ArgumentTypeError("not valid in the encoding of this terminal") from None
    return text


def names(text: str) -> tuple[str, ...]:
    """An option that is names of columns."""
    found = tuple(part.strip() for part in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} are no names with commas between them")
    return found


def word(text: str) -> str:
    """An option that is a text without blanks."""
    if text.split() != [text]:
        raise argparse.ArgumentTypeError(f"{text!r} is no word without blanks")
    return text


def layer_numbers(text: str) -> tuple[int, ...]:
    """An option that is numbers of layers."""
    return tuple(sorted({positive(part) for part in text.split(",")}))


def share(text: str) -> float:
    """An option that is a number between 0 and 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and below 1")
    return value


def amount(text: str) -> float:
    """An option that is a number from 0 up; above 1 a whole one."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6 or (value > 1 and value % 1):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 up, whole above 1")
    return value
