"""Modular cross-encoders through every door, with sentence-transformers as the oracle."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import modular
import numpy as np
import pytest
import torch
from modular import FLAT, PAIRS, STRUCTURED, edit, ettin, expected
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

import packrank_kernels
from packrank import InputError, ModelError, Reranker
from packrank.commands.cli import main
from packrank.runtime.fleet import run_on

Body = Callable[..., Path]
ENCODERS = {
    "Bert": "cls",
    "Roberta": "mean",
    "XLMRoberta": "max",
    "Camembert": "lasttoken",
    "Electra": ["cls", "mean"],
    "DistilBert": "weightedmean",
    "ModernBert": "mean_sqrt_len_tokens",
}
DECODERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "Qwen3": ("lasttoken", {"template": FLAT}),
    "Llama": ("mean", {"is_causal": False, "suffix": "ForCausalLM"}),
    "Mistral": (["max", "lasttoken"], {"suffix": "ForSequenceClassification"}),
    "Qwen2": ("lasttoken", {"template": STRUCTURED, "is_causal": False}),
    "Gemma": ("cls", {"is_causal": False, "suffix": "ForCausalLM"}),
    "Gemma2": ("lasttoken", {"suffix": "ForCausalLM"}),
}


@pytest.fixture
def body(
    checkpoint: Callable[..., Path], save_tokenizer: Callable[..., None], tmp_path: Path
) -> Body:
    """body("Bert") or body("Qwen3", ...): a body of transformers with a tokenizer."""

    def make(name: str, **options: Any) -> Path:
        folder = tmp_path / f"{name}-body"
        if name in ENCODERS:
            return modular.encoder_body(folder, checkpoint, save_tokenizer, name)
        return modular.decoder_body(folder, name, **options)

    return make


@pytest.fixture
def saved(body: Body, tmp_path: Path) -> Body:
    """saved("Bert", "cls", labels=3): a cross-encoder like the Ettin family's."""

    def make(name: str, modes: Any, labels: int = 1, **options: Any) -> Path:
        hidden = 48 if name not in ("Bert", "Electra", "ModernBert") else 60
        base = body(name, **options)
        return modular.save(tmp_path / "saved", base, ettin(hidden, modes, labels))

    return make


def same_scores(folder: Path, **options: Any) -> np.ndarray:
    """The scores of a folder, which are the oracle's."""
    scores = Reranker(folder, **options).score(PAIRS)
    np.testing.assert_allclose(scores, expected(folder), rtol=0, atol=1e-5)
    assert len(np.unique(scores.round(4), axis=0)) == len(PAIRS)
    return scores


# Those that the others stand for: as one runs, so do they.
ALIKE = {"XLMRoberta", "Camembert", "Qwen2", "Gemma"}


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(saved: Body, name: str, thorough: bool) -> None:
    if name in ALIKE and not thorough:
        pytest.skip("runs with --thorough")
    same_scores(saved(name, ENCODERS[name]))


@pytest.mark.parametrize("name", DECODERS)
def test_decoders(saved: Body, name: str, thorough: bool) -> None:
    """Causal or not, with a chat template or without, whatever head the body was saved with."""
    if name in ALIKE and not thorough:
        pytest.skip("runs with --thorough")
    modes, options = DECODERS[name]
    folder = saved(name, modes, **options)
    scores = same_scores(folder)
    # Nothing is shared where it would not be exact, and rank goes by the same scores.
    documents = [document for _, document in PAIRS]
    ranking = Reranker(folder).rank(PAIRS[0][0], documents)
    assert ranking == Reranker(folder, share_prefixes=False).rank(PAIRS[0][0], documents)
    assert [r.score for r in ranking if r.index == 0] == [scores[0]]


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
def test_what_the_dense_layers_may_do(body: Body, tmp_path: Path) -> None:
    """Residuals, no bias, names of their own, layers of token vectors, lengths of 1."""
    base = body("Bert")
    modules = [
        Dense(60, 60, module_input_name="token_embeddings", use_residual=True),
        Dense(60, 32, activation_function=torch.nn.SiLU(), module_input_name="token_embeddings"),
        Normalize(module_input_name="token_embeddings"),
        Pooling(32, pooling_mode=("mean", "max")),
        Normalize(),
        Dense(64, 20, bias=False, use_residual=True, module_output_name="x"),
        Dense(20, 30, activation_function=torch.nn.PReLU(), module_input_name="x"),
        Dense(64, 30, activation_function=torch.nn.Softmax(dim=1), module_output_name="y"),
        Dense(30, 3, module_input_name="x", module_output_name="scores"),
        Dense(3, 3, module_input_name="scores", activation_function=torch.nn.ELU()),
    ]
    scores = same_scores(modular.save(tmp_path / "saved", base, modules))
    assert scores.shape == (4, 3)


