"""packrank.CrossEncoder beside sentence-transformers' own: the same calls, the same results."""

import copy
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import torch
from sentence_transformers.cross_encoder import evaluation

import packrank

WORDS = "red blue fox owl dog snake"
PAIRS = [["red owl", "blue fox"], ["", "dog"], ["snake", ""], ["dog " * 30, "fox " * 30]]
QUERY, DOCUMENTS = "red fox", ["owl owl", "red fox snake", "", "dog " * 60, "red"]

Both = tuple[Any, Any]
Made = Callable[..., Both]


@pytest.fixture(scope="module")
def folders(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[int], Path]:
    """folders(3): a BERT of so many labels, saved by sentence-transformers with two prompts."""
    made: dict[int, Path] = {}

    def make(labels: int) -> Path:
        if labels not in made:
            bare = tmp_path_factory.mktemp("bare") / "model"
            shutil.copytree(checkpoint("Bert", num_labels=labels), bare)
            save_tokenizer(bare, WORDS)
            model = sentence_transformers.CrossEncoder(
                str(bare), device="cpu", prompts={"fox": "fox fox ", "owl": "owl "}
            )
            made[labels] = bare.with_name("saved")
            model.save_pretrained(str(made[labels]), create_model_card=False)
        return made[labels]

    return make


@pytest.fixture
def both(folders: Callable[[int], Path]) -> Made:
    """both(3, max_length=9): the two classes, opened alike."""

    def opened(labels: int = 1, **options: Any) -> Both:
        folder = str(folders(labels))
        theirs = sentence_transformers.CrossEncoder(folder, device="cpu", **options)
        return packrank.CrossEncoder(folder, device="cpu", **options), theirs

    return opened


def same(ours: Any, theirs: Any) -> None:
    """Equal in kind, shape and dtype, and in values but for roundings."""
    assert type(ours) is type(theirs)
    if isinstance(ours, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            same(one, other)
        return
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), atol=2e-5)


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"convert_to_numpy": False},
        {"convert_to_tensor": True},
        {"convert_to_numpy": False, "convert_to_tensor": True},
        {"apply_softmax": True},
        {"activation_fn": torch.nn.Tanh()},
        {"activation_fn": lambda logits: logits * 2 + 1},
        {"prompt": "dog dog "},
        {"prompt": ""},
        {"prompt_name": "fox"},
        {"batch_size": 2, "show_progress_bar": False},
    ],
    ids=lambda options: " ".join(options) or "defaults",
)
def test_predict_returns_what_it_does_there(
    both: Made, labels: int, options: dict[str, Any]
) -> None:
    ours, theirs = both(labels)
    options = {"batch_size": 1} | options
    for inputs in (PAIRS, [tuple(pair) for pair in PAIRS], PAIRS[0], tuple(PAIRS[1]), []):
        same(ours.predict(inputs, **options), theirs.predict(inputs, **options))
    for array in (np.array(PAIRS), np.array(PAIRS, dtype=object), np.array(PAIRS[0])):
        same(ours.predict(array, **options), theirs.predict(array, **options))


def test_prompts_may_be_passed_and_overridden(both: Made) -> None:
    for options in (
        {"prompts": {"dog": "dog "}, "default_prompt_name": "dog"},
        {"prompts": {"fox": "snake "}, "default_prompt_name": "fox"},
        {"default_prompt_name": "owl"},
    ):
        ours, theirs = both(**options)
        assert (ours.prompts, ours.default_prompt_name) == (
            theirs.prompts,
            theirs.default_prompt_name,
        )
        same(ours.predict(PAIRS), theirs.predict(PAIRS, batch_size=1))
        same(ours.predict(PAIRS, prompt=""), theirs.predict(PAIRS, prompt="", batch_size=1))


def test_a_saved_default_prompt_can_be_taken_away(folders: Any, tmp_path: Path) -> None:
    model = sentence_transformers.CrossEncoder(
        str(folders(1)), device="cpu", default_prompt_name="fox"
    )
    model.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    ours = packrank.CrossEncoder(tmp_path / "saved")
    same(ours.predict(PAIRS), model.predict(PAIRS, batch_size=1))
    same(ours.predict(PAIRS, prompt=""), model.predict(PAIRS, prompt="", batch_size=1))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 2},
        {"return_documents": True, "top_k": 3},
        {"activation_fn": torch.nn.Identity(), "prompt_name": "owl"},
    ],
    ids=lambda options: " ".join(options) or "defaults",
)
def test_rank_returns_what_it_does_there(both: Made, options: dict[str, Any]) -> None:
    ours, theirs = both()
    found = ours.rank(QUERY, DOCUMENTS, **options)
    expected = theirs.rank(QUERY, DOCUMENTS, batch_size=1, **options)
    assert [list(row) for row in found] == [list(row) for row in expected]
    for row, other in zip(found, expected, strict=True):
        assert row.pop("score") == pytest.approx(other.pop("score"), abs=2e-5)
        assert row == other


