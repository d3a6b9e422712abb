"""Chat templates of models that rank in writing, and small tokenizers with them."""

import json
from pathlib import Path
from typing import Any

import tokenizers
from prompts import byte_bpe, metaspace

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + "
    "eos_token + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}"
    "{% endif %}"
)
# Begins with the bos token, as Llama 3's does, and knows no system's message, as Gemma's does not.
GEMMA = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{{ '<start>' + message['role'] "
    "+ '\\n' + message['content'] + '<end>\\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<start>model\\n' }}{% endif %}"
)


def chatml() -> tokenizers.Tokenizer:
    """As Qwen's."""
    backend = byte_bpe("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    backend.decoder = tokenizers.decoders.ByteLevel()
    return backend


def zephyr() -> tokenizers.Tokenizer:
    """As Mistral's: <s> before each text, a blank before each word."""
    backend = metaspace()
    backend.decoder = tokenizers.decoders.Metaspace(prepend_scheme="first")
    return backend


def save(folder: Path, backend: tokenizers.Tokenizer, template: str | None, **config: Any) -> Path:
    """A tokenizer with its chat template, as transformers and Packrank read it."""
    folder.mkdir(exist_ok=True, parents=True)
    backend.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "TokenizersBackend", "chat_template": template} | config
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
