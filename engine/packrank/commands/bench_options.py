"""What `packrank bench` is told; nothing is imported here that takes time."""

import argparse
import math

from packrank.commands.options import positive, threads

_BENCH = """\
Measure what this machine can do with rerankers, and what holds it back: its memory, products and
tokenizer first, then models of usual sizes with random weights, or yours, with everything at once
(Offline), queries that come at a rate (Server) and one query at a time (SingleStream). With no
option it takes five minutes. What was found goes to a file, which packrank bench compare reads.
"""
_COMPARE = """\
Compare two reports: ratios with their spread, and which differences are larger than the noise.
"""
_MODELS = """\
names of sizes (MiniLM-L6, base, large, ModernBERT-base, Qwen2.5-0.5B, Qwen2.5-1.5B, MiniCPM-2B),
folders, hub names, or "default" (default: MiniLM-L6 and base, on a CUDA device more)
"""
_DTYPES = """\
float32, bfloat16 or, on a CUDA device, float16 (default: float32 and bfloat16, on a CUDA device
float16 and bfloat16)
"""
_LENGTHS = "msmarco-like, nq-like, long, fixed:TOKENS, or a file of texts (default: msmarco-like)"


def add_bench(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command and its options."""
    parser = commands.add_parser(
        "bench",
        help="measure what this machine can do with rerankers, and what holds it back",
        description=_BENCH,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--models",
        nargs="+",
        action="extend",
        metavar="MODEL",
        help=_MODELS,
    )
    parser.add_argument("--dtypes", nargs="+", action="extend", metavar="DTYPE", help=_DTYPES)
    parser.add_argument("--lengths", nargs="+", action="extend", metavar="NAME", help=_LENGTHS)
    parser.add_argument(
        "--candidates", type=positive, default=100, metavar="N", help="of a query (default: 100)"
    )
    parser.add_argument(
        "--p99-limit",
        type=_amount,
        metavar="MS",
        help="milliseconds that 99 of 100 queries may take in Server (default: four times what "
        "one takes alone)",
    )
    parser.add_argument(
        "--price-per-hour", type=_amount, metavar="X", help="of this machine, for costs"
    )
    parser.add_argument(
        "--seconds", type=_amount, metavar="S", help="for all, some 20 at least (default: 285)"
    )
    parser.add_argument(
        "--full", action="store_true", help="all sizes and lengths, as long as it takes"
    )
    parser.add_argument(
        "--peers", action="store_true", help="beside other packages, those that are installed"
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="the report, as JSON; - for standard output, without the tables (default: "
        "packrank-bench-TIME.json)",
    )
    parser.add_argument("--csv", metavar="FILE", help="the same as rows")
    parser.add_argument(
        "--html", metavar="FILE", help="the same as a page with plots; needs packrank[report]"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=threads, metavar="N", help="of the processor")
    actions = parser.add_subparsers(dest="action", metavar="compare")
    compare = actions.add_parser("compare", help="two reports", description=_COMPARE)
    compare.add_argument("a", metavar="A.json")
    compare.add_argument("b", metavar="B.json")
    compare.add_argument(
        "--output-format", choices=("table", "json"), default="table", help="(default: table)"
    )
    compare.add_argument(
        "--traceback", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value
