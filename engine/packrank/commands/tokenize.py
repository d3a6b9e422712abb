"""packrank tokenize: documents to a store of token ids."""

import argparse

from packrank.commands.filling import documents_of, fill, name_of, summary
from packrank.commands.messages import say
from packrank.commands.options import folder_of
from packrank.errors import InputError
from packrank.jobs.tokenize import tokenize_file
from packrank.scoring.assembly import Options, assemble


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    documents, total = documents_of(args)
    name = name_of(args.model)
    model = assemble(folder_of(args.model), name, Options(template=args.template))
    tokenization = model.tokenization(name)
    if tokenization is None:
        raise InputError(
            f"{args.model} tokenizes a document together with what stands around it, so that none "
            "has tokens of its own to store; score its texts"
        )
    tokenized = fill(
        lambda bar: tokenize_file(
            model.tokenizer, tokenization, documents, args.store, bar, append=args.append
        ),
        total,
        args.quiet,
    )
    if not args.quiet:
        say(summary(tokenized, "tokenized"))
        if tokenized.begun:
            say(f"{tokenized.part}s tokenized before: {tokenized.begun}")
    return 1 if tokenized.num_failed else 0
