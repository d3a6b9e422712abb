"""packrank rank | score | info.

Exit status: 0 all was done; 1 some lines could not be used and the rest was scored; 2 nothing was
done, and one sentence on stderr says why.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from tqdm import tqdm

import packrank_kernels
from packrank.config import Activation, load_config
from packrank.demo import default_model
from packrank.errors import InputError, PackrankError
from packrank.hub import resolve
from packrank.info import describe_machine, describe_model
from packrank.late_folder import encoder_folder
from packrank.late_interaction import LateInteraction
from packrank.lines import Line, open_lines, read_jsonl, read_plain, replacing
from packrank.request import Ranked
from packrank.reranker import Reranker
from packrank.score_file import Scorer, score_lines
from packrank.tokenizer import Truncation, check_text

_HELP = "Rank documents for a query, or score pairs, with a reranker."
_MODEL_HELP = 'a model folder, a hub name (organisation/name), or "default"'
_SHOWN_CHARACTERS = 80  # of a document in the table
_MOST_THREADS = 4096


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        if getattr(args, "threads", None):
            packrank_kernels.set_num_threads(args.threads)
        status: int = args.run(args)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except PackrankError as error:
        return _fail(str(error))
    except BrokenPipeError:
        # Who read our output has seen enough.
        _abandon_stdout()
        return 2
    except OSError as error:
        _abandon_stdout()
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except MemoryError:
        return _fail("there is not enough memory; give it less at a time")
    except RuntimeError as error:  # from torch or the kernels
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        return _fail(f"the computation failed: {reason}")
    except KeyboardInterrupt:
        return 130


def _fail(sentence: str) -> int:
    _say(f"packrank: {sentence}")
    return 2


def _say(line: str) -> None:
    """Print to standard error, unless it is closed."""
    if sys.stderr is not None:
        print(line, file=sys.stderr)


def _abandon_stdout() -> None:
    """What it holds and cannot write, Python would complain of again while it exits."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check_stdout() -> None:
    if sys.stdout is None:
        raise InputError("standard output is closed; send it to a file")


def _rank(args: argparse.Namespace) -> int:
    _check_stdout()
    jsonl = args.format == "jsonl" or (args.format is None and args.documents.endswith(".jsonl"))
    with open_lines(args.documents) as source:
        lines = list(read_jsonl(source, "text") if jsonl else read_plain(source))
    failures = [(line.number, line.error) for line in lines if line.error is not None]
    documents = [line for line in lines if line.error is None]
    if not lines:
        raise InputError(f"{args.documents} holds no document to rank; expected one a line")
    ranking: list[Ranked] = []
    if documents:
        texts = [str(line.fields["text"]) for line in documents]
        ranking, reasons = _open_model(args).try_rank(args.query, texts, args.top_k)
        failures += [(documents[index].number, reason) for index, reason in reasons.items()]
    if not ranking:
        number, reason = min(failures)
        raise InputError(f"{args.documents} holds no usable document; line {number}: {reason}")
    show = _show_json if args.json else _show_row
    if not args.json:
        print("rank     score    line  text")
    for rank, ranked in enumerate(ranking, start=1):
        show(rank, ranked.score, documents[ranked.index])
    _report(sorted(failures))
    return 1 if failures else 0


def _show_json(rank: int, score: float, line: Line) -> None:
    fields = {name: line.fields[name] for name in ("id", "text") if name in line.fields}
    # -inf, of a document without token vectors, has no spelling in JSON.
    shown = None if score == -math.inf else score
    print(json.dumps({"rank": rank, "score": shown, "line": line.number, **fields}))


def _show_row(rank: int, score: float, line: Line) -> None:
    words = " ".join(line.fields["text"].split())[:_SHOWN_CHARACTERS]
    encoding = sys.stdout.encoding or "utf-8"
    shown = "".join(c if c.isprintable() else "?" for c in words)
    shown = shown.encode(encoding, "replace").decode(encoding)
    print(f"{rank:4} {score:9.4f} {line.number:7}  {shown}")


def _score(args: argparse.Namespace) -> int:
    output = Path(args.output)
    if output.exists() and Path(args.pairs).exists() and output.samefile(args.pairs):
        raise InputError(f"{args.output} is the file of pairs; write the scores to another one")
    quiet = args.quiet or sys.stderr is None or not sys.stderr.isatty()
    with open_lines(args.pairs) as source, replacing(output) as sink:
        model = _open_model(args)
        total = None if args.pairs == "-" else _count_lines(args.pairs)
        with tqdm(total=total, unit="pair", unit_scale=True, disable=quiet) as bar:
            totals = score_lines(model, read_jsonl(source, "query", "document"), sink, bar)
        if not totals.pairs and not totals.num_failed:
            raise InputError(f"{args.pairs} holds no pair to score; expected one a line")
    _report(totals.failures)
    if totals.num_failed > len(totals.failures):
        hidden = totals.num_failed - len(totals.failures)
        _say(f"packrank: and {hidden} more lines; see {args.output}")
    if not args.quiet:
        _say(
            f"pairs scored: {totals.pairs}, lines failed: {totals.num_failed}, "
            f"{totals.seconds:.1f} s, {totals.pairs / totals.seconds:,.0f} pairs/s, "
            f"{totals.tokens / totals.seconds:,.0f} tokens/s"
        )
    return 1 if totals.num_failed else 0


