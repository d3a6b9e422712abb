"""Checkpoints of named shapes with seeded random weights, on which speed does not depend."""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from packrank.bench.subjects.shapes import Shape
from packrank.bench.subjects.trained_tokenizers import write_tokenizer
from packrank.errors import InputError

Sizes = Iterator[tuple[str, tuple[int, ...]]]


def made_whole(write: Callable[[Shape, Path], Path], shape: Shape, folder: Path) -> Path:
    """A folder that is written whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    try:
        return write(shape, folder)
    except Exception as error:  # tokenizers and safetensors have their own for a full disk
        shutil.rmtree(folder, ignore_errors=True)
        raise InputError(f"its files cannot be made: {error}") from None


def write_checkpoint(shape: Shape, folder: Path) -> Path:
    """A folder as models are published in: config.json, bfloat16 weights, a tokenizer.

    Args:
        shape: of the model.
        folder: made, if it is not there.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = shape.config | write_tokenizer(shape.family, folder)
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    generator = torch.Generator().manual_seed(0)
    names = _NAMES[shape.family](shape, config["vocab_size"])
    weights = {name: _drawn(name, size, generator) for name, size in names}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _drawn(name: str, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Values that keep activations about as large as a trained model's."""
    values = torch.randn(size, generator=generator, dtype=torch.float32)
    if len(size) == 1:
        is_norm = name.endswith("weight")
        return (values * 0.02 + is_norm).bfloat16()
    return (values / math.sqrt(size[1])).bfloat16()


def _affine(name: str, outputs: int, inputs: int, *, bias: bool = True) -> Sizes:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def _norm(name: str, size: int) -> Sizes:
    yield f"{name}.weight", (size,)
    yield f"{name}.bias", (size,)


def _bert_layers(shape: Shape, vocabulary: int, stem: str) -> Sizes:
    hidden, inner = shape.hidden, shape.inner
    table, config = f"{stem}embeddings.", shape.config
    yield f"{table}word_embeddings.weight", (vocabulary, hidden)
    yield f"{table}position_embeddings.weight", (config["max_position_embeddings"], hidden)
    yield f"{table}token_type_embeddings.weight", (config["type_vocab_size"], hidden)
    yield from _norm(f"{table}LayerNorm", hidden)
    for layer in range(shape.layers):
        at = f"{stem}encoder.layer.{layer}."
        for name in ("query", "key", "value"):
            yield from _affine(f"{at}attention.self.{name}", hidden, hidden)
        yield from _affine(f"{at}attention.output.dense", hidden, hidden)
        yield from _norm(f"{at}attention.output.LayerNorm", hidden)
        yield from _affine(f"{at}intermediate.dense", inner, hidden)
        yield from _affine(f"{at}output.dense", hidden, inner)
        yield from _norm(f"{at}output.LayerNorm", hidden)


def _bert(shape: Shape, vocabulary: int) -> Sizes:
    yield from _bert_layers(shape, vocabulary, "bert.")
    yield from _affine("bert.pooler.dense", shape.hidden, shape.hidden)
    yield from _affine("classifier", 1, shape.hidden)


def _roberta(shape: Shape, vocabulary: int) -> Sizes:
    yield from _bert_layers(shape, vocabulary, "roberta.")
    yield from _affine("classifier.dense", shape.hidden, shape.hidden)
    yield from _affine("classifier.out_proj", 1, shape.hidden)


def _modernbert(shape: Shape, vocabulary: int) -> Sizes:
    hidden, inner = shape.hidden, shape.inner
    yield "model.embeddings.tok_embeddings.weight", (vocabulary, hidden)
    yield "model.embeddings.norm.weight", (hidden,)
    for layer in range(shape.layers):
        at = f"model.layers.{layer}."
        if layer:
            yield f"{at}attn_norm.weight", (hidden,)
        yield f"{at}attn.Wqkv.weight", (3 * hidden, hidden)
        yield f"{at}attn.Wo.weight", (hidden, hidden)
        yield f"{at}mlp_norm.weight", (hidden,)
        yield f"{at}mlp.Wi.weight", (2 * inner, hidden)
        yield f"{at}mlp.Wo.weight", (hidden, inner)
    yield "model.final_norm.weight", (hidden,)
    yield "head.dense.weight", (hidden, hidden)
    yield "head.norm.weight", (hidden,)
    yield from _affine("classifier", 1, hidden)


def _decoder(shape: Shape, vocabulary: int, *, bias: bool) -> Sizes:
    hidden, inner = shape.hidden, shape.inner
    keys = shape.head_size * (shape.key_heads or shape.heads)
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for layer in range(shape.layers):
        at = f"model.layers.{layer}."
        yield f"{at}input_layernorm.weight", (hidden,)
        for name, rows in (("q", hidden), ("k", keys), ("v", keys)):
            yield from _affine(f"{at}self_attn.{name}_proj", rows, hidden, bias=bias)
        yield f"{at}self_attn.o_proj.weight", (hidden, hidden)
        yield f"{at}post_attention_layernorm.weight", (hidden,)
        for name in ("gate", "up"):
            yield f"{at}mlp.{name}_proj.weight", (inner, hidden)
        yield f"{at}mlp.down_proj.weight", (hidden, inner)
    yield "model.norm.weight", (hidden,)


def _qwen2(shape: Shape, vocabulary: int) -> Sizes:
    yield from _decoder(shape, vocabulary, bias=True)
    yield "score.weight", (1, shape.hidden)


def _minicpm(shape: Shape, vocabulary: int) -> Sizes:
    yield from _decoder(shape, vocabulary, bias=False)
    for place in range(shape.layers - shape.config["start_layer"] + 1):
        yield f"lm_head.{place}.linear_head.weight", (1, shape.hidden)


_NAMES = {
    "bert": _bert,
    "xlm-roberta": _roberta,
    "modernbert": _modernbert,
    "qwen2": _qwen2,
    "minicpm": _minicpm,
}
