"""A text that the tokenizer fails on: every door names it, and the others keep their bits."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from packrank import LateInteraction, Reranker
from packrank.commands.cli import main
from packrank.errors import InputError, PairError

WORDS = "red fox runs over the lazy dog"
# Neither is in the vocabulary, and nor is what stands for the unknown; one id is past int32.
BAD = ("red zebra", "huge")


@pytest.fixture(scope="module")
def folder(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Path]:
    """folder("Model"): a BERT with that, whose tokenizer fails on some texts.

    Of an id past int32 the tokenizers library takes half a minute to write the tokenizer down, so
    whoever asks for its fingerprint leaves it out.
    """

    def make(suffix: str, huge: int = 2**31 + 7) -> Path:
        path = tmp_path_factory.mktemp("hostile") / suffix
        shutil.copytree(checkpoint("Bert", suffix, num_labels=1), path)
        save_tokenizer(path, WORDS)
        content = json.loads((path / "tokenizer.json").read_text())
        content["model"]["unk_token"] = "[NOWHERE]"
        content["model"]["vocab"]["huge"] = huge
        (path / "tokenizer.json").write_text(json.dumps(content))
        config = json.loads((path / "tokenizer_config.json").read_text())
        config["tokenizer_class"] = "TokenizersBackend"
        (path / "tokenizer_config.json").write_text(json.dumps(config))
        return path

    return make


GOOD = ["red fox", "the lazy dog runs", "fox"]
MIXED = [GOOD[0], BAD[0], GOOD[1], BAD[1], GOOD[2]]


def test_a_reranker_names_it_and_scores_the_rest(folder: Callable[[str], Path]) -> None:
    model = Reranker(folder("ForSequenceClassification"), device="cpu")
    want = model.score([("red", text) for text in GOOD])
    scores, failures = model.try_score([("red", text) for text in MIXED])
    assert sorted(failures) == [1, 3]
    assert all("the tokenizer fails on it" in reason for reason in failures.values())
    np.testing.assert_array_equal(scores[[0, 2, 4]], want)
    assert np.isnan(scores[[1, 3]]).all()
    with pytest.raises(PairError, match="pair 1: the tokenizer fails on it"):
        model.score([("red", text) for text in MIXED])
    with pytest.raises(PairError, match="pair 1"):
        model.rank("red", MIXED)
    ranking, failures = model.try_rank("red", MIXED)
    assert sorted(failures) == [1, 3]
    assert {place.index for place in ranking} == {0, 2, 4}
    _, failures = model.try_rank(BAD[0], GOOD)
    assert sorted(failures) == [0, 1, 2]


def test_late_interaction_names_it_and_scores_the_rest(folder: Callable[[str], Path]) -> None:
    model = LateInteraction(folder("Model"), device="cpu")
    want = {ranked.index: ranked.score for ranked in model.rank("red", GOOD)}
    ranking, failures = model.try_rank("red", MIXED)
    assert sorted(failures) == [1, 3]
    assert {ranked.index: ranked.score for ranked in ranking} == {
        2 * index: score for index, score in want.items()
    }
    vectors, failures = model.try_encode_documents(MIXED)
    assert [vector is None for vector in vectors] == [False, True, False, True, False]
    with pytest.raises(InputError, match=r"queries\[1\]: the tokenizer fails on it"):
        model.encode_queries(["red", BAD[0]])
    for texts in (("red", BAD[1]), (BAD[0], "fox")):
        with pytest.raises(InputError, match="the tokenizer fails on it"):
            model.explain(*texts)
    with pytest.raises(InputError, match="the tokenizer fails on it"):
        model.rank(BAD[1], GOOD)


def test_the_command_line_names_its_line(
    folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "scores.jsonl"
    texts = [GOOD[0], BAD[0], *GOOD[1:]]
    lines = [json.dumps({"query": "red", "document": text}) for text in texts]
    pairs.write_text("".join(f"{line}\n" for line in lines))
    model = str(folder("ForSequenceClassification", huge=8))
    code = main(["score", model, str(pairs), "--output", str(out), "--device", "cpu"])
    assert code == 1
    assert len(out.read_text().splitlines()) == 4
    shown = capsys.readouterr().err
    assert "the tokenizer fails on it" in shown
    assert "Traceback" not in shown
