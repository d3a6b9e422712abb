"""What sentence-transformers saves beside a cross-encoder, with its own CrossEncoder as oracle."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import CrossEncoder

from packrank import ModelError, Reranker
from packrank.commands.cli import main

WORDS = "red blue fox owl dog snake"
PAIRS = [("red owl", "blue fox"), ("", "dog"), ("snake", ""), ("dog " * 30, "fox " * 30)]
SIGMOID, IDENTITY = "torch.nn.modules.activation.Sigmoid", "torch.nn.modules.linear.Identity"
SETTINGS = "config_sentence_transformers.json"

Build = Callable[..., Path]


@pytest.fixture(scope="module")
def bare(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A cross-encoder as transformers saves it."""
    folder = tmp_path_factory.mktemp("cross-encoder") / "bare"
    shutil.copytree(checkpoint("Bert", num_labels=1), folder)
    save_tokenizer(folder, WORDS)
    return folder


@pytest.fixture(scope="module")
def saved_once(bare: Path) -> Build:
    made: dict[str, Path] = {}

    def save(**options: Any) -> Path:
        folder = made.setdefault(repr(options), bare.with_name(f"saved-{len(made)}"))
        if not folder.is_dir():
            CrossEncoder(str(bare), device="cpu", **options).save_pretrained(str(folder))
            assert (folder / "modules.json").is_file()
        return folder

    return save


@pytest.fixture
def saved(saved_once: Build, tmp_path: Path) -> Build:
    """saved(prompts=...): the same as sentence-transformers saves it, for a test to change."""

    def copy(**options: Any) -> Path:
        folder = tmp_path / f"saved-{sum(1 for _ in tmp_path.iterdir())}"
        shutil.copytree(saved_once(**options), folder)
        return folder

    return copy


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(content | changes))


def same_scores(folder: Path) -> np.ndarray:
    """The scores, which are the oracle's."""
    scores = Reranker(folder).score(PAIRS)
    expected = CrossEncoder(str(folder), device="cpu").predict(PAIRS, batch_size=1)
    np.testing.assert_allclose(scores, expected, atol=2e-5)
    return scores


def test_the_default_prompt_is_put_before_every_query(saved: Build) -> None:
    plain = same_scores(saved())
    prompts = {"q": "red red ", "other": "dog "}
    assert np.array_equal(same_scores(saved(prompts=prompts)), plain)
    prompted = same_scores(saved(prompts=prompts, default_prompt_name="q"))
    assert np.abs(prompted - plain)[:3].min() > 1e-3
    with_null = saved(prompts=prompts, default_prompt_name="q")
    edit(with_null / SETTINGS, prompts={"q": None})
    assert np.array_equal(same_scores(with_null), plain)


