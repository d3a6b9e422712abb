"""What a caller may say of how a reranker is used, and one sentence for what makes no sense."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoders import SIZES, save_tokenizer
from prompts import byte_bpe

from packrank import InputError, PackrankError, Reranker
from packrank.scoring.assembly import Assembly, Options, assemble

USUAL = Options(
    max_length=None,
    truncation="longest_first",
    template=None,
    instruction=None,
    compress_ratio=1,
    compress_layers=(8,),
    head_index="upstream",
    share_prefixes=True,
)
MINICPM, GEMMA2 = "LayerWiseMiniCPMForCausalLM", "CostWiseGemmaForCausalLM"
QWEN2, QWEN3 = "Qwen2ForCausalLM", "Qwen3ForCausalLM"


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """write("Qwen2ForCausalLM", start_layer=2): a folder without weights."""

    def make(architecture: str, **values: Any) -> Path:
        folder = tmp_path_factory.mktemp("model")
        backend = byte_bpe("<pad>", "<s>", "<|im_start|>", "<|im_end|>")
        raw = SIZES | {"architectures": [architecture], "max_position_embeddings": 600}
        raw |= {"start_layer": 2, "layer_sep": 1, "layer_wise": True} | values
        raw["vocab_size"] = backend.get_vocab_size()
        (folder / "config.json").write_text(json.dumps(raw))
        return save_tokenizer(folder, backend, bos_token="<s>", pad_token="<pad>")

    return make


@pytest.fixture(scope="module")
def minicpm(write: Callable[..., Path]) -> Path:
    return write(MINICPM, start_layer=2)


def assembled(folder: Path, **options: Any) -> Assembly:
    return assemble(folder, str(folder), replace(USUAL, **options))


def refused(folder: Path, words: str, **options: Any) -> None:
    with pytest.raises(PackrankError) as raised:
        assembled(folder, **options)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("asked", "layers", "columns"),
    [
        (None, None, None),
        (4, None, None),
        (3, (3,), None),
        (np.int64(3), (3,), None),
        ([3], (3,), [0]),
        ([4], (4,), [0]),
        ((4, 2), (2, 4), [1, 0]),
        ([3, 2, 3], (2, 3), [1, 0, 1]),
        (np.arange(2, 5), (2, 3, 4), [0, 1, 2]),
        (range(4, 1, -1), (2, 3, 4), [2, 1, 0]),
        ((layer for layer in (2, 4)), (2, 4), [0, 1]),
    ],
)
def test_cutoff_layers(minicpm: Path, asked: Any, layers: Any, columns: Any) -> None:
    assembly = assembled(minicpm)
    assert assembly.exit_layers == (2, 3, 4)
    assert assembly.cutoffs(asked) == (layers, columns)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (1, "cutoff_layers is 1, and the model has heads after 2 to 4 layers"),
        (5, "cutoff_layers is 5, and"),
        (0, "cutoff_layers is 0, and"),
        (True, "cutoff_layers is True, and"),
        (3.0, "cutoff_layers is 3.0, and"),
        (np.float32(3), "cutoff_layers is np.float32(3.0), and"),
        ([2, 9], "cutoff_layers[1] is 9, and"),
        ([2, True], "cutoff_layers[1] is True, and"),
        (["2"], "cutoff_layers[0] is '2', and"),
        ([None], "cutoff_layers[0] is None, and"),
        ([[2]], "cutoff_layers[0] is [2], and"),
        ("3", "cutoff_layers is a str, expected a sequence of numbers of layers"),
        (b"\x02", "cutoff_layers is a bytes, expected a sequence of numbers"),
        ({2, 3}, "cutoff_layers is a set, expected a sequence of numbers"),
        ([], "cutoff_layers is empty; leave it out to run all layers"),
    ],
)
def test_layers_without_a_head(minicpm: Path, asked: Any, words: str) -> None:
    with pytest.raises(InputError) as raised:
        assembled(minicpm).cutoffs(asked)
    assert words in str(raised.value)


def test_layers_are_named_that_do_not_follow_one_another(write: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="has heads after 2, 4 layers"):
        assembled(write(GEMMA2, start_layer=2, layer_sep=2)).cutoffs(3)
    labels = {"id2label": {"0": "a", "1": "b"}, "num_labels": 2}
    several = assembled(write("LlamaForSequenceClassification", **labels))
    assert several.cutoffs(4) == (None, None)
    with pytest.raises(InputError, match="has its only head after all 4 layers"):
        several.cutoffs(2)
    with pytest.raises(InputError, match="the model has several labels and is scored after one"):
        several.cutoffs([4])


@pytest.mark.parametrize("ratio", [3, 0, -2, 16, True, 2.0, "2", None, [2], np.array([1, 2])])
def test_ratios_that_there_are_not(write: Callable[..., Path], ratio: Any) -> None:
    refused(write(GEMMA2, start_layer=1), "expected one of 1, 2, 4, 8", compress_ratio=ratio)


@pytest.mark.parametrize("layer", [-1, True, 2.0, "8", [1], None])
def test_layers_to_compress_before(minicpm: Path, layer: Any) -> None:
    refused(minicpm, "expected numbers of layers", compress_layers=(8, layer))


def test_compression_is_for_one_model(write: Callable[..., Path], minicpm: Path) -> None:
    folder = write(GEMMA2, start_layer=1)
    causal = assembled(folder, compress_ratio=2, compress_layers=(1, 3)).causal
    assert causal is not None
    assert (causal.compress_ratio, causal.compress_layers) == (2, (1, 3))
    assert causal.tail > 0
    words = f"compress_ratio is for bge-reranker-v2.5-gemma2-lightweight; {MINICPM} was not trained"
    refused(minicpm, words, compress_ratio=2)
    words = "compression keeps prefixes apart; leave share_prefixes on"
    refused(folder, words, compress_ratio=2, share_prefixes=False)


def test_only_one_model_has_upstreams_heads(write: Callable[..., Path], minicpm: Path) -> None:
    assembly = assembled(write(GEMMA2, start_layer=1))
    assert assembly.causal is not None and assembly.causal.head_index == "upstream"
    with pytest.raises(InputError, match='pass head_index="layer"'):
        assembly.check_exits()
    assembled(write(GEMMA2, start_layer=1), head_index="layer").check_exits()
    assembled(minicpm).check_exits()


@pytest.mark.parametrize(
    ("architecture", "options", "words"),
    [
        (QWEN3, {}, "what makes it a reranker; pass template= (--template), one of 'bge-gemma', "),
        (QWEN3, {"template": "qwen4"}, "template is 'qwen4', expected one of 'bge-gemma', "),
        (QWEN3, {"template": 3}, "template is 3, expected one of"),
        (QWEN3, {"template": "pair"}, 'template "pair" does not say which tokens score'),
        (QWEN2, {"template": "bge-minicpm-layerwise"}, f"and {QWEN2} has neither a classifier"),
        (QWEN3, {"template": "qwen3", "max_length": 2**21}, "2097152, but the model has 1048576"),
        (QWEN3, {"template": "qwen3", "max_length": 9}, "which the prompt leaves no token of for"),
        (MINICPM, {"max_length": 1}, "max_length is 1, which the prompt leaves no token of for"),
        (MINICPM, {"max_length": 2**20}, "but the model has 1048576 positions, "),
        (MINICPM, {"instruction": "find"}, "the model's prompt has no place for an instruction"),
        (QWEN3, {"template": "qwen3", "instruction": 3}, "instruction is a int, expected a str"),
        (QWEN3, {"template": "qwen3", "instruction": "\ud800"}, "holds a lone surrogate"),
        ("LlamaForSequenceClassification", {"instruction": "find"}, "takes no instruction"),
    ],
)
def test_templates_that_do_not_fit(
    write: Callable[..., Path], architecture: str, options: dict[str, Any], words: str
) -> None:
    refused(write(architecture), words, **options)


@pytest.mark.parametrize(
    ("template", "token"), [("mxbai-v2", "1"), ("qwen3", "yes"), ("bge-gemma", "Yes")]
)
def test_a_scoring_token_that_the_vocabulary_has_not(
    write: Callable[..., Path], template: str, token: str
) -> None:
    folder = write(QWEN3)
    raw = json.loads((folder / "tokenizer.json").read_text())
    raw["added_tokens"] = [one for one in raw["added_tokens"] if one["content"] != token]
    vocab = raw["model"]["vocab"]
    if token in vocab:  # another takes its place, so that it is still one of bytes
        raw["pre_tokenizer"] = None
        vocab["<other>"] = vocab.pop(token)
        raw["model"]["merges"] = []
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    refused(folder, f"the tokenizer has no token {token!r}, which the template ", template=template)


@pytest.fixture(scope="module")
def encoder(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "model"
    shutil.copytree(checkpoint("Bert", num_labels=1), folder)
    save_tokenizer(folder, "red blue fox owl")
    return folder


def test_encoders_have_neither_templates_nor_layers(encoder: Path) -> None:
    words = "template 'qwen3' is for decoders, and BertForSequenceClassification is none"
    refused(encoder, words, template="qwen3")
    refused(encoder, "takes no instruction", instruction="find")
    refused(encoder, "compress_ratio is for bge", compress_ratio=2)
    model = Reranker(encoder, template="pair")
    assert model.exit_layers == (3,)
    pairs = [("red", "fox"), ("red", "blue owl")]
    for layers, shape in ((None, (2,)), (3, (2,)), ([3], (2, 1))):
        scores = model.score(pairs, cutoff_layers=layers)
        assert scores.shape == shape
        np.testing.assert_array_equal(scores.reshape(2), model.score(pairs))
    with pytest.raises(
        InputError, match="is 2, and the model has its only head after all 3 layers"
    ):
        model.score(pairs, cutoff_layers=2)
    with pytest.raises(InputError, match=r"cutoff_layers\[0\] is 1, and"):
        model.score(pairs, cutoff_layers=[1])
    with pytest.raises(InputError, match="cutoff_layer is True, and"):
        model.rank("red", ["fox"], cutoff_layer=True)
    assert model.rank("red", ["fox"], cutoff_layer=3).num_layers.tolist() == [3]


@pytest.mark.parametrize(
    ("architecture", "template", "max_length"),
    [
        (MINICPM, "bge-minicpm-layerwise", None),
        (QWEN3, "qwen3", 300),
        ("LlamaForSequenceClassification", None, None),
    ],
)
def test_margins_hold_for_these_settings(
    write: Callable[..., Path], architecture: str, template: str | None, max_length: int | None
) -> None:
    values = {"start_layer": 2, "id2label": {"0": "a"}}
    options = {} if template is None else {"template": template}
    assembly = assembled(write(architecture, **values), max_length=max_length, **options)
    assert assembly.exit_settings == {
        "template": template,
        "instruction": None,
        "max_length": max_length or assembly.layout.max_length,
        "truncation": "longest_first",
        "head_index": "layer",
        "compress_ratio": 1,
        "compress_layers": [],
    }
