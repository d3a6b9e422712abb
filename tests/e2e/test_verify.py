"""`packrank verify`: right models are verified, and of wrong ones the wrong part is named."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapters import save_adapter
from colbert_folders import save_colbert
from modular import FLAT, decoder_body, edit, encoder_body, ettin, save
from reranker_folders import gemma, logit_score, minicpm, monot5, plain, qwen3
from safetensors.torch import load_file
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

from packrank import Reranker
from packrank.checkpoint.weights import Weights
from packrank.commands.cli import main
from packrank.scoring import pair_scorer
from packrank.text.pairs import TokenizerLayout
from packrank.verify import published, verification
from packrank.verify.published import Published

WORDS = "red blue fox owl dog snake how do find prey the of a in"
PAIRS = [("red fox", "blue owl"), ("red fox", "the dog of a snake"), ("", "owl"), ("dog", "")]
Make = Callable[..., Any]


class Maker:
    """Small folders of every kind, in a folder of its own."""

    def __init__(self, root: Path, checkpoint: Make, save_tokenizer: Make) -> None:
        self.root, self.checkpoint, self.save_tokenizer = root, checkpoint, save_tokenizer

    def encoder(self, name: str, suffix: str = "ForSequenceClassification", **options: Any) -> Path:
        folder = self.root / f"{name}{suffix}"
        shutil.copytree(self.checkpoint(name, suffix, **options), folder)
        self.save_tokenizer(folder, WORDS)
        if name != "Bert":
            names = ["input_ids", "attention_mask"]
            edit(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast",
                 model_input_names=names, model_max_length=38)  # fmt: skip
        return folder

    def modular(self) -> Path:
        body = encoder_body(self.root / "body", self.checkpoint, self.save_tokenizer, "ModernBert")
        return save(self.root / "modular", body, ettin(60, "mean"))

    def modular_chat(self) -> Path:
        body = decoder_body(self.root / "body", "Qwen3", template=FLAT)
        return save(self.root / "modular", body, ettin(48, "lasttoken"))

    def stanford(self) -> Path:
        save_colbert(self.checkpoint("Bert", "Model"), self.root / "colbert", "Bert")
        return self.root / "colbert"

    def multi_vector(self) -> Path:
        body = self.encoder("Bert", "Model")
        modules = [Transformer(str(body)), MultiVectorMask(["the"]),
                   Normalize(module_input_name="token_embeddings")]  # fmt: skip
        MultiVectorEncoder(modules=modules, device="cpu").save_pretrained(str(self.root / "late"))
        return self.root / "late"

    def adapter(self, **config: Any) -> Path:
        base = self.encoder("Bert", num_labels=1)
        tensors: dict[str, torch.Tensor] = {}
        for name, weight in load_file(base / "model.safetensors").items():
            module = name.removesuffix(".weight")
            if module.endswith(("query", "intermediate.dense")):
                tensors[f"{module}.lora_A.weight"] = torch.randn(3, weight.shape[1]) / 4
                tensors[f"{module}.lora_B.weight"] = torch.randn(len(weight), 3) / 4
        options = {"base_model_name_or_path": str(base), "task_type": "SEQ_CLS"}
        return save_adapter(self.root / "adapter", tensors, r=3, lora_alpha=6, **options | config)


@pytest.fixture
def maker(tmp_path: Path, checkpoint: Make, save_tokenizer: Make) -> Maker:
    return Maker(tmp_path, checkpoint, save_tokenizer)


@pytest.fixture
def bert(maker: Maker) -> Path:
    return maker.encoder("Bert", num_labels=1)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    rows = [json.dumps({"query": query, "document": document}) for query, document in PAIRS]
    path.write_text("\n".join(rows))
    return path


Verify = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Verify:
    """run(folder, ...): the status of the command, and its object; nothing is on stderr."""

    def run(folder: Path, *options: object) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        status = main(["verify", str(folder), "--json", "--device", "cpu", *map(str, options)])
        said = capsys.readouterr()
        assert said.err == ""
        found: dict[str, Any] = json.loads(said.out)
        return status, found

    return run


RIGHT: dict[str, Callable[[Maker], Path]] = {
    "bert": lambda maker: maker.encoder("Bert", num_labels=1),
    "three-labels": lambda maker: maker.encoder("Bert", num_labels=3),
    "xlm-roberta": lambda maker: maker.encoder("XLMRoberta", num_labels=1),
    "modernbert": lambda maker: maker.encoder("ModernBert", num_labels=1),
    "modular": lambda maker: maker.modular(),
    "modular-chat": lambda maker: maker.modular_chat(),
    "llama-classifier": lambda maker: plain(maker.root, "Llama").folder,
    "logit-score": lambda maker: logit_score(maker.root).folder,
    "qwen3-template": lambda maker: qwen3(maker.root).folder,
    "monot5": lambda maker: monot5(maker.root).folder,
    "stanford": lambda maker: maker.stanford(),
    "multi-vector": lambda maker: maker.multi_vector(),
    "encoder": lambda maker: maker.encoder("Bert", "Model"),
    "adapter": lambda maker: maker.adapter(),
}
# The others have a long form alone.
USUAL = ("bert", "modular", "qwen3-template", "monot5", "multi-vector", "adapter")
BY_TRANSFORMERS = ("llama-classifier", "qwen3-template", "monot5", "adapter")


@pytest.mark.parametrize("kind", RIGHT)
def test_a_right_model_is_verified(maker: Maker, run: Verify, kind: str, thorough: bool) -> None:
    """By all that is built in; roundings stay far within what is allowed them."""
    if kind not in USUAL and not thorough:
        pytest.skip("its long form alone: make proofs")
    status, found = run(RIGHT[kind](maker))
    package = "transformers 5" if kind in BY_TRANSFORMERS else "sentence-transformers 6"
    assert (status, found["verdict"]) == (0, "verified"), found["sentence"]
    assert found["reference"].startswith(package)
    assert len(found["left_out"]) <= 1  # a query that leaves no room in a prompt
    late = kind in ("stanford", "multi-vector", "encoder")
    steps = ["token vectors", "MaxSim"] if late else ["logits", "activation"]
    rows = {row["what"]: row for row in found["compared"]}
    assert list(rows) == ["token ids", *steps, "scores", "order"]
    assert rows["token ids"]["count"] == 24 - len(found["left_out"])
    assert rows["order"]["count"] == 7
    for what in (*steps, "scores"):
        assert rows[what]["largest_difference"] <= rows[what]["tolerance"] < 1e-3


@pytest.mark.parametrize("kind", ["bert", "multi-vector"])
def test_bfloat16_is_held_to_its_own_roundings(
    maker: Maker, run: Verify, kind: str, thorough: bool
) -> None:
    if kind == "multi-vector" and not thorough:
        pytest.skip("its long form alone: make proofs")
    status, found = run(RIGHT[kind](maker), "--dtype", "bfloat16")
    assert (status, found["dtype"]) == (0, "bfloat16")
    scores = next(row for row in found["compared"] if row["what"] == "scores")
    assert scores["expected"] / 20 < scores["largest_difference"] < scores["tolerance"]


def one_more(lay_out: Callable[..., Any]) -> Callable[..., Any]:
    def changed(self: Any, pairs: Any) -> Any:
        pack, failures = lay_out(self, pairs)
        ids = pack.token_ids.copy()
        ids[pack.cu_seqlens[1] + 1] += 1
        return replace(pack, token_ids=ids), failures

    return changed


def test_token_ids_are_named_first(
    bert: Path, pairs: Path, run: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TokenizerLayout, "lay_out", one_more(TokenizerLayout.lay_out))
    status, found = run(bert, "--pairs", pairs)
    assert (status, found["verdict"]) == (1, "differs")
    name = found["reference"]
    said = f"DIFFERS from {name}: token ids of 1 of 4 pairs, the first in pair 2, token 2: 6 where"
    assert found["sentence"] == f"{said} {name} has 5"
    assert found["compared"][0]["pair"] == dict(zip(("query", "document"), PAIRS[1], strict=True))
    assert found["compared"][1]["count"] == 3, "logits are compared where tokens agree"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_another_activation_is_named(
    bert: Path, pairs: Path, run: Verify, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """And in a narrow dtype, whose scores may be far apart, as well."""
    activate = pair_scorer.activate
    monkeypatch.setattr(
        pair_scorer,
        "activate",
        lambda x, name, shift: activate(x * (0.99 if name == "sigmoid" else 1), name, shift),
    )
    status, found = run(bert, "--pairs", pairs, "--dtype", dtype)
    assert (status, found["verdict"]) == (1, "differs")
    assert found["sentence"].startswith(f"DIFFERS from {found['reference']}: the activation of ")
    assert "logits" not in found["sentence"]


@pytest.mark.parametrize(
    ("kind", "step"), [("bert", "logits"), ("qwen3-template", "logits"), ("stanford", "token vec")]
)
def test_other_weights_are_named_by_what_they_make(
    maker: Maker, pairs: Path, run: Verify, monkeypatch: pytest.MonkeyPatch, kind: str, step: str
) -> None:
    """One matrix of the last layer but one, off by a thousandth."""
    folder, take = RIGHT[kind](maker), Weights.take

    def changed(self: Any, name: str, *rest: Any, **options: Any) -> torch.Tensor:
        found = take(self, name, *rest, **options)
        return (
            found * 1.001
            if "layers.1.mlp.down" in name or "layer.1.output.dense.w" in name
            else found
        )

    monkeypatch.setattr(Weights, "take", changed)
    status, found = run(folder, "--pairs", pairs)
    assert (status, found["verdict"]) == (1, "differs")
    assert found["sentence"].startswith(f"DIFFERS from {found['reference']}: {step}")
    assert "MaxSim" not in found["sentence"]
    assert "activation" not in found["sentence"]


def test_logits_that_are_no_numbers_differ(
    bert: Path, pairs: Path, run: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "packrank.verify.engine.Reranker.try_score",
        lambda self, asked, activation=None: (np.full(len(asked), np.nan, np.float32), {}),
    )
    status, found = run(bert, "--pairs", pairs)
    assert status == 1
    assert (
        "logits of 4 of 4 pairs, most in pair 1, in size, or in what is finite" in found["sentence"]
    )


def test_published_scores(
    bert: Path, pairs: Path, run: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model whose name is the folder's, in any spelling; another figure is another model."""
    right = Reranker(bert, device="cpu").score(PAIRS, activation="identity").tolist()
    folder = shutil.copytree(bert, bert.parent / "A-Name-L-6-v1")
    table = [Published("org/a-name-L6-v1", tuple(PAIRS), tuple(right), "a paper")]
    table.append(Published("org/another", tuple(PAIRS), (9.0,) * 4, "a paper"))
    monkeypatch.setattr(published, "PUBLISHED", table)
    status, found = run(folder, "--pairs", pairs)
    assert (status, len(found["published"])) == (0, 1)
    assert found["sentence"].split(" and ")[1].startswith("4 published figures agree within ")
    assert run(bert, "--pairs", pairs)[1]["published"] == []

    table[0] = replace(table[0], logits=(right[0], right[1] + 0.01, *right[2:]))
    status, found = run(folder, "--pairs", pairs)
    assert (status, found["verdict"]) == (1, "differs")
    assert "DIFFERS from published scores: org/a-name-L6-v1, a paper of 1 of 4" in found["sentence"]
    assert found["sentence"].endswith("so these may not be the weights that were published")


