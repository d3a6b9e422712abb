"""Prints the section "Ceilings, by arithmetic" of docs/gpu.md: `python benchmarks/gpu/sheet.py`."""

import textwrap
from collections.abc import Iterator
from dataclasses import replace

import arithmetic as at
import resources as has
from arithmetic import Forward
from resources import Kernel
from sizes import (
    CANDIDATES,
    CAPS,
    DEBERTAS,
    DECODER_LENGTH,
    DISTANCES,
    ENCODERS,
    HAVE,
    LENGTH,
    LONGEST,
    PAGED,
    PREFIX,
    SEQUENCES,
    SHORTEST,
    TOKENS,
)
from visit.goals import GOALS

WIDTH = 112
INTRODUCTION = (
    "Printed by `python benchmarks/gpu/sheet.py`: what the first measurement is held against. A "
    "kernel takes as long as the busiest of its resources; what it reads or writes goes through "
    "memory once; a forward is the sum. So times are least ones: waves that are not full, "
    "beginnings and ends of products, masks and latencies are not in them. What the second-level "
    "cache has kept would come 15 % faster than from memory. A copy reaches less than the memory's "
    "rate, and shares of it are larger by as much. Of the models, what stands first is a layer, as "
    "often as it runs whole; the last layer runs for scored tokens alone. Of MaxSim, centroids are "
    "read once a token from the second-level cache, and times have the launches in them that "
    "quantize queries and choose the best."
)
QWEN = "Qwen2.5-0.5B"
DISTANT = (128, 256, 512)  # tokens of sequences whose attention counts distances
FORMATS = ("float16", "int8", "4bit", "2bit")  # bfloat16 is as float16
ONE, MANY = (1, 32, 100_000, 180), (128, 32, 10_000, 180)
LONG, FEW = (1, 1024, 1000, 1024), (1, 32, 1000, 180)
# Microseconds that benchmarks/gpu/maxsim.py asks for.
MAXSIM_GOALS = (
    *((ONE, format, goal) for format, goal in zip(FORMATS, (1500, 820, 520, 430),
                                                  strict=True)),
    (MANY, "float16", 3100), (MANY, "int8", 1900), (LONG, "float16", 440), (LONG, "int8", 270),
    (FEW, "float16", 20),
)  # fmt: skip


def assumptions() -> Iterator[str]:
    yield "| assumed | value | source |"
    yield "|---|---|---|"
    for row in (
        ("memory", f"{has.MEMORY / 1e12:g} TB/s", "data sheet of the H200; a copy reaches less"),
        ("second-level cache", f"{has.CACHE / 1e12:g} TB/s, {has.CACHE_BYTES >> 20} MiB",
         "assumed; the size for token budgets"),
        ("products", f"{has.DENSE / 1e12:g} TFLOP/s in float16, twice that in bytes",
         "assumed of large products; the peak is 989"),
        ("clocks", f"{has.PROCESSORS} multiprocessors at {has.CLOCK / 1e9:g} GHz",
         "data sheet; the clock under load is assumed"),
        ("a clock of each", "4 instructions of a warp; 64 lanes of integers, comparisons, maxima "
         "(ALU); 16 of exponentials", "CUDA programming guide, throughput table for 9.0"),
        ("instructions", "of our CUDA kernels' loops, where nothing is masked",
         "`python tests/instructions.py`"),
        ("of a multiprocessor", f"{has.NEAR / has.CLOCK:g} bytes a clock from its first-level "
         "cache or shared memory, through which all is gathered; "
         f"{has.FAR / has.CLOCK:g} from memory", "assumed"),
        ("between kernels of a graph", f"{has.GAP * 1e6:g} us", "assumed"),
        ("host, eager", f"norm {at.NORM * 1e6:g}, linear {at.LINEAR * 1e6:g}, attention "
         f"{at.ATTENTION * 1e6:g} us; a graph {at.GRAPH * 1e6:g} us a pack",
         "of the launchers on a CPU, by measurement and subtraction"),
        ("tokenization", f"{at.TOKENIZED * 1e6:g} us of a core a pair, {at.CORES} cores; one "
         f"thread lays a pair out in {at.LAYOUT * 1e6:g} us",
         "[design.md](design.md#what-should-limit-speed-on-a-gpu), a busy Zen 4"),
    ):  # fmt: skip
        yield f"| {' | '.join(row)} |"


