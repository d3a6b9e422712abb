"""Every goal of the project beside what was measured: docs/gpu.md has the same table."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Rows = list[dict[str, Any]]
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Measured:
    """Rows of one visit, and the ceilings that they are held against."""

    rows: Rows
    ceilings: dict[str, float]


@dataclass(frozen=True)
class Goal:
    """What is to be reached.

    Attributes:
        work: what is done.
        text: the goal in words.
        least: the number that every value must reach.
        values: name of a case -> number, of what was measured; none where nothing was.
        show: a number, as people read it.
        instead: what to say where nothing was measured.
    """

    work: str
    text: str
    least: float = 0.0
    values: Callable[[Measured], dict[str, float]] = lambda measured: {}
    show: str = "{:.0%}"
    instead: str = NOT_MEASURED

    def line(self, visits: list[Measured]) -> str:
        """A row of the summary's table, from the first of the visits that has an answer."""
        found = next((x for x in map(self.values, visits) if x), {})
        if not found:
            return f"| {self.work} | {self.text} | {self.instead} | |"
        shown = ", ".join(
            f"{self.show.format(x)}{case and f' ({case})'}" for case, x in found.items()
        )
        reached = [value >= self.least for value in found.values()]
        verdict = "yes" if all(reached) else "in part" if any(reached) else "no"
        return f"| {self.work} | {self.text} | {shown} | {verdict} |"


def faster_than_sentence_transformers(shape: str) -> Callable[[Measured], dict[str, float]]:
    return lambda measured: {
        _caps(row["case"]): row["packrank_is_faster"]
        for row in measured.rows
        if row["bench"] == "cross-encoder"
        and row["case"].startswith(f"{shape},")
        and row["contestant"].startswith("sentence-transformers")
        and "packrank_is_faster" in row
    }


def share_of_the_dense_rate(
    shape: str, bench: str = "forward"
) -> Callable[[Measured], dict[str, float]]:
    def values(measured: Measured) -> dict[str, float]:
        shares = [
            row["share_of_ceiling"]
            for row in measured.rows
            if row["bench"] == bench
            and row["case"].startswith(f"{shape},")
            and row["contestant"] == "packrank"
            and "share_of_ceiling" in row
        ]
        return {"": max(shares)} if shares else {}

    return values


def share_of_bandwidth(format: str) -> Callable[[Measured], dict[str, float]]:
    """Of what a copy within the device reaches, at one query and 100,000 documents."""

    def values(measured: Measured) -> dict[str, float]:
        copy = measured.ceilings.get("copy")
        return {
            "uniform" if " of 180, " in row["case"] else "ragged": row["moved_bytes"]
            / row["median_s"]
            / copy
            for row in measured.rows
            if row["bench"] == "maxsim"
            and row["case"].startswith("1 x 32 tokens, 100000 documents")
            and row["case"].endswith(f", {format}")
            and row["contestant"] == "packrank"
            and copy
        }

    return values


def busy(measured: Measured) -> dict[str, float]:
    return {
        row["case"].split(",")[0] + ", " + _caps(row["case"]): row["busy_share"]
        for row in measured.rows
        if row["bench"] == "busy" and row["case"].endswith("texts in")
    }


def _caps(case: str) -> str:
    """Of "MiniLM-L6, pairs of up to 128 tokens, 96 on average" what tells it from the next."""
    return next((part.strip() for part in case.split(",") if "up to" in part), case)


_TEXTS = "pairs/s, texts in, natural lengths"
GOALS = (
    *(
        Goal(f"{shape}: {_TEXTS}", f">= {least:g}x sentence-transformers", least,
             faster_than_sentence_transformers(shape), "{:.2f}x")
        for shape, least in (("MiniLM-L6", 10), ("XLM-R base", 4), ("XLM-R large", 3),
                             ("ModernBERT-base", 5))
    ),
    Goal(_TEXTS, ">= 1.5x vLLM and TEI", instead=f"{NOT_MEASURED}: neither runs in `make gpu`"),
    *(
        Goal(f"{shape}: forward", f">= {least:.0%} of the measured dense float16 rate", least,
             share_of_the_dense_rate(shape))
        for shape, least in (("MiniLM-L6", 0.35), ("XLM-R base", 0.55), ("XLM-R large", 0.65))
    ),
    Goal("Qwen2.5-0.5B: sequences of 512 tokens", ">= 50% of the same rate", 0.5,
         share_of_the_dense_rate("Qwen2.5-0.5B", "decoder")),
    *(
        Goal(f"MaxSim, 1 query x 100,000 documents of 180, {format}",
             f">= {least:.0%} of a copy's bandwidth{more}", least, share_of_bandwidth(format))
        for format, least, more in (("float16", 0.92, ", uniform and ragged"), ("int8", 0.85, ""),
                                    ("4bit", 0.7, ""), ("2bit", 0.45, ""))
    ),
    Goal("candidates that stop early, top 10 of 100",
         ">= 2x candidates/s at >= 99 % recall of the full depth",
         instead=f"{NOT_MEASURED}: `make bench` has it on a CPU"),
    Goal("offline job", "the device busy >= 90 % of the time", 0.9, busy),
    Goal("encoder pairs/s on a CPU",
         "float32 >= 1.5x sentence-transformers, bfloat16 >= 1.3x OpenVINO, int8 >= 2x ONNX "
         "Runtime's and >= 6x sentence-transformers, the same top 10",
         instead="not here: `make bench`"),
    Goal("MaxSim on a CPU", "int8, 4bit, 2bit >= 10x, bfloat16 >= 5x maxsim-cpu",
         instead="not here: `make bench`"),
)  # fmt: skip


def table(visits: list[Measured]) -> list[str]:
    """Lines of Markdown; a visit further back counts where those before it have no answer."""
    return [
        "| work | goal | measured | reached |",
        "|---|---|---|---|",
        *(goal.line(visits) for goal in GOALS),
    ]
