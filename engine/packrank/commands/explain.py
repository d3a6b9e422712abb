"""packrank explain: why a document has its score, in the terminal, as a page or as JSON."""

import argparse
import json
import sys
from collections.abc import Iterator

from packrank.commands.messages import check_stdout, saying_warnings
from packrank.commands.options import (
    folder_of,
)
from packrank.commands.signals import keep
from packrank.errors import InputError
from packrank.late.explanation import Explanation
from packrank.late.explanation_page import page
from packrank.late_interaction import LateInteraction
from packrank.output_file import is_stdout, replacing
from packrank.request import Token
from packrank.screen import columns, printable

# Of the terminal's 256 colours, backgrounds from dim to bright and what can be read on them.
_COLORS = ((235, 250), (22, 255), (28, 255), (34, 16), (40, 16), (46, 16))
_WIDTH = 28  # columns of a token in the table


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    if not args.html or args.output_format == "jsonl":
        check_stdout()
    if (args.store is None) != (args.candidate is None):
        raise InputError("--store and --candidate go together: the store, and an id in it")
    candidates = args.candidate or [None] * len(args.document)
    if len(candidates) != len(args.document):
        raise InputError(
            f"there are {len(args.document)} --document and {len(candidates)} --candidate; give "
            "the id of each document, in the same order"
        )
    folder = folder_of(args.model)
    with saying_warnings():
        model = LateInteraction(
            folder,
            store=args.store,
            device=args.device,
            dtype=args.dtype,
            query_length=args.query_length,
            document_length=args.document_length,
        )
    asked = zip(args.document, candidates, strict=True)
    explanations = [model.explain(args.query, text, candidate=each) for text, each in asked]
    explanations.sort(key=lambda explanation: -explanation.score)
    keep()
    if args.html:
        with replacing(args.html) as sink:
            sink.write(page(*explanations, model=args.model))
        if is_stdout(args.html):
            return 0
    if args.output_format == "jsonl":
        for explanation in explanations:
            print(json.dumps(explanation.to_dict()))
    elif sys.stdout is not None:
        colored = args.color == "always" or (args.color == "auto" and sys.stdout.isatty())
        for number, explanation in enumerate(explanations, 1):
            if len(explanations) > 1:
                print(f"{number}. {printable(explanation.document, _encoding())}")
            for line in _table(explanation, colored):
                print(line)
            if number < len(explanations):
                print()
    return 0


def _table(explanation: Explanation, colored: bool) -> Iterator[str]:
    """A row for every query token; then, in colour, the document by what its tokens add."""
    best = max((match.score for match in explanation.matches), default=0.0)
    found = {match.query_token: match for match in explanation.matches}
    yield explanation.summary
    yield ""
    yield f"{'query token':{_WIDTH}}    score  document token"
    for place, token in enumerate(explanation.query_tokens):
        name = _cell(token)
        if place not in found:
            yield f"{name}        -  not scored"
            continue
        _, there, score = found[place]
        value = f"{score:9.4f}"
        if colored:
            value = _painted(value, score, best)
        matched = "nothing" if there is None else _cell(explanation.document_tokens[there]).rstrip()
        yield f"{name}{value}  {matched}"
    if colored and explanation.shares:
        shares = explanation.shares
        most = max(shares.values())
        words = [
            _painted(_name(token), shares[place], most) if place in shares else _name(token)
            for place, token in enumerate(explanation.document_tokens)
        ]
        yield ""
        yield " ".join(words)


def _painted(text: str, value: float, most: float) -> str:
    share = value / most if most > 0 and value > 0 else 0.0
    background, foreground = _COLORS[round(share * (len(_COLORS) - 1))]
    return f"\x1b[48;5;{background};38;5;{foreground}m{text}\x1b[0m"


def _encoding() -> str:
    return sys.stdout.encoding or "utf-8"


def _name(token: Token) -> str:
    """A token in a line: its text, and what it is where it is not of the text."""
    text = printable(" ".join(token.text.split()) or repr(token.text), _encoding())
    return text if token.kind in ("text", "special") else f"{text} ({token.kind})"


def _cell(token: Token) -> str:
    """The same in as many columns as the table has for it."""
    cell, taken = "", 0
    for c in _name(token):
        taken += columns(c)
        if taken >= _WIDTH:
            break
        cell += c
    return cell + " " * (_WIDTH - columns(cell))
