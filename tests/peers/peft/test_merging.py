"""Adapters that peft, transformers and sentence-transformers save score as they say themselves."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from peft.tuners.tuners_utils import check_target_module_exists
from sentence_transformers import CrossEncoder, SentenceTransformer

from packrank import LateInteraction, Reranker
from packrank.checkpoint.adapter import Adapter
from packrank.checkpoint.files import read_object
from packrank.errors import ModelError
from packrank.models import CausalSettings, load_model
from packrank.request import Pack, Sequence

WORDS = "red blue fox owl"
PAIRS = [("red fox", "blue owl"), ("fox", "owl owl red"), ("owl", "")]
FAMILIES: dict[str, Any] = {
    "Bert": ["query", "value", "dense"],
    "Roberta": ["query", "key"],
    "Electra": ["key", "embeddings_project"],
    "DistilBert": ["q_lin", "lin1"],
    "ModernBert": ["Wqkv", "Wi", "Wo"],
    "Qwen2": "all-linear",
    "Gemma": r".*layers\.1\.(self_attn\.q_proj|mlp\.down_proj)",
}
EMBEDDINGS = {"ModernBert": "tok_embeddings", "Qwen2": "embed_tokens", "Gemma": "embed_tokens"}
DECODER = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "head_dim": 8,
    "vocab_size": 97,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"lora_alpha": 9},
    "rank-stabilised": {"lora_alpha": 9, "use_rslora": True},
    "magnitudes": {"use_dora": True},
    "all biases": {"bias": "all"},
    "own biases": {"bias": "lora_only"},
    "patterns": {"rank_pattern": {"query": 2, "layers.1.*": 3}, "alpha_pattern": {".*1.*": 5}},
    "transposed": {"fan_in_fan_out": True},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "some layers": {"layers_to_transform": [1]},
    "biased": {"lora_bias": True},
    "embedding": {},
}


def base_of(name: str, suffix: str, folder: Path, checkpoint: Callable[..., Path]) -> Path:
    if name in ("Qwen2", "Gemma"):
        config = getattr(transformers, f"{name}Config")(**DECODER, num_labels=1)
        getattr(transformers, f"{name}{suffix}")(config).save_pretrained(folder)
        return folder
    return Path(shutil.copytree(checkpoint(name, suffix, num_labels=1), folder))


def trained(model: Any) -> Any:
    """As if: every value that training would change is another."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad or "modules_to_save" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def sequences() -> list[Sequence]:
    rng = np.random.default_rng(0)
    return [
        Sequence(rng.integers(3, 97, length, dtype=np.int32), np.zeros(length, np.int32))
        for length in (5, 9, 3)
    ]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", FAMILIES)
def test_scores_are_those_of_the_adapted_model(
    name: str, variant: str, checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """On a base with a head, on a base without, alone and beside it, before and after a merge."""
    options, modules = VARIANTS[variant], FAMILIES[name]
    if variant == "embedding":
        modules = [
            EMBEDDINGS.get(
                name, "embed_tokens" if name in ("Qwen2", "Gemma") else "word_embeddings"
            )
        ]
    elif variant == "some layers":
        modules = ["query"] if name in ("Bert", "Roberta") else pytest.skip("one name suffices")
    elif variant == "biased" and name in ("ModernBert", "Qwen2", "Gemma"):
        pytest.skip("no base has biases everywhere")
    suffixes = ["ForSequenceClassification"] + ["Model"] * (name != "ModernBert")
    for suffix in suffixes:
        base = base_of(name, suffix, tmp_path / f"base{suffix}", checkpoint)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
        config = peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=modules, **options)
        adapted = trained(peft.get_peft_model(model, config))
        alone = tmp_path / f"alone{suffix}"
        adapted.save_pretrained(alone)
        some = sequences()
        with torch.no_grad():
            ids = [torch.from_numpy(one.token_ids)[None].long() for one in some]
            want = np.stack([adapted(input_ids=x).logits[0].numpy() for x in ids])
        folders = [alone]
        if suffix != "Model":
            folders.append(Path(shutil.copytree(base, tmp_path / f"beside{suffix}")))
            adapted.save_pretrained(folders[-1])
        if suffix != "Model" and variant != "magnitudes":  # which transformers itself loses
            direct = transformers.AutoModelForSequenceClassification.from_pretrained(folders[-1])
            with torch.no_grad():
                again = np.stack([direct.eval()(input_ids=x).logits[0].numpy() for x in ids])
            np.testing.assert_allclose(again, want, rtol=0, atol=1e-4)
        for folder in folders:
            got = load_model(folder, device="cpu", dtype=torch.float32).logits(Pack.of(some))
            np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=1e-4)