def test_rank_prompts_too_and_info_says_so(
    saved: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved(prompts={"q": "red red "}, default_prompt_name="q")
    documents = ["blue fox", "dog", "snake owl"]
    theirs = CrossEncoder(str(folder), device="cpu").rank("owl", documents)
    ours = Reranker(folder).rank("owl", documents)
    assert [r.index for r in ours] == [r["corpus_id"] for r in theirs]
    np.testing.assert_allclose([r.score for r in ours], [r["score"] for r in theirs], atol=2e-5)
    capsys.readouterr()
    assert main(["info", str(folder)]) == 0
    assert "'red red ' before every query" in capsys.readouterr().out


@pytest.mark.parametrize("has_modules", [True, False])
@pytest.mark.parametrize("model_type", ["CrossEncoder", "SentenceTransformer", None])
def test_the_files_count_only_on_the_oracles_terms(
    saved: Build, has_modules: bool, model_type: str | None
) -> None:
    """Prompt, activation and length; the bare model has neither prompt nor limit, and a sigmoid."""
    folder = saved(prompts={"q": "red red "}, default_prompt_name="q")
    edit(folder / SETTINGS, model_type=model_type, activation_fn=IDENTITY)
    edit(folder / "sentence_bert_config.json", max_seq_length=9)
    edit(folder / "config.json", sentence_transformers={"activation_fn": SIGMOID})
    if model_type is None:
        content = json.loads((folder / SETTINGS).read_text())
        del content["model_type"]
        (folder / SETTINGS).write_text(json.dumps(content))
    if not has_modules:
        (folder / "modules.json").unlink()
    same_scores(folder)
    counts = has_modules and model_type == "CrossEncoder"
    assert Reranker(folder).max_length == (9 if counts else 40)


@pytest.mark.parametrize(
    ("file", "nested", "old"),
    [
        (IDENTITY, None, None),
        (None, None, None),
        (None, None, IDENTITY),
        (None, IDENTITY, SIGMOID),
        (SIGMOID, IDENTITY, IDENTITY),
        ("mine.Thing", IDENTITY, SIGMOID),
        ("mine.Thing", "mine.Thing", IDENTITY),
        (None, "mine.Thing", IDENTITY),
    ],
)
@pytest.mark.parametrize("has_modules", [True, False])
def test_the_activation(
    saved: Build, has_modules: bool, file: str | None, nested: str | None, old: str | None
) -> None:
    folder = saved()
    edit(folder / SETTINGS, activation_fn=file)
    content = json.loads((folder / "config.json").read_text())
    content.pop("sentence_transformers", None)
    if nested:
        content["sentence_transformers"] = {"activation_fn": nested}
    if old:
        content["sbert_ce_default_activation_function"] = old
    (folder / "config.json").write_text(json.dumps(content))
    if not has_modules:
        (folder / "modules.json").unlink()
    same_scores(folder)


LENGTHS: list[tuple[dict[str, Any], int | None, int]] = [
    ({}, None, 40),
    ({}, 13, 13),
    ({"max_seq_length": 9}, None, 9),
    ({"max_seq_length": 21}, 13, 21),
    ({"processing_kwargs": {"text": {"max_length": 11}}}, None, 11),
    ({"max_seq_length": 9, "processing_kwargs": {"text": {"max_length": 11}}}, 13, 11),
    ({"processing_kwargs": {"text": {"max_length": 11, "truncation": True}}}, None, 11),
    ({"processing_kwargs": {"text": {"truncation": "longest_first", "padding": True}}}, 13, 13),
]


@pytest.mark.parametrize(("settings", "of_tokenizer", "expected"), LENGTHS)
def test_the_limit_of_length(
    saved: Build, settings: dict[str, Any], of_tokenizer: int | None, expected: int
) -> None:
    folder = saved()
    edit(folder / "sentence_bert_config.json", **settings)
    if of_tokenizer is not None:
        edit(folder / "tokenizer_config.json", model_max_length=of_tokenizer)
    same_scores(folder)
    assert Reranker(folder).max_length == expected
    assert Reranker(folder, max_length=10).max_length == 10


def test_a_limit_beyond_the_models_is_the_models(saved: Build) -> None:
    folder = saved()
    edit(folder / "sentence_bert_config.json", max_seq_length=4096)
    assert Reranker(folder).max_length == 40


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (SETTINGS, {"default_prompt_name": "z"}, "default_prompt_name 'z' is not among the pro"),
        (SETTINGS, {"default_prompt_name": ["q"]}, "default_prompt_name is ['q'], expected a str"),
        (SETTINGS, {"default_prompt_name": "q", "prompts": ["q"]}, "prompts is ['q'], expected an"),
        (SETTINGS, {"default_prompt_name": "q", "prompts": {"q": 1}}, "prompts: q is 1, expected"),
        (SETTINGS, {"activation_fn": 3}, "activation_fn is 3, expected a string"),
        (SETTINGS, {"activation_fn": "torch.nn.GELU"}, "activation_fn 'torch.nn.GELU' is not sup"),
        (SETTINGS, {"model_type": 3}, "model_type is 3, expected a string"),
        ("sentence_bert_config.json", {"do_lower_case": "yes"}, "do_lower_case is 'yes', expected"),
        ("sentence_bert_config.json", {"max_seq_length": "9"}, "max_seq_length is '9', expected a"),
        ("sentence_bert_config.json", {"max_seq_length": 0}, "the maximum length is 0, expected"),
        (
            "sentence_bert_config.json",
            {"processor_kwargs": {"truncation_side": "left"}},
            "processor_kwargs: truncation_side is 'left', which is not supported",
        ),
        (
            "sentence_bert_config.json",
            {"processing_kwargs": {"text": {"truncation": "only_first"}}},
            "processing_kwargs.text.truncation 'only_first' is not supported",
        ),
        (
            "sentence_bert_config.json",
            {"processing_kwargs": {"common": {"max_length": 3}}},
            "processing_kwargs.common {'max_length': 3} is not supported",
        ),
    ],
)
def test_what_is_not_supported_is_named(
    saved: Build, name: str, changes: dict[str, Any], message: str
) -> None:
    folder = saved()
    edit(folder / name, **changes)
    with pytest.raises(ModelError) as raised:
        Reranker(folder)
    assert message in str(raised.value)
    assert name in str(raised.value) or "activation_fn 'torch" in message
    assert "\n" not in str(raised.value)


def test_a_module_without_its_files_is_refused(saved: Build) -> None:
    folder = saved()
    modules = json.loads((folder / "modules.json").read_text())
    dense = {"idx": 1, "name": "1", "path": "1_Dense", "type": "sentence_transformers.Dense"}
    (folder / "modules.json").write_text(json.dumps([*modules, dense]))
    with pytest.raises(ModelError, match=r"1_Dense/config\.json: in_features is None, expected"):
        Reranker(folder)


def test_a_transformer_in_a_folder_of_its_own(
    saved: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reranker, `packrank rank` and `packrank info` all find it."""
    folder = saved(prompts={"q": "red red "}, default_prompt_name="q")
    expected = same_scores(folder)
    inner = folder / "0_Transformer"
    inner.mkdir()
    for path in list(folder.iterdir()):
        if path.is_file() and path.name not in ("modules.json", SETTINGS):
            path.rename(inner / path.name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    assert np.array_equal(Reranker(folder).score(PAIRS), expected)
    documents = tmp_path / "documents.txt"
    documents.write_text("blue fox\n")
    capsys.readouterr()
    arguments = ["--query", "red owl", "--documents", str(documents), "--json"]
    assert main(["rank", str(folder), *arguments]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["score"] == float(expected[0])
    assert main(["info", str(folder)]) == 0
    assert "cross-encoder" in capsys.readouterr().out


def test_the_example_runs(bare: Path) -> None:
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(root / "examples/rank.py"), str(bare)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert [place for place, *_ in rows] == ["1", "2", "3"]
    scores = [float(score) for _, score, _ in rows]
    assert scores == sorted(scores, reverse=True)
