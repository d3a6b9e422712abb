"""Templates that stand for one string: parts are tokenized apart only where that changes nothing.

The oracle is the tokenizers library, which reads the whole.
"""

from random import Random

import prompts
import pytest
import tokenizer_folders
import tokenizers

from packrank.errors import ModelError
from packrank.text.prompt import PromptLayout
from packrank.text.templates import Template
from packrank.text.tokenizer import Tokenizer

NAMES = ("qwen2", "llama3", "llama2", "gemma", "roberta", "modernbert", "bert", "xlm-roberta")
BITS = [
    *("a", "b", "ab", "x", "N", "1", "12", "ABC", "the", "was", " panda", "query", ""),
    *(" ", "  ", "\n", "\n\n", "\t", "\u00a0", ".", "?", "!", ":", "'s", "<s>", "</s>"),
    *("é", "e\u0301", "\u0301", "\u200d", "漢", "🦙", "<|im_end|>"),
]


def backends() -> dict[str, tokenizers.Tokenizer]:
    made = {name: tokenizer_folders.FAMILIES[name][1]() for name in NAMES}
    special = prompts.byte_bpe("<|im_start|>", "<|im_end|>")
    return made | {"prompt-bpe": special, "metaspace": prompts.metaspace()}


BACKENDS = backends()


def template(query: str, document: str, **options: object) -> Template:
    given = {"source": "x", "tail": (), "budget": "whole", "max_length": 4000, "one_string": True}
    return Template(query=query, document=document, **(given | options))  # type: ignore[arg-type]


def check(name: str, made: Template, pairs: list[tuple[str, str]]) -> bool | None:
    """Whether the parts are apart; None where the tokenizer refuses the template."""
    backend = BACKENDS[name]

    def encode(*texts: str) -> list[int]:
        return [x for text in texts for x in backend.encode(text, add_special_tokens=False).ids]

    try:
        layout = PromptLayout(made, Tokenizer(type(backend).from_str(backend.to_str())), 5000)
    except ModelError as error:
        assert "joins a document to what stands beside it" in str(error)
        return None
    pack, failures = layout.lay_out(pairs)
    sound = [pair for place, pair in enumerate(pairs) if place not in failures]
    for (query, document), sequence in zip(sound, pack, strict=True):
        first, second = made.query.format(query=query), made.document.format(document=document)
        body = second + first if made.document_first else first + second
        wants = [encode(made.head, body, made.closing, *made.tail)]
        if made.document_first:
            wants.append(encode(made.head + body, *made.tail))
        assert sequence.token_ids.tolist() in wants, (name, made, query, document)
    return layout.tokenization is not None


@pytest.mark.parametrize(
    ("name", "query", "document", "pair"),
    [
        ("qwen2", "1:{query} ", "?{document}!", (" ", ":")),
        ("qwen2", "xx{query} ", "b?{document} ", (" ", "x")),
        ("modernbert", "?{query} ", "\u0301ab{document}. ", (" \n ", "é")),
        ("qwen2", "{query}\n", "\nDocument: {document}", ("a\n", "b")),
        ("gemma", " {query}the panda", "{document} ", ("\n", "b")),
        ("roberta", "{query}a", "{document}é", ("?ab", "b\u00a0")),
        ("llama3", "<s>{query}\u00a0a", "{document}", ("</s>", "b")),
        ("prompt-bpe", "{query}:", "{document}", ("http", "//a")),
    ],
)
def test_a_text_is_not_joined_to_what_follows(
    name: str, query: str, document: str, pair: tuple[str, str]
) -> None:
    check(name, template(query, document), [pair, ("a", "b")])


def test_a_document_that_stands_first_is_joined_to_nothing() -> None:
    first = {"document_first": True}
    check("modernbert", template(" {query}", "{document}", head="bab", **first), [("", " ")])
    assert check("qwen2", template("{query}", "a {document}", **first), []) is None


@pytest.mark.parametrize("seed", range(4))
def test_any_template(seed: int, thorough: bool) -> None:
    random = Random(seed)

    def text(most: int) -> str:
        return "".join(random.choice(BITS) for _ in range(random.randint(0, most)))

    found = []
    for _ in range(1000 if thorough else 60):
        first = random.random() < 0.4
        tail, closing = text(2), "" if first else text(2)
        made = template(
            f"{text(2)}{{query}}{text(2)}",
            f"{text(2)}{{document}}{text(2)}",
            head=text(3),
            tail=(tail,) if tail else (),
            closing=closing,
            document_first=first,
        )
        found.append(check(random.choice(list(BACKENDS)), made, [(text(3), text(5))]))
    assert found.count(True) > 5 and found.count(False) > 5 and found.count(None) > 2
