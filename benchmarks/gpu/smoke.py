"""Small questions to a device: `smoke.py QUESTION...`; each has the right answer or the reason.

A question is to be asked in a process of its own: one that hangs says where, by faulthandler, and
one that crashes takes no other along. Exit status 3 where what is asked is not there.
"""

import argparse
import faulthandler
import sys
import time
from collections.abc import Callable

import torch
from questions import attention, late, products, rows, runtime
from questions.asking import Device, NotHere

NOT_HERE = 3
HANGS_S = 17.0  # then faulthandler says where it stands; three seconds later it is ended

QUESTIONS: dict[str, Callable[[Device], None]] = {
    "norm": rows.norm,
    "embedding": rows.embedding,
    "head": rows.head,
    "linear": products.linear_layers,
    "linear-wide": products.wide_layers,
    **{
        f"attention-{form}": lambda at, form=form: attention.attention_triton(at, form)
        for form in ("self", "first", "prefix")
    },
    "attention-cuda": attention.attention_cuda,
    "attention-relative": attention.relative_attention,
    "attention-bias": attention.biased_attention,
    **{
        f"paged-{dtype}": lambda at, dtype=dtype: attention.attention_in_pages(
            at, getattr(torch, dtype)
        )
        for dtype in ("float16", "bfloat16", "float32")
    },
    **{
        f"maxsim-{prefix}{tokens}": lambda at, name=name, tokens=tokens: late.scores(
            at, name, tokens
        )
        for name, prefix in (("triton", ""), ("cuda", "cuda-"))
        for tokens in (32, 64, 128)
    },
    "transfer": runtime.transfer,
    "graph": runtime.graph,
    "threads": runtime.threads,
    "decoder": runtime.decoder,
    "graph-decoder": runtime.graph_of_a_decoder,
    "graph-vectors": runtime.graph_of_vectors,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("questions", nargs="+", choices=QUESTIONS, metavar="QUESTION")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU")
    options = parser.parse_args()
    faulthandler.enable()
    if not options.dry_run:
        faulthandler.dump_traceback_later(HANGS_S)
    at, status = Device(options.dry_run), 0
    for name in options.questions:
        torch.manual_seed(0)
        start = time.monotonic()
        try:
            QUESTIONS[name](at)
            if not at.dry:
                torch.cuda.synchronize()
        except NotHere as reason:
            print(f"{name} is not asked: {reason}", flush=True)
            status = status or NOT_HERE
        else:
            print(f"{name}: right, in {time.monotonic() - start:.1f} s", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
