"""What jina-reranker-v3 reads: a query with up to 125 documents at once, each before a marker.

Source: jinaai/jina-reranker-v3, modeling.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from packrank.errors import InputError, ModelError
from packrank.ordering.unreadable import Unreadable
from packrank.request import Int32, Pack
from packrank.text.prompt import token_of
from packrank.text.tokenizer import Tokenizer

DOCUMENT_MARKER, QUERY_MARKER = "<|embed_token|>", "<|rerank_token|>"

_HEAD = (
    "<|im_start|>system\nYou are a search relevance expert who can determine a ranking of the "
    "passages based on how relevant they are to the query. If the query is a question, how "
    "relevant a passage is depends on how well it answers the question. If not, try to analyze the "
    "intent of the query and assess how well each passage satisfies the intent. If an instruction "
    "is provided, you should follow the instruction when determining the ranking.<|im_end|>\n"
    "<|im_start|>user\n"
)


@dataclass(frozen=True)
class BlockRule:
    """How documents are cut and shared out.

    Attributes:
        query_length: most tokens of a query; likewise document_length.
        document_length: of a document.
        size: most documents of a block.
        capacity: tokens of texts that a block is filled with: it ends with the document that leaves
            room for no other. What stands around them is not counted, nor is it upstream.
    """

    query_length: int
    document_length: int
    size: int
    capacity: int


@dataclass(frozen=True)
class Blocks:
    """A query with its documents, as the model reads them.

    Attributes:
        ids: one [L] int32 array a block; what would follow the query's marker is left out, as
            nothing that scores can see it.
        counts: documents of each block.
        prefixes: tokens of each before its first document.
    """

    ids: list[Int32]
    counts: list[int]
    prefixes: list[int]


class BlockLayout:
    """Queries and documents to blocks.

    Args:
        tokenizer: of the model.
        positions: tokens that the model takes.
        rule: how documents are cut and shared out.
        instruction: stands in every prompt; None: there is none.

    Attributes:
        tokenizer: as above; likewise rule.
        markers: [2] the ids of the document's and the query's marker.

    Raises:
        ModelError: the tokenizer lacks a marker.
        InputError: the instruction holds one.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        positions: int,
        rule: BlockRule,
        instruction: str | None = None,
    ) -> None:
        self.tokenizer, self._positions, self.rule = tokenizer, positions, rule
        if instruction and any(one in instruction for one in (DOCUMENT_MARKER, QUERY_MARKER)):
            raise InputError(f"the instruction holds {DOCUMENT_MARKER} or {QUERY_MARKER}")
        self._instructed = f"<instruct>\n{instruction}\n</instruct>\n" if instruction else ""
        self.markers = token_of(tokenizer, DOCUMENT_MARKER), token_of(tokenizer, QUERY_MARKER)
        if not all(map(tokenizer.is_added, self.markers)):
            raise ModelError(f"{DOCUMENT_MARKER} and {QUERY_MARKER} are no tokens of their own")

    def lay_out(self, query: str, documents: Sequence[str]) -> Blocks:
        """The blocks of a query, documents in their order.

        Raises:
            Unreadable: the tokenizer fails on a document, or the model has too few positions for it
                with the query.
            InputError: the tokenizer fails on the query.
        """
        query, query_size = self._cut(query, self.rule.query_length)
        cut = self._cut_all(query, documents)
        found, waiting, left = Blocks([], [], []), list[str](), self.rule.capacity - 2 * query_size
        for place, (text, size) in enumerate(cut):
            waiting.append(text)
            left -= size
            full = len(waiting) >= self.rule.size or left <= self.rule.document_length
            if full or place == len(documents) - 1:
                self._add(found, query, waiting)
                waiting, left = [], self.rule.capacity - 2 * query_size
        return found

    def _add(self, found: Blocks, query: str, documents: list[str]) -> None:
        """Add a block; two, where one would not fit within the model's positions."""
        before, texts = self._texts(query, documents)
        [prefix, ids] = self.tokenizer.encode([before, before + texts])
        if len(ids) > self._positions and len(documents) > 1:
            middle = len(documents) // 2
            self._add(found, query, documents[:middle])
            self._add(found, query, documents[middle:])
            return
        found.ids.append(ids)
        found.counts.append(len(documents))
        # Where the tokenizer joins what stands before a document to it, that is no prefix.
        same = np.flatnonzero(prefix != ids[: len(prefix)])
        found.prefixes.append(int(same[0]) if len(same) else len(prefix))

    def _cut_all(self, query: str, documents: Sequence[str]) -> list[tuple[str, int]]:
        """`_cut` of each document, all of which fit with the query."""
        found, reasons = list[tuple[str, int]](), dict[int, str]()
        around = len(self.tokenizer.encode(["".join(self._texts(query, [""]))])[0])
        for place, document in enumerate(documents):
            try:
                found.append(self._cut(document, self.rule.document_length))
            except InputError as error:
                reasons[place] = str(error)
                continue
            if around + found[-1][1] > self._positions:
                whole = "".join(self._texts(query, [found[-1][0]]))
                size = len(self.tokenizer.encode([whole])[0])
                if size > self._positions:
                    reasons[place] = (
                        f"with its query it has {size} tokens, and the model {self._positions} "
                        "positions; lower document_length or query_length"
                    )
        if reasons:
            raise Unreadable(reasons)
        return found

    def _cut(self, text: str, length: int) -> tuple[str, int]:
        """A text of so many tokens at most, without markers, and how many it has with them."""
        ids, _ = self.tokenizer.offsets(text)
        if len(ids) >= length:
            text, ids = self.tokenizer.decode(ids[:length]), ids[:length]
        while any(marker in text for marker in (QUERY_MARKER, DOCUMENT_MARKER)):
            # Again, as what is left may make another.
            text = text.replace(QUERY_MARKER, "").replace(DOCUMENT_MARKER, "")
        return text, len(ids)

    def _texts(self, query: str, documents: list[str]) -> tuple[str, str]:
        """What stands before the first document, and all else up to the query's marker."""
        before = (
            f"{_HEAD}I will provide you with {len(documents)} passages, each indicated by a "
            f"numerical identifier. Rank the passages based on their relevance to query: {query}\n"
            f'{self._instructed}<passage id="0">\n'
        )
        between = [
            f'{DOCUMENT_MARKER}\n</passage>\n<passage id="{n}">\n{document}'
            for n, document in enumerate(documents)
        ][1:]
        after = f"{DOCUMENT_MARKER}\n</passage>\n<query>\n{query}{QUERY_MARKER}"
        return before, "".join([documents[0], *between, after])


def packed(blocks: Sequence[Blocks]) -> Pack:
    """The blocks of several queries as sequences; those of one query share what they begin with."""
    ids = [one for each in blocks for one in each.ids]
    prefixes = [size for each in blocks for size in each.prefixes]
    numbers = [number for number, each in enumerate(blocks) for _ in each.ids]
    shared = np.zeros(len(ids), dtype=np.int32)
    groups: dict[tuple[int, bytes], int] = {}
    queries = np.zeros(len(ids), dtype=np.int32)
    for place, (number, size) in enumerate(zip(numbers, prefixes, strict=True)):
        begins = number, ids[place][:size].tobytes()
        queries[place] = groups.setdefault(begins, len(groups))
        shared[place] = size
    token_ids = np.concatenate([np.zeros(0, dtype=np.int32), *ids])
    ends = np.cumsum([0, *map(len, ids)]).astype(np.int32)
    return Pack(token_ids, np.zeros_like(token_ids), ends, queries, shared)
