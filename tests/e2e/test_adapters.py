"""LoRA adapters through every door: scores are those of the merged model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapters import save_adapter
from reranker_folders import PAIRS, Case
from safetensors.torch import load_file, save_file
from torch import Tensor

from packrank import LateInteraction, Reranker
from packrank.commands.cli import main
from packrank.errors import ModelError

WORDS = "red blue fox owl"
QUERY, DOCUMENTS = "red fox", ["blue owl", "fox fox owl red", "", "owl"]


def lora(base: Path, ends: tuple[str, ...], rank: int = 3) -> tuple[dict[str, Tensor], Any]:
    """Random LoRA tensors of matrices with these names, and the base's weights once merged."""
    weights = load_file(base / "model.safetensors")
    tensors = {}
    for name, weight in list(weights.items()):
        module = name.removesuffix(".weight")
        if not module.endswith(ends):
            continue
        up = torch.randn(len(weight), rank) / 4
        down = torch.randn(rank, weight.shape[1]) / 4
        tensors |= {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}
        weights[name] = (weight.double() + 2 * (up.double() @ down.double())).float()
    assert tensors
    return tensors, weights


def merged(base: Path, folder: Path, weights: dict[str, Tensor], **config: Any) -> Path:
    """The folder that a merged model would be saved as."""
    shutil.copytree(base, folder)
    save_file(weights, folder / "model.safetensors")
    raw = json.loads((base / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


MODULE = "sentence_transformers.models.Transformer"
KEYS = {"r": 3, "lora_alpha": 6}
ENDS = {
    "Bert": ("query", "value", "intermediate.dense"),
    "XLMRoberta": ("key", "output.dense"),
    "Electra": ("query", "embeddings_project"),
    "DistilBert": ("q_lin", "ffn.lin2"),
    "ModernBert": ("Wqkv", "mlp.Wi", "Wo"),
}


@pytest.mark.parametrize("family", ENDS)
def test_a_cross_encoder(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path: Path,
    family: str,
) -> None:
    """An adapter beside its base, and one alone, score as the merged model to the bit."""
    base = tmp_path / "base"
    types = {"type_vocab_size": 2} if family == "XLMRoberta" else {}
    shutil.copytree(checkpoint(family, num_labels=1, **types), base)
    tensors, weights = lora(base, ENDS[family])
    save_tokenizer(base, WORDS)
    plain = Reranker(base).score([(QUERY, DOCUMENTS[0])])
    want = Reranker(merged(base, tmp_path / "merged", weights)).rank(QUERY, DOCUMENTS)
    alone = save_adapter(
        tmp_path / "alone", tensors, base_model_name_or_path=str(base), task_type="SEQ_CLS", **KEYS
    )
    assert Reranker(alone).rank(QUERY, DOCUMENTS) == want
    assert abs(Reranker(alone).score([(QUERY, DOCUMENTS[0])]) - plain) > 1e-4
    assert Reranker(save_adapter(base, tensors, **KEYS)).rank(QUERY, DOCUMENTS) == want


def test_a_head_that_the_base_has_not(
    checkpoint: Callable[..., Path], save_tokenizer: Callable[..., None], tmp_path: Path
) -> None:
    """Trained whole on a plain encoder; the names are those of the classifier."""
    base = tmp_path / "base"
    shutil.copytree(checkpoint("Bert", "Model"), base)
    tensors, weights = lora(base, ("query",))
    head = {"classifier.weight": torch.randn(1, 60), "classifier.bias": torch.randn(1)}
    named = {f"bert.{name}": x for name, x in weights.items()} | head
    folder = merged(
        base,
        tmp_path / "merged",
        named,
        architectures=["BertForSequenceClassification"],
        id2label={"0": "relevance"},
    )
    save_tokenizer(folder, WORDS)
    alone = save_adapter(
        tmp_path / "alone",
        {f"bert.{name}": x for name, x in tensors.items()} | head,
        base_model_name_or_path=str(base),
        task_type="SEQ_CLS",
        **KEYS,
    )
    save_tokenizer(alone, WORDS)  # the base has none
    assert Reranker(alone).rank(QUERY, DOCUMENTS) == Reranker(folder).rank(QUERY, DOCUMENTS)


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("qwen3", ("q_proj", "down_proj")),
        ("mxbai-v2", ("k_proj", "gate_proj", "lm_head")),
        ("bge-minicpm-layerwise", ("v_proj", "o_proj")),
        ("llama", ("up_proj", "score")),
    ],
)
def test_a_decoder_is_recognised_by_its_base(
    reranker_case: Callable[[str], Case], tmp_path: Path, name: str, ends: tuple[str, ...]
) -> None:
    case = reranker_case(name)
    tensors, weights = lora(case.folder, ends)
    folder = merged(case.folder, tmp_path / "merged" / case.folder.name, weights)
    alone = save_adapter(
        tmp_path / "mine", tensors, base_model_name_or_path=str(case.folder), **KEYS
    )
    query, documents = PAIRS[0][0], [document for _, document in PAIRS[:3]]
    want = Reranker(folder, **case.options).rank(query, documents)
    assert Reranker(alone, **case.options).rank(query, documents) == want
    assert want != case.open().rank(query, documents)


