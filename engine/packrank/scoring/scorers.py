"""The scorers of a model: its own, and those of calls that lay pairs out otherwise."""

from typing import Any, get_args

from packrank.arguments import check_choice_or_none, check_str, check_text, checked_count
from packrank.scoring.pair_scorer import PairScorer
from packrank.text.truncation import LongDocuments, SideLimits, Truncation

# Ways to lay pairs out that calls asked for; making one takes a millisecond or more.
_MOST_KEPT = 64


class Scorers:
    """A model's scorer, and others by what a call asks for. Threads may share them.

    Args:
        own: the model's.

    Attributes:
        own: as above.
    """

    def __init__(self, own: PairScorer) -> None:
        self.own = own
        self._otherwise: dict[tuple[tuple[str, Any], ...], PairScorer] = {}

    def __len__(self) -> int:
        """How many are kept beside the model's own."""
        return len(self._otherwise)

    def asked(
        self,
        max_length: int | None,
        query_length: int | None,
        document_length: int | None,
        long_documents: LongDocuments | None,
        truncation: Truncation | None = None,
        **texts: str | None,
    ) -> PairScorer:
        """The scorer of a call; the model's own where the call says nothing.

        Args:
            max_length: see `Reranker`; likewise the others. None: the model's.
            query_length: see there.
            document_length: see there.
            long_documents: see there.
            truncation: see there.
            texts: instruction and prompt.

        Raises:
            InputError: one of them cannot be used.
        """
        for name, text in texts.items():
            if text is not None:
                check_str(name, text)
                check_text(text, name)
        check_choice_or_none("truncation", truncation, get_args(Truncation))
        check_choice_or_none("long_documents", long_documents, get_args(LongDocuments))
        options = self.own.assembly.options
        query = checked_count("query_length", query_length) or options.limits.query
        document = checked_count("document_length", document_length) or options.limits.document
        limits = SideLimits(query, document)
        given = {
            "max_length": checked_count("max_length", max_length),
            "limits": None if limits == options.limits else limits,
            "long_documents": None if long_documents == options.long_documents else long_documents,
            "truncation": truncation,
            **texts,
        }
        changes = tuple((name, value) for name, value in given.items() if value is not None)
        if not changes:
            return self.own
        found = self._otherwise.get(changes)
        if found is None:
            found = self.own.with_options(**dict(changes))
            if len(self._otherwise) >= _MOST_KEPT:
                self._otherwise.clear()
            self._otherwise[changes] = found
        return found
