"""Questions about a few documents that one token answers: their prompts, and logits to answers.

Sources: ielab/llm-rankers, pairwise.py and setwise.py; castorini/rank_llm, duot5.py.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from packrank.ordering.permutation import LETTERS

_Answer = TypeVar("_Answer", covariant=True)
Logits = NDArray[np.float32]

# "Passage X" is three tokens of T5's, which is why upstream ends here.
SET_LABELS = LETTERS[: LETTERS.index("X")]


class Form(Protocol[_Answer]):
    """How something is asked."""

    @property
    def labels(self) -> Sequence[str]:
        """What the answer may be, each a word."""
        ...

    @property
    def most(self) -> int:
        """Documents of a question, at most."""
        ...

    @property
    def votes(self) -> int:
        """Prompts of a question."""
        ...

    def prompts(self, query: str, documents: Sequence[str]) -> list[str]:
        """What is asked of some documents, M prompts."""

    def answer(self, logits: Logits, count: int) -> _Answer:
        """What logits [M, labels] of those say of `count` documents."""
        ...


@dataclass(frozen=True)
class PairForm:
    """Pairwise ranking prompting: a pair in both orders; who wins both wins."""

    labels: Sequence[str] = ("A", "B")
    most = votes = 2

    def prompts(self, query: str, documents: Sequence[str]) -> list[str]:
        """The pair, and the pair the other way round."""
        first, second = documents
        return [self._prompt(query, first, second), self._prompt(query, second, first)]

    def answer(self, logits: Logits, count: int) -> int:
        """1: the first is better; -1: the second is; 0: the two orders contradict each other."""
        straight, turned = (row[0] > row[1] for row in logits)
        return int(straight) - int(turned) if straight != turned else 0

    @staticmethod
    def _prompt(query: str, first: str, second: str) -> str:
        return (
            f'Given a query "{query}", which of the following two passages is more relevant to the '
            f'query?\n\nPassage A: "{first}"\n\nPassage B: "{second}"\n\nOutput Passage A or '
            "Passage B:"
        )


@dataclass(frozen=True)
class DuoForm:
    """duoT5: whether the first of two documents is the more relevant one.

    Attributes:
        both: ask both orders, and take the likelier; else ask one, and take how likely it is.
    """

    both: bool = True
    labels: Sequence[str] = ("true", "false")
    most = 2

    @property
    def votes(self) -> int:
        """One an order."""
        return 2 if self.both else 1

    def prompts(self, query: str, documents: Sequence[str]) -> list[str]:
        """The pair, and with `both` the pair the other way round."""
        first, second = documents
        asked = [self._prompt(query, first, second)]
        return [*asked, self._prompt(query, second, first)] if self.both else asked

    def answer(self, logits: Logits, count: int) -> float:
        """Above 0: the first is better; between -1 and 1 with one order, else -1, 0 or 1."""
        odds = (logits[:, 0] - logits[:, 1]).astype(np.float64)
        if self.both:
            return float(np.sign(odds[0] - odds[1]))
        return float(np.tanh(odds[0] / 2))  # 2 p - 1 of p = sigmoid(odds)

    @staticmethod
    def _prompt(query: str, first: str, second: str) -> str:
        return f"Query: {query} Document0: {first} Document1: {second} Relevant: "


@dataclass(frozen=True)
class SetForm:
    """Setwise: which of several documents is the best.

    Attributes:
        votes: prompts of a question. One shows the documents in their order; several show each
            its own order, under its own labels, and the most votes win, the first of equal ones.
    """

    votes: int = 1
    labels: Sequence[str] = SET_LABELS

    @property
    def most(self) -> int:
        """One a label."""
        return len(self.labels)

    def prompts(self, query: str, documents: Sequence[str]) -> list[str]:
        """All documents in each prompt."""
        return [
            self._prompt(query, [(self.labels[label], documents[place]) for place, label in shown])
            for shown in self._shown(len(documents))
        ]

    def answer(self, logits: Logits, count: int) -> int:
        """The place of the best; of equal ones the first."""
        voted = np.zeros(count, dtype=np.int64)
        for row, shown in zip(logits, self._shown(count), strict=True):
            said = np.array([row[label] for _, label in shown])
            voted[shown[int(said.argmax())][0]] += 1
        return int(voted.argmax())

    def _shown(self, count: int) -> list[list[tuple[int, int]]]:
        """Of each prompt the places of documents and of their labels, as they are shown.

        The same for every question, so that none hangs on what else was asked.
        """
        if self.votes == 1:
            return [[(place, place) for place in range(count)]]
        chance = random.Random(count)
        places = range(count)
        return [
            list(zip(chance.sample(places, count), chance.sample(places, count), strict=True))
            for _ in range(self.votes)
        ]

    @staticmethod
    def _prompt(query: str, passages: Sequence[tuple[str, str]]) -> str:
        shown = "\n\n".join(f'Passage {label}: "{text}"' for label, text in passages)
        return (
            f'Given a query "{query}", which of the following passages is the most relevant one to '
            f"the query?\n\n{shown}\n\nOutput only the passage label of the most relevant passage:"
        )


def best_first(logits: Logits, count: int) -> list[int]:
    """Places of `count` documents by the logits [1, labels] of their letters; ties keep order."""
    return [int(place) for place in np.argsort(-logits[0, :count], kind="stable")]
