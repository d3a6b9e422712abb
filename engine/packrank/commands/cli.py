"""packrank rank | score | serve | encode | tokenize | explain | calibrate | verify | bench | info.

Exit status: 0 all was done; 1 some records could not be used and the rest was scored; 2 it could
not be done, or not be finished, and one sentence on stderr says why; 3 the same, for a reason that
nobody foresaw, which is a fault of Packrank's; 130 interrupted, 128 + n ended by signal n.
"""

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Sequence

from packrank.commands.messages import say
from packrank.commands.parser import parse
from packrank.commands.signals import Stopped, stopping, told
from packrank.errors import PackrankError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = argparse.Namespace(traceback=False)
    try:
        with stopping():
            parse(argv, args)
            if getattr(args, "threads", None):
                from packrank import set_num_threads

                set_num_threads(args.threads)
            status = _run(args)
            if sys.stdout is not None:
                sys.stdout.flush()
            return status
    except SystemExit:  # argparse, which has said why
        raise
    except KeyboardInterrupt:
        return 130
    except Stopped as stopped:
        return 128 + stopped.number
    except BaseException as error:  # the one net: a panic of a library's is no Exception
        if args.traceback:
            traceback.print_exc()
        if (number := told()) is not None:
            say("packrank: stopped")
            return 128 + number
        return _said(error)


def _said(error: BaseException) -> int:
    """Say in a sentence what went wrong; returns the exit status."""
    if isinstance(error, PackrankError):
        return _fail(str(error))
    if isinstance(error, BrokenPipeError):
        # Who read our output has seen enough.
        _abandon_stdout()
        return 2
    if isinstance(error, OSError):
        _abandon_stdout()
        if error.errno == errno.ENOSPC and not error.filename:
            return _fail(
                f"standard output, or a temporary file, cannot be written: {error.strerror}"
            )
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    if isinstance(error, MemoryError):
        return _fail("there is not enough memory; give it less at a time")
    reason = str(error).strip().partition("\n")[0]
    name = type(error).__name__
    from_torch = isinstance(error, RuntimeError) or type(error) is ValueError  # or the kernels
    if from_torch and not isinstance(error, RecursionError | NotImplementedError):
        return _fail(f"the computation failed: {reason or name}")
    _fail(
        f"{name}{': ' * bool(reason)}{reason} was not foreseen, which is a fault of Packrank's; "
        "please report it with what --traceback prints"
    )
    return 3


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


def _run(args: argparse.Namespace) -> int:
    """Run what was asked for; imported only now, since torch takes seconds."""
    if args.command == "rank":
        from packrank.commands.rank import run
    elif args.command == "score":
        from packrank.commands.score import run
    elif args.command == "serve":
        from packrank.commands.serve import run
    elif args.command == "encode":
        from packrank.commands.encode import run
    elif args.command == "tokenize":
        from packrank.commands.tokenize import run
    elif args.command == "explain":
        from packrank.commands.explain import run
    elif args.command == "calibrate":
        from packrank.commands.calibrate import run
    elif args.command == "verify":
        from packrank.commands.verify import run
    elif args.command == "bench":
        from packrank.commands.bench import run
    else:
        from packrank.commands.info import run
    return run(args)
