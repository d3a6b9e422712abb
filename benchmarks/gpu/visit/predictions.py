"""What was measured beside what arithmetic gives for an H200: docs/gpu.md has its sheet."""

from arithmetic import predicted

from visit.goals import Measured


def table(visits: list[Measured]) -> list[str]:
    """Lines of Markdown, the newest visit first that has a case; none where none is foreseen."""
    measured: dict[tuple[str, str], float] = {}
    for visit in reversed(visits):
        for row in visit.rows:
            if row.get("contestant") == "packrank" and "median_s" in row:
                measured[row["bench"], row["case"]] = row["median_s"]
    lines = []
    for (bench, case), seconds in measured.items():
        expected = predicted(bench, case)
        if expected is not None:
            lines.append(
                f"| {bench}, {case} | {seconds * 1e6:.4g} us | {expected * 1e6:.4g} us | "
                f"{seconds / expected:.2f} |"
            )
    if not lines:
        return []
    return [
        "| case | measured | by arithmetic | measured / predicted |",
        "|---|--:|--:|--:|",
        *lines,
    ]
