"""Every key of a modular cross-encoder, perturbed: sentence-transformers' change, or a refusal."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import modular
import numpy as np
from modular import PAIRS, edit, ettin, expected
from sentence_transformers import CrossEncoder

from packrank import ModelError, Reranker

SBERT, SETTINGS = "sentence_bert_config.json", "config_sentence_transformers.json"
TASK = "transformer_task"
POOLING, DENSE, NORM, LAST = (
    f"{place}/config.json" for place in ("1_Pooling", "2_Dense", "4_LayerNorm", "5_Dense")
)


def text(**values: Any) -> dict[str, Any]:
    return {"text": {"method": "forward", "method_output_name": "last_hidden_state"} | values}


# Of each key, values that it does not have; None: the key is taken out, "null": it is null.
KEYS: dict[str, dict[str, list[Any]]] = {
    SBERT: {
        TASK: [None, "sequence-classification", "text-generation", "fill-mask", 3],
        "module_output_name": ["sentence_embedding", "scores", 3],
        "modality_config": [
            None,
            {},
            {"image": {"method": "forward", "method_output_name": "last_hidden_state"}},
            text(method="generate"),
            text(method_output_name="pooler_output"),
            text(method_output_name=["hidden_states", 1]),
            text(method_output_name=["last_hidden_state"]),
            text(format="flat"),
        ],
        "max_seq_length": [7, 30, 0, "9"],
        "do_lower_case": [False, True],
        "unpad_inputs": [False, True],
        "query_length": [3],
        "document_length": [3],
        "query_expansion": [{"strategy": "fixed", "length": 9}],
        "tokenizer_name_or_path": ["elsewhere"],
        "model_kwargs": [{}, {"attn_implementation": "eager"}, {"is_causal": False}],
        "model_args": [{"dtype": "float32"}],
        "tokenizer_args": [{"model_max_length": 7}, {"padding_side": "left"}],
        "processor_kwargs": [{"truncation_side": "left"}],
        "config_args": [{"num_hidden_layers": 1}, {"use_cache": False}],
        "processing_kwargs": [
            {},
            {"text": {"max_length": 7}},
            {"text": {"truncation": False}},
            {"text": {"truncation": True, "max_length": 9}},
            {"text": {"truncation": "only_second", "max_length": 9}},
            {"text": {"truncation": "only_first", "max_length": 9}},
            {"text": {"truncation": "do_not_truncate", "max_length": 9}},
            {"text": {"truncation": "null"}},
            {"text": {"padding": "max_length"}},
            {"text": {"add_special_tokens": False}},
            {"text": {"split_special_tokens": True}},
            {"text": {"logits_to_keep": 0}},
            {"common": {"max_length": 7}},
            {"chat_template": {"chat_template": "x"}},
            {"image": {"size": 3}},
        ],
        "some_new_key": [1],
    },
    SETTINGS: {
        "activation_fn": [
            *(None, "null", "torch.nn.Tanh", "torch.nn.modules.activation.Softplus", "mine.Thing"),
            *("torch.nn.GELU", "torch.relu", "torch.nn.Bilinear"),
        ],
        "prompts": [{"q": "red "}],
        "default_prompt_name": ["q"],
        "model_type": [None, "SentenceTransformer", "SparseEncoder"],
        "similarity_fn_name": ["dot"],
        "keep_in_fp32_modules": [["2.linear"]],
        "some_new_key": [1],
    },
    POOLING: {
        "embedding_dimension": [60, 30],
        "pooling_mode": [*(None, "cls", "max", "lasttoken", "median"), ["mean"], ["mean", "max"]],
        "include_prompt": [None, False, "null"],
        "pooling_mode_cls_token": [True],
        "some_new_key": [1],
    },
    DENSE: {
        "in_features": [None, 61],
        "out_features": [30],
        "bias": [None, False, "null"],
        "activation_function": [
            *(None, "null", "torch.nn.ReLU", "torch.nn.modules.activation.SELU", "mine.Thing"),
            *("torch.nn.GLU", "torch.nn.functional.gelu", "torch.nn.modules.linear.Identity"),
        ],
        "module_input_name": [None, "token_embeddings", "x", "null"],
        "module_output_name": [None, "null", "x"],
        "use_residual": [True, False],
        "some_new_key": [1],
    },
    NORM: {"dimension": [None, 30]},
    LAST: {
        "out_features": [2],
        "module_input_name": ["x"],
        "module_output_name": [None, "x"],
        "use_residual": [True],
        "bias": [False],
    },
}
CASES = [(file, key, value) for file in KEYS for key in KEYS[file] for value in KEYS[file][key]]
# Those of the fast loop: of each kind of key one that changes scores, is idle, or is refused.
SAMPLE = [
    (SBERT, TASK, "fill-mask"),
    (SBERT, "modality_config", text(method_output_name="pooler_output")),
    (SBERT, "processing_kwargs", {"text": {"truncation": "only_second", "max_length": 9}}),
    (SBERT, "query_length", 3),
    (POOLING, "pooling_mode", ["mean", "max"]),
    (DENSE, "bias", False),
    (DENSE, "activation_function", None),
]


def outcome(score: Callable[[], np.ndarray], *refusals: type[Exception]) -> np.ndarray | None:
    try:
        return score()
    except refusals:
        return None


def test_no_key_is_unread(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path: Path,
    thorough: bool,
) -> None:
    base = modular.encoder_body(tmp_path / "body", checkpoint, save_tokenizer, "Bert")
    folder = modular.save(tmp_path / "saved", base, ettin(60, "mean"), prompts={"q": "dog "})
    check(folder, CASES if thorough else SAMPLE, 70 if thorough else 4)


def test_no_key_is_unread_beside_a_head_of_its_own(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path: Path,
    thorough: bool,
) -> None:
    base = tmp_path / "body"
    shutil.copytree(checkpoint("Bert", num_labels=1), base)
    save_tokenizer(base, "red blue fox owl dog snake")
    folder = tmp_path / "saved"
    CrossEncoder(str(base), device="cpu", prompts={"q": "dog "}).save_pretrained(
        str(folder), create_model_card=False
    )
    # sentence-transformers cannot load it without a task, and here nothing else could be meant.
    others = (TASK, "keep_in_fp32_modules")  # the latter names a module of the other folder
    cases = [case for case in CASES if case[0] in (SBERT, SETTINGS) and case[1] not in others]
    check(folder, cases if thorough else SAMPLE[2:3], 50 if thorough else 1)


def check(folder: Path, cases: list[tuple[str, str, Any]], most_refused: int) -> None:
    """Where sentence-transformers scores, so the same or a refusal; where it cannot, a refusal."""
    plain = expected(folder)
    silent, refused = [], []
    for file, key, value in cases:
        before = (folder / file).read_text()
        edit(folder / file, **{key: value})
        ours = outcome(lambda: Reranker(folder).try_score(PAIRS)[0], ModelError)
        theirs = outcome(lambda: expected(folder), Exception)
        (folder / file).write_text(before)
        if ours is None:
            refused.append((file, key, value))
        elif theirs is None:
            # A pair may fail where sentence-transformers raises for all.
            silent += [] if np.isnan(ours).any() else [(file, key, value)]
        elif ours.shape != theirs.shape or np.abs(ours - theirs).max() > 1e-5:
            silent.append((file, key, value))
    assert silent == []
    assert np.abs(plain - expected(folder)).max() == 0
    assert len(refused) <= most_refused
