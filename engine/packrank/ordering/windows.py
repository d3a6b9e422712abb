"""What rank_llm's listwise rerankers read: the passages of a window, under numbers or letters.

Source: castorini/rank_llm, rank_zephyr_template.yaml, rank_zephyr_alpha_template.yaml and
RankListwiseOSLLM.create_prompt.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from packrank.documents import document_of
from packrank.errors import InputError
from packrank.ordering.chat import Chat, with_special_tokens
from packrank.ordering.permutation import LETTERS, name_of
from packrank.request import Int32
from packrank.text.tokenizer import Tokenizer

SYSTEM = (
    "You are RankLLM, an intelligent assistant that can rank passages based on their relevancy to "
    "the query"
)
# RankVicuna's tokenizer comes without a template; rank_llm gives it this one.
VICUNA = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ message['content'] + ' ' }}{% else %}{{ 'USER: ' + message['content'] + ' ' }}"
    "{% endif %}{% endfor %}{{ 'ASSISTANT:' }}"
)


@dataclass(frozen=True)
class WindowRule:
    """How windows are shown.

    Attributes:
        size: most documents of a window.
        stride: by how many it moves.
        letters: documents are called by letters, else by numbers.
        words: most words of a document.
        context: most tokens of a prompt and its answer; documents lose words until both fit.
        system: what the model is told to be; "": nothing.
    """

    size: int
    stride: int
    letters: bool
    words: int
    context: int
    system: str = SYSTEM


@dataclass(frozen=True)
class WindowTexts:
    """A query and its documents, cleaned.

    Attributes:
        query: as the prompt has it.
        words: of each document.
    """

    query: str
    words: list[list[str]]


@dataclass
class WindowPrompts:
    """Windows of documents to prompts.

    Attributes:
        chat: of the model; likewise tokenizer.
        tokenizer: its own.
        rule: how windows are shown.
        ending: of every prompt, after what the template ends with.
    """

    chat: Chat
    tokenizer: Tokenizer
    rule: WindowRule
    ending: str = ""
    _answers: dict[int, int] = field(default_factory=dict)

    @cached_property
    def _mends_all(self) -> bool:
        """Whether mending a prompt leaves what the template writes as it is."""
        around = self.chat.text("alpha", self.rule.system or None)
        return fixed(around) == around

    def asked(self, query: str, documents: Sequence[Any]) -> WindowTexts:
        """A query and its documents, cleaned.

        Raises:
            InputError: the query leaves no room for documents.
        """
        words = [_words(one)[: self.rule.words] for one in documents]
        found = WindowTexts(_renumbered(query), words)
        count = min(self.rule.size, len(documents))
        least = len(self._ids(found.query, [""] * count)) + self.answer_tokens(count)
        if least > self.rule.context:
            raise InputError(
                f"the query with {count} empty documents and an answer has {least} tokens, and the "
                f"model reads {self.rule.context}; shorten it, or make the window smaller"
            )
        return found

    def ids(self, asked: WindowTexts, documents: Sequence[int]) -> Int32:
        """[L] int32: the prompt of some documents, in this order.

        Where it is too long all lose words, as upstream has it; where no word would be left, as of
        texts that are not divided by blanks, the longest lose tokens instead.
        """
        count, most = len(documents), self.rule.words
        room = self.rule.context - self.answer_tokens(count)
        while most > 0:
            texts = [" ".join(asked.words[one][:most]) for one in documents]
            ids = self._ids(asked.query, texts)
            if len(ids) <= room:
                return ids
            most -= max(1, (len(ids) - room) // (count * 4))
        return self._cut_by_tokens(asked, documents, room)

    def _cut_by_tokens(self, asked: WindowTexts, documents: Sequence[int], room: int) -> Int32:
        texts = [" ".join(asked.words[one]) for one in documents]
        each = [self.tokenizer.offsets(text)[0] for text in texts]
        left = room - len(self._ids(asked.query, [""] * len(texts)))
        # The most that all may have so that what is left is not passed.
        most, rest = 0, sorted(map(len, each))
        for place, size in enumerate(rest):
            most = (left - sum(rest[:place])) // (len(rest) - place)
            if size > most:
                break
        while True:
            cut = [
                text if len(ids) <= most else self.tokenizer.decode(ids[: max(most, 0)])
                for text, ids in zip(texts, each, strict=True)
            ]
            found = self._ids(asked.query, cut)
            if len(found) <= room or most <= 0:
                return found
            most -= max(1, (len(found) - room) // len(texts))

    def answer_tokens(self, count: int) -> int:
        """Tokens of an answer that orders so many documents."""
        if count not in self._answers:
            names = (name_of(place, letters=self.rule.letters) for place in range(count))
            [ids] = self.tokenizer.encode([" > ".join(f"[{name}]" for name in names)])
            self._answers[count] = len(ids)
        return self._answers[count]

    def _ids(self, query: str, texts: list[str]) -> Int32:
        text = self.text(query, texts)
        found, failed = self.tokenizer.try_encode([text])
        if failed:
            raise InputError(failed[text])
        return with_special_tokens(self.tokenizer, found[0])

    def text(self, query: str, texts: Sequence[str]) -> str:
        """The prompt of some passages."""
        letters = self.rule.letters
        kind, example = (
            ("an alphabetical", "[B] > [A]") if letters else ("a numerical", "[2] > [1]")
        )
        passages = "".join(
            f"[{name_of(place, letters=letters)}] {text}\n" for place, text in enumerate(texts)
        )
        user = (
            f"I will provide you with {len(texts)} passages, each indicated by {kind} identifier "
            f"[]. Rank the passages based on their relevance to the search query: {query}.\n"
            f"{passages}Search Query: {query}.\nRank the {len(texts)} passages above based on "
            "their relevance to the search query. All the passages should be included and listed "
            "using identifiers, in descending order of relevance. The output format should be [] > "
            f"[], e.g., {example}, Answer concisely and directly and only respond with the ranking "
            "results, do not say any word or explain."
        )
        if not self._mends_all:  # such as full-width bars of special tokens
            return self.chat.text(fixed(user), self.rule.system or None) + self.ending
        return fixed(self.chat.text(user, self.rule.system or None)) + self.ending


def check_window(size: int, stride: int, *, letters: bool) -> None:
    """Raise InputError unless windows of this size, moved by this many, order all documents."""
    if size < 2:
        raise InputError(f"window is {size}, and there is nothing to order in fewer than 2")
    if stride > size:
        raise InputError(
            f"stride is {stride} and window {size}, so that documents between two windows would "
            "never be read"
        )
    if letters and size > len(LETTERS):
        raise InputError(f"window is {size}, and there are {len(LETTERS)} letters to name them by")


def fixed(text: str) -> str:
    """A text with broken encodings mended.

    Raises:
        InputError: ftfy is not installed.
    """
    try:
        from ftfy import fix_text
    except ImportError:
        raise InputError(
            "listwise prompts are cleaned as their models were trained, by ftfy, which is not "
            'installed; pip install "packrank[listwise]"'
        ) from None
    return str(fix_text(text))


def _words(document: Any) -> list[str]:
    """Words of a document as prompts have them; a title is named as one."""
    text = str(document_of(document).text)
    if isinstance(document, Mapping) and document.get("title"):
        text = f"Title: {document['title']} Content: {document['text']}"
    return [_renumbered(word) for word in fixed(text.strip()).split()]


def _renumbered(text: str) -> str:
    """The same, where no number looks like the name of a passage."""
    return re.sub(r"\[(\d+)\]", r"(\1)", text)
