"""A late-interaction folder that asks for what is not supported: one sentence, with the file."""

from pathlib import Path

import pytest
from late_folders import HIDDEN, modules, multi_vector, pylate, read

from packrank.errors import ModelError

REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "l2": ({"artifact.metadata": {"similarity": "l2"}}, "l2 similarity"),
    "flipr": ({"artifact.metadata": {"interaction": "flipr"}}, "flipr interaction"),
    "marker": ({"artifact.metadata": {"query_token_id": "[NO]"}}, r"no token '\[NO\]', and none"),
    "pooled": ({"artifact.metadata": {"pool_factor": 2}}, "pool_factor is 2, only 1 is"),
    "long": ({"artifact.metadata": {"query_maxlen": 101}}, "101 tokens, but its encoder takes 100"),
    "json": ({"artifact.metadata": "{"}, "artifact.metadata cannot be read as JSON"),
    "object": ({"artifact.metadata": "[]"}, "holds a list, expected a JSON object"),
    "modules": ({"modules.json": ["x"]}, "modules.json lists 'x', expected objects only"),
    "size": (pylate({"in_features": 9}), "in_features is 9, but .* vectors of size 24"),
    "no-dense": (
        pylate() | {"1_Dense/config.json": {}},
        "in_features is None, expected a number of at least 1",
    ),
    "activation": (
        pylate({"activation_function": "torch.nn.Mish"}),
        "is Mish, expected one of",
    ),
    "foreign-activation": (pylate({"activation_function": "mine.ReLU"}), "is 'mine.ReLU', expect"),
    "meanmaxsim": (pylate(similarity_fn_name="meanmaxsim"), "'meanmaxsim', and PyLate scores by"),
    "modules-of-others": (
        pylate() | {"modules.json": modules("Transformer", "LayerNorm")},
        "lists Transformer, LayerNorm; supported are",
    ),
    "code": (
        multi_vector() | {"modules.json": [{"path": "", "type": "mine.Transformer"}]},
        "lists mine.Transformer, and only",
    ),
    "no-transformer": (multi_vector() | {"modules.json": modules("Router")}, "begins with Router"),
    "mixed": (multi_vector(query_prefix="[Q] "), "query_prefix is PyLate's, and model_type is"),
    "two-masks": (multi_vector("MultiVectorMask", "MultiVectorMask"), "supported are Transformer"),
    "late-dense": (multi_vector("Normalize", "Dense"), "any number of Dense, then"),
    "mask-key": (multi_vector(mask={"skip_bos": True}), "skip_bos is True, which is not supp"),
    "default-prompt": (multi_vector(default_prompt_name="ask"), "'ask', which prompts does not"),
    "shorter": (
        multi_vector(
            transformer={"query_expansion": {"strategy": "min", "length": 9}, "query_length": 8}
        ),
        "query_length is 8, and queries are expanded to 9 tokens",
    ),
    "task": (multi_vector(transformer={"transformer_task": "fill-mask"}), "is 'fill-mask', whi"),
    "chat": (
        multi_vector(transformer={"modality_config": {"message": {"method": "forward"}}}),
        "modality_config is .*, which is not supported",
    ),
    "processing": (
        multi_vector(transformer={"processing_kwargs": {"text": {"truncation": False}}}),
        "processing_kwargs is .*, which is not supported",
    ),
    "passed-on": (
        {"sentence_bert_config.json": {"tokenizer_args": {"add_prefix_space": True}}},
        "tokenizer_args: add_prefix_space is True, which is not supported",
    ),
    "unheard-of": (
        pylate() | {"sentence_bert_config.json": {"query_expansion": {"length": 9}}},
        "query_expansion is .*, which is not supported",
    ),
    "sentence": (pylate({"module_input_name": "sentence_embedding"}), "not on tokens"),
    "prompt": (pylate(default_prompt_name="ask"), "default_prompt_name is 'ask', which prompts"),
    "short-query": ({"artifact.metadata": {"query_maxlen": 3}}, "cuts queries to 3 tokens, but 3"),
    "short-document": (pylate(document_length=3), "cuts documents to 3 tokens, but 3 are special"),
    "short": ({"sentence_bert_config.json": {"max_seq_length": 2}}, "to 2 tokens, but 2 are"),
    "xtr": (multi_vector(similarity_fn_name="xtr"), "scores by 'xtr'"),
    "pooling": (multi_vector("HierarchicalTokenPooling"), "HierarchicalTokenPooling; supported"),
    "images": (multi_vector(mask={"keep_only_token_ids": [5]}), "only images are scored"),
    "zero": (pylate(document_length=0), "document_length is 0, expected at least 1"),
    "strategy": (
        multi_vector(transformer={"query_expansion": {"strategy": "twice", "length": 9}}),
        "by 'twice', not fixed or min",
    ),
    "no-length": (
        multi_vector(transformer={"query_expansion": {"strategy": "min"}}),
        "query_expansion has no length",
    ),
    "token": (
        multi_vector(
            transformer={"query_expansion": {"strategy": "min", "length": 9, "token": "[NO]"}}
        ),
        "has no token",
    ),
    "unmasked": (
        multi_vector(
            "Normalize", transformer={"query_expansion": {"strategy": "min", "length": 9}}
        ),
        "has no MultiVectorMask",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_in_one_sentence(tmp_path: Path, case: str) -> None:
    files, message = REFUSED[case]
    with pytest.raises(ModelError, match=message) as error:
        read(tmp_path, files)
    assert "\n" not in str(error.value)


_STANFORD: dict[str, object] = {"artifact.metadata": {}}
_PYLATE = pylate()
_MULTI_VECTOR = multi_vector("Dense", "MultiVectorMask", "Normalize") | {
    "1_Dense/config.json": {"in_features": HIDDEN, "out_features": 8},
    "2_MultiVectorMask/config.json": {},
    "3_Normalize/config.json": {},
}

_SETTINGS = "config_sentence_transformers.json"
# A folder, a file in it, and the keys that are read there, by what they want.
KEYS: list[tuple[dict[str, object], str, str, str]] = [
    (_STANFORD, "artifact.metadata", "a whole number", "query_maxlen doc_maxlen dim"),
    (_STANFORD, "artifact.metadata", "a string", "similarity interaction"),
    (_STANFORD, "artifact.metadata", "a string", "query_token_id doc_token_id"),
    (_STANFORD, "artifact.metadata", "true or false", "mask_punctuation attend_to_mask_tokens"),
    (_PYLATE, _SETTINGS, "a whole number", "query_length document_length"),
    (_PYLATE, _SETTINGS, "a string", "model_type query_prefix document_prefix default_prompt_name"),
    (_PYLATE, _SETTINGS, "true or false", "do_query_expansion attend_to_expansion_tokens"),
    (_PYLATE, _SETTINGS, "a list", "skiplist_words"),
    (_PYLATE, _SETTINGS, "an object", "prompts"),
    (_PYLATE, "1_Dense/config.json", "a whole number", "in_features out_features"),
    (_PYLATE, "1_Dense/config.json", "a string", "activation_function"),
    (_PYLATE, "1_Dense/config.json", "a string", "module_input_name module_output_name"),
    (_PYLATE, "1_Dense/config.json", "true or false", "bias use_residual"),
    (_MULTI_VECTOR, _SETTINGS, "an object", "prompts"),
    (_MULTI_VECTOR, _SETTINGS, "a string", "similarity_fn_name"),
    (_MULTI_VECTOR, "2_MultiVectorMask/config.json", "a list", "skiplist_words"),
    (_MULTI_VECTOR, "3_Normalize/config.json", "a string", "module_input_name"),
    (_MULTI_VECTOR, "sentence_bert_config.json", "a whole number", "query_length document_length"),
    (_MULTI_VECTOR, "sentence_bert_config.json", "an object", "query_expansion"),
    (_MULTI_VECTOR, "sentence_bert_config.json", "true or false", "do_lower_case"),
    (_PYLATE, "sentence_bert_config.json", "true or false", "do_lower_case"),
    ({}, "sentence_bert_config.json", "a whole number", "max_seq_length"),
]
WRONG = {
    "a whole number": ("5", 5.0, True, [5]),
    "a string": (5, ["x"]),
    "true or false": (1, "true"),
    "a list": ("x", 5, {"x": 1}),
    "an object": ("x", 5, ["x"]),
}


@pytest.mark.parametrize(
    ("files", "file", "wants", "key", "value"),
    [(*row[:3], key, value) for row in KEYS for key in row[3].split() for value in WRONG[row[2]]],
)
def test_a_value_of_the_wrong_type_is_named_with_its_file(
    tmp_path: Path, files: dict[str, object], file: str, wants: str, key: str, value: object
) -> None:
    before = files.get(file, {})
    assert isinstance(before, dict)
    with pytest.raises(ModelError) as error:
        read(tmp_path, files | {file: before | {key: value}})
    assert str(error.value) == f"{tmp_path / file}: {key} is {value!r}, expected {wants}"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"modules.json": [{"path": 5}]}, "modules.json: path is 5, expected a string"),
        ({"modules.json": [{"type": 5}]}, "modules.json: type is 5, expected a string"),
        ({"modules.json": {"path": ""}}, "modules.json holds a dict, expected a JSON list"),
        (pylate(skiplist_words=["a", 5]), "skiplist_words holds 5, expected strings only"),
        (multi_vector(prompts={"query": 5}), "query is 5, expected a string"),
        (multi_vector(prompts={"document": 5}), "document is 5, expected a string"),
        (pylate(prompts={"x": 5}, default_prompt_name="x"), "x is 5, expected a string"),
        (
            multi_vector(transformer={"query_expansion": {"strategy": 5}}),
            "strategy is 5, expected a string",
        ),
        (
            multi_vector(transformer={"query_expansion": {"strategy": "min", "length": "9"}}),
            "length is '9', expected a whole number",
        ),
        (
            multi_vector(
                transformer={"query_expansion": {"strategy": "min", "length": 9, "token": 5}}
            ),
            "token is 5, expected a string",
        ),
        (
            multi_vector(
                transformer={"query_expansion": {"strategy": "min", "length": 9, "attend": "no"}}
            ),
            "attend is 'no', expected true or false",
        ),
    ],
)
def test_a_nested_value_of_the_wrong_type(
    tmp_path: Path, files: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as error:
        read(tmp_path, files)
    assert str(error.value).startswith(str(tmp_path))


def test_stanford_expansion_needs_a_mask_token(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no mask token"):
        read(tmp_path, {"artifact.metadata": {}}, mask=False)
