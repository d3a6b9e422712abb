"""Pairs to sequences, a window at a time: the next is tokenized while this one is scored."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from packrank import request
from packrank.errors import InputError
from packrank.tokenizer import Tokenizer, Truncation, check_text

# Pairs of a window. Two windows are alive at a time, 2 * 8192 * 200 tokens * 12 bytes = 40 MB at
# usual lengths whatever the number of pairs; and a window is many packs, so that the last one,
# which is not full, costs little.
WINDOW_PAIRS = 8192


@dataclass(frozen=True)
class PairReader:
    """How pairs become sequences.

    Attributes:
        tokenizer: of the model.
        vocab_size: rows of the model's token table; the tokenizer may know more tokens.
        max_length: most tokens of a pair, special ones included.
        truncation: what is cut off a longer pair.
    """

    tokenizer: Tokenizer
    vocab_size: int
    max_length: int
    truncation: Truncation

    def windows(self, pairs: Sequence[object]) -> Iterator["Window"]:
        """All pairs in order. One background thread works ahead where there are several windows.

        Args:
            pairs: anything; what is no pair of texts is a failure of the window it falls in.
        """
        starts = range(0, len(pairs), WINDOW_PAIRS)
        return _one_ahead(lambda start: self._read(pairs, start), starts)

    def _read(self, pairs: Sequence[object], start: int) -> "Window":
        window = Window()
        sound: list[tuple[int, str, str]] = []
        for index, pair in enumerate(pairs[start : start + WINDOW_PAIRS], start):
            try:
                sound.append((index, *_texts(pair)))
            except InputError as error:
                window.failures[index] = str(error)
        queries = [query for _, query, _ in sound]
        documents = [document for _, _, document in sound]
        ids = self.tokenizer.encode(queries + documents)
        for n, (index, *_) in enumerate(sound):
            try:
                window.sequences.append(self._join(ids[n], ids[len(sound) + n]))
                window.indices.append(index)
            except InputError as error:
                window.failures[index] = str(error)
        return window

    def _join(self, query: request.Int32, document: request.Int32) -> request.Sequence:
        sequence = self.tokenizer.pair(query, document, self.max_length, self.truncation)
        if not len(sequence.token_ids):
            raise InputError("both texts are empty, and the tokenizer adds no special tokens")
        highest = int(sequence.token_ids.max())
        if highest >= self.vocab_size:
            raise InputError(
                f"it holds token {highest}, and the model knows {self.vocab_size}; "
                "is the tokenizer another model's?"
            )
        return sequence


@dataclass(frozen=True)
class Window:
    """A run of pairs, ready for the model.

    Attributes:
        indices: where the pair of each sequence stands among all pairs.
        sequences: one a pair.
        failures: the other pairs of the run, each with the reason.
    """

    indices: list[int] = field(default_factory=list)
    sequences: list[request.Sequence] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)


def _texts(pair: Any) -> tuple[str, str]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        size = f" of {len(pair)}" if isinstance(pair, tuple | list) else ""
        raise InputError(f"it is a {type(pair).__name__}{size}, expected (query, document)")
    for name, text in zip(("query", "document"), pair, strict=True):
        if not isinstance(text, str):
            raise InputError(f"the {name} is a {type(text).__name__}, expected a str")
        check_text(text)
    return pair[0], pair[1]


_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def _one_ahead(compute: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[_Result]:
    """compute(item) for each item in order, each while the caller uses the one before."""
    if len(items) < 2:
        yield from map(compute, items)
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="packrank-pairs") as pool:
        coming = pool.submit(compute, items[0])
        for item in items[1:]:
            ready, coming = coming.result(), pool.submit(compute, item)
            yield ready
        yield coming.result()
