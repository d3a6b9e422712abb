"""The options of `Reranker` on the command line: the same wherever a reranker is opened."""

import argparse
from typing import Any, get_args

from packrank.command_line import add_device_options, positive, valid_text
from packrank.tokenizer import Truncation

_DEVICES = "auto, cpu, cuda, cuda:N, or several: cuda:0,cuda:1"
_OPTIONS = (
    "dtype",
    "max_length",
    "truncation",
    "template",
    "instruction",
    "compress_ratio",
    "compress_layers",
    "head_index",
    "activation",
)


def add_reranker_options(parser: argparse.ArgumentParser) -> None:
    """How a reranker is opened, but for its activation."""
    add_device_options(parser, _DEVICES)
    parser.add_argument("--max-length", type=positive, metavar="N", help="tokens of a pair")
    parser.add_argument("--truncation", choices=get_args(Truncation), help="of longer pairs")
    parser.add_argument(
        "--template", metavar="NAME", help='of a decoder\'s input, or "pair" for none'
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


def reranker_options(args: argparse.Namespace) -> dict[str, Any]:
    """Of the options of `Reranker`, those that are given."""
    given = {name: getattr(args, name, None) for name in _OPTIONS}
    given["device"] = args.device.split(",") if "," in args.device else args.device
    return {name: value for name, value in given.items() if value is not None}


def layer_numbers(text: str) -> tuple[int, ...]:
    """An option that is numbers of layers."""
    return tuple(sorted({positive(part) for part in text.split(",")}))
