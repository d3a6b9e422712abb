"""What a call of late interaction may say, as one of a reranker may."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from packrank import InputError, LateInteraction, ModelError

TEXTS = ["the red fox", "the blue owl", "red red the"]


@pytest.fixture(scope="module")
def folder(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:

    made = tmp_path_factory.mktemp("late") / "model"
    shutil.copytree(checkpoint("Bert", "Model"), made)
    save_tokenizer(made, "the red fox blue owl")
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> LateInteraction:
    return LateInteraction(folder, device=torch.device("cpu"), dtype=torch.float32)


def test_documents_may_have_ids_and_metadata(model: LateInteraction) -> None:
    plain = model.rank("red", TEXTS)
    documents: list[Any] = [
        TEXTS[0],
        (5, TEXTS[1]),
        {"_id": "third", "title": "red", "text": "red the", "year": 3},
    ]
    ranking = model.rank("red", documents)
    assert ranking == plain
    given = {ranked.index: (ranked.id, dict(ranked.metadata)) for ranked in ranking}
    assert given == {0: (None, {}), 1: ("5", {}), 2: ("third", {"title": "red", "year": 3})}
    assert model.score([("red", documents[2])]) == model.score([("red", TEXTS[2])])
    best, failures = model.try_rank("red", [*documents, {"id": "x"}])
    assert best == plain and failures.keys() == {3} and 'no "text"' in failures[3]


def test_a_loop_goes_on_while_it_works(model: LateInteraction) -> None:
    async def main() -> Any:
        return await asyncio.gather(
            model.rank_async("red", TEXTS),
            model.try_rank_async("red", [*TEXTS, None]),  # type: ignore[list-item]
            model.score_async([("red", text) for text in TEXTS]),
            model.try_score_async([("red", None)]),  # type: ignore[list-item]
        )

    ranking, (best, failures), scores, (_, wrong) = asyncio.run(main())
    assert ranking == best == model.rank("red", TEXTS)
    assert failures.keys() == {3} and wrong.keys() == {0}
    assert np.array_equal(scores, model.score([("red", text) for text in TEXTS]))


def test_the_hub_is_asked_as_the_caller_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def refuse(name: str, **options: Any) -> str:
        asked.update(options)
        raise OSError("not here")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(ModelError, match="could not be fetched from the hub"):
        LateInteraction("a/b", revision="v1", token=False, cache_folder="c", local_files_only=True)
    expected = {"revision": "v1", "token": False, "cache_dir": "c", "local_files_only": True}
    assert {name: asked[name] for name in expected} == expected


def test_a_dtype_of_torchs_that_is_none_here_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="dtype is 'int8', expected 'auto' or one of"):
        LateInteraction(folder, dtype=torch.int8)
