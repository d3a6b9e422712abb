"""packrank rank | score | encode | explain | calibrate | info.

Exit status: 0 all was done; 1 some lines could not be used and the rest was scored; 2 nothing was
done, and one sentence on stderr says why.
"""

import argparse
import os
import sys
from collections.abc import Sequence

import packrank_kernels
from packrank.commands.calibrate import add_calibrate
from packrank.commands.encode import add_encode
from packrank.commands.explain import add_explain
from packrank.commands.info import add_info
from packrank.commands.messages import say
from packrank.commands.rank import add_rank
from packrank.commands.score import add_score
from packrank.errors import PackrankError

_HELP = "Rank documents for a query, or score pairs, with a reranker."


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="packrank", description=_HELP)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_rank(commands)
    add_score(commands)
    add_encode(commands)
    add_explain(commands)
    add_calibrate(commands)
    add_info(commands)
    return parser
