"""Orders of documents out of answers about a few of them at a time; knows no text and no model.

Documents are numbers from 0 in the order that they were given in. An order is a generator of
rounds: it yields questions that may be answered in any company, is sent their answers in the same
order, and returns documents, best first.
"""

from collections.abc import Callable, Generator, Hashable, Sequence
from itertools import combinations
from typing import TypeVar

_Question = TypeVar("_Question", bound=Hashable)
_Answer = TypeVar("_Answer")
_Result = TypeVar("_Result")
Rounds = Generator[list[_Question], list[_Answer], _Result]

# Documents that are compared. Of a pair the answer is above 0 where the first is better, below
# where the second is; of a set it is the place of the best; of a window its places in their new
# order.
Documents = tuple[int, ...]
Champion = Callable[[Sequence[int]], Rounds[Documents, float, int]]


def sliding_windows(
    count: int, size: int, stride: int
) -> Rounds[Documents, Sequence[int], list[int]]:
    """All documents, put in order window by window from the end to the start.

    Of a window of one document, of which upstream asks too, nothing is asked.

    Args:
        count: of documents.
        size: most documents of a window.
        stride: by how many it moves.

    Source: castorini/rank_llm, ListwiseRankLLM.
    """
    order = list(range(count))
    end, start = count, max(count - size, 0)
    while end > start:
        if end - start > 1:
            [places] = yield [tuple(order[start:end])]
            order[start:end] = [order[start + place] for place in places]
        if start == 0:
            break
        end, start = end - stride, max(start - stride, 0)
    return order


def all_pairs(count: int, most: int) -> Rounds[Documents, float, list[int]]:
    """The best documents by the pairs that they win, half of one that neither wins.

    Ties keep order. An answer between -1 and 1 is a pair won in part.

    Args:
        count: of documents.
        most: how many are wanted; all pairs are asked about all the same.

    Source: Qin et al. 2024 (PRP-Allpair).
    """
    pairs: list[Documents] = list(combinations(range(count), 2))
    answers = (yield pairs) if pairs else []
    wins = [0.0] * count
    for (first, second), answer in zip(pairs, answers, strict=True):
        wins[first] += 1 + answer
        wins[second] += 1 - answer
    return sorted(range(count), key=lambda document: -wins[document])[:most]


def heapsorted(
    count: int, most: int, children: int, champion: Champion
) -> Rounds[Documents, float, list[int]]:
    """The best documents, from a heap.

    While it is built, nodes of one depth have no document in common and go down together.

    Args:
        count: of documents.
        most: how many are wanted.
        children: of a node.
        champion: the place of the best of some documents.

    Source: ielab/llm-rankers; Zhuang et al. 2024 (Setwise), with more than two children.
    """
    heap, best = list(range(count)), list[int]()
    depths = [range(1)]
    while depths[-1].stop < count:
        last = depths[-1]
        depths.append(range(last.stop, last.stop + children * len(last)))
    for nodes in reversed(depths):
        sinking = [_sink(heap, node, children, champion) for node in nodes if node < count]
        yield from _together(sinking)
    while heap and len(best) < most:
        best.append(heap[0])
        last_one = heap.pop()
        if heap and len(best) < most:
            heap[0] = last_one
            yield from _sink(heap, 0, children, champion)
    return best


def bubbled(
    count: int, most: int, width: int, champion: Champion
) -> Rounds[Documents, float, list[int]]:
    """The best documents, each brought to the front by a pass of windows from the end.

    A window's champion changes places with its first document; the next window ends there. A pass
    follows two windows behind the one before it, where they have no document in common, so all run
    in the rounds of one and a few more.

    Args:
        count: of documents.
        most: how many are wanted.
        width: documents of a window.
        champion: the place of the best of some documents.

    Source: Qin et al. 2024 (PRP-Sliding-K), ielab/llm-rankers.
    """
    order, most = list(range(count)), min(most, count)

    def step(start: int, stop: int) -> Rounds[Documents, float, None]:
        place = yield from champion(order[start:stop])
        order[start], order[start + place] = order[start + place], order[start]

    passes = [_windows(count, first, width) for first in range(most)]
    last = max((len(windows) + 2 * late for late, windows in enumerate(passes)), default=0)
    for time in range(last):
        running = [
            step(*windows[time - 2 * late])
            for late, windows in enumerate(passes)
            if 0 <= time - 2 * late < len(windows)
        ]
        yield from _together(running)
    return order[:most]


