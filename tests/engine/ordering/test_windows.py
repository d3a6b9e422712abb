"""Prompts of listwise rerankers, id by id."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from chats import CHATML, GEMMA, ZEPHYR, chatml, save, zephyr
from ftfy import fix_text
from rank_llm import SYSTEM, told

from packrank.errors import InputError, ModelError
from packrank.ordering.chat import Chat
from packrank.ordering.windows import VICUNA, WindowPrompts, WindowRule, check_window
from packrank.text.tokenizer import Tokenizer

QUERY = "what is a [3] panda?"
DOCUMENTS: list[Any] = [
    "a panda is an animal",
    " the  “passage”\nwas [12] it ",
    {"title": "Pandas", "text": "the query"},
    "",
    "schÃ¶n 漢字",
]
# What each comes to.
CLEANED = [
    "a panda is an animal",
    'the "passage" was (12) it',
    "Title: Pandas Content: the query",
    "",
    "schön 漢字",
]


def rule(**changes: Any) -> WindowRule:
    usual: dict[str, Any] = {"size": 20, "stride": 10, "letters": False, "words": 300}
    return WindowRule(**usual | {"context": 4096} | changes)


def prompts_of(folder: Path, source: str | None = None, **changes: Any) -> WindowPrompts:
    tokenizer = Tokenizer.from_folder(folder)
    if changes.get("system", "") is None:
        changes["system"] = ""
    return WindowPrompts(Chat.of(folder, tokenizer, source), tokenizer, rule(**changes))


def expected(folder: Path, texts: list[str], query: str, *, system: bool = True) -> list[int]:
    """By transformers, as vLLM reads a prompt."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "system", "content": SYSTEM}] if system else []
    messages.append({"role": "user", "content": told(texts, query)})
    prompt = fix_text(
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    )
    return list(tokenizer(prompt).input_ids)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen")
    return save(folder, chatml(), CHATML, eos_token="<|im_end|>")


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mistral")
    return save(folder, zephyr(), ZEPHYR, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("name", ["qwen", "mistral"])
def test_a_prompt_is_that_of_rank_llm(name: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    prompts = prompts_of(folder)
    asked = prompts.asked(QUERY, DOCUMENTS)
    for chosen in ([0, 1, 2, 3, 4], [4, 0], [3]):
        want = expected(folder, [CLEANED[one] for one in chosen], "what is a (3) panda?")
        assert prompts.ids(asked, chosen).tolist() == want


def test_on_a_real_vocabulary(data_dir: Path, tmp_path: Path) -> None:
    source = data_dir / "tokenizers/qwen2/tokenizer.json"
    backend = tokenizers.Tokenizer.from_file(str(source))
    save(tmp_path, backend, CHATML, eos_token="<|im_end|>")
    prompts = prompts_of(tmp_path)
    found = prompts.ids(prompts.asked(QUERY, DOCUMENTS), [1, 4, 2])
    want = expected(tmp_path, [CLEANED[one] for one in (1, 4, 2)], "what is a (3) panda?")
    assert found.tolist() == want


def test_vicuna_has_a_template_of_rank_llms(mistral: Path) -> None:
    prompts = prompts_of(mistral, VICUNA)
    text = prompts.text("q", ["a", "b"])
    assert text == f"{SYSTEM} USER: {told(['a', 'b'], 'q')} ASSISTANT:"
    assert prompts.ids(prompts.asked("q", ["a", "b"]), [0, 1])[0] == 1


def test_a_bos_token_of_the_template_is_the_only_one(tmp_path: Path) -> None:
    backend = chatml()
    backend.add_special_tokens(["<bos>"])
    bos = backend.token_to_id("<bos>")
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", bos)]
    )
    folder = save(tmp_path, backend, GEMMA, bos_token="<bos>")
    with pytest.raises(InputError, match=r"refuses it .System role not supported"):
        prompts_of(folder).asked("q", ["a"])
    prompts = prompts_of(folder, system=None)
    ids = prompts.ids(prompts.asked("q", ["a", "b"]), [0, 1]).tolist()
    assert ids == backend.encode(prompts.text("q", ["a", "b"]), add_special_tokens=False).ids
    assert ids.count(bos) == 1


PARTS = (
    "{% for message in messages %}{% for part in message['content'] %}{{ part['text'] }}"
    "{% endfor %}{% endfor %}"
)
PRINTS = "{% for message in messages %}{{ message['content'] | trim }}{% endfor %}"


@pytest.mark.parametrize(
    "template",
    [
        PRINTS,
        PRINTS + "{% if tools %}{{ tools[0]['type'] }}{{ tools.type }}{% endif %}",
        [{"name": "default", "template": PRINTS}, {"name": "tool_use", "template": "{{ tools }}"}],
        PARTS,
    ],
)
def test_a_message_is_what_it_says(template: Any, tmp_path: Path) -> None:
    """Never a list of parts as Python prints it, whatever else a template is for."""
    folder = save(tmp_path, chatml(), template)
    text = prompts_of(folder).text("q", ["a"])
    assert text.removeprefix(SYSTEM) == told(["a"], "q")


def test_mending_leaves_the_template_alone(tmp_path: Path) -> None:
    bars = "{{ '<\uff5cUser\uff5c>' }}" + PRINTS
    folder = save(tmp_path, chatml(), bars)
    text = prompts_of(folder).text("sch\u00c3\u00b6n \uff21", ["a"])
    assert text == f"<\uff5cUser\uff5c>{SYSTEM}{told(['a'], 'schön A')}"


def test_letters_name_passages_too(qwen: Path) -> None:
    prompts = prompts_of(qwen, letters=True)
    assert told(["a", "b"], "q", letters=True) in prompts.text("q", ["a", "b"])
    assert "[A] a\n[B] b\n" in prompts.text("q", ["a", "b"])


def test_what_is_too_long_loses_words_as_upstream_has_it(qwen: Path) -> None:
    texts = [" ".join(f"a{n}" for n in range(length)) for length in (50, 3, 200, 400)]
    tokenizer = transformers.AutoTokenizer.from_pretrained(qwen)
    answer = len(tokenizer("[1] > [2] > [3] > [4]").input_ids)
    for context in (900, 1500, 2500, 4000):
        prompts = prompts_of(qwen, context=context)
        words = 300
        while True:
            cut = [" ".join(text.split()[:words]) for text in texts]
            want = expected(qwen, cut, "q")
            if len(want) <= context - answer:
                break
            words -= max(1, (len(want) - context + answer) // (4 * 4))
        assert prompts.ids(prompts.asked("q", texts), [0, 1, 2, 3]).tolist() == want


def test_texts_without_blanks_lose_tokens(qwen: Path) -> None:
    """The longest; the others, and what a window of empty documents would be, stay as they are."""
    prompts = prompts_of(qwen, context=900)
    texts = ["漢字" * 300, "panda", "a panda is an animal"]
    asked = prompts.asked("q", texts)
    ids = prompts.ids(asked, [0, 1, 2])
    assert 880 <= len(ids) <= 900 - prompts.answer_tokens(3)
    shown = prompts.tokenizer.decode(ids)
    assert "[2] panda\n[3] a panda is an animal\n" in shown
    assert shown.count("漢") > 20


def test_a_query_without_room_is_refused(qwen: Path) -> None:
    with pytest.raises(InputError, match=r"the query with 2 empty documents and an answer has \d"):
        prompts_of(qwen, context=100).asked("q", ["a", "b"])


@pytest.mark.parametrize(
    ("size", "stride", "letters", "message"),
    [
        (1, 1, False, "window is 1, and there is nothing to order in fewer than 2"),
        (4, 5, False, "stride is 5 and window 4"),
        (27, 10, True, "window is 27, and there are 26 letters"),
    ],
)
def test_windows_that_cannot_be(size: int, stride: int, letters: bool, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_window(size, stride, letters=letters)
    check_window(26, 26, letters=True)


def test_templates_that_cannot_be(qwen: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(qwen)
    for source, message in (
        ("{% for %}", "the chat template cannot be used"),
        ("{{ messages[5].content }}", "the chat template cannot be used"),
        ("hello", "cannot be used .it leaves out what the user says"),
    ):
        with pytest.raises(ModelError, match=message):
            Chat.of(qwen, tokenizer, source)
    shutil.copy(qwen / "tokenizer.json", tmp_path)
    with pytest.raises(ModelError, match="there is none"):
        Chat.of(tmp_path, tokenizer)


def test_without_ftfy_it_says_what_to_install(qwen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ftfy", None)
    with pytest.raises(InputError, match=r'pip install "packrank\[listwise\]"'):
        prompts_of(qwen).asked("q", ["a"])
