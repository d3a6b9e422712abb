"""Long documents beyond a call: in an engine, a job, on the command line, over HTTP."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from long_documents import DOCUMENTS, LENGTHS, LIMIT, OVER, PAIRS, windows

from packrank import Engine, InputError, Job, JobError, LateInteraction, Reranker
from packrank.commands.cli import main
from packrank.commands.parser import parser
from packrank.commands.scorer import asked_for
from packrank.jobs.facts import about
from packrank.jobs.settings import Silent
from packrank.reranker import asked_of
from packrank.serving.source import PairSource


def test_an_engine_gives_the_same_bits(windowed: Reranker, cut: Reranker) -> None:
    scores, ranking = windowed.score(PAIRS), windowed.rank("red fox", DOCUMENTS)
    with Engine(windowed) as engine:
        asked = [engine.submit_pairs(PAIRS) for _ in range(3)]
        asked += [engine.submit("red fox", DOCUMENTS, top_k=k) for k in (1, 3, None)]
        asked.append(engine.submit_pairs(PAIRS, long_documents="truncate"))
        *found, one, three, every, plain = [answer.result(120) for answer in asked]
        assert all(np.array_equal(each, scores) for each in found)
        assert (one, three, every) == (ranking[:1], ranking[:3], ranking)
        assert np.array_equal(plain, cut.score(PAIRS))
        # Twice over by the ids of its cache.
        assert np.array_equal(engine.submit_pairs(PAIRS).result(60), scores)
        assert engine.queue_tokens == engine.queue_requests == 0
        answer = engine.submit("red fox", DOCUMENTS)
        answer.result(60)
        counts = [len(windows([0] * length, OVER)) for length in LENGTHS]
        tokens = sum(
            LIMIT * count if count > 1 else 5 + length
            for length, count in zip(LENGTHS, counts, strict=True)
        )
        assert (answer.usage.pairs, answer.usage.tokens) == (len(DOCUMENTS), tokens)
        assert engine.totals.pairs == 5 * len(PAIRS) + 4 * len(DOCUMENTS)


def test_a_queue_counts_the_tokens_of_all_windows(windowed: Reranker) -> None:
    with Engine(windowed, max_queue_tokens=100_000) as engine:
        asked = asked_of(windowed)
        source = PairSource(asked.scorer, None, engine.cache, engine._guess)
        for _ in range(30):
            engine.submit_pairs(PAIRS).result(60)  # it learns how many tokens there are
        [cost] = source.costs([("red fox", DOCUMENTS[-1])]).kept
        want = len(windows([0] * 200, OVER)) * LIMIT
        assert 0.6 * want < cost < 1.6 * want
        assert engine.queue_tokens == 0


def test_a_job_keeps_pairs_and_names_what_changed(
    long_folder: Path, windowed: Reranker, cut: Reranker, tmp_path: Path
) -> None:
    path, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    sound = [pair for pair in PAIRS if all(pair)]
    path.write_text("".join(json.dumps({"query": q, "document": d}) + "\n" for q, d in sound))
    summary = Job(windowed, path, out).run()
    assert summary.pairs == len(sound)
    scores = [json.loads(line)["score"] for line in out.read_text().splitlines()]
    assert scores == windowed.score(sound).tolist()
    assert about(windowed) == about(cut) | {"long_documents": "windows"}


def test_a_job_does_not_go_on_with_other_windows(
    windowed: Reranker, cut: Reranker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        pass

    class Watch(Silent):
        def advance(self, summary: Any, rows: int) -> None:
            raise Stop

    path, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"query": q, "document": d} for q, d in PAIRS if q and d]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with monkeypatch.context() as patch:
        patch.setattr("packrank.jobs.score._FIRST_BATCH_PAIRS", 2)
        patch.setattr("packrank.jobs.score._BATCH_PAIRS", 2)
        with pytest.raises(Stop):
            Job(windowed, path, out).run(Watch())
    with pytest.raises(JobError, match="long_documents was"):
        Job(cut, path, out).run()
    assert Job(windowed, path, out).run().rows == len(rows)


def test_the_command_line(
    long_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, pairs, out = tmp_path / "d.jsonl", tmp_path / "p.jsonl", tmp_path / "o.jsonl"
    given = [text for text in DOCUMENTS if text]
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in given))
    pairs.write_text(
        "".join(json.dumps({"query": "red fox", "document": text}) + "\n" for text in given)
    )
    model = Reranker(long_folder, long_documents="windows")
    how = ["--long-documents", "windows", "--quiet"]
    asked = ["rank", str(long_folder), "--query", "red fox", "--documents", str(texts), "--json"]
    assert main([*asked, *how]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    want = model.rank("red fox", given)
    assert [(one["line"] - 1, one["score"]) for one in shown] == [one[:2] for one in want]
    assert main(["score", str(long_folder), str(pairs), "--output", str(out), *how]) == 0
    scores = [json.loads(line)["score"] for line in out.read_text().splitlines()]
    assert scores == model.score([("red fox", text) for text in given]).tolist()
    assert main(asked) == 0
    plain = [json.loads(line)["score"] for line in capsys.readouterr().out.splitlines()]
    assert plain != [one["score"] for one in shown]


def test_late_interaction_is_not_meant(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, texts = tmp_path / "late", tmp_path / "d.txt"
    shutil.copytree(checkpoint("Bert", "Model"), folder)
    save_tokenizer(folder, "red fox")
    texts.write_text("red")
    asked = ["--query", "red", "--documents", str(texts), "--long-documents", "windows"]
    assert main(["rank", str(folder), *asked]) == 2
    assert capsys.readouterr().err == (
        f"packrank: --long-documents is for rerankers, and {folder} scores by late interaction; "
        "leave it out\n"
    )
    with (
        Engine(LateInteraction(folder)) as engine,
        pytest.raises(InputError, match="late interaction has no long_documents"),
    ):
        engine.submit("red", ["fox"], long_documents="windows")


def test_refusals(long_folder: Path, windowed: Reranker, tmp_path: Path) -> None:
    for wrong in ("window", "max", True, 3):
        with pytest.raises(InputError, match=r"long_documents is .*, expected one of 'truncate', "):
            Reranker(long_folder, long_documents=wrong)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"long_documents is .*, expected one of 'truncate', "):
            windowed.score(PAIRS, long_documents=wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="long_documents"):
        LateInteraction(long_folder, long_documents="windows")  # type: ignore[call-arg]


def test_a_server_is_told_by_an_option(long_folder: Path) -> None:
    args = parser().parse_args(["serve", str(long_folder), "--long-documents", "windows"])
    args.model = args.models[0]
    _, door, options = asked_for(args)
    assert door is Reranker and options["long_documents"] == "windows"
    assert door(long_folder, **options).long_documents == "windows"
