"""Random packs and documents through the CUDA kernels, against the definitions.

`cuda_fuzz.py [CASES] [--seed N] [--seconds S]`; `make gpu` runs it under compute-sanitizer. Exits
with 3 and a sentence where the kernels cannot run.
"""

import argparse
import random
import sys
import time

import torch

from packrank_kernels import Codec, TokenEmbeddings, attention, maxsim, reference
from packrank_kernels.dispatch import TABLE
from packrank_kernels.testing import TOLERANCE, assert_close, cu_seqlens

NOT_HERE = 3


def draw_lengths(rng, longest):
    choices = [0, 1, 15, 16, 17, rng.randint(0, 40), rng.randint(0, longest), longest]
    return [min(rng.choice(choices), longest) for _ in range(rng.randint(1, 12))]


def one_case(rng, device, backend):
    """Draw a case, run it and compare; False where the backend refuses such a call."""
    try:
        return rng.choice([attention_case, maxsim_case])(rng, device, backend)
    except ValueError as refusal:
        if "cannot run this call" in str(refusal):
            return False
        raise


def maxsim_case(rng, device, backend):
    kind, size = rng.choice(["float16", "bfloat16", "int8", "4bit", "2bit"]), 32 * rng.randint(1, 6)
    bits = {"4bit": 4, "2bit": 2}.get(kind)
    codec = None
    if bits is not None:
        weights = torch.randn(2**bits).sort().values
        codec = Codec.of(torch.randn(9, size), (weights[1:] + weights[:-1]) / 2, weights)
    drawn = [torch.randn(length, size) for length in draw_lengths(rng, 300)]
    documents = TokenEmbeddings.encode(drawn, kind, codec)
    queries = [torch.randn(rng.randint(1, 90), size) for _ in range(rng.randint(1, 4))]
    some = torch.randint(0, len(documents), (rng.randint(1, 9),))
    own = [torch.randint(0, len(documents), (rng.randint(0, 5),)) for _ in queries]
    candidates = rng.choice([None, some, own])
    there = [ids.to(device) for ids in own] if candidates is own else candidates
    if candidates is some:
        there = some.to(device)
    actual = maxsim(
        [query.to(device) for query in queries], documents.to(device), there, backend=backend
    )
    expected = maxsim(queries, documents, candidates, backend="reference")
    if candidates is own:
        actual, expected = torch.cat(actual), torch.cat(expected)
    if bits is not None or kind == "int8":
        assert torch.equal(actual.cpu(), expected), kind
    else:  # sums of a few hundred products in another order
        assert_close(actual.cpu(), expected, 1e-4)
    return True


def attention_case(rng, device, backend):
    dtype = rng.choice([torch.float16, torch.bfloat16])
    heads, size, longest = rng.randint(1, 4), rng.choice([32, 64]), rng.choice([32, 64, 128, 256])
    keys = draw_lengths(rng, longest)
    form = rng.choice(["self", "first tokens", "unequal"])
    queries = {
        "self": keys,
        "first tokens": [1] * len(keys),
        "unequal": [rng.randint(0, longest) for _ in keys],
    }[form]
    # As a graph has it: rows and sequences to spare, the last offset repeated.
    spare_rows, spare = (rng.randint(0, 70), rng.randint(0, 5)) if device.type == "cuda" else (0, 0)
    packed = torch.randn(sum(keys) + spare_rows, 3, heads, size).to(dtype)
    q, k, v = packed.unbind(1)
    if form != "self":
        q = torch.randn(sum(queries) + spare_rows, heads, size).to(dtype)
    cu_q, cu_k = cu_seqlens(queries + [0] * spare), cu_seqlens(keys + [0] * spare)
    scale = rng.uniform(0.3, 1.5) * size**-0.5
    window = rng.choice([None, None, 0, rng.randint(0, 80)])
    on_device = packed.to(device)
    actual = attention(
        on_device[:, 0] if form == "self" else q.to(device),
        on_device[:, 1],
        on_device[:, 2],
        *([cu_k.to(device)] * 2 if form == "self" else (cu_q.to(device), cu_k.to(device))),
        scale=scale,
        window=window,
        max_seqlen_q=1 if form == "first tokens" else max(*queries, longest),
        max_seqlen_k=longest,
        deterministic=rng.random() < 0.3,
        backend=backend,
    ).cpu()
    wide = (x.double() for x in (q, k, v))
    expected = reference.attention(*wide, cu_q, cu_k, scale, window, None).to(dtype)
    rows = sum(queries)
    # Twice what the unit tests allow: many draws reach further into the tail.
    assert_close(actual[:rows], expected[:rows], 2 * TOLERANCE[dtype])
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="?", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=600.0, help="no case begins after this")
    parser.add_argument("--dry-run", action="store_true", help="the reference, on the CPU")
    options = parser.parse_args()
    device = torch.device("cpu" if options.dry_run else "cuda")
    name = "reference" if options.dry_run else "cuda"
    backend = next((b for b in TABLE["attention"] if b.name == name), None)
    if backend is None:
        reason = "there is no such backend"
    elif device.type == "cuda" and not torch.cuda.is_available():
        reason = "torch sees no CUDA device"
    else:
        reason = backend.why_not(device, torch.float16)
    if reason is not None:
        print(f"the kernels of {name!r} cannot run here: {reason}")
        return NOT_HERE
    rng = random.Random(options.seed)
    torch.manual_seed(options.seed)
    end = time.monotonic() + options.seconds
    ran = refused = 0
    while ran < options.cases and refused < 20 * options.cases and time.monotonic() < end:
        accepted = one_case(rng, device, name)
        ran, refused = ran + accepted, refused + (not accepted)
    print(f"{ran} cases within bounds, {refused} refused")
    return int(ran == 0)


if __name__ == "__main__":
    sys.exit(main())
