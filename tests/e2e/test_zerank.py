"""zerank-2: a causal model that sentence-transformers' files say all of, as they lie on its hub.

Source: modules.json, sentence_bert_config.json and 1_LogitScore/config.json of zeroentropy/zerank-2
at d3fb332; that query and document are the system's and the user's message, of its authors' code.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from prompts import byte_bpe
from reranker_folders import PAIRS, saved, sized
from sentence_transformers import CrossEncoder

from packrank import Reranker

TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"
LOGIT_SCORE = "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"
FORWARD = {"method": "forward", "method_output_name": "logits"}
CHAT = """{%- for message in messages -%}
<|im_start|>{{ 'system' if message.role in ('query', 'system') else 'user' }}
{{ message.content | trim }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}"""


@pytest.fixture(scope="module")
def zerank(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """The folder, the model of transformers and the tokenizer."""
    backend = byte_bpe("<|im_start|>", "<|im_end|>")
    torch.manual_seed(1)
    model = sized("Qwen3", "ForCausalLM", backend, tie_word_embeddings=True)
    folder = saved(
        tmp_path_factory.mktemp("hub") / "zerank-2",
        model,
        backend,
        tokenizer_class="PreTrainedTokenizerFast",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
    )
    (folder / "chat_template.jinja").write_text(CHAT)
    (folder / "1_LogitScore").mkdir()
    entries = [
        {"idx": 0, "name": "0", "path": "", "type": TRANSFORMER},
        {"idx": 1, "name": "1", "path": "1_LogitScore", "type": LOGIT_SCORE},
    ]
    yes = backend.token_to_id("Yes")
    for name, content in (
        ("modules.json", entries),
        ("1_LogitScore/config.json", {"true_token_id": yes, "false_token_id": None}),
        (
            "sentence_bert_config.json",
            {
                "transformer_task": "text-generation",
                "modality_config": {"text": FORWARD, "message": FORWARD | {"format": "flat"}},
                "module_output_name": "causal_logits",
                "processing_kwargs": {"chat_template": {"add_generation_prompt": True}},
            },
        ),
        (
            "config_sentence_transformers.json",
            {
                "model_type": "CrossEncoder",
                "activation_fn": "torch.nn.modules.linear.Identity",
                "prompts": {},
                "default_prompt_name": None,
            },
        ),
    ):
        (folder / name).write_text(json.dumps(content))
    return folder, model, backend


def test_scores_are_logits_of_yes(zerank: tuple[Path, Any, Any]) -> None:
    folder, model, backend = zerank
    ours = Reranker(folder)
    assert ours.is_chat and ours.activation == "identity"
    theirs = CrossEncoder(str(folder), device="cpu").predict(PAIRS, batch_size=1)
    np.testing.assert_allclose(ours.score(PAIRS), theirs, rtol=0, atol=2e-5)
    want = []
    for query, document in PAIRS:
        text = (
            f"<|im_start|>system\n{query.strip()}<|im_end|>\n"
            f"<|im_start|>user\n{document.strip()}<|im_end|>\n<|im_start|>assistant\n"
        )
        ids = torch.tensor([backend.encode(text, add_special_tokens=False).ids])
        with torch.no_grad():
            want.append(float(model(ids).logits[0, -1, backend.token_to_id("Yes")]))
    np.testing.assert_allclose(ours.score(PAIRS), want, rtol=0, atol=2e-5)


def test_longer_than_the_model_was_made_for(zerank: tuple[Path, Any, Any]) -> None:
    """Cut to 700 tokens by default, and to as many as the caller says."""
    folder, _, _ = zerank
    pairs = [("what is a panda", "the passage was what it is " * 400)]
    usual, longer = Reranker(folder), Reranker(folder, max_length=900)
    assert (usual.max_length, longer.max_length) == (700, 900)
    theirs = CrossEncoder(str(folder), device="cpu")
    np.testing.assert_allclose(usual.score(pairs), theirs.predict(pairs), rtol=0, atol=2e-5)
    theirs.max_seq_length = 900
    np.testing.assert_allclose(longer.score(pairs), theirs.predict(pairs), rtol=0, atol=2e-5)
    assert transformers.AutoConfig.from_pretrained(folder).max_position_embeddings == 700
