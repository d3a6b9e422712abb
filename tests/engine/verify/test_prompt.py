"""The prompt's definition, against the prompts of authors' code as tests write them out."""

import pytest
from prompts import (
    FLAG,
    QWEN_TASK,
    byte_bpe,
    chat_oracle,
    contextual_oracle,
    encoder,
    flag_oracle,
    mxbai_oracle,
    qwen_oracle,
)

from packrank.text.templates import TEMPLATES
from packrank.verify.prompt import prompt_ids

PAIRS = [("what is it", "a panda"), ("", ""), ("query {query}", "the {document} " * 30)]
ENCODE = encoder(byte_bpe("<|im_start|>", "<|im_end|>"))


@pytest.mark.parametrize("task", [None, "find {query}"])
@pytest.mark.parametrize(("query", "document"), PAIRS)
def test_prompts_are_those_of_their_authors(query: str, document: str, task: str | None) -> None:
    def ids(name: str, limit: int, task: str | None = None, bos: int | None = None) -> list[int]:
        options = {"max_length": limit, "instruction": task}
        return prompt_ids(TEMPLATES[name], ENCODE, bos, query, document, **options)  # type: ignore

    for name in FLAG:
        assert ids(name, 40, bos=1) == flag_oracle(name, ENCODE, [1], query, document, 40)
    assert ids("mxbai-v2", 40, task) == mxbai_oracle(ENCODE, query, document, 40, task)
    for limit in (260, 9999):
        for name, oracle in (("qwen3", qwen_oracle), ("qwen3-chat", chat_oracle)):
            want = oracle(ENCODE, query, document, limit, task or QWEN_TASK)
            assert ids(name, limit, task) == want, name
    for limit in (60, 9999):
        want = contextual_oracle(ENCODE, query, document, limit, task or "")
        assert ids("contextual", limit, task) == want
    whole = ENCODE(f"question:{query} \n \n passage:{document}")
    assert ids("nemotron", 30, bos=1) == [1, *whole][:30]
    whole = ENCODE(f"Query: {query} Document: {document}")
    ends = [*ENCODE(" Relevant:"), *ENCODE("</s>")]
    assert ids("monot5", 60) == whole[: 60 - len(ends)] + ends


def test_every_template_is_compared() -> None:
    assert TEMPLATES.keys() == {
        *FLAG, "mxbai-v2", "qwen3", "qwen3-chat", "nemotron", "contextual", "monot5"
    }  # fmt: skip
