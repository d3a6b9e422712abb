"""What sentence-transformers tells its Transformer module: sentence_bert_config.json, every key."""

from pathlib import Path

from packrank.checkpoint.files import shown
from packrank.errors import ModelError
from packrank.late.record import Record

# The file, and what it was called by the architecture; the first that says something counts.
_FILE = "sentence_bert_config.json"
_OLDER = (
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
_APPLIED = {"max_seq_length", "do_lower_case"}
# What only a MultiVectorEncoder, of all folders, has to say.
_LATE = {"query_length", "document_length", "query_expansion"}
# Where, and with which kernels, a model runs there.
_HARMLESS = {"unpad_inputs", "backend", "cache_dir"}
# Key -> the only value that leaves token vectors as they are.
_TEXT = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
_ONLY = {
    "transformer_task": "feature-extraction",
    "modality_config": _TEXT,
    "module_output_name": "token_embeddings",
    "processing_kwargs": {},
    "tokenizer_name_or_path": None,
}
# What is passed on to transformers, under its older and its newer name, and what of that is safe.
_PASSED_ON = {
    "model_args": {"attn_implementation", "device_map", "dtype", "low_cpu_mem_usage"},
    "tokenizer_args": {"use_fast"},
    "config_args": {"attn_implementation", "use_cache"},
}
_PASSED_ON |= {
    "model_kwargs": _PASSED_ON["model_args"] | {"torch_dtype"},
    "processor_kwargs": _PASSED_ON["tokenizer_args"],
    "config_kwargs": _PASSED_ON["config_args"],
}
_PASSED_ON["model_args"] = _PASSED_ON["model_kwargs"]
# What those libraries are told for their own sake.
_FETCHING = {"cache_dir", "local_files_only", "revision", "token", "trust_remote_code"}


def read_transformer_file(encoder: Path, *, late: bool) -> Record:
    """What the file says, empty if there is none.

    Args:
        encoder: the folder of encoder and tokenizer.
        late: whether lengths of queries and documents, and expansion, are read from it.

    Raises:
        ModelError: it holds a key that could change a vector and is not applied.
    """
    for name in (_FILE, *_OLDER):
        record = Record.read(encoder / name)
        if record.raw:
            _check(record, late)
            return record
    return Record({}, encoder / _FILE)


def _check(record: Record, late: bool) -> None:
    for key, value in record.raw.items():
        if key in _APPLIED | _HARMLESS or (late and key in _LATE) or value is None:
            continue
        if key in _ONLY and value in (_ONLY[key], {}):
            continue
        if key in _PASSED_ON:
            inner = record.inner(key).raw
            unsafe = sorted(set(inner) - _PASSED_ON[key] - _FETCHING)
            if not unsafe:
                continue
            key, value = f"{key}: {unsafe[0]}", inner[unsafe[0]]
        raise ModelError(
            f"{record.path}: {key} is {shown(value)}, which is not supported; remove it if token "
            "vectors do not hang on it"
        )
