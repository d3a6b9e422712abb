"""What is asked for, and what is refused before anything takes time."""

from pathlib import Path

import pytest

from packrank.bench.budget import Budget
from packrank.bench.plan import checked
from packrank.errors import InputError, ModelError


def test_the_usual_models_are_measured_where_none_is_named() -> None:
    settings = checked(device="cpu")
    assert [case.name for case in settings.cases] == ["MiniLM-L6", "base"]
    assert settings.dtypes == ("float32", "bfloat16")
    assert [texts.name for texts in settings.texts] == ["msmarco-like"]
    assert settings.seconds == 285.0
    full = checked(device="cpu", full=True)
    assert len(full.cases) == 6 + 4
    assert full.seconds is None
    assert checked(device="cpu", full=True, seconds=9.0).seconds == 9.0


def test_a_layerwise_model_is_measured_at_its_exits() -> None:
    settings = checked(device="cpu", models=["MiniCPM-2B", "MiniLM-L6", "MiniLM-L6"])
    assert [(case.name, case.layer) for case in settings.cases] == [
        ("MiniCPM-2B at 8", 8), ("MiniCPM-2B at 16", 16), ("MiniCPM-2B at 28", 28),
        ("MiniCPM-2B at 40", 40), ("MiniLM-L6", None),
    ]  # fmt: skip


def test_a_folder_is_a_model() -> None:
    [case] = checked(device="cpu", models=["default"]).cases
    assert (case.name, case.layer) == ("default", None)


def test_a_folder_that_holds_no_model_is_refused_before_anything_takes_time(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        checked(device="cpu", models=[str(tmp_path)])


@pytest.mark.parametrize(
    ("asked", "kind", "reason"),
    [
        ({"models": ["MiniLM-L7"]}, ModelError, "MiniLM-L7 .*models with a name here: MiniLM-L6"),
        ({"dtypes": ["float16"]}, InputError, "float16.*CUDA"),
        ({"dtypes": ["int3"]}, InputError, "int3"),
        ({"lengths": ["short"]}, InputError, "'short' are none of msmarco-like"),
        ({"device": "tpu"}, InputError, "tpu"),
    ],
)  # fmt: skip
def test_what_is_unknown_is_refused_by_name(asked: dict, kind: type, reason: str) -> None:
    with pytest.raises(kind, match=reason):
        checked(**{"device": "cpu"} | asked)


def test_a_budget_is_shared_out_of_what_is_left() -> None:
    now = [100.0]
    budget = Budget(10.0, lambda: now[0])
    assert (budget.left, budget.share(0.5, 99.0), budget.share(0.5, 2.0)) == (10.0, 5.0, 2.0)
    now[0] += 6
    assert (budget.spent, budget.left, budget.share(0.5, 99.0)) == (6.0, 4.0, 2.0)
    now[0] += 6
    assert budget.left == 0.0
    now[0] -= 5
    half = budget.part(2)
    now[0] += 1
    assert (half.left, budget.left) == (0.5, 2.0)
    assert Budget(None, lambda: now[0]).share(0.5, 7.0) == 7.0
