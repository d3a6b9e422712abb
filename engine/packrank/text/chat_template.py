"""Pairs under a chat template of a folder's own, as sentence-transformers shows them to decoders.

A pair is one message of the role "query" and one of the role "document", after the prompt, if there
is one, as the role "system".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packrank.arguments import check_text
from packrank.checkpoint.files import shown
from packrank.documents import Text
from packrank.errors import InputError, ModelError
from packrank.request import Int32, Pack
from packrank.text.chat_file import saved_in
from packrank.text.chat_sandbox import Compiled
from packrank.text.layout import Layout, common_prefix, share
from packrank.text.prompt import gather, numbered
from packrank.text.tokenizer import Tokenizer
from packrank.text.windows import least_window, too_small, windows_of

# Pairs that tell whether a template shows query and document, as sentence-transformers tries them.
_PROBES = (("alpha", "bravo"), ("charlie", "bravo"), ("alpha", "foxtrot"))
# Two of everything, in which no token is like the other's at the same place from the end.
_FILLERS = ("0", "1 2 3 4")


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template, and what it is rendered with.

    Attributes:
        source: in Jinja.
        variables: what it may read beside the messages.
        structured: a message's content is a list of parts, not a text.
        restores_suffix: where a prompt is cut, what the template ends with takes the place of the
            last tokens.
    """

    source: str
    variables: Mapping[str, Any] = field(default_factory=dict)
    structured: bool = False
    restores_suffix: bool = True

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        variables: Mapping[str, Any],
        structured: bool | None,
        restores_suffix: bool,
        name: str | None = None,
    ) -> "ChatTemplate":
        """The chat template saved with a tokenizer.

        Args:
            folder: of the tokenizer.
            variables: beside the special tokens.
            structured: None: as the template looks, and so where there are several.
            restores_suffix: see `ChatTemplate`.
            name: of one of several; what names none of them is a template itself.

        Raises:
            ModelError: there is none.
        """
        saved = saved_in(folder)
        if structured is None:
            signs = ("content[0]", ".type", "'type'", '"type"', "message.content[")
            structured = isinstance(saved, dict) or any(sign in saved for sign in signs)
        if isinstance(saved, dict):
            source = saved.get(name or "default", name)
        else:
            source = saved if name is None else name
        if source is None:
            raise ModelError(
                f"{folder} has the chat templates {', '.join(map(repr, saved))} and none named "
                "'default', and does not say which"
            )
        return cls(source, dict(variables), structured, restores_suffix)

    def message(self, role: str, text: str) -> dict[str, Any]:
        """A message as the template expects it."""
        content = [{"type": "text", "text": text}] if self.structured else text
        return {"role": role, "content": content}


