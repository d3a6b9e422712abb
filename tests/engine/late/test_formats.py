"""What a late-interaction folder may say, by its files alone; parity is test_late_interaction's."""

import json
import string
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from packrank.checkpoint.modules import encoder_folder
from packrank.errors import ModelError
from packrank.late.formats import read_settings
from packrank.late.settings import Dense, Expansion, Settings, Side
from packrank.text.tokenizer import Tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]"]
VOCAB = {
    token: i for i, token in enumerate([*SPECIAL, *string.punctuation, "a", "[Q]", "[Q] ", "[D] "])
}
HIDDEN, POSITIONS = 24, 100
PUNCTUATION = frozenset(VOCAB[symbol] for symbol in string.punctuation)


def tokenizer(*, mask: bool = True) -> Tokenizer:
    backend = tokenizers.Tokenizer(models.WordPiece(VOCAB, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(token, VOCAB[token]) for token in ("[SEP]", "[CLS]")]
    backend.post_processor = processors.BertProcessing(*ends)
    config = {"model_max_length": 60, "pad_token": "[PAD]"}
    return Tokenizer(backend, config | ({"mask_token": "[MASK]"} if mask else {}))


def read(folder: Path, files: dict[str, object], **options: bool) -> Settings:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_settings(folder, tokenizer(**options), HIDDEN, POSITIONS)


def modules(*kinds: str) -> list[dict[str, str]]:
    return [
        {"path": f"{i}_{kind.rsplit('.')[-1]}" if i else "", "type": f"any.where.{kind}"}
        for i, kind in enumerate(kinds)
    ]


def pylate(dense: dict[str, object] | None = None, **config: object) -> dict[str, object]:
    sizes = {"in_features": HIDDEN, "out_features": 8}
    entries = modules("Transformer", "Dense")
    entries[1]["type"] = "pylate.models.Dense.Dense"
    return {
        "modules.json": entries,
        "1_Dense/config.json": sizes | (dense or {}),
        "config_sentence_transformers.json": {"model_type": "ColBERT"} | config,
    }


def multi_vector(
    *kinds: str,
    mask: dict[str, object] | None = None,
    transformer: dict[str, object] | None = None,
    **config: object,
) -> dict[str, object]:
    return {
        "modules.json": modules("Transformer", *(kinds or ("MultiVectorMask", "Normalize"))),
        "1_MultiVectorMask/config.json": mask or {},
        "sentence_bert_config.json": transformer or {},
        "config_sentence_transformers.json": {"model_type": "MultiVectorEncoder"} | config,
    }


def test_stanford_without_metadata_takes_its_defaults(tmp_path: Path) -> None:
    settings = read(tmp_path, {"config.json": {"architectures": ["HF_ColBERT"]}})
    assert settings == Settings(
        kind="Stanford ColBERT",
        query=Side(32, marker=VOCAB["[unused0]"]),
        document=Side(POSITIONS, marker=VOCAB["[unused1]"], skipped=PUNCTUATION),
        expansion=Expansion(32, VOCAB["[MASK]"], attend=False),
        projection=(Dense(tmp_path, tmp_path / "artifact.metadata", HIDDEN, 128),),
    )


def test_stanford_is_known_by_its_metadata_too(tmp_path: Path) -> None:
    metadata = {"query_maxlen": 9, "doc_maxlen": 50, "query_token_id": "a", "dim": 4}
    settings = read(tmp_path, {"artifact.metadata": metadata | {"attend_to_mask_tokens": True}})
    assert settings.kind == "Stanford ColBERT"
    assert settings.query == Side(9, marker=VOCAB["a"])
    assert settings.document.max_length == 50
    assert settings.expansion == Expansion(9, VOCAB["[MASK]"], attend=True)
    assert settings.projection[0].out_features == 4


def test_pylate_takes_its_defaults(tmp_path: Path) -> None:
    settings = read(tmp_path, pylate())
    config = tmp_path / "1_Dense/config.json"
    assert settings == Settings(
        kind="PyLate",
        query=Side(32, marker=VOCAB["[Q] "]),
        document=Side(POSITIONS, marker=VOCAB["[D] "], skipped=PUNCTUATION),
        expansion=Expansion(32, VOCAB["[MASK]"], attend=False),
        projection=(Dense(config.parent, config, HIDDEN, 8, bias=True),),
    )


def test_pylate_is_known_by_its_keys_too(tmp_path: Path) -> None:
    files = pylate(model_type=None, document_length=7, document_prefix="", skiplist_words=[])
    assert read(tmp_path, files).document == Side(7)


@pytest.mark.parametrize(
    ("prefix", "prompt", "marker"),
    [
        ("[unused0] ", "", VOCAB["[unused0]"]),
        ("[Q] ask: ", "ask: ", VOCAB["[Q]"]),
        ("nothing: ", "nothing: ", None),
        ("", "", None),
        (None, "", VOCAB["[Q] "]),
    ],
)
def test_a_pylate_prefix_is_a_token_or_text(
    tmp_path: Path, prefix: str | None, prompt: str, marker: int | None
) -> None:
    assert read(tmp_path, pylate(query_prefix=prefix)).query == Side(32, prompt, marker)


@pytest.mark.parametrize(
    ("default", "query", "document"),
    [(None, "", ""), ("query", "ask: ", "ask: "), ("other", "say: ", "say: ")],
)
def test_a_pylate_prompt_applies_if_it_is_the_default_one(
    tmp_path: Path, default: str | None, query: str, document: str
) -> None:
    prompts = {"query": "ask: ", "document": "tell: ", "other": "say: "}
    settings = read(tmp_path, pylate(prompts=prompts, default_prompt_name=default))
    assert (settings.query.prompt, settings.document.prompt) == (query, document)


def test_pylate_uses_its_dense_modules_and_no_others(tmp_path: Path) -> None:
    files = pylate()
    dense = {"path": "1_Dense", "type": "pylate.models.Dense.Dense"}
    files["modules.json"] = [*modules("Transformer", "Pooling"), dense, *modules("Normalize")]
    assert read(tmp_path, files).projection == read(tmp_path, pylate()).projection


@pytest.mark.parametrize(
    ("eos", "filler"),
    [
        ("[SEP]", VOCAB["[SEP]"]),
        ({"content": "[CLS]", "lstrip": False}, VOCAB["[CLS]"]),
        (None, VOCAB["[PAD]"]),
    ],
)
def test_pylate_without_a_mask_token_fills_with_the_end_of_text(
    tmp_path: Path, eos: object, filler: int
) -> None:
    files = pylate() | {"tokenizer_config.json": {"eos_token": eos}}
    expansion = read(tmp_path, files, mask=False).expansion
    assert expansion == Expansion(32, filler, attend=False)


@pytest.mark.parametrize(
    ("expansion", "query_length", "longest"),
    [
        ({"strategy": "fixed", "length": 12}, None, 12),
        ({"strategy": "min", "length": 12}, 20, 20),
        ({"strategy": "min", "length": 12}, 5, 12),
        ({"strategy": "min", "length": 12}, None, 60),
        (None, 20, 20),
        (None, None, 60),
    ],
)
def test_multi_vector_query_length(
    tmp_path: Path,
    expansion: dict[str, object] | None,
    query_length: int | None,
    longest: int,
) -> None:
    transformer = {"query_expansion": expansion, "query_length": query_length}
    settings = read(tmp_path, multi_vector(transformer=transformer))
    assert settings.query.max_length == longest
    assert settings.expansion == (Expansion(12, VOCAB["[MASK]"], False) if expansion else None)


@pytest.mark.parametrize("what", ["token_embeddings", "sentence_embedding", None])
def test_multi_vector_normalizes_if_it_says_so_of_tokens(tmp_path: Path, what: str | None) -> None:
    if what:
        files = multi_vector() | {"2_Normalize/config.json": {"module_input_name": what}}
    else:
        files = multi_vector("MultiVectorMask")
    assert read(tmp_path, files).normalize == (what == "token_embeddings")


def test_any_other_folder_is_a_plain_encoder(tmp_path: Path) -> None:
    assert read(tmp_path, {}) == Settings("encoder", Side(60), Side(60))


def test_a_sentence_transformers_folder_keeps_its_own_length(tmp_path: Path) -> None:
    files = {
        "modules.json": modules("Transformer", "Pooling", "Normalize"),
        "sentence_bert_config.json": {"max_seq_length": 41},
        "config_sentence_transformers.json": {"model_type": "SentenceTransformer"},
    }
    assert read(tmp_path, files) == Settings("encoder", Side(41), Side(41))


def test_encoder_folder_is_what_modules_json_says(tmp_path: Path) -> None:
    assert encoder_folder(tmp_path) == tmp_path
    entries = [{"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}]
    (tmp_path / "modules.json").write_text(json.dumps(entries))
    assert encoder_folder(tmp_path) == tmp_path / "0_Transformer"


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "l2": ({"artifact.metadata": {"similarity": "l2"}}, "l2 similarity"),
    "flipr": ({"artifact.metadata": {"interaction": "flipr"}}, "flipr interaction"),
    "marker": ({"artifact.metadata": {"query_token_id": "[NO]"}}, r"no token '\[NO\]'"),
    "long": ({"artifact.metadata": {"query_maxlen": 101}}, "101 tokens, but its encoder takes 100"),
    "json": ({"artifact.metadata": "{"}, "artifact.metadata cannot be read as JSON"),
    "object": ({"artifact.metadata": "[]"}, "holds a list, expected a JSON object"),
    "modules": ({"modules.json": ["x"]}, "modules.json lists 'x', expected objects only"),
    "size": (pylate({"in_features": 9}), "in_features is 9, but .* vectors of size 24"),
    "no-dense": (pylate() | {"1_Dense/config.json": {}}, "in_features or out_features is missing"),
    "activation": (pylate({"activation_function": "torch.nn.Mish"}), "is Mish, expected one of"),
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
    (_STANFORD, "config.json", "a list", "architectures"),
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
    (_MULTI_VECTOR, "2_MultiVectorMask/config.json", "a list", "skiplist_words skiplist_tasks"),
    (_MULTI_VECTOR, "3_Normalize/config.json", "a string", "module_input_name"),
    (_MULTI_VECTOR, "sentence_bert_config.json", "a whole number", "query_length document_length"),
    (_MULTI_VECTOR, "sentence_bert_config.json", "an object", "query_expansion"),
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
        (multi_vector(prompts={"corpus": 5}), "corpus is 5, expected a string"),
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


@pytest.mark.parametrize("eos", [5, ["[SEP]"], {"content": 5}])
def test_an_end_of_text_of_the_wrong_type(tmp_path: Path, eos: object) -> None:
    files = pylate() | {"tokenizer_config.json": {"eos_token": eos}}
    with pytest.raises(ModelError, match=r"tokenizer_config.json: .* expected a string"):
        read(tmp_path, files, mask=False)


def test_stanford_expansion_needs_a_mask_token(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no mask token"):
        read(tmp_path, {"artifact.metadata": {}}, mask=False)
