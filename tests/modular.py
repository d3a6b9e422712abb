"""Small modular cross-encoders, saved by sentence-transformers, over bodies of every family."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from decoders import make
from prompts import byte_bpe
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Dense, Module, Transformer
from sentence_transformers.sentence_transformer.modules import Dropout, LayerNorm, Pooling

PAIRS = [("red owl", "blue fox"), ("", "dog"), ("snake", "red"), ("dog " * 30, "fox " * 30)]
FLAT = """{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}<|im_start|>assistant
"""
STRUCTURED = FLAT.replace("message.content", "message.content[0].text")


def edit(path: Path, **changes: Any) -> None:
    """Some keys of a JSON object; None takes one out, "null" leaves it null."""
    content = json.loads(path.read_text()) | changes
    kept = {key: value for key, value in content.items() if value is not None}
    path.write_text(
        json.dumps({key: None if value == "null" else value for key, value in kept.items()})
    )


def randomize(module: torch.nn.Module) -> None:
    """Nothing is left at what torch starts it with."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            is_norm = parameter.ndim == 1 and name.endswith("weight")
            parameter.normal_(mean=float(is_norm), std=0.2)


def ettin(hidden: int, modes: Any, labels: int = 1) -> list[Module]:
    """Pooling, Dense, LayerNorm, and a Dense to scores."""
    size = hidden * (1 if isinstance(modes, str) else len(modes))
    return [
        Pooling(hidden, pooling_mode=modes),
        Dense(size, hidden, activation_function=torch.nn.GELU()),
        Dropout(0.1),
        LayerNorm(hidden),
        Dense(hidden, labels, activation_function=None, module_output_name="scores"),
    ]


def save(folder: Path, base: Path, modules: list[Module], **options: Any) -> Path:
    """The cross-encoder of a body and these modules, as sentence-transformers saves it."""
    for module in modules:
        randomize(module)
    chain = [Transformer(str(base)), *modules]
    CrossEncoder(modules=chain, device="cpu", **options).save_pretrained(
        str(folder), create_model_card=False
    )
    return folder


def encoder_body(
    folder: Path, checkpoint: Callable[..., Path], save_tokenizer: Callable[..., None], name: str
) -> Path:
    """A plain encoder whose tokenizer knows the words of `PAIRS`."""
    shutil.copytree(checkpoint(name, "Model"), folder)
    save_tokenizer(folder, "red blue fox owl dog snake")
    if name not in ("Bert", "Electra"):
        edit(
            folder / "tokenizer_config.json",
            tokenizer_class="PreTrainedTokenizerFast",
            model_input_names=["input_ids", "attention_mask"],
            model_max_length=38,
        )
    return folder


def decoder_body(
    folder: Path, family: str, suffix: str = "Model", template: Any = None, **options: Any
) -> Path:
    """A decoder with a tokenizer of bytes and, maybe, a chat template."""
    backend = byte_bpe("<|im_start|>", "<|im_end|>")
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    wrapped.chat_template = template
    wrapped.save_pretrained(folder)
    sizes = {"vocab_size": backend.get_vocab_size(), "max_position_embeddings": 300}
    make(family, suffix, **sizes | options).save_pretrained(folder)
    return folder


def expected(folder: Path, pairs: list[tuple[str, str]] = PAIRS, **options: Any) -> np.ndarray:
    """What sentence-transformers says of each pair alone."""
    model = CrossEncoder(
        str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": "float32"}
    )
    scores: np.ndarray = model.predict(pairs, batch_size=1, **options)
    return scores