def test_a_prompt_that_is_not_pooled(body: Body, tmp_path: Path, thorough: bool) -> None:
    chain = ettin(60, "mean")
    prompts = {"prompts": {"q": "red red "}, "default_prompt_name": "q"}
    folder = modular.save(tmp_path / "saved", body("Bert"), chain, **prompts)
    modes = ("mean", "lasttoken", "cls", "max", "weightedmean", "mean_sqrt_len_tokens")
    for mode in modes if thorough else modes[:2]:
        config = folder / "1_Pooling/config.json"
        edit(config, include_prompt=False, pooling_mode=mode)
        left_out = same_scores(folder)
        edit(config, include_prompt=True)
        assert np.array_equal(left_out, Reranker(folder).score(PAIRS)) == (mode == "lasttoken")


@pytest.mark.parametrize("template", [None, FLAT])
def test_texts_in_lower_case(saved: Body, template: str | None) -> None:
    """Which a body may ask for whose tokenizer tells the cases apart."""
    folder = saved("Qwen3", "lasttoken", template=template)
    plain = Reranker(folder).score([("RED", "Fox"), ("red", "fox")])
    edit(folder / "sentence_bert_config.json", do_lower_case=True)
    pairs = [("RED", "Fox"), ("red", "fox"), ("É <|im_end|>", "ÀB")]
    scores = Reranker(folder).score(pairs)
    np.testing.assert_allclose(scores, expected(folder, pairs), rtol=0, atol=1e-5)
    assert scores[0] == scores[1] == plain[1]
    assert abs(plain[0] - plain[1]) > 1e-3


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize("labels", [1, 3])
def test_saved_activations(saved: Body, labels: int) -> None:
    folder = saved("Bert", "cls", labels)
    logits = torch.from_numpy(expected(folder, activation_fn=torch.nn.Identity()))
    ours = Reranker(folder, activation="identity").score(PAIRS)
    np.testing.assert_allclose(ours, logits, rtol=0, atol=1e-5)
    rows = logits.reshape(len(PAIRS), -1)
    for name in ("Tanh", "Softmax", "ReLU", "LogSigmoid", "Softplus", "Identity"):
        edit(folder / "config_sentence_transformers.json", activation_fn=f"torch.nn.{name}")
        if (name, labels) == ("Softmax", 1):  # 1.0 of each, as in sentence-transformers
            with pytest.raises(ModelError, match="a softmax makes"):
                Reranker(folder)
            continue
        scores = Reranker(folder).score(PAIRS)
        want = getattr(torch.nn, name)()(rows).reshape(scores.shape)
        np.testing.assert_allclose(scores, want, rtol=0, atol=1e-5)
    np.testing.assert_allclose(scores, expected(folder), rtol=0, atol=1e-5)


def test_company_order_and_threads_change_no_bit(
    saved: Body, restored_threads: None, thorough: bool
) -> None:
    """Also where torch computes: activations and poolings."""
    folder = saved("ModernBert", ["mean", "max", "weightedmean", "mean_sqrt_len_tokens"])
    edit(folder / "2_Dense/config.json", activation_function="torch.nn.Mish")
    words = ["red", "owl", "fox", "dog"]
    pairs = [(words[i % 4] * (i % 3 + 1), " ".join(words[: i % 5]) * (i + 1)) for i in range(13)]
    for dtype in ("float32", "bfloat16") if thorough else ("float32",):
        model = Reranker(folder, dtype=dtype)
        alone = np.concatenate([model.score([pair]) for pair in pairs])
        for threads, budget in ((1, 40), (3, 300)):
            packrank_kernels.set_num_threads(threads)
            order = np.random.default_rng(threads).permutation(len(pairs))
            other = Reranker(folder, dtype=dtype, budget_tokens=budget)
            together = other.score([pairs[i] for i in order])
            np.testing.assert_array_equal(together, alone[order])


