"""Every key of every tokenizer file, of every family, against transformers' AutoTokenizer.

What a key changes there it changes here, or the folder is refused; and those that are refused are
known.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizer_folders import FAMILIES, TEXTS, write, write_family
from transformers import AutoTokenizer

from packrank.errors import ModelError
from packrank.text.tokenizer import Tokenizer

Change = Callable[[Path], object]


def token(content: str, **options: bool) -> dict[str, Any]:
    """As tokenizer_config.json spells out a token."""
    plain = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    return {"content": content, **plain, **options}


def typed(content: str, **options: bool) -> dict[str, Any]:
    return {"__type": "AddedToken", **token(content, **options)}


NEW = [typed("<new>", lstrip=True, rstrip=True)]

# Keys of tokenizer_config.json and values that each may have.
KEYS: dict[str, list[Any]] = {
    "add_prefix_space": [True, False],
    "do_lower_case": [True, False],
    "strip_accents": [True, False, None],
    "tokenize_chinese_chars": [True, False],
    "trim_offsets": [False],
    "legacy": [True, False],
    "add_bos_token": [True, False],
    "add_eos_token": [True],
    "split_special_tokens": [True, False],
    "model_input_names": [["input_ids", "token_type_ids"], ["input_ids"], []],
    "model_max_length": [5, None, 1e30],
    "max_len": [7],
    "padding_side": ["left"],
    "truncation_side": ["left", "right"],
    "clean_up_tokenization_spaces": [True],
    "cls_token": ["a", "[N]", None, typed("[CLS]", lstrip=True), typed("<new>", normalized=True)],
    "sep_token": ["a", "[N]", None, typed("[SEP]", rstrip=True)],
    "bos_token": ["a", "<new>", None],
    "eos_token": ["ab", "<new>", None],
    "mask_token": ["[N]", None, typed("<mask>", lstrip=True)],
    "pad_token": ["[N]", None, "b"],
    "unk_token": ["a", "[N]", None],
    "new_token": ["<new>", typed("<new>"), token("<new>"), 5],
    "additional_special_tokens": [["<new>", "[N]"], [], None, NEW, [token("<new>")], {"x": "ab_x"}],
    "extra_special_tokens": [["<new>"], {"i_token": "<new>", "z": "[N]"}, {}, {"b": NEW[0]}, None],
    "added_tokens_decoder": [
        {},
        {"300": token("<new>", special=True)},
        {"1": token("<new>", normalized=True), "0": token("ab_x")},
        {"5": token("ab", single_word=True)},
        {"x": token("a")},
        {"3": "a"},
    ],
    "tokenizer_class": [
        ...,
        None,
        "BertTokenizer",
        "DistilBertTokenizerFast",
        "ElectraTokenizer",
        "RobertaTokenizerFast",
        "BartTokenizer",
        "XLMRobertaTokenizer",
        "CamembertTokenizerFast",
        "LlamaTokenizer",
        "GemmaTokenizer",
        "Qwen2TokenizerFast",
        "PreTrainedTokenizerFast",
        "TokenizersBackend",
        "GPT2Tokenizer",
        "NoSuchTokenizer",
    ],
    "auto_map": [{"AutoTokenizer": ["x.Y", None]}, {"AutoModel": "x.Z"}],
    "fast_tokenizer_files": [["tokenizer.json"], ["tokenizer.4.0.0.json"]],
    "fix_mistral_regex": [True],
    "max_length": [3],
    "vocab_file": ["/nowhere"],
    "tokenizer_file": ["/nowhere"],
    "never_split": [["a"]],
    "unk_id": [0],
    "dropout": [0.5],
    "sp_model_kwargs": [{"enable_sampling": True}],
    "vocab": [{"a": 0}],
    "post_processor": [{"type": "ByteLevel"}],
    "init_inputs": [["x"]],
    "model_specific_special_tokens": [{"q": "<new>"}],
}
# What other files may hold beside it.
OTHERS: dict[str, list[Any]] = {
    "special_tokens_map.json": [
        {"cls_token": "[N]", "sep_token": "a"},
        {"additional_special_tokens": ["<new>"]},
        {"additional_special_tokens": [token("<new>")]},
        {"mask_token": token("<new>", lstrip=True), "pad_token": None},
        {"extra_special_tokens": [token("<new>")]},
        {"extra_special_tokens": {"i": "<new>"}},
        {"add_bos_token": True, "add_eos_token": True, "model_max_length": 9},
        {"bos_token": "<new>", "new_token": "ab_x"},
    ],
    "added_tokens.json": [{"<new>": 500}, {"<new>": 3, "[MASK]": 1}, {"ab": 0}, {"<NEW>": "x"}],
}


def _changed(**model: Any) -> Change:
    return lambda folder: write(
        folder, "config.json", json.loads((folder / "config.json").read_text()) | model
    )


def _edited(edit: Callable[[dict[str, Any]], object]) -> Change:
    def change(folder: Path) -> None:
        content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        edit(content)
        write(folder, "tokenizer.json", content)

    return change


def _flags(content: dict[str, Any], **flags: bool) -> None:
    for entry in content["added_tokens"]:
        entry.update(flags)


CUT = {"direction": "Left", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
PADDED = {
    "strategy": {"Fixed": 12},
    "direction": "Left",
    "pad_to_multiple_of": None,
    "pad_id": 1,
    "pad_type_id": 0,
    "pad_token": "[N]",
}
BESIDE = token("<new>", lstrip=True, normalized=True, special=False) | {"id": 9999}
CHANGES: dict[str, Change] = {
    "model: tokenizer_class": _changed(tokenizer_class="PreTrainedTokenizerFast"),
    "model: tokenizer_class of BERT": _changed(tokenizer_class="BertTokenizer"),
    "model: model_name": _changed(model_name="camembertv2-base"),
    "model: no model_type": _changed(model_type=None),
    "model: unknown model_type": _changed(model_type="unheard-of"),
    "no layout": _edited(lambda x: x.update(post_processor=None)),
    "another normalizer": _edited(lambda x: x.update(normalizer={"type": "Lowercase"})),
    "another pre-tokenizer": _edited(lambda x: x.update(pre_tokenizer={"type": "Whitespace"})),
    "truncation": _edited(lambda x: x.update(truncation=CUT)),
    "padding": _edited(lambda x: x.update(padding=PADDED)),
    "an added token less": _edited(lambda x: x["added_tokens"].pop()),
    "no added tokens": _edited(lambda x: x["added_tokens"].clear()),
    "an added token more": _edited(lambda x: x["added_tokens"].append(BESIDE)),
    "added tokens strip": _edited(lambda x: _flags(x, lstrip=True, rstrip=True)),
    "no special tokens": _edited(lambda x: _flags(x, special=False, normalized=True)),
    "byte fallback": _edited(lambda x: x["model"].update(byte_fallback=True)),
    "another unknown id": _edited(lambda x: x["model"].update(unk_id=0)),
    "short words": _edited(lambda x: x["model"].update(max_input_chars_per_word=2)),
    "ignored merges": _edited(lambda x: x["model"].update(ignore_merges=True)),
    "old": _edited(lambda x: x["model"].pop("type")),
}


Case = tuple[str, str, dict[str, Any], Change | None]


def cases() -> Iterator[Case]:
    """Family, name, changes of tokenizer_config.json, other changes."""
    for family in FAMILIES:
        yield family, "as it is", {}, None
        for key, values in KEYS.items():
            for value in values:
                yield family, f"{key} {value}", {key: value}, None
        for name, contents in OTHERS.items():
            for content in contents:
                yield (
                    family,
                    f"{name} {content}",
                    {},
                    lambda folder, n=name, c=content: write(folder, n, c),
                )
        for name, change in CHANGES.items():
            yield family, name, {}, change


ALL = list(cases())
# Each of these once made a difference that Packrank did not see.
TELLING = {
    ("bert", "added_tokens.json {'<new>': 500}"),
    ("bert", "additional_special_tokens ['<new>', '[N]']"),
    ("bert", "cls_token [N]"),
    ("bert", "do_lower_case False"),
    ("bert", "extra_special_tokens {'i_token': '<new>', 'z': '[N]'}"),
    ("bert", "model: unknown model_type"),
    ("bert", "sep_token a"),
    ("bert", "split_special_tokens True"),
    ("bert", "tokenizer_class DistilBertTokenizerFast"),
    ("bert", "tokenizer_class PreTrainedTokenizerFast"),
    ("bert", "tokenizer_class TokenizersBackend"),
    ("camembert", "add_prefix_space False"),
    ("electra", "special_tokens_map.json {'cls_token': '[N]', 'sep_token': 'a'}"),
    ("gemma", "added_tokens_decoder {}"),
    ("llama2", "add_prefix_space False"),
    ("llama2", "legacy True"),
    ("llama3", "padding"),
    ("mistral", "no layout"),
    ("modernbert", "added tokens strip"),
    ("qwen2", "split_special_tokens True"),
    ("qwen3", "add_prefix_space True"),
    ("roberta", "add_prefix_space True"),
    ("roberta", "another pre-tokenizer"),
    ("xlm-roberta", "add_prefix_space False"),
    ("xlm-roberta", "bos_token <new>"),
}


def sample() -> list[Case]:
    """Those, and every key once, of one family or another."""
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in ALL:
        name = case[1]
        groups[name if name in CHANGES else name.split(" ")[0]].append(case)
    chosen = [group[7 * place % len(group)] for place, group in enumerate(groups.values())]
    return [*chosen, *(case for case in ALL if case[:2] in TELLING)]


def read_by_transformers(folder: Path) -> dict[str, Any] | None:
    """What texts and pairs are there; None where it cannot read the folder, or texts by it."""
    try:
        theirs = AutoTokenizer.from_pretrained(str(folder))
        found = []
        for query, document in zip(TEXTS, TEXTS[::-1], strict=True):
            for texts in ([query],), ([query], [document]):
                encoded = theirs(*texts, truncation=False, padding=False)
                ids = encoded["input_ids"][0]
                found.append((ids, encoded.get("token_type_ids", [[0] * len(ids)])[0]))
    except Exception:
        return None
    limit = theirs.model_max_length
    return {
        "sequences": found,
        "special tokens": theirs.special_tokens_map,
        "side": theirs.truncation_side,
        "limit": None if limit > 10**9 else limit,
        "size": len(theirs),
    }


def read_by_packrank(folder: Path) -> dict[str, Any]:
    ours = Tokenizer.from_folder(folder)
    found = []
    for query, document in zip(TEXTS, TEXTS[::-1], strict=True):
        first, second = ours.encode([query, document])
        for sequence in (ours.single(first, None, "off"), ours.pair(first, second, None, "off")):
            found.append((sequence.token_ids.tolist(), sequence.token_types.tolist()))
    return {
        "sequences": found,
        "special tokens": ours.special_tokens,
        "side": "left" if ours.keeps_end else "right",
        "limit": ours.model_max_length,
        "size": ours.vocab_size,
    }


# What is refused though transformers reads it, and what its message names.
REFUSED = {
    "auto_map": "auto_map",
    "cls_token None": "cls_token is null",
    "sep_token None": "sep_token is null",
    "unk_token None": "unk_token is null",
    "tokenizer_class": "tokenizer_class",
    "model: tokenizer_class of BERT": "tokenizer_class",
    "fast_tokenizer_files": "fast_tokenizer_files",
    "vocab": "vocab",
    "post_processor": "post_processor",
    "init_inputs": "init_inputs",
    "model_specific_special_tokens": "model_specific_special_tokens",
}


def check(
    folder: Path, family: str, name: str, changes: dict[str, Any], more: Change | None
) -> int:
    """1 where both read the folder alike, 0 where one of them cannot."""
    write_family(folder, family, **changes)
    if more is not None:
        more(folder)
    theirs = read_by_transformers(folder)
    try:
        ours = read_by_packrank(folder)
    except ModelError as error:
        assert "\n" not in str(error)
        if theirs is not None:
            begun = [word for begins, word in REFUSED.items() if name.startswith(begins)]
            assert begun and any(word in str(error) for word in begun), f"{family}, {name}: {error}"
        return False
    if theirs is None:
        return False
    for what, value in theirs.items():
        assert ours[what] == value, f"{family}, {name}: other {what}"
    return True


def test_every_key_changes_what_it_changes_in_transformers(
    tmp_path_factory: pytest.TempPathFactory, thorough: bool
) -> None:
    chosen = ALL if thorough else sample()
    alike = sum(check(tmp_path_factory.mktemp("sweep"), *case) for case in chosen)
    assert alike > len(chosen) * 0.85


def test_the_sample_has_what_it_should() -> None:
    assert {case[:2] for case in sample()} >= TELLING
    assert {name.split(" ")[0] for _, name, _, _ in sample()} >= {*KEYS, *OTHERS}
    assert {family for family, _, _, _ in sample()} == {*FAMILIES}


def test_the_texts_tell_keys_apart(tmp_path: Path) -> None:
    """Of a sweep that would also pass if nothing were read."""
    seen = []
    for key, value in (("x", 0), ("do_lower_case", False), ("split_special_tokens", True)):
        folder = tmp_path / key
        folder.mkdir()
        seen.append(read_by_packrank(write_family(folder, "bert", **{key: value}))["sequences"])
    assert seen[0] != seen[1] != seen[2] != seen[0]


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("bert-uncased", None),
        ("xlm-roberta", {"tokenizer_class": "XLMRobertaTokenizer"}),
        ("modernbert", {"tokenizer_class": "PreTrainedTokenizerFast", "mask_token": "[MASK]"}),
        ("qwen2", {"tokenizer_class": "Qwen2Tokenizer", "split_special_tokens": True}),
    ],
)
def test_real_tokenizers_are_read_as_transformers_reads_them(
    data_dir: Path, tmp_path: Path, name: str, config: dict[str, Any] | None, thorough: bool
) -> None:
    if name == "xlm-roberta" and not thorough:  # which transformers takes seconds to read
        pytest.skip("runs with --thorough")
    for path in (data_dir / "tokenizers" / name).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    write(tmp_path, "config.json", {"model_type": name.removesuffix("-uncased")})
    if config is not None:
        write(tmp_path, "tokenizer_config.json", config)
    theirs = read_by_transformers(tmp_path)
    assert theirs is not None
    assert read_by_packrank(tmp_path) == theirs
