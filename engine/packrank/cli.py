"""packrank rank | score | encode | explain | calibrate | info.

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
from packrank.calibrate_command import add_calibrate
from packrank.command_line import (
    MODEL_HELP,
    check_stdout,
    count_lines,
    folder_of,
    hides_bar,
    positive,
    printable,
    report,
    say,
    valid_text,
)
from packrank.config import Activation
from packrank.encode_command import add_encode
from packrank.errors import InputError, PackrankError
from packrank.explain_command import add_explain
from packrank.info import describe_machine, describe_model, describe_store
from packrank.late_interaction import LateInteraction
from packrank.lines import Line, is_jsonl, open_lines, read_jsonl, read_plain, replacing
from packrank.recognition import is_reranker
from packrank.request import Ranked, Ranking
from packrank.reranker import Reranker
from packrank.reranker_options import add_reranker_options, reranker_options
from packrank.score_file import Scorer, score_lines
from packrank.store import Store

_HELP = "Rank documents for a query, or score pairs, with a reranker."
_SHOWN_CHARACTERS = 80  # of a document in the table
# Options that late interaction has no use for.
_RERANKER_ONLY = (
    "max_length",
    "truncation",
    "activation",
    "template",
    "instruction",
    "compress_ratio",
    "compress_layers",
    "head_index",
    "cutoff_layer",
    "exit",
)


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
    except (RuntimeError, ValueError) as error:  # from torch or the kernels
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        return _fail(f"the computation failed: {reason}")
    except KeyboardInterrupt:
        return 130


def _fail(sentence: str) -> int:
    say(f"packrank: {sentence}")
    return 2


def _abandon_stdout() -> None:
    """What it holds and cannot write, Python would complain of again while it exits."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _rank(args: argparse.Namespace) -> int:
    check_stdout()
    if args.store is not None:
        return _rank_store(args)
    if args.candidates is not None:
        raise InputError("--candidates are ids of documents of a store; give --store as well")
    jsonl = args.format == "jsonl" or (args.format is None and is_jsonl(args.documents))
    with open_lines(args.documents) as source:
        lines = list(read_jsonl(source, "text") if jsonl else read_plain(source))
    failures = [(line.number, line.error) for line in lines if line.error is not None]
    documents = [line for line in lines if line.error is None]
    if not lines:
        raise InputError(f"{args.documents} holds no document to rank; expected one a line")
    ranking: Ranking | list[Ranked] = []
    if documents:
        texts = [str(line.fields["text"]) for line in documents]
        ranking, reasons = _try_rank(_open_model(args), args, texts)
        failures += [(documents[index].number, reason) for index, reason in reasons.items()]
    if not ranking:
        number, reason = min(failures)
        raise InputError(f"{args.documents} holds no usable document; line {number}: {reason}")
    _show(ranking, documents, as_json=args.json)
    report(sorted(failures))
    return 1 if failures else 0


def _rank_store(args: argparse.Namespace) -> int:
    candidates = None
    if args.candidates is not None:
        with open_lines(args.candidates) as source:
            lines = list(read_plain(source))
        for line in lines:
            if line.error is not None:
                raise InputError(f"{args.candidates}, line {line.number}: {line.error}")
        candidates = [str(line.fields["text"]) for line in lines]
    model = _open_model(args)
    assert isinstance(model, LateInteraction) and model.store is not None
    if not model.store.complete:
        say(f"packrank: {args.store} is unfinished; packrank encode goes on with it")
    ranking, failures = model.try_rank(args.query, None, args.top_k, candidates=candidates)
    if not ranking:
        raise InputError(f"{args.store} has no document to rank that can be scored")
    if not args.json:
        print("rank     score  id")
    for rank, (_, score, id) in enumerate(ranking, start=1):
        shown = None if score == -math.inf else score
        row = {"rank": rank, "score": shown, "id": id}
        print(json.dumps(row) if args.json else f"{rank:4} {score:9.4f}  {printable(id)}")
    for index, reason in failures.items():
        say(f"packrank: document {model.store.ids[index]!r} was left out: {reason}")
    return 1 if failures else 0


def _try_rank(
    model: Scorer, args: argparse.Namespace, texts: list[str]
) -> tuple[Ranking | list[Ranked], dict[int, str]]:
    if isinstance(model, Reranker):
        return model.try_rank(
            args.query, texts, args.top_k, cutoff_layer=args.cutoff_layer, exit=args.exit
        )
    return model.try_rank(args.query, texts, args.top_k)


def _show(ranking: Ranking | list[Ranked], documents: list[Line], *, as_json: bool) -> None:
    if not as_json:
        print("rank     score    line  text")
    for rank, (index, score, _) in enumerate(ranking, start=1):
        line = documents[index]
        if not as_json:
            words = " ".join(line.fields["text"].split())[:_SHOWN_CHARACTERS]
            print(f"{rank:4} {score:9.4f} {line.number:7}  {printable(words)}")
            continue
        # -inf, of a document without token vectors, has no spelling in JSON.
        row = {"rank": rank, "score": None if score == -math.inf else score, "line": line.number}
        if isinstance(ranking, Ranking):
            row["layers"] = int(ranking.num_layers[index])
        row |= {name: line.fields[name] for name in ("id", "text") if name in line.fields}
        print(json.dumps(row))
    if as_json and isinstance(ranking, Ranking):
        run = zip(documents, ranking.num_layers.tolist(), strict=True)
        summary: dict[str, object] = {"layers": {line.number: layers for line, layers in run}}
        if (work := ranking.work) is not None:
            saved = ("prefix", "exits", "last_layer", "compression")
            shown = {name: getattr(work, name) for name in ("total", "computed", "recomputed")}
            summary["token_layers"] = shown | {
                f"saved_by_{what}": getattr(work, f"saved_by_{what}") for what in saved
            }
        print(json.dumps({"summary": summary}))


