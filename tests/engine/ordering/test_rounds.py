"""Many orders beside each other."""

import random
from collections.abc import Iterator

from packrank.ordering.orders import Documents, bubbled, by_pairs, heapsorted
from packrank.ordering.rounds import Key, run_orders


class OneByOne:
    """Answers the question that chance picks among all that wait: the larger document wins."""

    def __init__(self, seed: int) -> None:
        self.chance, self.waiting = random.Random(seed), list[tuple[Key, Documents]]()
        self.most = 0

    def add(self, key: Key, question: Documents) -> None:
        self.waiting.append((key, question))

    def finished(self) -> Iterator[tuple[Key, float]]:
        while self.waiting:
            self.most = max(self.most, len(self.waiting))
            key, (first, second) = self.waiting.pop(self.chance.randrange(len(self.waiting)))
            yield key, (first > second) - (first < second)


def test_orders_do_not_depend_on_when_answers_come() -> None:
    for seed in range(5):
        asker = OneByOne(seed)
        orders = [heapsorted(count, 3, 2, by_pairs) for count in range(12)]
        orders += [bubbled(count, 3, 2, by_pairs) for count in range(12)]
        found = run_orders(orders, asker)
        expected = [list(range(count))[::-1][:3] for count in range(12)]
        assert found == expected * 2
        assert asker.most > 12  # those of several orders waited together


def test_no_orders_ask_nothing() -> None:
    asker = OneByOne(0)
    assert run_orders([], asker) == []
    assert run_orders([heapsorted(0, 3, 2, by_pairs)], asker) == [[]]
    assert asker.most == 0