def amount(x: float) -> str:
    return "-" if not x else f"{x:.0f}" if x >= 100 else f"{x:.1f}" if x >= 0.05 else f"{x:.2f}"


def kernels(forward: Forward) -> Iterator[str]:
    yield "| kernel | times | MB | GFLOP | M instructions | binds | us each | us |"
    yield "|---|--:|--:|--:|--:|---|--:|--:|"
    for count, one in forward.kernels:
        cells = (one.moved / 1e6, one.operations / 1e9, one.issue / 1e6)
        each = one.seconds * 1e6
        yield (
            f"| {one.name} | {count} | {' | '.join(map(amount, cells))} | "
            f"{one.binds if each else '-'} | {amount(each)} | {amount(count * each)} |"
        )


def total(forward: Forward, what: str) -> str:
    layers = max(count for count, one in forward.kernels if "down" in one.name)
    layer = sum(n * k.seconds for n, k in forward.kernels if n >= layers // 3) / layers
    text = (
        f"A layer {layer * 1e6:.0f} us, a forward with its {forward.launches} launches "
        f"{forward.device * 1e3:.2f} ms: {forward.scored / forward.seconds:,.0f} {what}/s, "
        f"{forward.share:.0%} of the dense rate."
    )
    if forward.is_graph:
        return f"{text} Launched op by op it takes the host {forward.eager * 1e3:.1f} ms."
    return f"{text} It is launched op by op, which takes the host {forward.host * 1e3:.1f} ms."


def decoded() -> tuple[Forward, Forward]:
    dense = at.decoder(QWEN, (DECODER_LENGTH,) * (TOKENS // DECODER_LENGTH))
    return dense, at.candidates(QWEN, CANDIDATES, PREFIX)


def texts_in() -> Iterator[str]:
    yield "| texts in | tokens a pair | device | tokenization | Python | binds | pairs/s |"
    yield "|---|--:|--:|--:|--:|---|--:|"
    for shape in ENCODERS:
        for cap in CAPS:
            one = at.texts(shape, cap)
            cells = " | ".join(f"{seconds * 1e6:.1f} us" for seconds in one.times.values())
            yield (
                f"| {shape}, up to {cap} tokens | {one.tokens} | {cells} | {one.binds} | "
                f"{1 / one.seconds:,.0f} |"
            )


def maxsim() -> Iterator[str]:
    yield (
        "| MaxSim, D = 128 | MB | MB of centroids | GFLOP | M instructions | of these ALU | "
        "binds | us, all launches |"
    )
    yield "|---|--:|--:|--:|--:|--:|---|--:|"
    for shape in (ONE, MANY):
        for format in FORMATS:
            forward = at.maxsim(*shape, format)
            one = forward.kernels[0][1]
            cells = (one.moved / 1e6, one.cached / 1e6, one.operations / 1e9, one.issue / 1e6,
                     one.alu / 1e6)  # fmt: skip
            yield (
                f"| {title(shape)}, {named(format)} | {' | '.join(map(amount, cells))} | "
                f"{one.binds} | {forward.device * 1e6:.0f} |"
            )


def distances() -> Iterator[str]:
    lengths = " | ".join(f"us, {n}" for n in DISTANT)
    what = f"attention by distance, heads of 64, {TOKENS} tokens in sequences of"
    yield f"| {what} | {lengths} | binds |"
    yield f"|---|{'--:|' * len(DISTANT)}---|"
    for name, one in DISTANCES.items():
        every = [has.by_distance("", TOKENS // n, n, one.heads, 64, one.tables) for n in DISTANT]
        times = " | ".join(amount(kernel.seconds * 1e6) for kernel in every)
        binds = ", ".join(dict.fromkeys(kernel.binds for kernel in every))
        yield f"| {name}, {one.heads} heads, {one.dtype} | {times} | {binds} |"


def pages() -> Iterator[str]:
    what = f"attention over pages, a token each of sequences of {HAVE}, float16"
    yield f"| {what} | MB | binds | us |"
    yield "|---|--:|---|--:|"
    for name, shape in PAGED.items():
        for count in SEQUENCES:
            kernels = has.in_pages(count, HAVE, *shape)
            seconds = sum(one.seconds + has.GAP for one in kernels)
            yield (
                f"| {name}, {count} sequences | {amount(kernels[1].moved / 1e6)} | "
                f"{kernels[1].binds} | {amount(seconds * 1e6)} |"
            )


def step() -> Iterator[str]:
    few, many = (at.step(QWEN, count, HAVE) for count in SEQUENCES)
    yield from ("", f"**{QWEN}**, a token each of {few.scored} sequences of {HAVE}, float16:", "")
    yield from kernels(few)
    yield ""
    yield from paragraph(
        f"A step with its {few.launches} launches {few.device * 1e3:.2f} ms, of {many.scored} "
        f"sequences {many.device * 1e3:.2f} ms. It is launched op by op, which takes the host "
        f"{few.host * 1e3:.1f} ms: {few.scored / few.seconds:,.0f} and "
        f"{many.scored / many.seconds:,.0f} tokens/s; as one graph {few.scored / few.device:,.0f} "
        f"and {many.scored / many.device:,.0f}."
    )


def title(shape: tuple[int, int, int, int]) -> str:
    queries, tokens, documents, length = shape
    return f"{queries} x {tokens} by {documents:,} x {length}"


def named(format: str) -> str:
    return "float16, bfloat16" if format == "float16" else format


def goals() -> Iterator[str]:
    """Each goal that arithmetic can say something of, as visit/goals.py words it."""
    yield "| goal | | at best, by arithmetic | allowed |"
    yield "|---|---|---|---|"
    for goal in GOALS:
        if found := verdict(goal.work, goal.least):
            yield f"| {goal.work} | {goal.text} | {found[0]} | {found[1]} |"
    for shape, format, least in MAXSIM_GOALS:
        best = at.maxsim(*shape, format).device * 1e6
        yield (
            f"| MaxSim, {title(shape)}, {named(format)} | {least} us | {best:.0f} us | "
            f"{allows([best <= least])} |"
        )


def verdict(work: str, least: float) -> tuple[str, str] | None:
    """(what arithmetic gives, whether it allows the goal), or None: it says nothing."""
    shape, _, what = work.partition(": ")
    if what.startswith("pairs/s"):
        rates = [1 / at.texts(shape, cap).seconds for cap in CAPS]
        said = " and ".join(f"{x:,.0f}" for x in rates)
        peers = " and ".join(f"{x / least:,.0f}" for x in rates)
        caps = " and ".join(map(str, CAPS))
        return f"{said} pairs/s (up to {caps} tokens)", f"against peers of up to {peers}"
    if what == "forward":
        share = at.encoder(shape, TOKENS // LENGTH, LENGTH).share
        return f"{share:.0%}", allows([share >= least])
    if shape == QWEN:
        share = decoded()[0].share
        return f"{share:.0%}", allows([share >= least])
    if work.startswith("MaxSim, 1 query"):
        forward = at.maxsim(*ONE, work.rpartition(", ")[2])
        share = forward.kernels[0][1].moved / has.MEMORY / forward.device
        return f"{share:.0%} of {has.MEMORY / 1e12:g} TB/s", allows([share >= least])
    if work == "offline job":
        every = {shape: at.texts(shape, CAPS[0]) for shape in ENCODERS}
        shares = {shape: one.times["the device"] / one.seconds for shape, one in every.items()}
        said = ", ".join(f"{shape} {share:.0%}" for shape, share in shares.items())
        return f"{said} (up to {CAPS[0]} tokens)", allows(
            [share >= least for share in shares.values()]
        )
    return None


def allows(reached: list[bool]) -> str:
    return "yes" if all(reached) else "in part" if any(reached) else "**no**"


def unknown() -> Iterator[str]:
    """What no arithmetic can tell before there is a device, with both outcomes."""
    base = at.encoder("XLM-R base", TOKENS // LENGTH, LENGTH)

    def rate(change: Kernel) -> str:
        changed = [(n, change if k.name == change.name else k) for n, k in base.kernels]
        return f"{base.scored / replace(base, kernels=changed).device:,.0f}"

    [up] = [k for _, k in base.kernels if k.name == "GELU product"]
    hidden, inner = (ENCODERS["XLM-R base"][1][f"{x}_size"] for x in ("hidden", "intermediate"))
    reread = TOKENS * inner * hidden * 2 * (1 / 128 + 1 / 256)
    now = f"{base.scored / base.device:,.0f}"
    exposed = replace(up, operations=up.operations + has.DENSE * up.times["issue"])
    few = at.texts("MiniLM-L6", CAPS[0])
    half = max(
        few.times["the device"], few.times["tokenization"] / 2, few.times["one thread of Python"]
    )
    yield (
        f"Whether the epilogue of the GELU product ({has.EPILOGUE} instructions a value) hides "
        f"behind the next tile's product: XLM-R base {now} pairs/s, or {rate(exposed)}."
    )
    yield (
        "Whether that product's tiles of 128 x 256, which read their operands from the cache "
        f"again and again ({reread / 1e6:.0f} MB), are bound by {has.CACHE / 1e12:g} TB/s, or "
        f"requests of neighbours are joined: {rate(replace(up, cached=reread))} pairs/s, or {now}. "
        "Of cuBLASLt's tiles nothing is known; likewise what a short K (384) leaves of the rate."
    )
    left = []
    for format in ("4bit", "2bit"):
        times = at.maxsim(*ONE, format).kernels[0][1].times
        del times["cache"]
        name = max(times, key=lambda name: times[name])
        left.append(f"{format}'s kernel takes {times[name] * 1e6:.0f} us, bound by {name}")
    yield (
        f"Whether the cache gives more than {has.CACHE / 1e12:g} TB/s: without that bound "
        f"{', '.join(left)}."
    )
    yield (
        f"Whether tokenization takes {at.TOKENIZED * 1e6:g} us on the host of the device too: "
        f"with half of it MiniLM-L6 makes {1 / half:,.0f} pairs/s in place of "
        f"{1 / few.seconds:,.0f}."
    )
    yield (
        "Whether terms of distances are gathered as fast as shared memory gives them, without "
        "conflicts of banks, and whether that and products hide behind each other: if neither, "
        f"DeBERTa's attention takes {gathered()} of what is said here."
    )
    yield (
        "Whether a program that follows one sequence's pages has enough under way to read "
        f"{has.FAR / has.CLOCK:g} bytes a clock. Where it binds, sharing a sequence's keys out "
        "among programs would leave what memory takes."
    )
    yield (
        f"The clock under load: what issue or the ALU bind goes with it, {has.CLOCK / 1e9:g} to "
        "1.98 GHz."
    )


def gathered() -> str:
    """How much longer DeBERTa's attention takes where gathers and products add up."""
    one = DISTANCES["DeBERTa-v3-base"]
    times = has.by_distance("", 128, 128, one.heads, 64, one.tables).times
    return f"{(times['gathers'] + times['products']) / times['gathers']:.1f} times"


def section() -> str:
    """The section's text, without its title."""
    dense, candidates = decoded()
    lines = [
        *paragraph(INTRODUCTION), "", *assumptions(), "", *goals(), "",
        "Not known before there is a device:",
        *(line for text in unknown() for line in paragraph(text, "- ")), "",
        *texts_in(), "", *maxsim(), "", *distances(), "", *pages(),
    ]  # fmt: skip
    for shape in (*ENCODERS, *DEBERTAS):
        forward = at.encoder(shape, TOKENS // LENGTH, LENGTH)
        lines += ["", f"**{shape}**, {TOKENS // LENGTH} x {LENGTH} tokens, float16:", ""]
        lines += [*kernels(forward), "", *paragraph(total(forward, "pairs"))]
    lengths = f"{SHORTEST} to {LONGEST} tokens under {PREFIX}"
    lines += ["", f"**{QWEN}**, {CANDIDATES} candidates of {lengths}, float16:", ""]
    more = (
        f"{TOKENS // DECODER_LENGTH} x {DECODER_LENGTH} tokens take {dense.device * 1e3:.1f} ms, "
        f"{dense.share:.0%} of the dense rate."
    )
    said = f"{total(candidates, 'candidates')} {more}"
    return "\n".join([*lines, *kernels(candidates), "", *paragraph(said), *step()])


def paragraph(text: str, first: str = "") -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=" " * len(first),
        break_on_hyphens=False,
    )  # fmt: skip


if __name__ == "__main__":
    print(section())