def test_a_causal_model(tmp_path: Path) -> None:
    config = transformers.Qwen2Config(**DECODER, tie_word_embeddings=False)
    transformers.Qwen2ForCausalLM(config).save_pretrained(tmp_path / "base")
    model = transformers.Qwen2ForCausalLM.from_pretrained(tmp_path / "base")
    options = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "lm_head"])
    adapted = trained(peft.get_peft_model(model, options))
    adapted.save_pretrained(tmp_path / "alone")
    ours = load_model(
        tmp_path / "alone",
        device="cpu",
        dtype=torch.float32,
        causal=CausalSettings(head="tokens", true_token_id=7),
    )
    some = sequences()
    with torch.no_grad():
        want = [
            float(adapted(torch.from_numpy(one.token_ids)[None].long()).logits[0, -1, 7])
            for one in some
        ]
    np.testing.assert_allclose(ours.logits(Pack.of(some))[:, 0], want, rtol=0, atol=2e-5)


def test_added_tokens(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    base = base_of("Bert", "ForSequenceClassification", tmp_path / "base", checkpoint)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base)
    model.resize_token_embeddings(103)
    config = peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query"])
    adapted = trained(peft.get_peft_model(model, config))
    adapted.save_pretrained(tmp_path / "alone")
    ids = np.array([2, 101, 102, 3], dtype=np.int32)
    with torch.no_grad():
        want = adapted(input_ids=torch.from_numpy(ids)[None].long()).logits[0].numpy()
    ours = load_model(tmp_path / "alone", device="cpu", dtype=torch.float32)
    got = ours.logits(Pack.of([Sequence(ids, np.zeros_like(ids))]))[0]
    np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=2e-5)


def test_sentence_transformers_cross_encoder(
    checkpoint: Callable[..., Path], save_tokenizer: Callable[..., None], tmp_path: Path
) -> None:
    base = base_of("Bert", "ForSequenceClassification", tmp_path / "base", checkpoint)
    save_tokenizer(base, WORDS)
    model = CrossEncoder(str(base), device="cpu")
    model.add_adapter(peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query"]))
    trained(model)
    model.save_pretrained(str(tmp_path / "saved"))
    want = CrossEncoder(str(tmp_path / "saved"), device="cpu").predict(PAIRS)
    np.testing.assert_allclose(Reranker(tmp_path / "saved").score(PAIRS), want, rtol=0, atol=1e-5)


def test_sentence_transformers_bi_encoder(
    checkpoint: Callable[..., Path], save_tokenizer: Callable[..., None], tmp_path: Path
) -> None:
    base = base_of("Bert", "Model", tmp_path / "base", checkpoint)
    save_tokenizer(base, WORDS)
    model = SentenceTransformer(str(base), device="cpu")
    model.add_adapter(
        peft.LoraConfig(task_type="FEATURE_EXTRACTION", r=4, target_modules=["query", "dense"])
    )
    trained(model)
    model.save_pretrained(str(tmp_path / "saved"))
    again = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    want = again.encode("red fox owl", output_value="token_embeddings", convert_to_numpy=True)
    want = want.numpy() / np.linalg.norm(want.numpy(), axis=1, keepdims=True)
    [got] = LateInteraction(tmp_path / "saved", device="cpu").encode_documents(["red fox owl"])
    np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_adapters_that_change_their_base_are_refused(
    start: str, checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """peft takes their first values off the base anew each time it loads one."""
    base = base_of("Bert", "ForSequenceClassification", tmp_path / "base", checkpoint)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base)
    config = peft.LoraConfig(
        task_type="SEQ_CLS", r=4, target_modules=["query"], init_lora_weights=start
    )
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "alone")
    with pytest.raises(ModelError, match="changes the base as well"):
        load_model(tmp_path / "alone", device="cpu", dtype=torch.float32)


