"""What packrank.CrossEncoder refuses, and with what words."""

import builtins
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from toy_model import Open

from packrank import CrossEncoder, InputError, ModelError, PairError
from packrank.checkpoint.config import Activation
from packrank.drop_in import cross_encoder


@pytest.fixture
def opened(toy: Open, tmp_path: Path) -> Callable[..., CrossEncoder]:
    def load(labels: int = 1, **options: Any) -> CrossEncoder:
        toy({"num_labels": labels})
        return CrossEncoder(tmp_path, **options)

    return load


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trust_remote_code": True}, "Packrank runs no code of a model's"),
        ({"backend": "onnx"}, "backend is 'onnx', and Packrank has kernels of its own"),
        ({"modules": [1]}, "modules are torch's, which Packrank does not run"),
        ({"keep_in_fp32_modules": ["0.x"]}, "the scoring head is in float32 in any case"),
        ({"num_labels": 3}, "num_labels is 3, and the model has 1; leave it out"),
        ({"config_kwargs": {"num_labels": 2}}, "num_labels is 2, and the model has 1"),
        ({"config_kwargs": {"hidden_size": 2}}, "config_kwargs holds 'hidden_size'"),
        ({"model_kwargs": {"quantization_config": 1}}, "model_kwargs holds 'quantization_config'"),
        ({"model_kwargs": [1]}, "model_kwargs is a list, expected a dict"),
        ({"model_kwargs": {"device_map": {"": 0}}}, "device_map lays a model out over devices"),
        ({"model_kwargs": {"dtype": "float16"}}, "on the CPU use 'bfloat16'"),
        ({"processor_kwargs": {"truncation_side": "left"}}, "holds 'truncation_side'"),
        ({"processor_kwargs": {"padding_side": "left"}}, "holds 'padding_side'"),
        ({"activation_fn": "tanh"}, "activation_fn is 'tanh', expected a function of tensors"),
        ({"default_prompt_name": "x"}, "there is no prompt 'x'; there is none"),
        ({"default_prompt_name": ""}, "there is no prompt ''; there is none"),
        ({"activation_fn": torch.nn.Tanh}, "activation_fn is the class Tanh, expected an instance"),
        (
            {"default_prompt_name": "x", "prompts": {"y": ""}},
            "there is no prompt 'x'; there is 'y'",
        ),
        ({"max_length": 0}, "max_length is 0, expected a whole number"),
        ({"device": "mps"}, "device 'mps' is not supported; there are 'cpu' and 'cuda'"),
    ],
    ids=str,
)
def test_what_cannot_be_served_is_refused(
    opened: Callable[..., CrossEncoder], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        opened(**{"device": "cpu"} | options)
    assert message in str(caught.value)


def test_a_model_has_to_be_named() -> None:
    with pytest.raises(InputError, match="model_name_or_path is None"):
        CrossEncoder()


def test_a_name_without_organisation_is_of_cross_encoder(monkeypatch: Any) -> None:
    asked: list[tuple[str, Any]] = []

    def refuse(name: str, **options: Any) -> str:
        asked.append((name, options["revision"]))
        raise OSError("not here")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    for name in ("ms-marco-MiniLM-L6-v2", "org/model"):
        with pytest.raises(ModelError):
            CrossEncoder(name, revision="v1")
    assert asked == [("cross-encoder/ms-marco-MiniLM-L6-v2", "v1"), ("org/model", "v1")]


def test_a_pair_that_cannot_be_scored_is_named(opened: Callable[..., CrossEncoder]) -> None:
    pairs: list[Any] = [["q", "a"]] * 200 + [["q", None]]
    for bar in (False, True):
        with pytest.raises(PairError, match="pair 200: the document is a NoneType") as caught:
            opened().predict(pairs, show_progress_bar=bar)
        assert caught.value.index == 200


@pytest.mark.parametrize("inputs", ["q", 3, None, {"a": "b"}, np.float32(1)])
def test_inputs_that_are_no_pairs_are_refused(
    opened: Callable[..., CrossEncoder], inputs: Any
) -> None:
    with pytest.raises(InputError, match=r"inputs is a .*, expected a sequence of"):
        opened().predict(inputs)


class Column:
    """What a column of a table is: it has a length and yields its rows."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)


def test_whatever_yields_pairs_is_scored(opened: Callable[..., CrossEncoder]) -> None:
    model = opened()
    rows = [["q", "a"], ["q", "b"]]
    for inputs in (Column(rows), iter(rows), (row for row in rows), zip("qq", "ab", strict=True)):
        assert model.predict(inputs).tolist() == [1.0, 2.0]


def test_rank_is_for_one_label(opened: Callable[..., CrossEncoder]) -> None:
    with pytest.raises(InputError, match="the model has 3 labels and rank needs one score"):
        opened(3).rank("q", ["a"])
    with pytest.raises(InputError, match="query is a int, expected a str"):
        opened().rank(3, ["a"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unexpected keyword argument 'topk'"):
        opened().rank("q", ["a"], topk=3)
    with pytest.raises(InputError, match="batch_size is 0, expected a whole number"):
        opened().rank("q", ["a"], batch_size=0)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fit", "trains, and Packrank scores; train with sentence_transformers.CrossEncoder"),
        ("save_pretrained", "copy its folder"),
        ("half", "leave it out on a CPU"),
        ("model.half", "leave it out on a CPU"),
        ("model.tokenizer", "is the CrossEncoder's"),
        ("float", "model_kwargs="),
        ("model.layers", "torch's module"),
        ("parameters", "predict and rank score"),
        ("no_such_thing", "CrossEncoder has no attribute 'no_such_thing'"),
    ],
)
def test_what_is_not_there_says_why(
    opened: Callable[..., CrossEncoder], name: str, words: str
) -> None:
    with pytest.raises(AttributeError) as caught:
        attrgetter(name)(opened())
    assert words in str(caught.value)


def test_without_transformers_the_tokenizer_is_missing_by_name(
    opened: Callable[..., CrossEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, real = opened(), builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "transformers":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for name in ("tokenizer", "config"):
        with pytest.raises(AttributeError, match="pip install transformers"):
            getattr(model, name)
    assert model.predict(["q", "a"]) == 1.0


def test_activations_that_files_may_name_have_torchs_modules() -> None:
    assert set(cross_encoder._ACTIVATIONS) == set(get_args(Activation)) - {"normalized"}


def test_an_argument_by_both_its_names_is_refused(opened: Callable[..., CrossEncoder]) -> None:
    with pytest.raises(TypeError, match="sentences is an older name of inputs; give one of them"):
        opened().predict(inputs=["q", "a"], sentences=["q", "a"])


def test_a_device_is_the_same_by_either_name(
    opened: Callable[..., CrossEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened()
    monkeypatch.setattr(model.reranker, "_devices", [torch.device("cuda")])
    assert model.to("cuda:0") is model.to(torch.device("cuda")) is model
    assert model.start_multi_process_pool(["cuda:0"])["reranker"] is model.reranker
    with pytest.raises(InputError, match="device is 'cuda:1', and the model is on cuda"):
        model.to("cuda:1")


def test_it_computes_in_float32_unless_asked(
    opened: Callable[..., CrossEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    reranker = opened().reranker
    monkeypatch.setattr(
        cross_encoder, "Reranker", lambda *_, dtype, **__: asked.append(dtype) or reranker
    )
    opened()
    for name in ("dtype", "torch_dtype"):
        opened(model_kwargs={name: "auto"})
    assert asked == ["float32", "auto", "auto"]


@pytest.mark.parametrize(
    ("function", "made"),
    [
        (lambda x: x.mean(0, keepdim=True), r"a Tensor of shape \(1, 1\)"),
        (lambda x: x.sum(), r"a Tensor of shape \(\)"),
        (lambda x: x.numpy(), r"a ndarray of shape \(2, 1\)"),
    ],
    ids=["one row", "a number", "an array"],
)
def test_an_activation_makes_a_score_of_each_row(
    opened: Callable[..., CrossEncoder], function: Any, made: str
) -> None:
    with pytest.raises(InputError, match=f"activation_fn made {made} of logits of shape"):
        opened().predict([["q", "a"], ["q", "b"]], activation_fn=function)


@pytest.mark.parametrize("function", [lambda x: x.double(), lambda x: x > 0, lambda x: x.half()])
def test_scores_are_float32(opened: Callable[..., CrossEncoder], function: Any) -> None:
    assert opened().predict([["q", "a"]], activation_fn=function).dtype == np.float32