def test_a_published_layer_is_enough(
    maker: Maker, run: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model that no other package runs without its own code, whose token ids are compared."""
    case = minicpm(maker.root)
    status, found = run(case.folder)
    assert (status, found["verdict"]) == (2, "not compared")
    assert found["sentence"].endswith(f"(token ids of 24 pairs agree with {found['reference']})")
    want = Reranker(case.folder, device="cpu").score(PAIRS[:1], cutoff_layers=3).tolist()
    one = Published("x/minicpm", tuple(PAIRS[:1]), tuple(want), "a paper", cutoff_layer=3)
    monkeypatch.setattr(published, "PUBLISHED", [one])
    status, found = run(case.folder)
    assert (status, found["verdict"]) == (0, "verified")
    assert found["sentence"].startswith("verified: 1 published figure agrees within ")
    assert "; not compared: transformers" in found["sentence"]


def test_a_template_and_an_instruction_reach_both(maker: Maker, pairs: Path, run: Verify) -> None:
    folder = gemma(maker.root).folder.rename(maker.root / "a-tune")
    status, found = run(folder, "--template", "bge-gemma", "--max-length", 30, "--pairs", pairs)
    assert (status, found["verdict"]) == (0, "verified"), found["sentence"]
    shutil.rmtree(folder)
    folder = qwen3(maker.root).folder
    status, found = run(folder, "--instruction", "find the owl", "--pairs", pairs)
    assert (status, found["verdict"]) == (0, "verified"), found["sentence"]


def test_a_limit_reaches_both(bert: Path, maker: Maker, pairs: Path, run: Verify) -> None:
    assert run(bert, "--pairs", pairs, "--max-length", 7)[1]["verdict"] == "verified"
    options = ("--query-length", 6, "--document-length", 5)
    assert run(maker.multi_vector(), "--pairs", pairs, *options)[1]["verdict"] == "verified"


def test_without_the_other_packages(
    bert: Path, maker: Maker, pairs: Path, run: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers alone runs a classifier; without it nothing is compared."""
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    status, found = run(bert, "--pairs", pairs)
    assert (status, found["reference"].split()[0]) == (0, "transformers")
    assert [row["what"] for row in found["compared"]][2] == "activation"
    late = run(maker.multi_vector(), "--pairs", pairs)
    assert (late[0], late[1]["sentence"]) == (2, "not compared: install sentence-transformers 6")
    monkeypatch.setitem(sys.modules, "transformers", None)
    status, found = run(bert, "--pairs", pairs)
    assert (status, found["sentence"]) == (2, "not compared: install transformers")


def test_an_adapter_that_is_more_than_products_is_not_compared(
    maker: Maker, pairs: Path, run: Verify
) -> None:
    status, found = run(maker.adapter(alpha_pattern={"query": 3}), "--pairs", pairs)
    assert (status, found["verdict"]) == (2, "not compared")
    assert "it is an adapter with alpha_pattern; merge it (peft: " in found["sentence"]


def test_an_adapter_beside_its_base_is_not_overlooked(
    maker: Maker, pairs: Path, run: Verify
) -> None:
    """By transformers, which overlooks it where peft is not installed."""
    adapter = maker.adapter(base_model_name_or_path=None)
    base = maker.root / "BertForSequenceClassification"
    shutil.copytree(adapter, base, dirs_exist_ok=True)
    status, found = run(base, "--pairs", pairs)
    assert (status, found["verdict"]) == (0, "verified"), found["sentence"]


def test_the_table(
    bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verdict comes last; a bad record of the user's is named, and the status says so."""
    path = tmp_path / "pairs.csv"
    path.write_text("query,document\nred fox,owl\nred fox,dog\n")
    assert main(["verify", str(bert), "--pairs", str(path)]) == 0
    head, *rows, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["compared", "number", "differing", "largest", "tolerance"]
    assert rows[0].split() == ["token", "ids", "2", "pairs", "0", "-", "-"]
    assert rows[4].split() == ["order", "1", "queries", "0", "-", "-"]
    assert last.startswith("verified: 2 pairs agree with sentence-transformers 6")

    path = tmp_path / "pairs.jsonl"
    path.write_text('{"query": "red", "document": "owl"}\n{"query": "red"}\n')
    assert main(["verify", str(bert), "--pairs", str(path), "--dtype", "bfloat16"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("packrank: line 2 was left out: ")
    assert "scores are expected to be " in said.out.splitlines()[-2]

    monkeypatch.setattr(TokenizerLayout, "lay_out", one_more(TokenizerLayout.lay_out))
    assert main(["verify", str(bert)]) == 1
    *_, shown, last = capsys.readouterr().out.splitlines()
    assert shown.startswith("such a pair      'how do snakes find their prey', 'An owl hears")
    assert last.startswith("DIFFERS from sentence-transformers")


@pytest.mark.parametrize(
    ("kind", "option"), [("bert", "--query-length"), ("encoder", "--max-length")]
)
def test_an_option_of_the_other_kind_is_refused(
    maker: Maker, capsys: pytest.CaptureFixture[str], kind: str, option: str
) -> None:
    assert main(["verify", str(RIGHT[kind](maker)), option, "9"]) == 2
    assert capsys.readouterr().err.startswith(f"packrank: {option} is for ")


def test_long_pairs_of_a_long_model_are_tokenized_alone(
    bert: Path, run: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "LONGEST_RUN", 30)
    _, found = run(bert)
    assert [row["count"] for row in found["compared"]] == [24, 22, 22, 22, 7]
