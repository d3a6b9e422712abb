"""Many orders at once: what each asks goes to one who answers, and it goes on when it has all."""

from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from packrank.ordering.orders import Rounds

_Question = TypeVar("_Question")
_Answer = TypeVar("_Answer")
_Result = TypeVar("_Result")
_QuestionIn = TypeVar("_QuestionIn", contravariant=True)
_AnswerOut = TypeVar("_AnswerOut", covariant=True)

# Which order asks, and the place of the question in its round.
Key = tuple[int, int]


class Asker(Protocol[_QuestionIn, _AnswerOut]):
    """Who answers."""

    def add(self, key: Key, question: _QuestionIn) -> None:
        """Take a question, at any time."""

    def finished(self) -> Iterator[tuple[Key, _AnswerOut]]:
        """Answers as they come, until nothing that was added is left; more may be added between.

        An order of which a question is never answered ends there, without a result.
        """
        ...


class _Running(Generic[_Question, _Answer]):
    """An order that waits for answers."""

    def __init__(self, rounds: Rounds[_Question, _Answer, _Result], asked: int) -> None:
        self.rounds = rounds
        self.answers: list[_Answer | None] = [None] * asked
        self.missing = asked


def run_orders(
    orders: Sequence[Rounds[_Question, _Answer, _Result]], asker: Asker[_Question, _Answer]
) -> list[_Result | None]:
    """What each order returns; None of one that was left without an answer.

    Those of several queries wait for nobody but their own answers, so that one who answers in
    packs fills them from all.

    Args:
        orders: of a query each.
        asker: who answers.
    """
    results: dict[int, _Result] = {}
    running: dict[int, _Running[_Question, _Answer]] = {}

    def go_on(number: int, answers: list[_Answer] | None) -> None:
        rounds = orders[number]
        try:
            asked = next(rounds) if answers is None else rounds.send(answers)
        except StopIteration as end:
            results[number] = end.value
            return
        running[number] = _Running(rounds, len(asked))
        for place, question in enumerate(asked):
            asker.add((number, place), question)

    for number in range(len(orders)):
        go_on(number, None)
    for (number, place), answer in asker.finished():
        one = running[number]
        one.answers[place] = answer
        one.missing -= 1
        if not one.missing:
            del running[number]
            go_on(number, one.answers)  # type: ignore[arg-type]  # none is missing
    return [results.get(number) for number in range(len(orders))]