def test_an_activation_and_a_length_may_be_given_and_set(both: Made) -> None:
    ours, theirs = both(activation_fn=torch.nn.ReLU(), max_length=9)
    assert ours.max_length == theirs.max_seq_length == ours.max_seq_length == 9
    same(ours.predict(PAIRS), theirs.predict(PAIRS, batch_size=1))
    for model in (ours, theirs):
        model.max_seq_length, model.activation_fn = 7, torch.nn.Identity()
    same(ours.predict(PAIRS), theirs.predict(PAIRS, batch_size=1))


def test_keywords_of_transformers(both: Made) -> None:
    ours, theirs = both(
        model_kwargs={"torch_dtype": "float32", "attn_implementation": "eager"},
        processor_kwargs={"model_max_length": 8},
        config_kwargs={"num_labels": 1},
    )
    same(ours.predict(PAIRS), theirs.predict(PAIRS, batch_size=1))


def test_older_names_are_taken(both: Made) -> None:
    ours, theirs = both(
        default_activation_function=torch.nn.Tanh(), automodel_args={"torch_dtype": "float32"}
    )
    found = ours.predict(sentences=PAIRS, activation_fct=torch.nn.Identity(), num_workers=0)
    expected = theirs.predict(
        sentences=PAIRS, activation_fct=torch.nn.Identity(), num_workers=0, batch_size=1
    )
    same(found, expected)
    same(ours.predict(PAIRS), theirs.predict(PAIRS, batch_size=1))


def test_what_evaluators_and_wrappers_read(both: Made) -> None:
    for labels in (1, 3):
        ours, theirs = both(labels)
        assert ours.num_labels == theirs.num_labels
        assert ours.device == theirs.device
        assert type(ours.activation_fn) is type(theirs.activation_fn)
        assert ours.config.to_dict() == theirs.config.to_dict()
        assert ours.model.config.to_dict() == theirs.model.config.to_dict()
        assert ours.model.device == theirs.model.device
        assert ours.default_activation_function is ours.activation_fn
        for to in ({"dtype": torch.float16}, {"device": "cpu", "non_blocking": True}):
            with pytest.raises(packrank.InputError, match="model_kwargs"):
                ours.to(**to)
        assert ours.model.eval().requires_grad_(False).to(device="cpu").name_or_path == str(
            ours.reranker.folder
        )
        assert ours.tokenizer("red fox").input_ids == theirs.tokenizer("red fox").input_ids
        assert ours.max_seq_length == theirs.max_seq_length
        assert ours.eval() is ours and ours.to("cpu") is ours
        assert (ours.prompts, ours.backend) == (theirs.prompts, theirs.backend)


def test_a_copy_scores_alike(both: Made) -> None:
    ours, _ = both(activation_fn=torch.nn.Tanh(), prompts={"dog": "dog "})
    ours.max_seq_length = 9
    expected = ours.predict(PAIRS, prompt_name="dog")
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert np.array_equal(other.predict(PAIRS, prompt_name="dog"), expected)


def test_its_reranking_evaluator(both: Made, tmp_path: Path) -> None:
    samples = [
        {"query": "red fox", "positive": ["red fox snake"], "negative": ["owl", "dog dog"]},
        {"query": "owl", "documents": DOCUMENTS, "positive": ["owl owl", "red"]},
    ]
    found = [
        evaluation.CrossEncoderRerankingEvaluator(
            samples, at_k=3, show_progress_bar=False, always_rerank_positives=False
        )(model, str(tmp_path))
        for model in both()
    ]
    assert found[0] == found[1] and len(found[0]) >= 3


