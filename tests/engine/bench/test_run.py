"""A whole run on small models: what is in its report, and what is left where it breaks off."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError
from small_bench import SMALL, shorten

from packrank.bench import plan, run
from packrank.bench.report import Report, Result
from packrank.bench.run import Run
from packrank.bench.speed import offline
from packrank.bench.speed.yardstick import Yardstick
from packrank.bench.subjects import checkpoints, shapes
from packrank.errors import InputError


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)


def of(**asked: Any) -> Run:
    usual = {"device": "cpu", "candidates": 4, "seconds": None, "lengths": ["fixed:24"]}
    return Run(plan.checked(**usual | asked), lambda line: None)


def test_a_report_has_everything_of_every_model(tmp_path: Path) -> None:
    measured = of(price_per_hour=3.6)
    measured.run()
    report = measured.report
    assert report.complete
    assert {one.kind for one in report.ceilings} == {"bandwidth", "products", "tokenizer"}
    tokenizers = {
        one.name: one.facts["pairs"] for one in report.ceilings if one.kind == "tokenizer"
    }
    where = ("one core", "all cores")
    assert tokenizers == {f"tokenizer, {at}, {model}": 512 for model in SMALL for at in where}
    models = [one for one in report.results if not one.model.startswith("MaxSim")]
    offline_of = {(one.model, one.dtype): one for one in models if one.workload == "Offline"}
    assert set(offline_of) == {
        (model, dtype) for model in SMALL for dtype in ("float32", "bfloat16")
    }
    for one in offline_of.values():
        facts = one.facts
        assert len(one.samples) == 5
        assert one.accompanied and set(one.beside) == {"product", "copy"}
        assert facts["tokens_per_candidate"] == 24
        assert facts["padding_share"] == 0.0
        assert facts["cost_per_million"] == pytest.approx(1000 / one.value)
        assert {point["tokens"] for point in facts["by_length"]} <= {32, 64, 128, 256, 512}
        assert set(facts["parts"]) == {
            "products", "attention", "norms and elementwise", "launches", "host", "tokenizer"
        }  # fmt: skip
        products = sum(op["operations"] for op in facts["ops"] if op["part"] == "products")
        assert products > 0
        assert all(op["possible_s"] > 0 for op in facts["ops"] if op["part"] == "products")
    streams = [one for one in models if one.workload == "SingleStream"]
    assert len(streams) == 4
    assert all(sum(one.facts["rounds"]) == len(one.samples) for one in streams)
    assert all(one.accompanied for one in streams)
    assert len({one.id for one in report.results}) == len(report.results)
    assert all(len(looks) >= 3 for looks in report.seen.values())
    report.write(tmp_path / "report.json")
    assert Report.read(tmp_path / "report.json") == report


def test_the_share_of_the_ceiling_is_that_of_the_rate(monkeypatch: Any) -> None:
    measured = of(models=["MiniLM-L6"], dtypes=["float32"])
    measured.run()
    one = measured.report.results[0]
    possible = sum(op.get("possible_s", 0.0) for op in one.facts["ops"])
    assert one.facts["share_of_ceiling"] == pytest.approx(possible / 16 * one.value)


def test_peers_race_on_the_pairs_of_each_model() -> None:
    measured = of(models=["MiniLM-L6"], peers=True)
    measured.run()
    rows = [one for one in measured.report.results if one.by != "packrank"]
    assert {one.workload for one in rows} == {"Offline"}
    torch_in_float32 = [one for one in rows if one.by.startswith("sentence-transformers (float32")]
    ours = next(one for one in measured.report.results if one.model == "MiniLM-L6")
    assert len(torch_in_float32[0].samples) == len(ours.samples) == 5
    assert torch_in_float32[0].facts["candidates"] == ours.facts["candidates"]
    assert any("optimum" in sentence for sentence in measured.report.left_out)
    ids = [one.id for one in measured.report.results]
    assert len(ids) == len(set(ids))


def test_a_model_that_scores_otherwise_than_its_peers_races_with_none(monkeypatch: Any) -> None:
    logits = run.Subject.logits
    monkeypatch.setattr(
        run.Subject, "logits", lambda self, pairs: logits(self, pairs) + np.float32(0.5)
    )
    measured = of(models=["MiniLM-L6"], dtypes=["float32"], peers=True)
    measured.run()
    assert not [one for one in measured.report.results
                if one.by != "packrank" and one.model == "MiniLM-L6"]  # fmt: skip
    assert any("nobody races" in one for one in measured.report.left_out)


def test_what_was_measured_is_kept_where_it_is_interrupted(monkeypatch: Any) -> None:
    calls = iter(range(100))
    score = offline.Racer.run

    def interrupted(racer: offline.Racer, yardstick: Yardstick) -> None:
        if next(calls) == 5:
            raise KeyboardInterrupt
        score(racer, yardstick)

    monkeypatch.setattr(offline.Racer, "run", interrupted)
    measured = of(models=["MiniLM-L6"])
    with pytest.raises(KeyboardInterrupt):
        measured.run()
    report = measured.report
    assert not report.complete
    [first, second] = [one for one in report.results if one.model == "MiniLM-L6"]
    assert (len(first.samples), len(second.samples)) == (3, 2)
    assert report.ceilings


@pytest.mark.parametrize("error", [MemoryError("no room"), SafetensorError("no room")])
def test_a_model_that_cannot_be_measured_is_left_out_and_the_others_are_not(
    monkeypatch: Any, error: Exception
) -> None:
    def write(shape: shapes.Shape, folder: Path) -> Path:
        if shape is SMALL["base"]:
            raise error
        return checkpoints.write_checkpoint(shape, folder)

    monkeypatch.setattr(run, "write_checkpoint", write)
    measured = of(dtypes=["float32"])
    measured.run()
    assert "base: its files cannot be made: no room" in measured.report.left_out
    assert {one.model for one in measured.report.results} >= {"MiniLM-L6"}
    assert measured.report.complete


def test_maxsim_keeps_what_was_measured_where_it_is_interrupted(monkeypatch: Any) -> None:
    calls, race = iter(range(10**6)), offline.Racer.run

    def interrupted(racer: offline.Racer, yardstick: Yardstick) -> None:
        if racer.result.model.startswith("MaxSim") and next(calls) == 12:  # of 8 formats
            raise KeyboardInterrupt
        race(racer, yardstick)

    monkeypatch.setattr(offline.Racer, "run", interrupted)
    measured = of(models=["MiniLM-L6"], dtypes=["float32"])
    with pytest.raises(KeyboardInterrupt):
        measured.run()
    found = [one for one in measured.report.results if one.model.startswith("MaxSim")]
    assert [len(one.samples) for one in found] == [2] * 4 + [1] * 4


def test_who_fails_in_a_round_is_left_out_and_the_others_go_on(monkeypatch: Any) -> None:
    calls, score, race = iter(range(10**6)), run.Subject.score, run.offline.race
    is_racing: list[bool] = []

    def begun(*given: Any, **options: Any) -> None:
        is_racing.append(True)
        race(*given, **options)

    def failing(subject: Any, pairs: Any) -> Any:
        if subject.name == "base" and is_racing and next(calls) > 1:
            raise RuntimeError("out of memory")
        return score(subject, pairs)

    monkeypatch.setattr(run.offline, "race", begun)
    monkeypatch.setattr(run.Subject, "score", failing)
    measured = of(dtypes=["float32"])
    measured.run()
    assert measured.report.complete
    [sentence] = [one for one in measured.report.left_out if "out of memory" in one]
    assert sentence.startswith("further rounds of Offline, base, float32")
    rounds = {one.model: len(one.samples) for one in measured.report.results
              if one.workload == "Offline" and one.model in SMALL}  # fmt: skip
    assert rounds["MiniLM-L6"] == 5
    assert rounds.get("base", 0) < 5


def test_what_fails_in_maxsim_or_in_a_query_is_left_out_alone(monkeypatch: Any) -> None:
    def failing(*given: Any, **options: Any) -> Any:
        raise ValueError("no kernel")

    monkeypatch.setattr(run.maxsim, "racers", failing)
    monkeypatch.setattr(run.Subject, "rank", failing)
    measured = of(dtypes=["float32"], models=["MiniLM-L6"])
    measured.run()
    assert measured.report.complete
    assert [one.workload for one in measured.report.results] == ["Offline"]
    said = " / ".join(measured.report.left_out)
    assert "MaxSim: no kernel" in said
    assert "further rounds of SingleStream, MiniLM-L6, float32, fixed:24, packrank: Value" in said


def test_scores_that_are_not_finite_are_not_timed(monkeypatch: Any) -> None:
    monkeypatch.setattr(run.Subject, "score", lambda self, pairs: np.full(len(pairs), np.nan))
    measured = of(dtypes=["float32"], models=["MiniLM-L6"])
    with pytest.raises(InputError, match=r"^MiniLM-L6, float32, fixed:24: .* not finite"):
        measured.run()
    assert not measured.report.results


def test_what_there_is_no_time_for_is_left_out_by_name(monkeypatch: Any) -> None:
    monkeypatch.setattr(run, "_STREAM", 0.0)
    measured = of(dtypes=["float32"], models=["MiniLM-L6"], seconds=1000)
    measured.run()
    assert not [one for one in measured.report.results if one.workload == "SingleStream"]
    sentence = measured.report.left_out[0]
    assert sentence.startswith("SingleStream and Server of MiniLM-L6, float32, fixed:24: ")


def test_without_time_the_first_model_is_measured_and_all_else_left_out() -> None:
    measured = of(models=["MiniLM-L6"], seconds=1e-9)
    measured.run()
    report = measured.report
    assert report.complete
    [only] = report.results
    assert (only.model, only.dtype, len(only.samples)) == ("MiniLM-L6", "float32", 5)
    assert only.facts["by_length"] == only.facts["by_batch"] == []
    assert [one.partition(": ")[::2] for one in report.left_out[:3]] == [
        ("MiniLM-L6, bfloat16, fixed:24", "no time was left for it"),
        ("MiniLM-L6, float32, fixed:24, where the time goes", "no time was left for it"),
        ("MaxSim", "no time was left for it"),
    ]
    assert "no time was left for 32, 64, 128, 256, 512 tokens and 1, 4" in report.left_out[-1]


def test_models_that_are_open_one_by_one_have_as_much_time_each(monkeypatch: Any) -> None:
    left = []
    monkeypatch.setattr(run, "room", lambda device: 0.0)
    monkeypatch.setattr(Run, "_measure", lambda self, subjects: left.append(self._budget.left))
    measured = of(dtypes=["float32"], seconds=1000)
    measured.run()
    assert 400 < left[0] < 500 < left[1]


def test_a_length_that_no_model_reads_ends_nothing_but_a_run_of_it_alone() -> None:
    measured = of(models=["MiniLM-L6"], dtypes=["float32"], lengths=["fixed:2", "fixed:24"])
    measured.run()
    assert "MiniLM-L6, float32, fixed:2: max_length is 2" in measured.report.left_out[0]
    assert {one.lengths for one in measured.report.results} >= {"fixed:24"}
    with pytest.raises(InputError, match="max_length is 2"):
        of(models=["MiniLM-L6"], dtypes=["float32"], lengths=["fixed:2"]).run()


def test_a_search_has_fewer_candidates_where_time_is_short(
    tmp_path: Path, monkeypatch: Any
) -> None:
    measured = of(dtypes=["float32"], models=["MiniLM-L6"], candidates=40)
    asked = []
    monkeypatch.setattr(measured, "_keep", lambda *given: asked.append(given[3]))
    texts = measured.settings.texts[0]
    folder = checkpoints.write_checkpoint(SMALL["MiniLM-L6"], tmp_path / "it")
    subject = run.Subject.open(folder, "MiniLM-L6", "cpu", "float32", texts)
    one = offline.prepare(subject, 4, 0.01, run.Meter(), seed=0)
    window = run.LEAST_FOR_P99 / run._BUSY * 1.3 * run._POINTS  # times a query's seconds
    monkeypatch.setattr(run, "highest_rate", lambda *given, **options: None)
    monkeypatch.setattr(run, "_LEAST_WINDOW_S", 0.0)
    for most, count in ((1.01, 40), (0.26, 10), (0.11, 4), (0.045, 1)):
        measured._serve(one, alone_s=1.0, share_s=most * window, most_s=most * window)
        assert asked.pop() == count
    measured._serve(one, alone_s=1.0, share_s=0.0, most_s=0.045 * window)
    assert asked.pop() == 1
    measured._serve(one, alone_s=1.0, share_s=0.03 * window, most_s=0.03 * window)
    assert not asked
    assert measured.report.left_out[-1].startswith("Server of MiniLM-L6")


@pytest.mark.parametrize(
    ("counts", "medians"),
    [([3, 2], [2.0, 25.0]), ([], [1.0, 2.0, 9.0, 20.0, 30.0]), ([5], [9.0]), ([0, 5], [9.0])],
)
def test_queries_of_a_round_count_as_one(counts: list[int], medians: list[float]) -> None:
    samples = [1.0, 2.0, 9.0, 20.0, 30.0]
    result = Result("SingleStream", "m", "float32", "x", "latency", "s", samples)
    result.facts = {"rounds": counts}
    assert result.by_round == medians