KINDS = {
    "IA3": lambda: peft.IA3Config(
        task_type="SEQ_CLS", target_modules=["query"], feedforward_modules=[]
    ),
    "LOHA": lambda: peft.LoHaConfig(task_type="SEQ_CLS", target_modules=["query"]),
    "LOKR": lambda: peft.LoKrConfig(task_type="SEQ_CLS", target_modules=["query"]),
    "OFT": lambda: peft.OFTConfig(
        task_type="SEQ_CLS", target_modules=["query"], oft_block_size=0, r=4
    ),
    "ADALORA": lambda: peft.AdaLoraConfig(
        task_type="SEQ_CLS", target_modules=["query"], total_step=10
    ),
    "VERA": lambda: peft.VeraConfig(task_type="SEQ_CLS", target_modules=["query"]),
    "PREFIX_TUNING": lambda: peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3),
    "PROMPT_TUNING": lambda: peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_are_refused_by_name(
    kind: str, checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    base = base_of("Bert", "ForSequenceClassification", tmp_path / "base", checkpoint)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base)
    peft.get_peft_model(model, KINDS[kind]()).save_pretrained(tmp_path / "alone")
    with pytest.raises(ModelError, match=f"is a {kind} adapter, not a LoRA; merge it into its"):
        load_model(tmp_path / "alone", device="cpu", dtype=torch.float32)


MODULES = [
    "bert.encoder.layer.0.attention.self.query",
    "bert.encoder.layer.11.attention.output.dense",
    "encoder.layer.1.query",
    "layers.1.self_attn.q_proj",
    "model.layers.1.mlp.experts.0.up_proj",
    "classifier",
    "query",
]
TARGETS: list[Any] = [
    ["query"], ["query", "dense"], "query", r".*(query|dense)", r"query|classifier", ["classifier"],
    ["encoder.layer.1.query"], ["up_proj", "q_proj", "query"], ["layer.1.query", "uery"],
]  # fmt: skip
OTHERS: list[dict[str, Any]] = [
    {},
    {"exclude_modules": ["query"]},
    {"exclude_modules": r".*\.1\..*"},
    {"exclude_modules": "query|up_proj"},
    {"modules_to_save": ["classifier", "mlp"]},
    *({"layers_to_transform": layers, "layers_pattern": pattern}
      for layers in (1, [0, 11], [1])
      for pattern in (None, "layer", ["layers", "layer"], r"encoder\.layer", "(h|layer)")),
]  # fmt: skip


@pytest.mark.parametrize("targets", TARGETS, ids=str)
@pytest.mark.parametrize("others", OTHERS, ids=str)
def test_an_adapter_is_of_the_modules_that_peft_takes(
    tmp_path: Path, targets: Any, others: dict[str, Any]
) -> None:
    if isinstance(targets, str) and "layers_to_transform" in others:
        with pytest.raises(ValueError, match="layers_to_transform"):
            peft.LoraConfig(target_modules=targets, **others)
        return
    config = peft.LoraConfig(target_modules=targets, **others)
    config.save_pretrained(tmp_path)
    adapter = Adapter(tmp_path, read_object(tmp_path / "adapter_config.json"))
    for module in MODULES:
        theirs = bool(check_target_module_exists(config, module))
        assert (adapter.why_not(module) is None) == theirs, module
