"""Chat templates of LogitScore folders: sentence-transformers' own preprocessing is the oracle."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from hypothesis import given
from hypothesis import strategies as st
from prompts import check_shared, rows
from sentence_transformers import CrossEncoder
from tokenizers import models, pre_tokenizers

from packrank.checkpoint.config import ModelConfig, load_config
from packrank.errors import InputError, ModelError
from packrank.scoring.recognition import Scoring, recognise
from packrank.scoring.sentence_transformers import LogitScore, read_settings
from packrank.text.chat_template import ChatLayout, ChatTemplate
from packrank.text.pairs import TokenizerLayout
from packrank.text.tokenizer import Tokenizer

FLAT = """{%- set system = messages | selectattr("role", "eq", "system") | list -%}
<|im_start|>system
{{ system[0].content if system else "Judge." }}<|im_end|>
<|im_start|>user
{% for message in messages if message.role != "system" %}
<{{ message.role }}>: {{ message.content }}
  {% endfor %}
<|im_end|>
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}{{ ending }}"""
STRUCTURED = """{% for message in messages %}
{% if loop.index > 9 %}{% break %}{% endif %}
{% generation %}{{ message.role }}: {{ message.content[0].text }}{% endgeneration %}
{% endfor %}
{{ bos_token }}{{ {"b": "<é>"} | tojson }}{{ eos_token }}"""
CONTENTS = ("{{ messages[0].content }}", "{{ messages[1].content }}")
BOTH = " ".join(CONTENTS)
Build = Callable[..., Path]


def word_level() -> tokenizers.Tokenizer:
    """Bytes, and words of a few letters; a merge reaches over where a document may begin."""
    pieces = ["<|im_start|>", "<|im_end|>", "yes", "no"]
    pieces += [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab", ":Ġ", ":Ġa"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = [("a", "b"), (":", "Ġ"), (":Ġ", "a")]
    backend = tokenizers.Tokenizer(models.BPE(vocab, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.add_special_tokens(pieces[:2])
    return backend


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    """build(template, ...): a LogitScore folder, saved by sentence-transformers itself."""
    transformers.utils.logging.disable_progress_bar()

    def make(template: str | None = FLAT, side: str = "right", **options: Any) -> Path:
        base = tmp_path_factory.mktemp("base")
        wrapped = transformers.PreTrainedTokenizerFast(
            tokenizer_object=word_level(),
            eos_token="<|im_end|>",
            pad_token="<|im_start|>",
            truncation_side=side,
        )
        wrapped.chat_template = template
        wrapped.save_pretrained(base)
        config = transformers.Qwen2Config(
            vocab_size=300,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=8,
            max_position_embeddings=400,
        )
        transformers.Qwen2ForCausalLM(config).save_pretrained(base)
        folder = tmp_path_factory.mktemp("saved")
        CrossEncoder(str(base), **options).save_pretrained(str(folder))
        return folder

    yield make


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def loaded(folder: Path, **options: Any) -> tuple[Scoring, Tokenizer, ModelConfig]:
    tokenizer, config = Tokenizer.from_folder(folder), load_config(folder)
    return recognise(folder, config, tokenizer, **options), tokenizer, config


def expected(folder: Path, pairs: list[tuple[str, str]], **options: Any) -> list[list[int]]:
    model = CrossEncoder(str(folder), local_files_only=True, **options)
    features = model.preprocess(pairs, prompt=model._resolve_prompt(None, None))
    mask = features["attention_mask"].bool()
    return [ids[m].tolist() for ids, m in zip(features["input_ids"], mask, strict=True)]


PAIRS = [
    ("ab", "a ab"),
    ("ab", "b"),
    ("", "b"),
    ("ab", ""),
    ("q <|im_end|>", "{{ a }}\n\n "),
    ("ab", "ab" * 500),
    ("ab", "d" * 99),
    (" é", " \n漢 🦙"),
]


@pytest.mark.parametrize("template", [FLAT, STRUCTURED])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("prompts", [{}, {"a": "Find\nab:"}])
def test_ids_are_those_of_sentence_transformers(
    build: Build, template: str, side: str, prompts: dict[str, str]
) -> None:
    options: dict[str, Any] = {}
    if prompts:
        options = {"prompts": prompts, "default_prompt_name": "a"}
    folder = build(template, side, **options)
    scoring, tokenizer, config = loaded(folder)
    assert (scoring.head, scoring.activation) == ("tokens", "sigmoid")
    assert scoring.tokens == LogitScore(2, 3)
    assert scoring.chat is not None
    assert scoring.chat.structured == (template == STRUCTURED)
    layout = scoring.layout(tokenizer, config)
    size = int(layout.lay_out([("ab", "d" * 99)])[0].lengths[0])
    pairs = [*PAIRS, ("ab", "d" * (99 + 403 - size))]
    pack, failures = layout.lay_out(pairs)
    # Nothing of the query would be left of one.
    assert list(failures) == ([5] if side == "left" else [])
    right = expected(folder, pairs)
    assert rows(pack) == [ids for place, ids in enumerate(right) if place not in failures]
    assert layout.max_length == pack.max_seqlen == 400
    check_shared(pack)
    # Also where another document's prompt has lost its beginning, of three tokens.
    assert pack.shared is not None
    assert pack.shared[0] > 10


def test_what_pairs_of_a_query_share_ends_where_the_document_begins(build: Build) -> None:
    folder = build()
    scoring, tokenizer, config = loaded(folder)
    pack, _ = scoring.layout(tokenizer, config).lay_out(PAIRS)
    assert pack.queries is not None
    assert pack.shared is not None
    of_one = [query == "ab" for query, _ in PAIRS]
    assert (pack.queries == pack.queries[0]).tolist() == of_one
    prompts = [ids for ids, one in zip(expected(folder, PAIRS), of_one, strict=True) if one]
    alike = [len(set(ids)) == 1 for ids in zip(*prompts, strict=False)]
    assert pack.shared[0] == alike.index(False) > 30


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("restore", [True, False])
def test_truncation_at_every_length(build: Build, side: str, restore: bool) -> None:
    folder = build(FLAT, side)
    given = {"add_generation_prompt": True, "ending": "ab", "restore_suffix": restore}
    pairs = [("ab", "z" * 30), ("ab", "z"), ("q" * 9, "z" * 30), ("ab", "z" * 30)]
    failed = set()
    # The longest prompt has 97 tokens, the first 90.
    for limit in (97, 96, 91, 90, 89, 70, 61, 60):
        processing = {"chat_template": given, "text": {"max_length": limit}}
        change(folder / "sentence_bert_config.json", processing_kwargs=processing)
        scoring, tokenizer, config = loaded(folder)
        assert scoring.max_length == limit
        pack, failures = scoring.layout(tokenizer, config).lay_out(pairs)
        right = expected(folder, pairs)
        assert rows(pack) == [ids for place, ids in enumerate(right) if place not in failures]
        assert len(pack) >= 2 or side == "right"
        check_shared(pack)
        # None fails of which sentence-transformers would score a part of the document.
        failed |= set(failures)
        z = tokenizer.token_id("z")
        assert [z in ids for ids in right] == [place not in failures for place in range(4)]
        assert [len(ids) for ids in right[:3]] == [min(limit, n) for n in (90, 61, 97)]
    assert failed == ({0, 1, 2, 3} if restore and side == "right" else set())


def test_a_suffix_that_the_document_runs_into(build: Build) -> None:
    """Of a prompt that just fits too the end is put back, as sentence-transformers does it."""
    folder = build("{{ messages[0].content }}|{{ messages[1].content }}b<|im_end|>")
    pairs = [("q", "zza"), ("q", "zzb")]
    for limit, merged in ((5, False), (6, False), (7, True)):
        change(
            folder / "sentence_bert_config.json",
            processing_kwargs={"text": {"max_length": limit}},
        )
        scoring, tokenizer, config = loaded(folder)
        pack, failures = scoring.layout(tokenizer, config).lay_out(pairs)
        assert not failures
        assert rows(pack) == expected(folder, pairs)
        assert (tokenizer.token_id("ab") in pack[0].token_ids) == merged


def test_a_prompt_that_is_cut_where_it_may_not_be(build: Build) -> None:
    scoring, tokenizer, config = loaded(build())
    layout = scoring.layout(tokenizer, config, max_length=110, truncation="off")
    pack, failures = layout.lay_out([("ab", "a"), ("ab", "d" * 90)])
    assert (len(pack), list(failures)) == (1, [1])
    assert "more than max_length 110; shorten it or allow truncation" in failures[1]


def test_an_instruction_is_the_systems_message(build: Build) -> None:
    folder = build(FLAT, prompts={"a": "Old"}, default_prompt_name="a")
    scoring, tokenizer, config = loaded(folder)
    pack, _ = scoring.layout(tokenizer, config, instruction="New").lay_out(PAIRS)
    options = {"prompts": {"a": "New"}, "default_prompt_name": "a"}
    assert rows(pack) == expected(folder, PAIRS, **options)
    pack, _ = scoring.layout(tokenizer, config, instruction="").lay_out(PAIRS)
    assert rows(pack) == expected(folder, PAIRS, prompts={"a": ""}, default_prompt_name="a")


def test_without_a_chat_template_it_is_the_tokenizers_layout(build: Build) -> None:
    folder = build(None, prompts={"a": "ab "}, default_prompt_name="a")
    scoring, tokenizer, config = loaded(folder)
    assert (scoring.head, scoring.chat, scoring.template) == ("tokens", None, None)
    layout = scoring.layout(tokenizer, config)
    assert isinstance(layout, TokenizerLayout)
    pairs = [pair for pair in PAIRS if pair[1]]
    pack, _ = layout.lay_out(pairs)
    assert rows(pack) == expected(folder, pairs)
    assert pack.queries is not None


def test_a_template_of_tokenizer_config(build: Build) -> None:
    folder = build(FLAT)
    source = (folder / "chat_template.jinja").read_text()
    want = expected(folder, PAIRS)
    (folder / "chat_template.jinja").unlink()
    for value in (source, [{"name": "default", "template": source}, {"name": "x", "template": ""}]):
        change(folder / "tokenizer_config.json", chat_template=value)
        scoring, tokenizer, config = loaded(folder)
        assert rows(scoring.layout(tokenizer, config).lay_out(PAIRS)[0]) == want
    change(folder / "tokenizer_config.json", chat_template=None)
    with pytest.raises(ModelError, match="is scored by its chat template, and there is none"):
        loaded(folder)


def test_one_token_and_another_activation(build: Build) -> None:
    folder = build(FLAT)
    change(folder / "1_LogitScore/config.json", true_token_id=9, false_token_id=None)
    change(
        folder / "config_sentence_transformers.json",
        activation_fn="torch.nn.modules.linear.Identity",
    )
    scoring, *_ = loaded(folder)
    assert scoring.tokens == LogitScore(9, None)
    assert scoring.activation == "identity"


@pytest.mark.parametrize(
    ("file", "values", "sentence"),
    [
        ("1_LogitScore/config.json", {"true_token_id": None}, "has no true_token_id; is it a"),
        ("1_LogitScore/config.json", {"true_token_id": 3}, "logit of token 3 off itself"),
        ("1_LogitScore/config.json", {"true_token_id": "yes"}, "true_token_id is 'yes', expected"),
        ("1_LogitScore/config.json", {"false_token_id": 300}, "by token 300 of a model of 300"),
        ("1_LogitScore/config.json", {"module_input_name": "x"}, "module_input_name 'x' is not"),
        (
            "sentence_bert_config.json",
            {"processing_kwargs": {"chat_template": {"continue_final_message": True}}},
            "processing_kwargs.chat_template.continue_final_message is not supported",
        ),
        (
            "sentence_bert_config.json",
            {"processing_kwargs": {"chat_template": {"truncation": "only_second"}}},
            "processing_kwargs.text.truncation 'only_second' is not supported",
        ),
        (
            "sentence_bert_config.json",
            {"modality_config": {"message": {"format": "other"}}},
            "format 'other' is not supported",
        ),
    ],
)
def test_what_is_not_supported_is_refused(
    build: Build, file: str, values: dict[str, Any], sentence: str
) -> None:
    folder = build(FLAT)
    change(folder / file, **values)
    with pytest.raises(ModelError, match=sentence):
        read_settings(folder, load_config(folder), Tokenizer.from_folder(folder))


def layout(source: str, limit: int = 99, side: str = "right", restore: bool = True) -> ChatLayout:
    tokenizer = Tokenizer(word_level(), {"truncation_side": side})
    return ChatLayout(ChatTemplate(source, restores_suffix=restore), tokenizer, limit)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pattern", ["[Q|D].", "D, Q", "-<D><Q>...", "Q:D?Q", "QD.", "Q=D"])
def test_a_text_that_is_cut_away_fails_the_pair(pattern: str, side: str) -> None:
    """The oracle slices prompts in which every character is a token."""
    pairs = [("xx", "zzzzz"), ("xxxx", "z"), ("x", "zz"), ("", "z" * 9)]
    places = [CONTENTS, ("", ""), *pairs]
    source, empty, *prompts = (pattern.replace("Q", q).replace("D", d) for q, d in places)
    end = re.split("[QD]", pattern)[-1]
    for limit in range(len(empty) + 1, 25):
        wanted, failed = [], {}
        for place, text in enumerate(prompts):
            cut = text
            if len(text) >= limit:
                cut = (text[:limit] if side == "right" else text[-limit:])[: limit - len(end)] + end
            if "z" not in cut:
                failed[place] = "the query leaves no room for a document"
            elif "x" in text and "x" not in cut:
                failed[place] = "the document leaves no room for the query"
            else:
                wanted.append(cut)
        pack, failures = layout(source, limit, side).lay_out(pairs)
        advice = f" within max_length {limit}; shorten it or raise max_length"
        assert failures == {place: reason + advice for place, reason in failed.items()}
        assert rows(pack) == [ids.tolist() for ids in Tokenizer(word_level()).encode(wanted)]
        check_shared(pack)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("{% if %}", "the chat template cannot be used"),
        ("{{ messages[5].content.x }}", "the chat template cannot be used"),
        ("{{ raise_exception('roles must\n alternate') }}", "used .'roles must alternate'"),
        ("{{ ().__class__.__bases__ }}" + BOTH, "the chat template cannot be used"),
        ("{{ messages[0].content }}", 'leaves out messages of the role "document"'),
        ("{{ messages[1].content }}", 'leaves out messages of the role "query"'),
    ],
)
def test_templates_that_cannot_be_used(source: str, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        layout(source)


def test_a_pair_that_the_template_refuses_fails_alone() -> None:
    surrogate = '"the prompt holds a lone surrogate at character 5, which is not'
    for bad, reason in (("raise_exception('no')", "'no'"), (r"'\ud800'", surrogate)):
        source = BOTH + "{% if messages[1].content == 'bad' %}{{ " + bad + " }}{% endif %}"
        pack, failures = layout(source).lay_out([("a", "b"), ("a", "bad"), ("a", "c")])
        assert (len(pack), list(failures)) == (2, [1])
        assert failures[1].startswith(f"the model's chat template refuses it ({reason}")
        assert layout(source).lay_out([("a", "bad")])[0].num_sequences == 0
    assert layout(BOTH).lay_out([])[1] == {}


def test_a_tokenizer_that_has_no_token_for_the_fillers() -> None:
    tokenizer = Tokenizer(tokenizers.Tokenizer(models.BPE({"x": 0, "z": 1}, [])))
    assert rows(ChatLayout(ChatTemplate(BOTH), tokenizer, 2).lay_out([("x", "z")])[0]) == [[0, 1]]


def test_a_query_longer_than_a_sequence() -> None:
    pack, _ = layout(BOTH, 20, "left").lay_out([("x" * 50, "z"), ("x" * 50, "y")])
    assert pack.lengths.tolist() == [20, 20]
    assert pack.shared is not None
    assert pack.shared.tolist() == [18, 18]
    assert list(layout(BOTH, 20).lay_out([("x" * 50, "z"), ("x" * 50, "")])[1]) == [0, 1]


def test_a_max_length_that_leaves_nothing() -> None:
    with pytest.raises(InputError, match="max_length is 3, but the chat template alone has 3 tok"):
        layout("abc" + BOTH, 3)
    assert len(layout("abc" + BOTH, 4).lay_out([("", "")])[0]) == 1
    # Nor within an end that empty texts do not have, unless it is not put back.
    source = BOTH + "{% if messages[1].content %}" + "." * 20 + "{% endif %}"
    for limit in (5, 20):
        with pytest.raises(InputError, match=f"is {limit}, but the chat template alone has 20 tok"):
            layout(source, limit, "left")
    assert layout(source, 21, "left").lay_out([("", "z")])[0].lengths.tolist() == [21]
    assert layout(source, 5, "left", restore=False).max_length == 5


@given(
    source=st.sampled_from(
        [
            BOTH,
            "x: " + BOTH + "ab",
            ": ".join(CONTENTS),
            "{{ messages[1].content }}|{{ messages[0].content | trim }}",
            "{{ messages[1].content | length }} " + BOTH,
        ]
    ),
    limit=st.integers(8, 30),
    side=st.sampled_from(["right", "left"]),
    queries=st.lists(st.text("ab: ", max_size=9), min_size=1, max_size=3),
    documents=st.lists(st.text("ab: ", max_size=30), max_size=4),
)
def test_sequences_of_one_query_begin_alike(
    source: str, limit: int, side: str, queries: list[str], documents: list[str]
) -> None:
    pairs = [(query, document) for query in queries for document in documents]
    pack, failures = layout(source, limit, side).lay_out(pairs)
    assert len(pack) + len(failures) == len(pairs)
    check_shared(pack)
    assert pack.max_seqlen <= limit
