"""Documents by questions that one token answers: pairs, sets, and letters of a whole window."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from packrank.documents import document_of
from packrank.errors import UNFINITE, InputError
from packrank.ordering.forms import Form, best_first
from packrank.ordering.joint_ranker import Ordered, by_place
from packrank.ordering.label_tokens import likeliest
from packrank.ordering.orders import Documents, Rounds
from packrank.ordering.rounds import Key, run_orders
from packrank.ordering.unreadable import Unreadable
from packrank.ordering.windows import WindowPrompts, WindowTexts
from packrank.request import Int32, Pack
from packrank.request import Sequence as Tokens
from packrank.runtime.fleet import Fleet
from packrank.runtime.runner import Pending, Runner
from packrank.text.layout import common_prefix
from packrank.work import Calls

# Prompts that are tokenized and run at a time, about.
_AT_ONCE = 1024

# (documents, how many are wanted) -> their order.
Order = Callable[[int, int], Rounds[Documents, Any, list[int]]]
_Waiting = tuple[Key, Documents]


class Prompts(Protocol):
    """How questions about a query's documents become prompts, and logits answers."""

    def asked(self, query: str, documents: Sequence[Any]) -> Any:
        """A query and its documents, as `ids` takes them. Raises InputError if they cannot be."""

    def ids(self, asked: Any, documents: Documents) -> list[Int32]:
        """[L] int32 each: the prompts of a question, M of them."""

    def answer(self, logits: NDArray[np.float32], count: int) -> Any:
        """What logits [M, labels] say of `count` documents."""
        ...

    @property
    def per_question(self) -> int:
        """M."""
        ...


@dataclass(frozen=True)
class FormPrompts:
    """Texts of a `Form`, cut and tokenized.

    Attributes:
        form: how something is asked.
        tokenize: texts to ids of whole prompts.
        cut: (text, most tokens) -> the text of its first tokens, and how many they are.
        query_length: most tokens of a query; likewise document_length.
        document_length: of a document.
        longest: most tokens of a prompt.
    """

    form: Form[Any]
    tokenize: Callable[[list[str]], list[Int32]]
    cut: Callable[[str, int], tuple[str, int]]
    query_length: int
    document_length: int
    longest: int

    def asked(self, query: str, documents: Sequence[Any]) -> tuple[str, list[str]]:
        """The texts, cut.

        Raises:
            Unreadable: the tokenizer fails on some.
            InputError: the longest documents would not fit into a prompt.
        """
        cut, reasons = list[tuple[str, int]](), dict[int, str]()
        for place, one in enumerate(documents):
            try:
                cut.append(self.cut(str(document_of(one).text), self.document_length))
            except InputError as error:
                reasons[place] = str(error)
        if reasons:
            raise Unreadable(reasons)
        found = self.cut(query, self.query_length)[0], [text for text, _ in cut]
        if len(cut) > 1:
            order = sorted(range(len(cut)), key=lambda one: -cut[one][1])
            self.ids(found, tuple(order[: self.form.most]))
        return found

    def ids(self, asked: tuple[str, list[str]], documents: Documents) -> list[Int32]:
        """The prompts of a question.

        Raises:
            InputError: they are longer than the model reads.
        """
        query, texts = asked
        found = self.tokenize(self.form.prompts(query, [texts[one] for one in documents]))
        most = max(map(len, found))
        if most > self.longest:
            raise InputError(
                f"a prompt of {len(documents)} documents has {most} tokens, and the model reads "
                f"{self.longest}; lower document_length or query_length"
            )
        return found

    def answer(self, logits: NDArray[np.float32], count: int) -> Any:
        """What logits say of `count` documents."""
        return self.form.answer(logits, count)

    @property
    def per_question(self) -> int:
        """Prompts of each."""
        return self.form.votes


@dataclass(frozen=True)
class LetterPrompts:
    """FIRST: a window's order by the logits of its letters, where the first is to be written.

    Attributes:
        window: prompts that end with the bracket before it.

    Source: castorini/rank_llm at 99f70f1, RankListwiseOSLLM with use_logits and use_alpha.
    """

    window: WindowPrompts

    def asked(self, query: str, documents: Sequence[Any]) -> WindowTexts:
        """A query and its documents, cleaned."""
        return self.window.asked(query, documents)

    def ids(self, asked: WindowTexts, documents: Documents) -> list[Int32]:
        """The one prompt of a window."""
        return [self.window.ids(asked, documents)]

    def answer(self, logits: NDArray[np.float32], count: int) -> list[int]:
        """Places in their new order."""
        return best_first(logits, count)

    @property
    def per_question(self) -> int:
        """One."""
        return 1


