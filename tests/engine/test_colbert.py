"""What a late-interaction folder may say, by its files alone; parity is test_late_interaction's."""

import json
import string
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from packrank.colbert import Dense, Expansion, Settings, Side, encoder_folder, read_settings
from packrank.errors import ModelError
from packrank.tokenizer import Tokenizer

SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]"]
VOCAB = {token: i for i, token in enumerate([*SPECIAL, *string.punctuation, "a", "[Q]"])}
HIDDEN, POSITIONS = 24, 100
PUNCTUATION = frozenset(VOCAB[symbol] for symbol in string.punctuation)


def tokenizer(*, mask: bool = True, max_length: int = 60) -> Tokenizer:
    backend = tokenizers.Tokenizer(models.WordPiece(VOCAB, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(token, VOCAB[token]) for token in ("[SEP]", "[CLS]")]
    backend.post_processor = processors.BertProcessing(*ends)
    config = {"model_max_length": max_length}
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
        projection=(Dense(tmp_path, HIDDEN, 128),),
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
    assert settings == Settings(
        kind="PyLate",
        query=Side(32),
        document=Side(POSITIONS, skipped=PUNCTUATION),
        expansion=Expansion(32, VOCAB["[MASK]"], attend=False),
        projection=(Dense(tmp_path / "1_Dense", HIDDEN, 8, bias=True),),
    )


def test_pylate_is_known_by_its_keys_too(tmp_path: Path) -> None:
    files = pylate(model_type=None, document_length=7, skiplist_words=[])
    assert read(tmp_path, files).document == Side(7)


@pytest.mark.parametrize(
    ("prefix", "prompt", "marker"),
    [
        ("[unused0] ", "", VOCAB["[unused0]"]),
        ("[Q] ask: ", "ask: ", VOCAB["[Q]"]),
        ("nothing: ", "nothing: ", None),
        ("", "", None),
        (None, "", None),
    ],
)
def test_a_pylate_prefix_is_a_token_or_text(
    tmp_path: Path, prefix: str | None, prompt: str, marker: int | None
) -> None:
    assert read(tmp_path, pylate(query_prefix=prefix)).query == Side(32, prompt, marker)


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
    "object": ({"artifact.metadata": "[]"}, "holds a list, expected a dict"),
    "modules": ({"modules.json": ["x"]}, "not a list of modules"),
    "size": (pylate({"in_features": 9}), "vectors of size 9, but what comes before it gives 24"),
    "no-dense": (pylate({"in_features": None}) | {"1_Dense/config.json": {}}, "no Dense layer"),
    "activation": (pylate({"activation_function": "torch.nn.Mish"}), "activation Mish, expected"),
    "sentence": (pylate({"module_input_name": "sentence_embedding"}), "not on token vectors"),
    "xtr": (multi_vector(similarity_fn_name="xtr"), "scores by 'xtr'"),
    "pooling": (multi_vector("HierarchicalTokenPooling"), "HierarchicalTokenPooling; supported"),
    "images": (multi_vector(mask={"keep_only_token_ids": [5]}), "image tokens only"),
    "number": (pylate(document_length="180"), "length of '180', expected a whole number"),
    "strategy": (
        multi_vector(transformer={"query_expansion": {"strategy": "twice", "length": 9}}),
        "by 'twice', not fixed or min",
    ),
    "no-length": (
        multi_vector(transformer={"query_expansion": {"strategy": "min"}}),
        "length of None, expected",
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


def test_expansion_needs_a_mask_token(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no mask token"):
        read(tmp_path, pylate(), mask=False)