def test_late_interaction_of_an_adapter_in_a_module(
    checkpoint: Callable[..., Path], save_tokenizer: Callable[..., None], tmp_path: Path
) -> None:
    """PyLate and sentence-transformers save adapters as their first module."""
    base = checkpoint("Bert", "Model")
    tensors, weights = lora(base, ("query", "value"))
    for folder in (tmp_path / "late", merged(base, tmp_path / "merged", weights)):
        folder.mkdir(exist_ok=True)
        save_tokenizer(folder, WORDS)
        (folder / "modules.json").write_text(
            json.dumps([{"path": "", "type": MODULE}, {"path": "1_Dense", "type": "pylate.Dense"}])
        )
        (folder / "config_sentence_transformers.json").write_text('{"query_length": 9}')
        (folder / "1_Dense").mkdir()
        sizes = {"in_features": 60, "out_features": 8, "bias": False}
        (folder / "1_Dense/config.json").write_text(json.dumps(sizes))
        torch.manual_seed(3)
        save_file({"linear.weight": torch.randn(8, 60)}, folder / "1_Dense/model.safetensors")
    save_adapter(
        tmp_path / "late", tensors, base_model_name_or_path=str(base), task_type=None, **KEYS
    )
    ours, whole = (LateInteraction(tmp_path / name) for name in ("late", "merged"))
    assert ours.rank(QUERY, DOCUMENTS) == whole.rank(QUERY, DOCUMENTS)
    assert ours.identity["vectors"] != whole.identity["vectors"]


def test_an_adapter_over_a_late_interaction_model(
    checkpoint: Callable[..., Path], save_tokenizer: Callable[..., None], tmp_path: Path
) -> None:
    """It would be scored without the projection that its base has."""
    base = tmp_path / "base"
    shutil.copytree(checkpoint("Bert", "Model"), base)
    save_tokenizer(base, f"{WORDS} [unused0] [unused1]")
    tensors, _ = lora(base, ("query",))
    keys = {"base_model_name_or_path": str(base)} | KEYS
    alone = save_adapter(tmp_path / "alone", tensors, **keys)
    LateInteraction(alone)
    (base / "artifact.metadata").write_text('{"dim": 8}')
    with pytest.raises(ModelError, match="an adapter over a Stanford ColBERT and says"):
        LateInteraction(alone)


def test_commands(
    model: Path, documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors, weights = lora(model, ("query",))
    alone = save_adapter(tmp_path / "alone", tensors, base_model_name_or_path=str(model), **KEYS)
    whole = merged(model, tmp_path / "merged", weights)
    pairs, shown = tmp_path / "pairs.jsonl", {}
    pairs.write_text('{"query": "red fox", "document": "blue owl"}\n')
    for folder in (alone, whole):
        capsys.readouterr()
        ask = ["--query", QUERY, "--documents", str(documents)]
        assert main(["rank", str(folder), *ask]) == 0
        out = folder / "scores.jsonl"
        assert main(["score", str(folder), str(pairs), "--output", str(out)]) == 0
        assert main(["info", str(folder)]) == 0
        said = capsys.readouterr().out.replace(str(folder), "FOLDER")
        said = said.replace(f"adapter          LoRA, merged into {model}\n", "")
        shown[folder.name] = said, out.read_text()
    assert shown["alone"] == shown["merged"]


def test_encode(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    documents: Path,
    tmp_path: Path,
) -> None:
    """A store of one adapter is refused to another over the same base."""
    base = tmp_path / "base"
    shutil.copytree(checkpoint("Bert", "Model"), base)
    tensors, _ = lora(base, ("query",))
    save_tokenizer(base, WORDS)
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, alpha in ((first, 6), (second, 7)):
        keys = {"base_model_name_or_path": str(base), "r": 3, "lora_alpha": alpha}
        save_adapter(folder, tensors, **keys)
    store = tmp_path / "store"
    assert main(["encode", str(first), str(documents), str(store)]) == 0
    found = LateInteraction(first, store=store).rank(QUERY)
    assert len(found) == 2
    with pytest.raises(Exception, match="another model"):
        LateInteraction(second, store=store)


@pytest.mark.parametrize("way", ["info", "rank"])
def test_what_cannot_be_merged(
    model: Path, documents: Path, one_sentence: Callable[..., None], tmp_path: Path, way: str
) -> None:
    tensors, _ = lora(model, ("query",))
    save_adapter(model, tensors, peft_type="IA3")
    words = ["--query", "x", "--documents", str(documents)] if way == "rank" else []
    assert main([way, str(model), *words]) == 2
    one_sentence("is a IA3 adapter, not a LoRA; merge it into its base (peft: merge_and_unload")


def test_a_tied_head_that_is_adapted_by_half(
    reranker_case: Callable[[str], Case], tmp_path: Path
) -> None:
    """peft scores otherwise before it is merged than after."""
    case = reranker_case("qwen3")
    weights = load_file(case.folder / "model.safetensors")
    rows, columns = weights["model.embed_tokens.weight"].shape
    tensors = {
        "model.embed_tokens.lora_embedding_A": torch.randn(3, rows),
        "model.embed_tokens.lora_embedding_B": torch.randn(columns, 3),
    }
    alone = save_adapter(
        tmp_path / "mine", tensors, base_model_name_or_path=str(case.folder), **KEYS
    )
    with pytest.raises(ModelError, match="embed_tokens and lm_head, which are one matrix"):
        Reranker(alone, **case.options)
    both = dict.fromkeys(
        ("lm_head.weight", "model.embed_tokens.weight"), weights["model.embed_tokens.weight"]
    )
    save_adapter(alone, both, base_model_name_or_path=str(case.folder), **KEYS)
    query, documents = PAIRS[0]
    ours = Reranker(alone, **case.options).score([(query, documents)])
    np.testing.assert_array_equal(ours, case.open().score([(query, documents)]))