class ByLabels:
    """Questions of many queries in common packs, those of a round together.

    Args:
        prompts: of questions.
        order: of documents, out of their answers.
        runner: of a model whose logits are those of all tokens of all labels.
        tokens: ids of those, label by label.
        shares: whether what prompts of a query begin with is computed once.
    """

    def __init__(
        self,
        prompts: Prompts,
        order: Order,
        runner: Runner | Fleet,
        tokens: list[list[int]],
        *,
        shares: bool,
    ) -> None:
        self._prompts, self._order = prompts, order
        self._runner, self._tokens, self._shares = runner, tokens, shares

    def prepared(self, query: str, documents: list[Any]) -> tuple[Any, int]:
        """What is asked, and of how many documents; see `Way`."""
        return self._prompts.asked(query, documents), len(documents)

    def ordered(self, prepared: list[tuple[Any, int]], top_k: int | None) -> list[Ordered]:
        """The order of each query's documents; their scores are minus their ranks."""
        orders = [self._order(count, count if top_k is None else top_k) for _, count in prepared]
        asked = [one for one, _ in prepared]
        asker = _Asker(self._prompts, self._runner, self._tokens, asked, shares=self._shares)
        found = run_orders(orders, asker)
        return list(map(by_place, found, asker.calls, asker.failures))


class _Asker:
    """Who answers: by the model, as many prompts at a time as wait.

    Attributes:
        calls: of each query.
        failures: of each query, why its answers count for nothing; None: they count.
    """

    def __init__(
        self,
        prompts: Prompts,
        runner: Runner | Fleet,
        tokens: list[list[int]],
        asked: list[Any],
        *,
        shares: bool,
    ) -> None:
        self._prompts, self._runner, self._tokens = prompts, runner, tokens
        self._asked, self._shares = asked, shares
        self._waiting: list[_Waiting] = []
        self.calls = [Calls() for _ in asked]
        self.failures: list[str | None] = [None for _ in asked]

    def add(self, key: Key, question: Documents) -> None:
        """Take a question."""
        self._waiting.append((key, question))

    def finished(self) -> Iterator[tuple[Key, Any]]:
        """Answers; all that waits is one round, of which a part is tokenized while one runs."""
        while self._waiting:
            waiting, self._waiting = sorted(self._waiting, key=lambda one: one[0]), []
            running, count = None, max(_AT_ONCE // self._prompts.per_question, 1)
            for start in range(0, len(waiting), count):
                started = self._started(waiting[start : start + count])
                if running is not None:
                    yield from self._answers(*running)
                running = started
            if running is not None:
                yield from self._answers(*running)

    def _started(self, waiting: list[_Waiting]) -> tuple[list[_Waiting], list[int], Pending]:
        """The prompts of questions, running, and where those of each end."""
        prompts: list[Int32] = []
        queries, ends = list[int](), [0]
        answered: list[_Waiting] = []
        for key, documents in waiting:
            number = key[0]
            try:
                mine = self._prompts.ids(self._asked[number], documents)
            except InputError as error:
                self.failures[number] = str(error)
                continue
            answered.append((key, documents))
            prompts += mine
            queries += [number] * len(mine)
            ends.append(len(prompts))
            self.calls[number] += Calls(len(mine), sum(map(len, mine)))
        pack = packed(prompts, queries) if self._shares else _alone(prompts)
        return answered, ends, self._runner.submit(pack)

    def _answers(
        self, waiting: list[_Waiting], ends: list[int], pending: Pending
    ) -> Iterator[tuple[Key, Any]]:
        found = likeliest(pending.result(), self._tokens)
        for place, (key, documents) in enumerate(waiting):
            mine = range(ends[place], ends[place + 1])
            rows = found[mine.start : mine.stop]
            if np.isfinite(rows).all():
                yield key, self._prompts.answer(rows, len(documents))
            else:
                reasons = [pending.failures[one] for one in mine if one in pending.failures]
                self.failures[key[0]] = reasons[0] if reasons else UNFINITE


def packed(prompts: Sequence[Int32], queries: Sequence[int]) -> Pack:
    """Prompts as sequences; those of one query share what all of them begin with.

    Args:
        prompts: [L] int32 each.
        queries: of each, ascending.
    """
    pack = _alone(prompts)
    numbers = np.array(queries, dtype=np.int32)
    first = np.searchsorted(numbers, numbers)  # of each query, its first prompt
    starts = pack.cu_seqlens[:-1].astype(np.int64)
    most = np.minimum(pack.lengths, pack.lengths[first]) - 1
    alike = common_prefix(pack.token_ids, starts, starts[first], most.astype(np.int64))
    least = np.full(len(numbers), np.iinfo(np.int32).max, dtype=np.int64)
    np.minimum.at(least, first, alike)
    shared = least[first].astype(np.int32)
    return Pack(pack.token_ids, pack.token_types, pack.cu_seqlens, numbers, shared)


def _alone(prompts: Sequence[Int32]) -> Pack:
    return Pack.of(Tokens(ids, np.zeros_like(ids)) for ids in prompts)
