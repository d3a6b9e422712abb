"""Which tokens may follow, so that what is written is an order of a window: "[2] > [1] > [3]"."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from packrank.ordering.permutation import name_of
from packrank.text.tokenizer import Tokenizer

_BETWEEN = " > "


class Grammar:
    """The tokens of a vocabulary that orders are written with.

    Args:
        tokenizer: of the model.
        vocabulary: tokens of the model, of which the tokenizer may have more.
        letters: documents are called by letters, else by numbers.
        stop_token_ids: what may follow a whole order, and nothing else may.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop_token_ids: Sequence[int],
        vocabulary: int,
        *,
        letters: bool,
    ) -> None:
        self._letters = letters
        self._stop = np.array(sorted(stop_token_ids), dtype=np.int64)
        signs = set("[]> ") | {sign for place in range(26) for sign in self._name(place)}
        texts: dict[int, str] = {}
        for token_id in range(min(tokenizer.vocab_size, vocabulary)):
            # A blank as byte-level BPE and SentencePiece write it.
            text = tokenizer.token(token_id).replace("Ġ", " ").replace("▁", " ")
            if text and signs.issuperset(text) and not tokenizer.is_added(token_id):
                texts[token_id] = text
        self._texts = texts

    def of(self, count: int) -> Callable[[list[int]], NDArray[np.int64]]:
        """What may follow, for an order of so many documents.

        Returns:
            (ids so far) -> ascending ids of the tokens that may come next.
        """
        names = frozenset(map(self._name, range(count)))

        def allowed(written: list[int]) -> NDArray[np.int64]:
            text = "".join(self._texts[token_id] for token_id in written).lstrip(" ")
            left, begun = _rest(names, text, True) or (names, "")
            if not left and not begun:
                return self._stop
            found = []
            for token_id, more in self._texts.items():
                more = more if text else more.lstrip(" ")
                if more and _rest(left, begun + more, left == names) is not None:
                    found.append(token_id)
            return np.array(found, dtype=np.int64)

        return allowed

    def _name(self, place: int) -> str:
        return name_of(place, letters=self._letters)


def _rest(names: frozenset[str], text: str, is_first: bool) -> tuple[frozenset[str], str] | None:
    """What names are left after a text, and what of it belongs to the next; None: it is no order.

    Args:
        names: that may come.
        text: names in brackets, joined, the last perhaps in part.
        is_first: whether nothing stands before it.
    """
    while text:
        if not is_first:
            if len(text) <= len(_BETWEEN):
                return (names, text) if names and _BETWEEN.startswith(text) else None
            if not text.startswith(_BETWEEN):
                return None
        begun = text if is_first else text[len(_BETWEEN) :]
        done = next((name for name in names if begun.startswith(f"[{name}]")), None)
        if done is None:
            fits = any(f"[{name}]".startswith(begun) for name in names)
            return (names, text) if fits else None
        names, text, is_first = names - {done}, begun[len(done) + 2 :], False
    return names, ""
