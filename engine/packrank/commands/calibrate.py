"""packrank calibrate: measure, on the user's own queries, when a candidate may stop."""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from packrank.checkpoint.fingerprint import fingerprint
from packrank.commands.messages import SHOWN_FAILURES, check_stdout, hides_bar, say
from packrank.commands.options import (
    MODEL_HELP,
    RECORDS,
    add_reranker_options,
    folder_of,
    layer_numbers,
    positive,
    reranker_options,
)
from packrank.errors import InputError
from packrank.exits.calibration import calibrate, check_enough, enough_queries
from packrank.exits.margins import FILE, Margins, load, save
from packrank.jobs.calibrate import read_queries, score_queries
from packrank.reranker import Reranker

_DESCRIPTION = """\
Score candidates of your own queries after every exit layer of a model, and measure by what margin a
candidate may be behind there and still come back. The queries are split in two at random: margins
are fitted to one half, and the recall that is printed, with its 95 % interval, is that of the
other. rank(..., top_k=K, exit="calibrated") then drops candidates that cannot reach the top K any
more; it refuses margins that were measured for another model, another K or another template, and
requests of more than twice the candidates that most queries had here.
"""


def add_calibrate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command and its options."""
    parser = commands.add_parser(
        "calibrate",
        help="measure when candidates may stop before the last layer",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "--queries", required=True, metavar="FILE", help=f'{RECORDS} with "id" and "text"'
    )
    parser.add_argument(
        "--candidates",
        required=True,
        metavar="FILE",
        help=f'{RECORDS} with "query", the id of one, and "text"; some 100 of each query',
    )
    parser.add_argument(
        "--top-k", type=positive, default=10, metavar="K", help="wanted in the end (default: 10)"
    )
    parser.add_argument(
        "--recall",
        type=_share,
        default=0.99,
        metavar="R",
        help="share of the top K that should survive, a mean over queries (default: 0.99)",
    )
    parser.add_argument(
        "--output", metavar="FILE", help=f"where margins go (default: {FILE} in the model's folder)"
    )
    parser.add_argument(
        "--layers",
        type=layer_numbers,
        metavar="L,L,...",
        help="exit layers where candidates may stop (default: all)",
    )
    parser.add_argument(
        "--cutoff-layer",
        type=positive,
        metavar="L",
        help="the layer after which scores count (default: the last)",
    )
    parser.add_argument(
        "--seed", type=positive, default=1, metavar="N", help="of the split (default: 1)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_reranker_options(parser)
    parser.set_defaults(run=_calibrate)


def _calibrate(args: argparse.Namespace) -> int:
    check_stdout()
    failures: list[tuple[str, str, str]] = []
    queries = read_queries(args.queries, args.candidates, failures)
    ample = [query for query in queries if len(query.records) > args.top_k]
    try:
        check_enough(len(ample), args.top_k)
    except InputError:
        _report(failures)  # what is missing may be among them
        raise
    folder = folder_of(args.model)
    output = folder / FILE if args.output is None else Path(args.output)
    _check_output(output)
    # Margins are of logits, whatever the model makes of them.
    model = Reranker(folder, **reranker_options(args), activation="identity")
    exits, settings = _exit_layers(args, model.exit_layers), model.exit_settings
    total = sum(len(query.records) for query in ample)
    with tqdm(total=total, unit=" pairs", unit_scale=True, disable=hides_bar(args.quiet)) as bar:
        for record, reason in score_queries(model, ample, exits, bar):
            failures.append((args.candidates, record.place, reason))
    nothing = np.empty((0, len(exits)), dtype=np.float32)
    margins = calibrate(
        [nothing if query.logits is None else query.logits for query in queries],
        exits,
        args.top_k,
        args.recall,
        model=os.path.abspath(args.model) if os.path.isdir(args.model) else args.model,
        fingerprint=fingerprint(folder),
        settings=settings,
        seed=args.seed,
    )
    for row in _table(margins):
        print(row)
    save(output, margins)
    print(f"written to {output}")
    _report(failures)
    if margins.extrapolated:
        say(
            f"packrank: {margins.num_fitted} fitted queries are too few to show a recall of "
            f"{args.recall:g}, so margins go beyond what any of them needs; give at least "
            f"{enough_queries(args.top_k, args.recall)} queries in all, of more than {args.top_k} "
            "candidates each"
        )
    if margins.held_out_low < args.recall:
        say(
            f"packrank: the interval reaches below {args.recall:g}; with more queries it would be "
            "narrower"
        )
    return 1 if failures else 0


def _check_output(output: Path) -> None:
    """Raise InputError, before anything is scored, if margins could not be written there."""
    if output.exists() and not output.is_file():
        raise InputError(f"{output} is not a file; name one that margins may be kept in")
    if output.exists():
        load(output)
    if not os.access(output.resolve().parent, os.W_OK):
        raise InputError(f"{output} cannot be written; name another file with --output")


def _exit_layers(args: argparse.Namespace, known: tuple[int, ...]) -> tuple[int, ...]:
    """Where candidates may stop, and last where scores count."""
    if len(known) < 2:
        raise InputError(
            f"{args.model} scores after one layer only, so no candidate can stop before it; name a "
            "layerwise model"
        )
    final = known[-1] if args.cutoff_layer is None else args.cutoff_layer
    chosen = [layer for layer in known if layer < final] if args.layers is None else args.layers
    for layer in (*chosen, final):
        if layer not in known:
            raise InputError(
                f"{args.model} has no head after layer {layer}; it has some after "
                f"{', '.join(map(str, known))}"
            )
    if not chosen or chosen[-1] >= final:
        raise InputError(f"no candidate can stop before layer {final}; name earlier exit layers")
    return (*chosen, final)


def _table(margins: Margins) -> Iterator[str]:
    yield "layer      margin  dropped"
    for layer, margin, share in zip(margins.layers, margins.margins, margins.dropped, strict=True):
        yield f"{layer:5} {margin:11.4f} {share:7.1%}"
    yield ""
    yield (
        f"recall of the top {margins.top_k} on held-out queries: {margins.held_out_recall:.4f} "
        f"(95 % interval {margins.held_out_low:.4f} to {margins.held_out_high:.4f}), "
        f"{margins.recall:g} asked for"
    )
    yield f"layers saved: {margins.saved:.1%} of {margins.final_layer} for each candidate"
    yield (
        f"queries: {margins.num_fitted} fitted, {margins.num_held_out} held out, "
        f"{margins.num_left_out} left out for having no more than {margins.top_k} candidates"
    )
    yield (
        f"candidates: {margins.num_candidates} a query; margins hold for up to "
        f"{margins.most_candidates}"
    )


def _report(failures: Sequence[tuple[str, str, str]]) -> None:
    for path, place, reason in failures[:SHOWN_FAILURES]:
        say(f"packrank: {path}, {place} was left out: {reason}")
    if len(failures) > SHOWN_FAILURES:
        say(f"packrank: and {len(failures) - SHOWN_FAILURES} more")


def _share(text: str) -> float:
    """An option that is a number between 0 and 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and below 1")
    return value
