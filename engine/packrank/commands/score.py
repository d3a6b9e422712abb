"""packrank score: a file of pairs to a file of scores."""

import argparse
from pathlib import Path

from tqdm import tqdm

from packrank.commands.messages import count_lines, hides_bar, report, say
from packrank.commands.options import MODEL_HELP, positive
from packrank.commands.scorer import add_model_options, open_model
from packrank.errors import InputError
from packrank.jobs.score import score_lines
from packrank.lines import open_lines, read_jsonl, replacing


def add_score(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command and its options."""
    parser = commands.add_parser("score", help="score a file of pairs")
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "pairs", metavar="PAIRS", help='JSON Lines with "query", "document" (and "id"); - for stdin'
    )
    parser.add_argument(
        "--output", required=True, metavar="OUT", help="JSON Lines; written whole or not at all"
    )
    parser.add_argument("--cutoff-layer", type=positive, metavar="L", help="layers to run")
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no summary")
    add_model_options(parser)
    parser.set_defaults(run=_score)


def _score(args: argparse.Namespace) -> int:
    output = Path(args.output)
    if output.exists() and Path(args.pairs).exists() and output.samefile(args.pairs):
        raise InputError(f"{args.output} is the file of pairs; write the scores to another one")
    with open_lines(args.pairs) as source, replacing(output) as sink:
        model = open_model(args)
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