class ChatLayout:
    """The layout of pairs that a chat template makes. See `pairs.PairLayout`.

    Every prompt is tokenized whole. What pairs of one query share is what all their prompts begin
    with, as far as that is there before any document.

    Attributes:
        max_length: most tokens of a sequence.
        longest: the same.
    """

    max_length: int
    longest: int

    def __init__(
        self,
        template: ChatTemplate,
        tokenizer: Tokenizer,
        max_length: int,
        *,
        prompt: str = "",
        truncate: bool = True,
    ) -> None:
        """Compile the template, and see that it shows the model both texts.

        Args:
            template: of the model.
            tokenizer: of the model.
            max_length: most tokens of a sequence.
            prompt: the system's message; there is none if empty.
            truncate: cut what is too long; else such a pair fails.

        Raises:
            ModelError: the template cannot be used.
            InputError: `max_length` leaves no token for query and document.
        """
        self.max_length = self.longest = max_length
        self._template = template
        self._tokenizer = tokenizer
        self._truncate = truncate
        self._system = [template.message("system", prompt)] if prompt else []
        self._layout = Layout((0, 1), np.zeros(2, dtype=np.int32))
        self._windowed = Layout((2, 0, 1), np.zeros(3, dtype=np.int32))
        try:
            self._compiled = Compiled(template.source)
            probes = [self._render(*pair, system=False) for pair in _PROBES]
        except Exception as error:  # whatever a template makes Python raise
            raise ModelError(f"the chat template cannot be used ({_line(error)})") from error
        for role, other in (("query", probes[1]), ("document", probes[2])):
            if other == probes[0]:
                raise ModelError(
                    f'the chat template leaves out messages of the role "{role}"; it is none for a '
                    'reranker, so pass template="pair" or the name of one'
                )
        texts = self._rendered([(a, b) for a in _FILLERS for b in _FILLERS])
        self._is_known = texts is not None
        self._gap = None if texts is None else self._gap_of(texts)
        self._suffix, count = self._suffix_of(self._rendered([(a, a) for a in _FILLERS]))
        [nothing] = tokenizer.encode(self._rendered([("", "")]) or [""])
        # The suffix is the longer where the template leaves something out around empty texts.
        least = max(len(nothing), count)
        if max_length <= least:
            raise InputError(
                f"max_length is {max_length}, but the chat template alone has {least} tokens; pass "
                "more"
            )

    @property
    def tokenization(self) -> None:
        """None: a prompt is tokenized whole."""
        return None

    @property
    def windowless(self) -> str | None:
        """See `PairLayout`."""
        if self._gap is not None or self._tokenizer.keeps_end:
            return "where its chat template is cut, the query does not stay"
        return None if self._is_known else "its chat template does not say where a document begins"

    def lay_out(self, pairs: list[tuple[str, Text]]) -> tuple[Pack, dict[int, str]]:
        """Sequences of pairs: see `PairLayout`."""
        return self._join(*self._prompts(pairs))

    def lay_out_windows(
        self, pairs: list[tuple[str, Text]]
    ) -> tuple[Pack, NDArray[np.int64], dict[int, str]]:
        """Sequences of pairs, in windows of the documents: see `PairLayout`.

        What stands before a document stands before each window, and the suffix after it.
        """
        places, sides, failures = self._prompts(pairs)
        texts = [(whole, before, before.rstrip(" ")) for whole, before, *_ in sides]
        ids, starts, lengths, reasons = gather(self._tokenizer, texts, 3)
        failures |= {places[index]: reason for index, reason in reasons.items()}
        whole, before = lengths[:, 0], lengths[:, 2]
        over, suffix = whole - self.max_length, len(self._suffix)
        size, least = self.max_length - suffix - before, least_window(self.max_length)
        sound = np.ones(len(sides), dtype=bool)
        sound[list(reasons)] = False
        for index in np.flatnonzero((over > 0) & ((size < least) | (lengths[:, 1] == 0))).tolist():
            sound[index] = False
            failures[places[index]] = (
                too_small(int(size[index]), least, self.max_length)
                if lengths[index, 1]
                else "its chat template does not say where a document begins"
            )
        [rows] = np.nonzero(sound)
        body = np.where(over > 0, whole - suffix - before, np.minimum(size, 0))[rows]
        of, begins, tokens = windows_of(body, size[rows])
        of, later = rows[of], begins > 0
        # A prompt that just fits is given its suffix too, see `_join`.
        tokens = np.where(over[of] > 0, tokens, whole[of] - suffix * (over[of] == 0) - before[of])
        begin = starts[of, 0] + later * (before[of] + begins)
        pack = self._windowed.join(
            np.append(ids, self._suffix),
            np.column_stack([begin, np.full_like(begin, len(ids)), starts[of, 2]]),
            np.column_stack(
                [tokens + ~later * before[of], suffix * (over[of] >= 0), later * before[of]]
            ),
        )
        first = np.where(later, starts[of, 2], begin)
        most = np.minimum(np.where(later, before[of], pack.lengths), lengths[of, 1])
        alike = common_prefix(ids, first, starts[of, 1], most)
        queries = numbered(starts[of, 1])
        return share(pack, queries, alike), np.array(places, dtype=np.int64)[of], failures

    def _prompts(
        self, pairs: list[tuple[str, Text]]
    ) -> tuple[list[int], list[tuple[str, str, str, str, str]], dict[int, str]]:
        """Of which pairs there are prompts; these, what is `_around` each, and its query.

        And place -> reason of the others.
        """
        failures: dict[int, str] = {}
        places, sides = [], []
        around: dict[str, tuple[str, str, str]] = {}
        for place, (query, document) in enumerate(pairs):
            assert isinstance(document, str)  # there are no tokens that it could be given as
            try:
                if query not in around:
                    around[query] = self._around(query)
                sides.append((self._render(query, document), *around[query], query))
            except Exception as error:  # whatever a template makes Python raise
                failures[place] = f"the model's chat template refuses it ({_line(error)})"
            else:
                places.append(place)
        return places, sides, failures

    def _join(
        self,
        places: list[int],
        sides: list[tuple[str, str, str, str, str]],
        failures: dict[int, str],
    ) -> tuple[Pack, dict[int, str]]:
        number_of: dict[str, int] = {}
        numbers = [number_of.setdefault(query, len(number_of)) for *_, query in sides]
        queries = np.array(numbers, dtype=np.int64)
        ids, starts, lengths, reasons = gather(self._tokenizer, [side[:4] for side in sides], 4)
        keeps_end = self._tokenizer.keeps_end
        over = lengths[:, 0] - self.max_length
        shift = over.clip(0) if keeps_end else np.zeros_like(over)
        # Also of one that just fits, as sentence-transformers does it.
        suffix = np.where(over >= 0, len(self._suffix), 0)
        kept = np.minimum(lengths[:, 0], self.max_length) - suffix
        # Tokens of a prompt that stay, and those before its document and its query, all counted
        # from the end that is not cut.
        room = kept + suffix if keeps_end else kept
        document = lengths[:, 2 if keeps_end else 1]
        query = np.zeros_like(over) if self._gap is None else lengths[:, 0] - lengths[:, 3]
        sound = np.ones(len(sides), dtype=bool)
        sound[list(reasons)] = False
        failures |= {places[index]: reason for index, reason in reasons.items()}
        for index in np.flatnonzero(over > 0).tolist():
            if not self._truncate:
                reason = f"its prompt has {lengths[index, 0]} tokens, more than max_length "
                reason += f"{self.max_length}; shorten it or allow truncation"
            elif room[index] <= document[index]:
                reason = "the query leaves no room for a document within max_length "
                reason += f"{self.max_length}; shorten it or raise max_length"
            elif room[index] <= query[index] and sides[index][-1]:
                reason = "the document leaves no room for the query within max_length "
                reason += f"{self.max_length}; shorten it or raise max_length"
            else:
                continue
            sound[index] = False
            failures[places[index]] = reason
        queries, starts, lengths = queries[sound], starts[sound], lengths[sound]
        shift, suffix, kept = shift[sound], suffix[sound], kept[sound]
        begin = starts[:, 0] + shift
        pack = self._layout.join(
            np.append(ids, self._suffix),
            np.column_stack([begin, np.full_like(begin, len(ids))]),
            np.column_stack([kept, suffix]),
        )
        alike = common_prefix(ids, begin, starts[:, 1], np.minimum(kept, lengths[:, 1]))
        return share(pack, numbered(np.column_stack([queries, shift])), alike), failures

    def _suffix_of(self, texts: list[str] | None) -> tuple[Int32, int]:
        """The tokens that every prompt ends with, and how many; none where it is not known.

        Args:
            texts: two prompts; None where the template refuses one.
        """
        if texts is None or not self._template.restores_suffix:
            return np.zeros(0, dtype=np.int32), 0
        first, second = self._tokenizer.encode(texts)
        size = min(len(first), len(second))
        same = first[::-1][:size] == second[::-1][:size]
        count = 0 if same.all() else int(same.argmin())
        return first[len(first) - count :], count

    def _around(self, query: str) -> tuple[str, str, str]:
        """What a query's prompts begin with, what they end with, and that up to the query.

        The last is of the side that is cut, the query included. Nothing is known of a query whose
        prompts with fillers the template refuses.
        """
        texts = self._rendered([(query, filler) for filler in _FILLERS])
        if texts is None:
            return "", "", ""
        first, second = texts
        beginning, ending = _common_beginning(first, second), _common_ending(first, second)
        gap = self._gap or 0
        if self._tokenizer.keeps_end:
            return beginning, ending, beginning[: len(beginning) - gap]
        return beginning, ending, ending[gap:]

    def _gap_of(self, texts: list[str]) -> int | None:
        """Characters between the document and a query that is cut before it; else None.

        Args:
            texts: two prompts of a query, and two of another.
        """
        common = _common_beginning, _common_ending
        near, far = common[::-1] if self._tokenizer.keeps_end else common
        if near(*texts[:2]) != near(*texts[2:]):
            return None
        sides = far(*texts[:2]), far(*texts[2:])
        return None if sides[0] == sides[1] else len(near(*sides))

    def _rendered(self, pairs: list[tuple[str, str]]) -> list[str] | None:
        """Prompts of pairs, None where the template refuses one."""
        try:
            return [self._render(*pair) for pair in pairs]
        except Exception:  # whatever a template makes Python raise
            return None

    def _render(self, query: str, document: str, *, system: bool = True) -> str:
        messages = [
            *(self._system if system else ()),
            self._template.message("query", query),
            self._template.message("document", document),
        ]
        given = {"tools": None, "documents": None, "add_generation_prompt": False}
        given |= self._tokenizer.special_tokens | dict(self._template.variables)
        text = self._compiled.render(messages=messages, **given)
        check_text(text, "prompt")
        return text


def _common_beginning(first: str, second: str) -> str:
    differing = (place for place, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    return first[: next(differing, min(len(first), len(second)))]


def _common_ending(first: str, second: str) -> str:
    return _common_beginning(first[::-1], second[::-1])[::-1]


def _line(error: Exception) -> str:
    return shown(" ".join(str(error).split()) or type(error).__name__)
