"""Templates of users: read as they are written, or refused in a sentence."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from prompts import contextual_oracle, rows, small_qwen
from reranker_folders import BUILD, Case
from tokenizers import normalizers

from packrank import InputError, Reranker
from packrank.scoring.recognition import tokens_of
from packrank.text.prompt import PromptLayout
from packrank.text.template_file import read_template
from packrank.text.templates import TEMPLATES
from packrank.text.tokenizer import Tokenizer

WHOLE: dict[str, Any] = {
    "query": "q: {query}",
    "document": "d: {document}",
    "tail": ["yes or no?"],
    "true_token": "yes",
    "budget": "mxbai",
    "max_length": 100,
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], Path]:
    def write(content: Any, name: str = "mine.json") -> Path:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_comes_with_the_package_could_be_a_file(write: Any, name: str) -> None:
    given = {key: value for key, value in asdict(TEMPLATES[name]).items() if value is not None}
    found, template = read_template(write(given))
    assert template == TEMPLATES[name]
    assert found.startswith("mine@")
    other, _ = read_template(write(given | {"max_length": 77}))
    assert other != found, "another content is another template"


def test_what_is_left_out_has_a_default(write: Any) -> None:
    path = write(WHOLE)
    _, template = read_template(path)
    assert template.source == str(path)
    assert (template.bos, template.activation, template.head) == ("never", "identity", "")


REFUSED: list[tuple[Any, str]] = [
    ("{", "is no JSON: Expecting"),
    ("[1]", "is no JSON object"),
    ({key: value for key, value in WHOLE.items() if key != "tail"}, "tail is missing"),
    (WHOLE | {"quary": "x"}, "there is no 'quary'; there are source, query"),
    (WHOLE | {"query": "q"}, "query is 'q', which does not have {query} once"),
    (WHOLE | {"query": "{query}{query}"}, "which does not have {query} once"),
    (WHOLE | {"document": "d"}, "which does not have {document} once"),
    (WHOLE | {"query": 3}, "query is 3, expected a text"),
    (WHOLE | {"document_first": True}, "document_first goes with one_string alone"),
    (
        WHOLE | {"document_first": True, "one_string": True, "budget": "whole", "closing": "x"},
        "closing is given, and document_first leaves no place for it",
    ),
    (WHOLE | {"query": "{instruction} {query}"}, "where there is a default for it"),
    (WHOLE | {"instruction": "x"}, "where there is a default for it, and only there"),
    (WHOLE | {"instructed": "{query}"}, "which has no {instruction}"),
    (WHOLE | {"tail": "x"}, "tail is 'x', expected a list of texts"),
    (WHOLE | {"tail": [""]}, "expected a list of texts"),
    (WHOLE | {"bos": "maybe"}, "bos is 'maybe', expected one of never, if any, always"),
    (WHOLE | {"budget": []}, "budget is [], expected one of flagembedding"),
    (WHOLE | {"activation": "softsign"}, "activation is 'softsign', expected one of identity"),
    (WHOLE | {"max_length": 0}, "max_length is 0, expected a whole number from 1"),
    (WHOLE | {"max_length": True}, "max_length is True, expected a whole number from 1"),
    (WHOLE | {"shift": "x"}, "shift is 'x', expected a number"),
    (WHOLE | {"shifts": {"big": 1}}, "expected a number for each hidden size"),
    (WHOLE | {"one_string": 1}, "one_string is 1, expected true or false"),
    (WHOLE | {"one_string": True}, 'one_string is true where budget is "whole"'),
    (WHOLE | {"one_string": True, "budget": "whole", "separator": "x"}, "leaves no place for it"),
    (WHOLE | {"true_token": None, "false_token": "no"}, "true_token is None, expected a text"),
    (
        {key: value for key, value in WHOLE.items() if key != "true_token"} | {"false_token": "n"},
        "false_token is given without true_token",
    ),
    (WHOLE | {"false_token": "yes"}, "true_token and false_token are both 'yes'"),
    (WHOLE | {"activation": "softmax"}, 'activation is "softmax", over labels, of which a score'),
    (WHOLE | {"head": "a\ud800"}, "the head holds a lone surrogate at character 1"),
    (WHOLE | {"tail": ["b", "\udfff"]}, "the tail holds a lone surrogate at character 0"),
    (WHOLE | {"source": "\ud800"}, "the source holds a lone surrogate"),
    (WHOLE | {"special_tokens": ["<s>"]}, "special_tokens names '<s>', which stands nowhere in it"),
    (WHOLE | {"head": "{instruction}"}, "head is '{instruction}', where {instruction} is not"),
    (WHOLE | {"tail": ["{query}"]}, "tail is '{query}', where {query} is not filled in"),
    (WHOLE | {"document": "{query}{document}"}, "where {query} is not filled in"),
    ('{"query": "a", "query": "b"}', "a key stands twice in it"),
    ('{"shift": NaN}', "NaN is no number of JSON"),
    (json.dumps(WHOLE)[:-1] + ', "shift": 1' + "0" * 400 + "}", "shift is '1000"),
    (json.dumps(WHOLE)[:-1] + ', "max_length": 1' + "0" * 400 + "}", "a key stands twice"),
    ("[" * 100_000, "is no JSON"),
    (WHOLE | {"shifts": {"9" * 5000: 1}}, "expected a number for each hidden size"),
]


@pytest.mark.parametrize(("content", "sentence"), REFUSED)
def test_what_is_no_template_is_refused(write: Any, content: Any, sentence: str) -> None:
    path = write(content)
    with pytest.raises(InputError) as raised:
        read_template(path)
    assert str(raised.value).startswith(f"template {path}")
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_special_tokens_may_stand_anywhere(write: Any) -> None:
    for key, value in (("separator", "<s>"), ("instructed", "<s>{instruction}{query}")):
        _, template = read_template(write(WHOLE | {key: value, "special_tokens": ["<s>"]}))
        assert template.special_tokens == ("<s>",)


def test_what_ends_a_query_is_not_joined_to_what_follows(write: Any) -> None:
    """Where nothing stands between, the whole is tokenized as one text."""
    tokenizer, encode = small_qwen()
    given = {
        "query": "Query: {query}",
        "document": "\nDocument: {document}",
        "tail": ["?"],
        "true_token": "a",
        "one_string": True,
        "budget": "whole",
        "max_length": 400,
    }
    _, template = read_template(write(given))
    pairs = [(query, "a b") for query in ("what is it?", "a.", "a", "", "a\n", "é")]
    pack, failures = PromptLayout(template, tokenizer, 400).lay_out(pairs)
    assert not failures
    want = [encode(f"Query: {query}\nDocument: {text}") + encode("?") for query, text in pairs]
    assert rows(pack) == want


@pytest.mark.parametrize("task", ["", "find a panda"])
def test_a_document_that_stands_first_is_cut(task: str) -> None:
    """At every length, and a pair that is one token too long; its end is put back."""
    tokenizer, encode = small_qwen()
    texts = ["a panda", "", "it was. ", "is it?\n", "the passage was what it is. " * 4]
    pairs = [("what is a panda", text) for text in texts]
    shortest = len(contextual_oracle(encode, "what is a panda", "", 9999, task))
    for limit in range(shortest + 1, shortest + 50):
        options = {"max_length": limit, "instruction": task or None}
        layout = PromptLayout(TEMPLATES["contextual"], tokenizer, 4096, **options)
        pack, failures = layout.lay_out(pairs)
        want = [contextual_oracle(encode, *pair, limit, task) for pair in pairs]
        kept = [ids for place, ids in enumerate(want) if place not in failures]
        assert rows(pack) == kept
        assert all(len(ids) <= limit for ids in kept)
        wholes = [len(contextual_oracle(encode, *pair, 9999, task)) for pair in pairs]
        for place, reason in failures.items():
            assert wholes[place] > limit, reason
        strict = PromptLayout(TEMPLATES["contextual"], tokenizer, 4096, truncate=False, **options)
        _, refused = strict.lay_out(pairs)
        assert refused.keys() == {n for n, length in enumerate(wholes) if length > limit}
        for place, reason in refused.items():
            assert f"{wholes[place] - limit} tokens longer" in reason


@pytest.fixture(scope="module", params=["mxbai-v2", "qwen3", "monot5"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return BUILD[request.param](tmp_path_factory.mktemp(request.param))


def test_a_model_is_run_by_a_file(write: Any, case: Case) -> None:
    known = case.open()
    assert known.template is not None
    given = asdict(TEMPLATES[known.template])
    path = write({key: value for key, value in given.items() if value is not None})
    mine = case.open(template=str(path))
    assert mine.template is not None
    assert mine.template.startswith("mine@")
    assert mine.score(case.pairs).tolist() == known.score(case.pairs).tolist()
    other = write(given | {"head": "x"} | {k: [] for k in ("special_tokens",)}, "other.json")
    raw = {k: v for k, v in json.loads(other.read_text()).items() if v is not None}
    other.write_text(json.dumps(raw))
    changed = case.open(template=str(other))
    assert changed.score(case.pairs).tolist() != known.score(case.pairs).tolist()


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("name", ["mine.json", "MINE.JSON"])
def test_names_of_files(write: Any, case: Case, kind: type, name: str) -> None:
    path = write(WHOLE, name)
    assert str(case.open(template=kind(path)).template).startswith(f"{path.stem}@")


def test_a_length_by_a_file_that_leaves_no_room(write: Any, case: Case) -> None:
    path = write(WHOLE | {"max_length": 1})
    with pytest.raises(InputError, match="max_length is 1 by the template, which the prompt leav"):
        Reranker(case.folder, template=path)
    longer = Reranker(case.folder, template=write(WHOLE | {"max_length": 5000}))
    assert longer.max_length == 5000, "the model was made for 700"


def test_two_spellings_of_one_token(write: Any) -> None:
    """To a tokenizer that lower-cases texts; the difference of their logits is 0."""
    tokenizer, _ = small_qwen()
    backend = tokenizers.Tokenizer.from_str(tokenizer.serialized)
    backend.normalizer = normalizers.Lowercase()
    for false, is_one in (("A", True), ("b", False)):
        name, template = read_template(write(WHOLE | {"true_token": "a", "false_token": false}))
        if is_one:
            with pytest.raises(InputError, match="logit of 'A' off that of 'a', and to this token"):
                tokens_of(template, name, Tokenizer(backend))
        else:
            assert tokens_of(template, name, Tokenizer(backend)).false_token_id is not None


def test_a_file_that_is_not_there(case: Case) -> None:
    with pytest.raises(InputError, match=r"template nowhere.json: No such file"):
        Reranker(case.folder, template="nowhere.json")
    with pytest.raises(InputError, match=r"or the name of a file that ends in \.json"):
        Reranker(case.folder, template="nowhere")