def _info(args: argparse.Namespace) -> int:
    _check_stdout()
    lines = describe_machine() if args.model is None else describe_model(_folder(args.model))
    for line in lines:
        print(line)
    return 0


def _folder(model: str) -> Path:
    return default_model() if model == "default" else resolve(model)


def _open_model(args: argparse.Namespace) -> Scorer:
    """A cross-encoder where the config names a scoring head, else late interaction."""
    folder = _folder(args.model)
    if load_config(encoder_folder(folder)).is_classifier:
        return Reranker(
            folder,
            device=args.device.split(",") if "," in args.device else args.device,
            dtype=args.dtype,
            max_length=args.max_length,
            truncation=args.truncation or "longest_first",
            activation=args.activation,
        )
    for option in ("max_length", "truncation", "activation"):
        if getattr(args, option) is not None:
            raise InputError(
                f"--{option.replace('_', '-')} is for cross-encoders, and {args.model} scores by "
                "late interaction; leave it out"
            )
    if "," in args.device:
        raise InputError(
            f"--device names several devices, and {args.model} scores by late interaction, which "
            "takes one"
        )
    return LateInteraction(folder, device=args.device, dtype=args.dtype)


def _count_lines(path: str) -> int | None:
    """Lines of a file that can be read twice, for the progress bar."""
    if not os.path.isfile(path):
        return None
    with open(path, "rb") as source:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: source.read(1 << 20), b""))


def _report(failures: Sequence[tuple[int, str]]) -> None:
    for number, reason in failures:
        _say(f"packrank: line {number} was left out: {reason}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="packrank", description=_HELP)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    rank = commands.add_parser("rank", help="rank documents for a query")
    rank.add_argument("model", metavar="MODEL", help=_MODEL_HELP)
    rank.add_argument("--query", required=True, type=_text)
    rank.add_argument(
        "--documents",
        required=True,
        metavar="FILE",
        help='JSON Lines with "text" (and "id"), or one document a line; - for standard input',
    )
    rank.add_argument(
        "--format", choices=("jsonl", "text"), help="of FILE; by default .jsonl is jsonl"
    )
    rank.add_argument("--top-k", type=_positive, metavar="K", help="show the best K")
    rank.add_argument("--json", action="store_true", help="one JSON object a document")
    _add_model_options(rank)
    rank.set_defaults(run=_rank)

    score = commands.add_parser("score", help="score a file of pairs")
    score.add_argument("model", metavar="MODEL", help=_MODEL_HELP)
    score.add_argument(
        "pairs", metavar="PAIRS", help='JSON Lines with "query", "document" (and "id"); - for stdin'
    )
    score.add_argument(
        "--output", required=True, metavar="OUT", help="JSON Lines; written whole or not at all"
    )
    score.add_argument("--quiet", action="store_true", help="no progress bar, no summary")
    _add_model_options(score)
    score.set_defaults(run=_score)

    info = commands.add_parser("info", help="show versions and backends, or what a model is")
    info.add_argument("model", nargs="?", metavar="MODEL", help=_MODEL_HELP)
    info.set_defaults(run=_info)
    return parser


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda, cuda:N, or several: cuda:0,cuda:1 (default: auto)",
    )
    parser.add_argument(
        "--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16")
    )
    parser.add_argument("--threads", type=_threads, metavar="N", help="of the processor")
    parser.add_argument("--max-length", type=_positive, metavar="N", help="tokens of a pair")
    parser.add_argument("--truncation", choices=get_args(Truncation), help="of longer pairs")
    parser.add_argument("--activation", choices=get_args(Activation), help="of logits")


def _positive(text: str) -> int:
    value = int(text) if text.isdecimal() and len(text) < 20 else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def _threads(text: str) -> int:
    value = _positive(text)
    if value > _MOST_THREADS:
        raise argparse.ArgumentTypeError(f"{text} is more than {_MOST_THREADS}")
    return value


def _text(text: str) -> str:
    try:
        check_text(text)
    except InputError:
        raise argparse.ArgumentTypeError("not valid in the encoding of this terminal") from None
    return text
