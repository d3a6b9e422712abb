"""Chat templates of cross-encoders: named, given, cut, and those that refuse some texts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import modular
import numpy as np
import pytest
from modular import FLAT, STRUCTURED, edit, ettin, expected

from packrank import ModelError, Reranker

SBERT = "sentence_bert_config.json"
PAIRS = [("red owl", "blue fox"), ("red owl", "dog"), ("snakes", "dog " * 30), ("owl " * 9, "fox")]
OTHER = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}!"
# Those that refuse what sentence-transformers tries them on, or what Packrank does beside it.
SHORT = "{% if messages[-1].content | length < 2 %}{{ raise_exception('short') }}{% endif %}"
DIGITS = "{% if '1 2' in messages[-1].content %}{{ raise_exception('digits') }}{% endif %}"
MIXED = (
    "{% if messages[-1].content != messages[-2].content and '0' in messages[-1].content %}"
    "{{ raise_exception('mixed') }}{% endif %}"
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """saved(templates): a decoder under modules; each set of templates is saved once."""
    made: dict[str, Path] = {}

    def make(templates: Any) -> Path:
        key = repr(templates)
        if key not in made:
            root = tmp_path_factory.mktemp("chat")
            body = modular.decoder_body(root / "body", "Qwen3", template=templates)
            made[key] = modular.save(root / "saved", body, ettin(48, "lasttoken"))
        return made[key]

    return make


def ask(folder: Path, processing: dict[str, Any], **message: Any) -> None:
    """Say how pairs become messages."""
    said = {"method": "forward", "method_output_name": "last_hidden_state"} | message
    edit(
        folder / SBERT,
        processing_kwargs=processing,
        modality_config={
            "text": said,
            "message": {k: v for k, v in said.items() if v is not None},
        },
    )


def same_scores(folder: Path, *, failing: int = 0) -> np.ndarray:
    scores, failures = Reranker(folder).try_score(PAIRS)
    assert len(failures) == failing
    sound = [i for i in range(len(PAIRS)) if i not in failures]
    want = expected(folder, PAIRS)
    np.testing.assert_allclose(scores[sound], want[sound], rtol=0, atol=1e-5)
    return scores


@pytest.mark.parametrize("format", ["flat", "structured", None])
def test_a_template_is_chosen_by_its_name(saved: Callable[..., Path], format: str | None) -> None:
    """Where there are several and no word about it, messages are lists of parts."""
    other = OTHER if format == "flat" else OTHER.replace("content", "content[0].text")
    usual = FLAT if format == "flat" else STRUCTURED
    folder = saved({"default": usual, "rerank": other})
    assert (folder / "additional_chat_templates/rerank.jinja").is_file()
    found = []
    for chosen in ({}, {"chat_template": "default"}, {"chat_template": "rerank"}):
        ask(folder, {"chat_template": chosen}, format=format)
        found.append(same_scores(folder))
    assert np.array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).min() > 1e-4


def test_what_names_none_is_a_template_itself(saved: Callable[..., Path]) -> None:
    for templates in (FLAT, {"default": FLAT, "x": FLAT}):
        folder = saved(templates)
        ask(folder, {"chat_template": {"chat_template": OTHER}}, format="flat")
        same_scores(folder)
        ask(folder, {"chat_template": {"chat_template": "rerank"}}, format="flat")
        with pytest.raises(ModelError, match='leaves out messages of the role "query"'):
            Reranker(folder)


def test_several_and_none_by_default(saved: Callable[..., Path]) -> None:
    folder = saved({"a": FLAT, "b": OTHER})
    ask(folder, {"chat_template": {"chat_template": "b"}}, format="flat")
    same_scores(folder)
    ask(folder, {}, format="flat")
    with pytest.raises(ModelError, match="has the chat templates 'a', 'b' and none named 'def"):
        Reranker(folder)


@pytest.mark.filterwarnings("ignore:.*is ignored when")
def test_how_a_prompt_is_cut(saved: Callable[..., Path], thorough: bool) -> None:
    folder = saved(FLAT)
    strategies: list[Any] = ["only_first", False, True, "longest_first", "do_not_truncate"]
    for truncation in strategies if thorough else strategies[:2]:
        ask(folder, {"text": {"truncation": truncation, "max_length": 120}}, format="flat")
        same_scores(folder)
        length = Reranker(folder).max_length
        assert length == (2**20 if truncation in (False, "do_not_truncate") else 120)
    # A message's own arguments come before those of texts.
    size = {"chat_template": {"max_length": 120, "truncation": True}}
    ask(folder, {"text": {"truncation": False}} | size, format="flat")
    same_scores(folder)
    for refused in ("only_second", "only_last", 3):
        ask(folder, {"text": {"truncation": refused}}, format="flat")
        with pytest.raises(ModelError, match=f"truncation {refused!r} is not supported"):
            Reranker(folder)


@pytest.mark.parametrize("refusing", [SHORT, DIGITS, MIXED], ids=["short", "digits", "mixed"])
def test_a_template_that_refuses_a_filler(
    saved: Callable[..., Path], refusing: str, thorough: bool
) -> None:
    """What prompts end with is then not known, as in sentence-transformers, nor what they share."""
    folder = saved(refusing + FLAT)
    for limit in (150, 300) if thorough else (150,):
        ask(folder, {"text": {"max_length": limit}}, format="flat")
        same_scores(folder)


def test_a_template_that_refuses_the_words_that_it_is_tried_on(saved: Callable[..., Path]) -> None:
    folder = saved(
        "{% if messages[-1].content == 'foxtrot' %}{{ raise_exception('x') }}{% endif %}" + FLAT
    )
    ask(folder, {}, format="flat")
    with pytest.raises(ModelError, match=r"the chat template cannot be used \('x'"):
        Reranker(folder)
    with pytest.raises(ValueError, match="cannot carry a 'query'/'document' pair"):
        expected(folder, PAIRS)
