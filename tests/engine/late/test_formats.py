"""What a late-interaction folder may say, by its files alone; parity is test_token_vectors'."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from late_folders import (
    HIDDEN,
    PAD,
    POSITIONS,
    PUNCTUATION,
    VOCAB,
    modules,
    multi_vector,
    pylate,
    read,
    tokenizer,
)
from safetensors.torch import save_file

from packrank.checkpoint.modules import encoder_folder
from packrank.errors import InputError, ModelError
from packrank.late.formats import read_settings
from packrank.late.settings import Dense, Expansion, Settings, Side


def test_stanford_without_metadata_takes_its_defaults(tmp_path: Path) -> None:
    settings = read(tmp_path, {"config.json": {"architectures": ["HF_ColBERT"]}})
    assert settings == Settings(
        kind="Stanford ColBERT",
        query=Side(32, marker=VOCAB["[unused0]"], refilled=PAD),
        document=Side(POSITIONS, marker=VOCAB["[unused1]"], skipped=PUNCTUATION | {PAD}),
        expansion=Expansion(32, VOCAB["[MASK]"], attend=False),
        projection=(Dense(tmp_path, tmp_path / "artifact.metadata", HIDDEN, 128),),
    )


def test_stanford_is_known_by_its_metadata_too(tmp_path: Path) -> None:
    metadata = {"query_maxlen": 9, "doc_maxlen": 50, "query_token_id": "a", "dim": 4}
    settings = read(tmp_path, {"artifact.metadata": metadata | {"attend_to_mask_tokens": True}})
    assert settings.kind == "Stanford ColBERT"
    assert settings.query == Side(9, marker=VOCAB["a"], refilled=PAD)
    assert settings.document.max_length == 50
    assert settings.expansion == Expansion(9, VOCAB["[MASK]"], attend=True)
    assert settings.projection[0].out_features == 4


def test_pylate_takes_its_defaults(tmp_path: Path) -> None:
    settings = read(tmp_path, pylate())
    config = tmp_path / "1_Dense/config.json"
    assert settings == Settings(
        kind="PyLate",
        query=Side(32, marker=VOCAB["[Q] "], strips=True),
        document=Side(POSITIONS, marker=VOCAB["[D] "], skipped=PUNCTUATION, strips=True),
        expansion=Expansion(32, VOCAB["[MASK]"], attend=False),
        projection=(Dense(config.parent, config, HIDDEN, 8, bias=True),),
    )


def test_pylate_is_known_by_its_keys_too(tmp_path: Path) -> None:
    files = pylate(model_type=None, document_length=7, document_prefix="", skiplist_words=[])
    assert read(tmp_path, files).document == Side(7, strips=True)


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
    side = read(tmp_path, pylate(query_prefix=prefix)).query
    assert side == Side(32, prompt, marker, strips=True)


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
    ("expansion", "query_length", "longest"),
    [
        ({"strategy": "fixed", "length": 12}, None, 12),
        ({"strategy": "min", "length": 12}, 20, 20),
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


@pytest.mark.parametrize(
    ("name", "of", "normalizes"),
    [("output", "sentence_embedding", False), ("output", "token_embeddings", True)],
)
def test_multi_vector_normalizes_what_it_gives_back(
    tmp_path: Path, name: str, of: str, normalizes: bool
) -> None:
    names = {"module_input_name": "token_embeddings", f"module_{name}_name": of}
    files = multi_vector() | {"2_Normalize/config.json": names}
    assert read(tmp_path, files).normalize == normalizes


@pytest.mark.parametrize(
    ("tasks", "query", "document"),
    [(None, 0, 1), ([], 0, 0), ("query", 1, 0), (["query", "document"], 1, 1)],
)
def test_a_skiplist_is_of_the_sides_that_it_names(
    tmp_path: Path, tasks: object, query: int, document: int
) -> None:
    mask = {"skiplist_words": ["a", "nowhere"], "skiplist_tasks": tasks}
    settings = read(tmp_path, multi_vector(mask=mask))
    assert (len(settings.query.skipped), len(settings.document.skipped)) == (query, document)


def test_a_file_may_go_past_usual_positions(tmp_path: Path) -> None:
    def lengths(folder: Path, **asked: int) -> tuple[int, int]:
        some = read_settings(folder, tokenizer(), HIDDEN, 1000, usual_positions=50, **asked)
        return some.query.max_length, some.document.max_length

    read(tmp_path, pylate(query_length=90, document_length=500))
    assert lengths(tmp_path) == (90, 500)
    assert lengths(tmp_path, document_length=999) == (90, 999)
    (tmp_path / "bare").mkdir()
    read(tmp_path / "bare", {})
    assert lengths(tmp_path / "bare") == (50, 50)  # the tokenizer says 60


def test_lengths_of_the_caller_count_before_those_of_the_files(tmp_path: Path) -> None:
    fixed = multi_vector(transformer={"query_expansion": {"strategy": "fixed", "length": 12}})
    least = multi_vector(transformer={"query_expansion": {"strategy": "min", "length": 12}})
    for name, files, filled in (
        ("stanford", {"artifact.metadata": {"query_maxlen": 9, "doc_maxlen": 50}}, 20),
        ("pylate", pylate(query_length=9, document_length=50), 20),
        ("fixed", fixed, 20),
        ("least", least, 12),
        ("encoder", {"sentence_bert_config.json": {"max_seq_length": 41}}, None),
    ):
        folder = tmp_path / name
        folder.mkdir()
        read(folder, files)
        some = read_settings(
            folder, tokenizer(), HIDDEN, POSITIONS, query_length=20, document_length=70
        )
        assert (some.query.max_length, some.document.max_length) == (20, 70)
        assert (some.expansion.length if some.expansion else None) == filled
        for lengths, message in (
            ({"query_length": 101}, "query_length is 101, and the model takes 100 tokens"),
            ({"document_length": 101}, "document_length is 101, and the model takes 100"),
            ({"document_length": 2}, "document_length is 2, but [23] tokens are special ones"),
        ):
            with pytest.raises(InputError, match=message):
                read_settings(folder, tokenizer(), HIDDEN, POSITIONS, **lengths)
    with pytest.raises(InputError, match="query_length is 9, and queries are expanded to 12"):
        read_settings(tmp_path / "least", tokenizer(), HIDDEN, POSITIONS, query_length=9)


def test_a_projection_beside_the_encoder_is_stanfords(tmp_path: Path) -> None:
    save_file({"linear.weight": torch.ones(128, HIDDEN)}, tmp_path / "model.safetensors")
    assert read(tmp_path, {}).kind == "Stanford ColBERT"


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


def test_what_a_pylate_query_is_filled_with_stands_in_any_file(tmp_path: Path) -> None:
    """The end of text, where there is no mask token: as the tokenizer knows it."""
    backend = tokenizer(mask=False)
    backend.special_tokens["eos_token"] = "[SEP]"
    read(tmp_path, pylate(), mask=False)
    settings = read_settings(tmp_path, backend, HIDDEN, POSITIONS)
    assert settings.expansion == Expansion(32, VOCAB["[SEP]"], attend=False)


@pytest.mark.parametrize("files", [pylate(), {"artifact.metadata": {"dim": 4}}])
def test_fillers_before_a_text_are_refused(tmp_path: Path, files: dict[str, Any]) -> None:
    read(tmp_path, files)
    backend = tokenizer()
    backend.fills_start = True
    with pytest.raises(ModelError, match="padding_side of its tokenizer is 'left'"):
        read_settings(tmp_path, backend, HIDDEN, POSITIONS)