def _score(args: argparse.Namespace) -> int:
    output = Path(args.output)
    if output.exists() and Path(args.pairs).exists() and output.samefile(args.pairs):
        raise InputError(f"{args.output} is the file of pairs; write the scores to another one")
    with open_lines(args.pairs) as source, replacing(output) as sink:
        model = _open_model(args)
        total = None if args.pairs == "-" else count_lines(args.pairs)
        with tqdm(total=total, unit="pair", unit_scale=True, disable=hides_bar(args.quiet)) as bar:
            lines = read_jsonl(source, "query", "document")
            totals = score_lines(model, lines, sink, bar, cutoff_layer=args.cutoff_layer)
        if not totals.pairs and not totals.num_failed:
            raise InputError(f"{args.pairs} holds no pair to score; expected one a line")
    report(totals.failures)
    if totals.num_failed > len(totals.failures):
        hidden = totals.num_failed - len(totals.failures)
        say(f"packrank: and {hidden} more lines; see {args.output}")
    if not args.quiet:
        say(
            f"pairs scored: {totals.pairs}, lines failed: {totals.num_failed}, "
            f"{totals.seconds:.1f} s, {totals.pairs / totals.seconds:,.0f} pairs/s, "
            f"{totals.tokens / totals.seconds:,.0f} tokens/s"
        )
    return 1 if totals.num_failed else 0


def _info(args: argparse.Namespace) -> int:
    check_stdout()
    if args.model is None:
        lines = describe_machine()
    elif Store.is_one(Path(args.model)):
        lines = describe_store(Store.open(args.model))
    else:
        lines = describe_model(folder_of(args.model))
    for line in lines:
        print(line)
    return 0


def _open_model(args: argparse.Namespace) -> Scorer:
    """A reranker where the files name a head or a decoder, else late interaction."""
    folder = folder_of(args.model)
    store = getattr(args, "store", None)
    if is_reranker(folder):
        if store is not None:
            raise InputError(f"--store is for late interaction, and {args.model} is a reranker")
        return Reranker(folder, **reranker_options(args))
    for option in _RERANKER_ONLY:
        if getattr(args, option, None) is not None:
            raise InputError(
                f"--{option.replace('_', '-')} is for rerankers, and {args.model} scores by "
                "late interaction; leave it out"
            )
    if "," in args.device:
        raise InputError(
            f"--device names several devices, and {args.model} scores by late interaction, which "
            "takes one"
        )
    return LateInteraction(folder, store=store, device=args.device, dtype=args.dtype)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="packrank", description=_HELP)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    rank = commands.add_parser("rank", help="rank documents for a query")
    rank.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    rank.add_argument("--query", required=True, type=valid_text)
    source = rank.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--documents",
        metavar="FILE",
        help='JSON Lines with "text" (and "id"), or one document a line; - for standard input',
    )
    source.add_argument("--store", help="rank what packrank encode has put there")
    rank.add_argument(
        "--candidates", metavar="FILE", help="ids, one a line, of what to rank of the store"
    )
    rank.add_argument(
        "--format",
        choices=("jsonl", "text"),
        help="of FILE; by default .jsonl and .ndjson are jsonl",
    )
    rank.add_argument("--top-k", type=positive, metavar="K", help="show the best K")
    rank.add_argument(
        "--json", action="store_true", help="one JSON object a document, then one of layers run"
    )
    rank.add_argument("--cutoff-layer", type=positive, metavar="L", help="layers to run")
    rank.add_argument(
        "--exit",
        metavar="MARGINS",
        help='let candidates stop early: by a file that packrank calibrate wrote, or "calibrated", '
        "the one that it left in the model's folder",
    )
    _add_model_options(rank)
    rank.set_defaults(run=_rank)

    score = commands.add_parser("score", help="score a file of pairs")
    score.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    score.add_argument(
        "pairs", metavar="PAIRS", help='JSON Lines with "query", "document" (and "id"); - for stdin'
    )
    score.add_argument(
        "--output", required=True, metavar="OUT", help="JSON Lines; written whole or not at all"
    )
    score.add_argument("--cutoff-layer", type=positive, metavar="L", help="layers to run")
    score.add_argument("--quiet", action="store_true", help="no progress bar, no summary")
    _add_model_options(score)
    score.set_defaults(run=_score)

    add_encode(commands)
    add_explain(commands)
    add_calibrate(commands)

    info = commands.add_parser(
        "info", help="show versions and backends, or what a model or a store is"
    )
    info.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    info.set_defaults(run=_info)
    return parser


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    add_reranker_options(parser)
    parser.add_argument("--activation", choices=get_args(Activation), help="of logits")