def test_the_command_line_ranks_scores_and_tells(
    saved: Body, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved("Bert", "cls")
    whole = [pair for pair in PAIRS if all(pair)]
    want = Reranker(folder).score(whole).tolist()
    documents, pairs, out = (tmp_path / name for name in ("d.txt", "p.jsonl", "out.jsonl"))
    documents.write_text("blue fox\n")
    pairs.write_text("".join(json.dumps({"query": q, "document": d}) + "\n" for q, d in whole))
    capsys.readouterr()
    command = ["rank", str(folder), "--query", whole[0][0], "--documents", str(documents), "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["score"] == want[0]
    assert main(["score", str(folder), str(pairs), "--output", str(out), "--quiet"]) == 0
    assert [json.loads(line)["score"] for line in out.read_text().splitlines()] == want
    capsys.readouterr()
    assert main(["info", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "modular cross-encoder, cls pooled" in said
    assert "labels           1\n" in said


def test_the_command_line_ranks_by_a_label(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    labels = {"0": "no", "1": "maybe", "2": "yes"}
    folder = checkpoint("Bert", id2label=labels, label2id={v: int(k) for k, v in labels.items()})
    save_tokenizer(folder, "red blue fox owl dog snake")
    documents = tmp_path / "d.txt"
    documents.write_text("blue fox\ndog\nsnake red\n")
    texts = documents.read_text().splitlines()
    logits = Reranker(folder).score([("red", text) for text in texts])
    command = ["rank", str(folder), "--query", "red", "--documents", str(documents), "--json"]
    for option, column in (("yes", 2), ("0", 0)):
        capsys.readouterr()
        assert main([*command, "--label", option]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()[:3]]
        order = np.argsort(-logits[:, column])
        assert [row["line"] - 1 for row in rows] == order.tolist()
        assert [row["score"] for row in rows] == logits[order, column].tolist()
    assert main(command) == 2
    assert "say which with label= (--label), one of 'no', 'maybe', 'yes'" in capsys.readouterr().err
    assert main(["info", str(folder)]) == 0
    assert "labels           3: no, maybe, yes\n" in capsys.readouterr().out


def test_a_decoder_of_several_labels_is_ranked_by_one(tmp_path: Path) -> None:
    names = {0: "no", 1: "yes", 2: "maybe"}
    folder = modular.decoder_body(
        tmp_path / "classifier", "Llama", "ForSequenceClassification", num_labels=3, id2label=names
    )
    model = Reranker(folder)
    documents = [document for _, document in PAIRS]
    scores = model.score([("red", document) for document in documents])
    ranking = model.rank("red", documents, label="maybe")
    order = np.argsort(-scores[:, 2], kind="stable")
    assert [(r.index, r.score) for r in ranking] == [(i, scores[i, 2]) for i in order]
    assert ranking.num_layers.tolist() == [4] * 4


def test_every_process_gets_the_head(saved: Body, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several devices each loads by what comes to it in a message."""
    folder = saved("Bert", "mean", 3)
    here = Reranker(folder).score(PAIRS)

    def sent(devices: Any, recipe: Any) -> Any:
        return run_on(devices, pickle.loads(pickle.dumps(recipe)))

    monkeypatch.setattr("packrank.scoring.pair_model.run_on", sent)
    assert np.array_equal(Reranker(folder).score(PAIRS), here)


def test_there_is_no_layer_to_stop_at(saved: Body) -> None:
    model = Reranker(saved("Bert", "cls"))
    with pytest.raises(InputError, match="has one head, after all its layers"):
        _ = model.exit_settings


def test_heads_at_inner_layers_are_refused(saved: Body) -> None:
    folder = saved("Bert", "cls")
    edit(folder / "config.json", exit_layers=[1])
    with pytest.raises(ModelError, match="exit_layers are not supported under modules"):
        Reranker(folder)
