"""What a visit of `make gpu` goes by: whom it times, whom it asks again, what it says of goals."""

import os
from pathlib import Path
from typing import Any

import pytest
from visits import ROOT, visit

checks: Any = visit("checks")
goals: Any = visit("goals")
processes: Any = visit("processes")
steps: Any = visit("steps")

Done = processes.Done
SAYS = {
    "it reports": ("Invalid __global__ read", 86, "failed", True),
    "it fails": ("Internal error", 1, "failed", False),
    "it is refused": ("========= Error: Device not supported", 86, "skipped", False),
    "it is refused and goes on": ("Device not supported", 0, "skipped", False),
    "it finds nothing": (
        "15 cases within bounds, 2 refused\nERROR SUMMARY: 0 errors",
        0,
        "ok",
        False,
    ),
    "it looks at nothing": ("15 cases within bounds, 2 refused", 0, "failed", False),
    "kernels are not here": ("the kernels of 'cuda' cannot run here: no nvcc", 3, "skipped", False),
}


@pytest.mark.parametrize("words", SAYS)
def test_what_the_sanitizer_says_decides_who_is_timed(
    a_visit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    said, status, expected, gates = SAYS[words]
    fake = tmp_path / "compute-sanitizer"
    fake.write_text(f"#!/bin/sh\ncat <<'END'\n{said}\nEND\nexit {status}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    checks.sanitize("memcheck", cases=15)(a_visit, 20.0)
    assert a_visit.parts["memcheck"].status == expected
    assert bool(a_visit.suspects) == gates
    given: list[list[str]] = []
    monkeypatch.setattr(
        a_visit.commands,
        "python",
        lambda name, arguments, limit, **more: given.append(arguments) or processes.Outcome(0, ""),
    )
    assert steps.benchmark("norms")(a_visit, 20.0).status == "ok"
    assert ("--without" in given[0]) == gates


def test_findings_of_racecheck_decide_nothing(
    a_visit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "compute-sanitizer"
    fake.write_text("#!/bin/sh\nexit 86\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert checks.sanitize("racecheck", cases=15)(a_visit, 20.0).status == "failed"
    assert not a_visit.suspects


def test_failed_questions_of_the_cuda_module_make_it_suspect(
    a_visit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(name: str, *_: object, **more: str) -> Any:
        wrong = name in ("smoke-norm", "smoke-maxsim-cuda-64")
        absent = name == "smoke-attention-cuda"
        return processes.Outcome(1 if wrong else 3 if absent else 0, "what it says")

    monkeypatch.setattr(a_visit.commands, "python", answer)
    done = checks.smoke(a_visit, 60.0)
    assert done.note == "24 of 26 parts are fine; not: smoke norm, smoke maxsim-cuda-64"
    assert list(a_visit.suspects) == ["smoke maxsim-cuda-64"]
    assert a_visit.parts["smoke attention-cuda"].status == "skipped"


def test_what_failed_before_is_tested_again(a_visit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong, fine = Done("failed", "2 failed"), Done("ok")
    a_visit.earlier = {"checks": {"gpu/test_graphs": vars(wrong), "gpu/test_models": vars(fine)}}
    monkeypatch.setattr(
        a_visit.commands, "python", lambda *_, **more: processes.Outcome(0, "3 passed in 2 s")
    )
    assert checks.again(a_visit, 60.0).status == "ok"
    assert a_visit.parts.keys() == {"gpu/test_graphs", *checks.CUDA_TESTS}


def test_a_device_that_is_lost_is_asked_again_without_the_cuda_module(
    a_visit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[list[str]] = []

    def answer(name: str, arguments: list[str], limit: float, **more: str) -> Any:
        given.append(arguments)
        lost = "--without" not in arguments
        return processes.Outcome(int(lost), "the device no longer answers this process" * lost)

    monkeypatch.setattr(a_visit.commands, "python", answer)
    done = steps.benchmark("attention")(a_visit, 60.0)
    assert done.status == "failed"
    assert done.note.endswith("without the backend cuda: ok")
    assert len(given) == 2


def row(bench: str, case: str, contestant: str = "packrank", **more: float) -> dict[str, Any]:
    return {"bench": bench, "case": case, "contestant": contestant, **more}


def test_goals_stand_beside_what_was_measured() -> None:
    peer, title = (
        "sentence-transformers (float16, SDPA, batch 64)",
        "1 x 32 tokens, 100000 documents",
    )
    fp16 = {"moved_bytes": 4e9, "median_s": 1e-3}
    now = goals.Measured(
        [
            row("cross-encoder", "MiniLM-L6, pairs of up to 128 tokens, 96 on average", peer,
                packrank_is_faster=11.0),
            row("cross-encoder", "MiniLM-L6, pairs of up to 512 tokens, 300 on average", peer,
                packrank_is_faster=9.0),
            row("forward", "XLM-R base, 128 x 128 tokens, float16", share_of_ceiling=0.5),
            row("forward", "XLM-R base, 64 x 128 tokens, float16", share_of_ceiling=0.56),
            row("maxsim", f"{title} of 180, float16", **fp16),
            row("maxsim", f"{title} of 8..512, log-normal, float16", **fp16),
            row("busy", "MiniLM-L6, pairs of up to 128 tokens, 96 on average, texts in",
                busy_share=0.5),
        ],
        {"copy": 4.1e12},
    )  # fmt: skip
    earlier = goals.Measured(
        [
            row("forward", "XLM-R base, 64 x 128 tokens, float16", share_of_ceiling=0.1),
            row("forward", "MiniLM-L6, 64 x 128 tokens, float16", share_of_ceiling=0.2),
        ],
        {},
    )
    lines = goals.table([now, earlier])
    said = {line.split(" | ")[0][2:]: line.split(" | ", 2)[2] for line in lines[2:]}
    speed = "pairs/s, texts in, natural lengths"
    assert said[f"MiniLM-L6: {speed}"] == "11.00x (pairs of up to 128 tokens), 9.00x " \
        "(pairs of up to 512 tokens) | in part |"  # fmt: skip
    assert said[f"XLM-R large: {speed}"] == "not measured | |"
    assert said["XLM-R base: forward"] == "56% | yes |"
    assert said["MiniLM-L6: forward"] == "20% | no |"
    scored = "MaxSim, 1 query x 100,000 documents of 180"
    assert said[f"{scored}, float16"] == "98% (uniform), 98% (ragged) | yes |"
    assert said[f"{scored}, 2bit"] == "not measured | |"
    assert said["offline job"] == "50% (MiniLM-L6, pairs of up to 128 tokens) | no |"


def test_the_page_has_every_goal() -> None:
    page = (ROOT / "docs/gpu.md").read_text()
    for goal in goals.GOALS:
        assert f"| {goal.work} | {goal.text} |" in page


def test_cases_left_out_for_want_of_time_are_reported(a_visit: Any, thorough: bool) -> None:
    if not thorough:
        pytest.skip("its long form alone: make proofs")
    a_visit.dry = True
    done = steps.benchmark("norms")(a_visit, 12.0)
    assert (done.status, done.note) == ("ok", "")
    a_visit.commands = Impatient(a_visit.logs, {})
    done = steps.benchmark("norms")(a_visit, 12.0)
    assert (done.status, done.note) == ("over time", "4 cases are left out")


class Impatient(processes.Commands):  # type: ignore[misc]
    """Gives a benchmark no time for any case, and all to begin and to end."""

    def run(self, name: str, command: list[str], limit: float, **more: str) -> Any:
        command[command.index("--seconds") + 1] = "0"
        return super().run(name, command, 60.0, **more)
