"""Peers that are installed score what transformers does; the others are sentences."""

import importlib.util
import json
import logging
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from packrank.bench.peers import opening
from packrank.bench.peers.opening import opened
from packrank.bench.peers.peer import CannotRun, Peer, Task, Variant
from packrank.bench.subjects.checkpoints import write_checkpoint
from packrank.bench.subjects.shapes import SHAPES
from packrank.bench.subjects.texts import Pairs, Texts

CPU = torch.device("cpu")
# Of the largest logit: in bfloat16, by the two layers of a tiny model.
BOUNDS = {"float32": 1e-4, "bfloat16": 0.03, "int8": 0.1}
Opened = tuple[list[Peer], list[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = replace(SHAPES["MiniLM-L6"], layers=2, hidden=64, heads=4, inner=96)
    return write_checkpoint(shape, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def every(folder: Path) -> Opened:
    return opened(folder, CPU)


@pytest.fixture(scope="module")
def expected(folder: Path) -> Callable[..., NDArray[np.float32]]:
    """Logits by transformers in float32, a pair at a time, so that nothing is padded."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def logits(pairs: Pairs, **options: Any) -> NDArray[np.float32]:
        with torch.no_grad():
            read = [tokenizer(*pair, return_tensors="pt", **options) for pair in pairs]
            return np.array([model(**one).logits.item() for one in read], dtype=np.float32)

    return logits


def some(count: int) -> Pairs:
    return Texts.named("nq-like").pairs(count, 7, seed=3)


@pytest.mark.parametrize("count", [1, 33])
def test_logits_are_those_of_transformers_in_the_order_of_the_pairs(
    every: Opened, expected: Callable[..., NDArray[np.float32]], count: int
) -> None:
    pairs = some(count)
    wanted = expected(pairs)
    for peer in every[0]:
        found = peer.score(pairs)
        assert found.dtype == np.float32
        assert found.shape == (count,)
        bound = BOUNDS[peer.dtype] * np.abs(wanted).max()
        np.testing.assert_allclose(found, wanted, rtol=0, atol=bound, err_msg=peer.name)


def test_what_is_installed_races_and_what_is_not_is_named(every: Opened) -> None:
    peers, sentences = every
    names = {peer.name for peer in peers}
    wanted = {"sentence_transformers": "sentence-transformers", "openvino": "OpenVINO"}
    for module, name in wanted.items():
        batch = 32 if name == "sentence-transformers" else 16
        both = {f"{name} ({dtype}, batch {batch})" for dtype in ("float32", "bfloat16")}
        there = importlib.util.find_spec(module) is not None
        assert names & both == (both if there else set())
    for module, name in {"FlagEmbedding": "FlagEmbedding", "onnxruntime": "onnxruntime"}.items():
        there = importlib.util.find_spec(module) is not None
        assert there != any(line.startswith(f"{name} is not installed; ") for line in sentences)


def test_pairs_are_cut_to_the_length_that_is_asked_for(
    folder: Path, expected: Callable[..., NDArray[np.float32]]
) -> None:
    # Longer than twice the query: FlagEmbedding never cuts that, others the longer of the two.
    pairs = some(5)
    wanted = expected(pairs, truncation=True, max_length=64)
    assert not np.allclose(wanted, expected(pairs), atol=1e-3)
    peers, _ = opened(folder, CPU, max_length=64, dtypes=["float32"])
    assert {peer.dtype for peer in peers} == {"float32"}
    for peer in peers:
        np.testing.assert_allclose(peer.score(pairs), wanted, rtol=0, atol=1e-5, err_msg=peer.name)


def test_nothing_is_printed(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    peers, _ = opened(folder, CPU, max_length=64, dtypes=["float32"])
    for peer in peers:
        peer.score(some(40))
    assert capfd.readouterr() == ("", "")


def test_a_noisy_peer_is_not_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    log = logging.getLogger("odd")
    monkeypatch.setattr(log, "handlers", [logging.StreamHandler(sys.stderr)])
    monkeypatch.setattr(log, "propagate", False)

    def noise() -> None:
        print("a table")
        print("a bar", file=sys.stderr)
        log.error("a log")
        warnings.warn("a warning", stacklevel=2)

    def score(pairs: Pairs) -> NDArray[np.float32]:
        noise()
        return np.ones(len(pairs), dtype=np.float32)

    def odd() -> Peer:
        noise()
        return Peer("odd", "int8", score)

    monkeypatch.setattr(opening, "_PACKAGES", (lambda task: [Variant("odd", "int8", odd)],))
    [peer], _ = opened(tmp_path, CPU)
    peer.score(some(1))
    assert capfd.readouterr() == ("", "")
    with pytest.warns(UserWarning, match="a warning"):
        noise()
    assert capfd.readouterr() == ("a table\n", "a bar\na log\n")


def test_packages_that_are_not_installed_are_named_with_what_installs_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    peers, sentences = opened(folder, CPU)
    assert peers == []
    assert sentences == [
        "sentence-transformers is not installed; pip install sentence-transformers",
        "FlagEmbedding is not installed; pip install FlagEmbedding",
        "onnxruntime is not installed; pip install onnxruntime onnx",
        "OpenVINO is not installed; pip install openvino",
    ]


def test_parts_of_a_package_that_are_missing_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = ("optimum.onnxruntime", "optimum.intel.openvino", "nncf")
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in absent else there(name)
    )
    if there("openvino") is None:
        pytest.skip("needs openvino")
    _, sentences = opened(folder, CPU, dtypes=["int8"])
    onnx, *others = sentences
    assert onnx.startswith("sentence-transformers with ONNX needs optimum-onnx; pip install ")
    assert "OpenVINO in int8 needs NNCF; pip install nncf" in others


def test_a_model_that_no_package_knows_is_a_sentence(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "unheard-of"}))
    peers, sentences = opened(tmp_path, CPU, dtypes=["bfloat16"])
    assert peers == []
    said = [line for line in sentences if "unheard-of" in line]
    assert len(said) == 1
    assert said[0].startswith("sentence-transformers (bfloat16), ")
    assert "\n" not in "".join(sentences)


def test_models_with_several_labels_do_not_race(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    labels = {"num_labels": 3, "id2label": {str(n): f"L{n}" for n in range(3)}}
    (tmp_path / "config.json").write_text(json.dumps(config | labels))
    weights = load_file(tmp_path / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name].repeat(3, *[1] * (weights[name].dim() - 1))
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    peers, sentences = opened(tmp_path, CPU, dtypes=["float32"])
    assert peers == []
    assert "the model gives 3 logits of a pair, and peers race on one" in sentences


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        (RuntimeError("it broke.\nFurther lines"), "odd (int8) does not run this model: it broke"),
        (KeyError(), "odd (int8) does not run this model: KeyError"),
        (CannotRun("odd has no wheels"), "odd has no wheels"),
        (float("nan"), "odd (int8) gives logits that are not finite"),
    ],
)
def test_a_peer_that_fails_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Any, sentence: str
) -> None:
    def score(pairs: Pairs) -> NDArray[np.float32]:
        if isinstance(outcome, Exception):
            raise outcome
        return np.full(len(pairs), outcome, dtype=np.float32)

    odd = Variant("odd (int8)", "int8", lambda: Peer("odd (int8, batch 2)", "int8", score))
    fine = Variant("fine", "int8", lambda: Peer("fine", "int8", lambda x: np.ones(len(x), "f4")))

    def variants(task: Task) -> list[Variant]:
        return [odd, fine]

    monkeypatch.setattr(opening, "_PACKAGES", (variants,))
    peers, sentences = opened(tmp_path, CPU)
    assert [peer.name for peer in peers] == ["fine"]
    assert sentences == [sentence]
