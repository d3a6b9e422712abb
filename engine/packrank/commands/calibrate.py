"""packrank calibrate: measure, on the user's own queries, when a candidate may stop."""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from packrank.checkpoint.fingerprint import fingerprint
from packrank.checkpoint.hub import is_cached, is_hub_name
from packrank.commands.messages import LeftOut, check_stdout, progress, say
from packrank.commands.options import folder_of, reranker_options
from packrank.commands.signals import keep
from packrank.errors import InputError
from packrank.exits.calibration import calibrate, check_enough, enough_queries
from packrank.exits.margins import FILE, Margins, load, save
from packrank.jobs.calibrate import read_asked, score_queries
from packrank.output_file import is_stdout
from packrank.reranker import Reranker


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    check_stdout()
    if args.output is None:
        _check_folder(args.model)
    with LeftOut() as left_out:
        margins = _measure(args, left_out)
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
    return 1 if left_out.count else 0


def _measure(args: argparse.Namespace, left_out: LeftOut) -> Margins:
    """Margins, written where they belong."""
    queries = read_asked(args.queries, args.candidates, left_out.add, args.input_format)
    ample = [query for query in queries if len(query.records) > args.top_k]
    check_enough(len(ample), args.top_k)
    folder = folder_of(args.model)
    output = folder / FILE if args.output is None else Path(args.output)
    piped = is_stdout(str(output))
    if not piped:
        _check_output(output)
    # Margins are of logits, whatever the model makes of them.
    model = Reranker(folder, **reranker_options(args), activation="identity")
    exits, settings = _exit_layers(args, model.exit_layers), model.exit_settings
    total = sum(len(query.records) for query in ample)
    with progress(total, "pairs", args.quiet) as bar:
        for record, reason in score_queries(model, ample, exits, bar):
            left_out.add(f"{args.candidates}, {record.place}", reason)
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
    keep()
    if not args.quiet:
        for row in _table(margins):
            (say if piped else print)(row)
    save(output, margins)
    if not args.quiet and not piped:
        print(f"written to {output}")
    return margins


def _check_folder(model: str) -> None:
    """Raise InputError, before anything is fetched, if margins have no place beside a model."""
    is_named = model != "default" and is_hub_name(model)
    if is_named or is_cached(Path(os.path.expanduser(model))):
        raise InputError(
            f"{model}: models of the hub are kept in its cache, where nothing else is written; "
            "give --output FILE, and rank with --exit FILE"
        )


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
