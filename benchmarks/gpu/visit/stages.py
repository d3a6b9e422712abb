"""The two stages of a visit, step by step: whether it works, and how fast it is.

Steps stand in their order of importance: where time is short, the last are left out. Extra ones
run in what the others leave.
"""

from visit.checks import again, checks, counters, rehearse, sanitize, smoke
from visit.plan import Step
from visit.state import AHEAD
from visit.steps import ahead, bench, benchmark, build, machine

STAGES = ("works", "speed")
# A model's shape, or a kind of MaxSim's requests.
_ENCODERS = ("MiniLM-L6", "XLM-R base", "XLM-R large", "ModernBERT-base")
_LAYERWISE = ("MiniCPM-2B-layerwise",)
_START = [
    Step("machine", 30, 20, machine),
    Step("build", 100, 65, build),
]
_CEILINGS = Step("ceilings", 20, 14, benchmark("ceilings"))
_AHEAD = Step("prewarm", 600, 60, ahead)
_WORKS = [
    Step("smoke", 60, 30, smoke),
    Step("checks", 120, 40, checks),
    _CEILINGS,
    Step("end-to-end-minilm", 40, 26, benchmark("end_to_end", shapes=_ENCODERS[:1])),
    Step("maxsim", 35, 18, benchmark("maxsim", shapes=("one query",))),
    Step("forward", 45, 26, benchmark("forward", shapes=_ENCODERS[:2])),
    Step("attention", 35, 17, benchmark("attention")),
    Step("linear", 35, 17, benchmark("linear")),
]
_AGAIN = Step("again", 60, 18, again)
_SPEED = [
    Step("sanitizers", 50, 35, sanitize("memcheck", "synccheck", cases=15)),
    _CEILINGS,
    Step("end-to-end", 75, 44, benchmark("end_to_end", shapes=_ENCODERS[1:3])),
    Step("end-to-end-modernbert", 35, 22, benchmark("end_to_end", shapes=_ENCODERS[3:])),
    Step("decoders", 40, 25, benchmark("decoders", shapes=("Qwen2.5-0.5B",))),
    Step("maxsim-many", 50, 26, benchmark("maxsim", shapes=("many queries", "ragged"))),
    Step("forward-large", 45, 24, benchmark("forward", shapes=_ENCODERS[2:])),
    Step("relative", 35, 17, benchmark("relative", "paged")),
    Step("generation", 35, 18, benchmark("generation")),
    Step("deberta", 40, 20, benchmark("deberta"), True),
    Step("maxsim-few", 40, 20, benchmark("maxsim", shapes=("few documents", "long query")), True),
    Step("bench", 90, 60, bench, True),
    Step("norms", 20, 13, benchmark("norms"), True),
    Step("maxsim-peers", 45, 20, benchmark("maxsim_peers"), True),  # tuned at their first calls
    Step("decoders-1.5b", 45, 30, benchmark("decoders", shapes=("Qwen2.5-1.5B",)), True),
    Step("decoders-layerwise", 60, 35, benchmark("decoders", shapes=_LAYERWISE), True),
    Step("maxsim-residual", 40, 20, benchmark("maxsim", shapes=("residual",)), True),
    Step("maxsim-streaming", 45, 25, benchmark("maxsim_streaming"), True),
    Step("counters", 60, 30, counters, True),
    Step("racecheck", 50, 30, sanitize("racecheck", cases=15), True),
]
ALL = ("ceilings", "attention", "relative", "paged", "linear", "norms", "forward", "deberta",
       "decoders", "generation", "end_to_end", "maxsim", "maxsim_streaming", "maxsim_peers",
       "counters")  # fmt: skip
# On a dry run all benchmarks share a process: what takes time is to start one.
_DRY_BENCHMARKS = Step("benchmarks", 240, 30, benchmark(*ALL))


def steps_of(stage: str | None, *, dry: bool) -> list[Step]:
    """Those of a stage; of both one after the other, where nothing is asked twice."""
    if stage == AHEAD:
        return [_AHEAD]
    if dry:
        asked = Step("smoke", 120, 10, rehearse)
        inner = {"works": [asked], "speed": [_DRY_BENCHMARKS], None: [asked, _DRY_BENCHMARKS]}
    else:
        rest = [step for step in _SPEED if step is not _CEILINGS]
        inner = {"works": _WORKS, "speed": [_AGAIN, *_SPEED], None: [*_WORKS, *rest]}
    return [*_START, *inner[stage]]