def best_of(
    method: str, children: int, width: int, champion: Champion
) -> Callable[[int, int], Rounds[Documents, float, list[int]]]:
    """(count, most) -> the best documents, by a method that asks each question once.

    Args:
        method: "heapsort", `heapsorted`; "sliding", `bubbled`.
        children: of the first; likewise width, of the second.
        width: see there.
        champion: the place of the best of some documents.
    """

    def order(count: int, most: int) -> Rounds[Documents, float, list[int]]:
        if method == "heapsort":
            return asked_once(heapsorted(count, most, children, champion))
        return asked_once(bubbled(count, most, width, champion))

    return order


def by_pairs(documents: Sequence[int]) -> Rounds[Documents, float, int]:
    """The place of the best: each is held against the best of those before it, and must win."""
    best = 0
    for place in range(1, len(documents)):
        challenger, champion = documents[place], documents[best]
        swapped = challenger > champion
        pair = (champion, challenger) if swapped else (challenger, champion)
        [answer] = yield [pair]
        if (-answer if swapped else answer) > 0:
            best = place
    return best


def by_sets(documents: Sequence[int]) -> Rounds[Documents, float, int]:
    """The place of the best, asked of all at once."""
    if len(documents) < 2:
        return 0
    [place] = yield [tuple(documents)]
    return int(place)


def asked_once(
    rounds: Rounds[_Question, _Answer, _Result],
) -> Rounds[_Question, _Answer, _Result]:
    """The same, with each question asked once and remembered."""
    known: dict[_Question, _Answer] = {}
    try:
        asked = next(rounds)
        while True:
            new = [question for question in dict.fromkeys(asked) if question not in known]
            if new:
                known.update(zip(new, (yield new), strict=True))
            asked = rounds.send([known[question] for question in asked])
    except StopIteration as end:
        result: _Result = end.value
        return result


def _sink(
    heap: list[int], node: int, children: int, champion: Champion
) -> Rounds[Documents, float, None]:
    """Let a node change places with its best child until it is better than all of its own."""
    while (first := children * node + 1) < len(heap):
        places = [node, *range(first, min(first + children, len(heap)))]
        best = places[(yield from champion([heap[place] for place in places]))]
        if best == node:
            return
        heap[node], heap[best] = heap[best], heap[node]
        node = best


def _windows(count: int, first: int, width: int) -> list[tuple[int, int]]:
    """(start, stop) of the windows of a pass that ends at `first`, of two documents at least."""
    windows, start = [], count - width
    while True:
        windows.append((max(start, first), start + width))
        if start <= first:
            break
        start -= width - 1
    return [(start, stop) for start, stop in windows if stop - start > 1]


def _together(
    parts: list[Rounds[_Question, _Answer, None]],
) -> Rounds[_Question, _Answer, None]:
    """Several at once, a round of each in every round."""
    waiting: list[tuple[Rounds[_Question, _Answer, None], list[_Question]]] = []
    for part in parts:
        asked = next(part, None)
        if asked is not None:
            waiting.append((part, asked))
    while waiting:
        answers = iter((yield [question for _, asked in waiting for question in asked]))
        going = []
        for part, asked in waiting:
            mine = [next(answers) for _ in asked]
            try:
                going.append((part, part.send(mine)))
            except StopIteration:
                continue
        waiting = going