def test_its_correlation_and_classification_evaluators(both: Made) -> None:
    ours, theirs = both()
    judge = evaluation.CrossEncoderCorrelationEvaluator(PAIRS, [0.1, 0.9, 0.4, 0.2], name="x")
    assert judge(ours) == pytest.approx(judge(theirs), abs=1e-4)
    [(evaluator, metrics, _, _)] = ours.model_card_data.evaluations
    assert evaluator is judge and metrics
    for labels, gold in ((1, [0, 1, 1, 0]), (3, [0, 2, 1, 0])):
        ours, theirs = both(labels)
        judge = evaluation.CrossEncoderClassificationEvaluator(PAIRS, gold)
        assert judge(ours) == pytest.approx(judge(theirs), abs=1e-4)


def test_pools_and_devices(both: Made) -> None:
    ours, _ = both()
    expected = ours.predict(PAIRS)
    for devices in (None, ["cpu"], ["cpu", "cpu"]):
        pool = ours.start_multi_process_pool(devices)
        assert np.array_equal(ours.predict(PAIRS, pool=pool, chunk_size=2), expected)
        ours.stop_multi_process_pool(pool)
        with pytest.raises(ValueError, match="pool is none of start_multi_process_pool's"):
            ours.predict(PAIRS, pool=pool)
    assert np.array_equal(ours.predict(PAIRS, device="cpu"), expected)
    assert np.array_equal(ours.predict(PAIRS, device=[torch.device("cpu")]), expected)
    with pytest.raises(ValueError, match="device is 'cuda:7', and the model is on cpu"):
        ours.predict(PAIRS, device="cuda:7")


def test_a_bar_changes_no_score(both: Made, capsys: pytest.CaptureFixture[str]) -> None:
    ours, _ = both()
    many = [[f"red {'fox ' * (n % 7)}", "owl " * (n % 5)] for n in range(300)]
    plain = ours.predict(many)
    assert capsys.readouterr().err == ""
    assert np.array_equal(ours.predict(many, show_progress_bar=True, batch_size=7), plain)
    assert "300/300" in capsys.readouterr().err


@pytest.fixture
def prompted(folders: Any, tmp_path: Path) -> Callable[..., Both]:
    """prompted(...): both classes, over a folder whose default prompt is "fox"."""
    made = tmp_path / "prompted"
    sentence_transformers.CrossEncoder(
        str(folders(1)), device="cpu", default_prompt_name="fox"
    ).save_pretrained(str(made), create_model_card=False)

    def opened(**options: Any) -> Both:
        theirs = sentence_transformers.CrossEncoder(str(made), device="cpu", **options)
        return packrank.CrossEncoder(made, device="cpu", **options), theirs

    return opened


def test_a_saved_prompt_may_be_set_aside(prompted: Callable[..., Both]) -> None:
    ours, theirs = prompted()
    same(ours.predict(PAIRS), theirs.predict(PAIRS, batch_size=1))
    with_prompt = ours.predict(PAIRS)
    for model in (ours, theirs):
        model.default_prompt_name = None
    same(ours.predict(PAIRS), theirs.predict(PAIRS, batch_size=1))
    assert not np.allclose(ours.predict(PAIRS), with_prompt)
    ours, theirs = prompted()
    for model in (ours, theirs):
        model.prompts = {}
    same(ours.predict(PAIRS), theirs.predict(PAIRS, batch_size=1))
    for options in (
        {"prompts": {"z": None}, "default_prompt_name": "z"},
        {"prompts": {"fox": None}},
        {"prompts": {"fox": ""}},
    ):
        ours, theirs = prompted(**options)
        same(ours.predict(PAIRS), theirs.predict(PAIRS, batch_size=1))
    ours, theirs = prompted(prompts={"z": None})
    same(ours.predict(PAIRS, prompt_name="z"), theirs.predict(PAIRS, prompt_name="z", batch_size=1))


def test_flagembedding_reads_no_saved_prompt(
    prompted: Callable[..., Both], folders: Callable[[int], Path]
) -> None:
    ours, _ = prompted()
    expected = packrank.FlagReranker(folders(1)).compute_score(PAIRS[:3])
    found = packrank.FlagReranker(ours.reranker.folder).compute_score(PAIRS[:3])
    assert found == expected


def test_a_tokenizer_that_is_changed_is_not_overlooked(both: Made) -> None:
    ours, _ = both()
    expected = ours.predict(PAIRS)
    assert ours.tokenizer is ours.tokenizer
    assert np.array_equal(ours.predict(PAIRS), expected)
    ours.tokenizer.model_max_length = 9
    with pytest.raises(ValueError, match="the tokenizer was changed, and pairs do not go by it"):
        ours.predict(PAIRS)
