"""Sorting as ielab/llm-rankers runs it, one comparison after the other."""

from collections.abc import Callable


def upstream_heapsort(
    count: int, most: int, children: int, best_of: Callable[[list[int]], int]
) -> tuple[list[int], int]:
    """One comparison after the other, as llm-rankers runs it; and how many there were."""
    heap, asked = list(range(count)), 0

    def sink(size: int, node: int) -> None:
        nonlocal asked
        below = range(children * node + 1, min(children * node + children + 1, size))
        if not below:
            return
        places = [node, *below]
        asked += 1
        best = places[best_of([heap[place] for place in places])]
        if best != node:
            heap[node], heap[best] = heap[best], heap[node]
            sink(size, best)

    for node in range(count // children, -1, -1):
        sink(count, node)
    for end in range(count - 1, 0, -1):
        heap[0], heap[end] = heap[end], heap[0]
        if count - end == most:
            break
        sink(end, 0)
    return heap[::-1][:most], asked


def upstream_bubble(
    count: int, most: int, width: int, best_of: Callable[[list[int]], int]
) -> list[int]:
    """Pass after pass, all windows of each, as llm-rankers ran it before it skipped some."""
    order = list(range(count))
    for first in range(min(most, count)):
        start, stop = count - width, count
        while True:
            start = max(start, first)
            best = best_of(order[start:stop])
            order[start], order[start + best] = order[start + best], order[start]
            if start == first:
                break
            start, stop = start - width + 1, stop - width + 1
    return order[:most]
