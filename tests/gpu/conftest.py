"""Whole models on a CUDA device, and transformers beside them; skipped where there is none."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from visits import visit

from packrank.request import Sequence

# Head sizes that the kernels are made for, beside the odd ones of the checkpoints themselves.
_HEADS_OF_32 = {"hidden_size": 96, "num_attention_heads": 3, "max_position_embeddings": 300}
_HEADS_OF_64 = {"hidden_size": 128, "num_attention_heads": 2, "max_position_embeddings": 300}
MODELS = {
    "bert-odd": ("Bert", {}),
    "bert-32": ("Bert", _HEADS_OF_32),
    "roberta-64": ("Roberta", _HEADS_OF_64),
    "electra-32": ("Electra", _HEADS_OF_32),
    "distilbert-64": (
        "DistilBert",
        {"dim": 128, "n_heads": 2, "max_position_embeddings": 300},
    ),
    "modernbert-32": ("ModernBert", _HEADS_OF_32 | {"local_attention": 32}),
    "modernbert-mean": (
        "ModernBert",
        _HEADS_OF_64 | {"local_attention": 32, "classifier_pooling": "mean"},
    ),
    "deberta-64": ("DebertaV2", _HEADS_OF_64 | {"position_buckets": 64}),
    "deberta-convolved": ("DebertaV2", _HEADS_OF_32 | {"conv_kernel_size": 3}),
    "gte-64": ("Gte", _HEADS_OF_64),
    "minilm": (
        "Bert",
        {
            "hidden_size": 384,
            "num_attention_heads": 12,
            "num_hidden_layers": 6,
            "intermediate_size": 1536,
            "max_position_embeddings": 300,
        },
    ),
}
# On both sides of tiles, and many, so that an error's size is well known.
LENGTHS = [1, 2, 15, 16, 17, 33, 63, 64, 65, 127, 128, 129, 200, 255, 256, 257, 7, 90, 31, 288]


@pytest.fixture(scope="session")
def cuda() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda")


@pytest.fixture(params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    """Each model in turn."""
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="session")
def well_conditioned(
    checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """A model's checkpoint, three labels, with matrices that keep the size of what they multiply.

    As `checkpoint` makes them, wide layers saturate the softmax: then an error says more about the
    model than about who computed it.
    """
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            architecture, options = MODELS[name]
            source = checkpoint(architecture, num_labels=3, **options)
            made[name] = shutil.copytree(source, tmp_path_factory.mktemp(name) / "model")
            weights = load_file(source / "model.safetensors")
            for key, weight in weights.items():
                if weight.ndim == 2 and "embeddings." not in key:
                    weight *= weight.shape[1] ** -0.5 / weight.std()
            save_file(weights, made[name] / "model.safetensors", metadata={"format": "pt"})
        return made[name]

    return make


@pytest.fixture
def folder(name: str, well_conditioned: Callable[[str], Path]) -> Path:
    """Its checkpoint."""
    return well_conditioned(name)


@pytest.fixture
def sequences(name: str, make_sequences: Callable[..., list[Sequence]]) -> list[Sequence]:
    """Sequences that it takes; of a small model twice over, with other ids."""
    architecture, _ = MODELS[name]
    longest = 40 if name == "bert-odd" else 288
    lengths = [length for length in LENGTHS if length <= longest]
    return [
        sequence
        for seed in range(1 if name == "minilm" else 2)
        for sequence in make_sequences(architecture, lengths, seed)
    ]


@pytest.fixture(scope="session")
def oracle() -> Callable[..., np.ndarray]:
    """oracle(folder, sequences, device, dtype): transformers' logits, padded, as float64."""
    known: dict[tuple[object, ...], np.ndarray] = {}

    def logits(
        folder: Path, sequences: list[Sequence], device: torch.device | str, dtype: torch.dtype
    ) -> np.ndarray:
        lengths = tuple(len(sequence.token_ids) for sequence in sequences)
        key = folder, lengths, torch.device(device).type, dtype
        if key not in known:
            known[key] = compute(folder, sequences, device, dtype)
        return known[key]

    def compute(
        folder: Path, sequences: list[Sequence], device: torch.device | str, dtype: torch.dtype
    ) -> np.ndarray:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa"
        ).to(device)
        lengths = [len(sequence.token_ids) for sequence in sequences]
        shape = len(sequences), max(lengths)
        ids = torch.full(shape, model.config.pad_token_id)
        types, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        for n, (sequence, length) in enumerate(zip(sequences, lengths, strict=True)):
            ids[n, :length] = torch.from_numpy(sequence.token_ids)
            types[n, :length] = torch.from_numpy(sequence.token_types)
            mask[n, :length] = 1
        arguments = {"input_ids": ids, "attention_mask": mask}
        if getattr(model.config, "type_vocab_size", 0):
            arguments["token_type_ids"] = types
        with torch.no_grad():
            out = model(**{key: value.to(device) for key, value in arguments.items()})
        return out.logits.double().cpu().numpy()

    return logits


@pytest.fixture(scope="session")
def rms() -> Callable[[np.ndarray], float]:
    """The root of the mean square; NaN where there is any."""
    return lambda x: float(np.sqrt(np.square(x.astype(np.float64)).mean()))


@pytest.fixture
def a_visit(tmp_path: Path) -> Any:
    """One of `make gpu`, with folders of its own and nothing found so far."""
    results, processes = visit("results"), visit("processes")
    logs = tmp_path / "logs"
    logs.mkdir()
    kept = results.Results(tmp_path / "out")
    kept.clear()
    commands = processes.Commands(logs, {})
    return visit("state").Visit(kept, logs, commands, tmp_path / "cache", dry=False)
