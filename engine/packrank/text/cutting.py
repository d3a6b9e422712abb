"""Which tokens of its texts a sequence has: all, what truncation leaves, or a window of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from packrank.errors import InputError
from packrank.request import Int32
from packrank.text.truncation import NO_LIMITS, SideLimits, Truncation, truncated
from packrank.text.windows import least_window, too_small, windows_of

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Cutting:
    """How texts are cut that are too long.

    Attributes:
        num_special: special tokens of a sequence.
        max_length: most tokens of a sequence, those included; None for no limit.
        truncation: what is cut.
        keeps_end: the end of a text stays, not its start.
        limits: what each text of a pair is cut to before the pair is.
    """

    num_special: int
    max_length: int | None
    truncation: Truncation
    keeps_end: bool = False
    limits: SideLimits = NO_LIMITS

    def cut(self, starts: Int64, lengths: Int64) -> tuple[Int64, Int64, dict[int, str]]:
        """What stays of the texts of sequences.

        Args:
            starts: [N, texts]. Where each begins, anywhere.
            lengths: [N, texts]. Its tokens.

        Returns:
            [N, texts] each, where what stays begins and how long it is; and place -> reason of
            sequences that have too much and may not, or cannot, be cut.
        """
        kept, failures = self._limited(lengths)
        self._fit(kept, failures, self.truncation)
        return (starts + lengths - kept if self.keeps_end else starts), kept, failures

    def windows(self, starts: Int64, lengths: Int64) -> tuple[Int64, Int64, Int64, dict[int, str]]:
        """The same of pairs whose documents are read in windows: see `text.windows`.

        Returns:
            [W], which pair each sequence is of; [W, 2] each, where its texts begin and how long
            they are; and place -> reason of pairs that have none.
        """
        read, failures = self._limited(lengths)
        kept = read.copy()
        # Nothing of a document is lost, so it may be divided where nothing may be cut.
        self._fit(kept, failures, "only_second" if self.truncation == "off" else self.truncation)
        if self.max_length is not None:
            least = least_window(self.max_length - self.num_special)
            for place in np.flatnonzero((kept < read)[:, 1] & (kept[:, 1] < least)).tolist():
                reason = too_small(int(kept[place, 1]), least, self.max_length)
                failures.setdefault(place, reason)
        sound = np.ones(len(kept), dtype=bool)
        sound[list(failures)] = False
        places = np.flatnonzero(sound)
        starts, lengths, read, kept = (of[places] for of in (starts, lengths, read, kept))
        of, begins, sizes = windows_of(read[:, 1], kept[:, 1])
        if self.keeps_end:
            starts = starts + lengths - np.column_stack([kept[:, 0], read[:, 1]])
        starts, kept = starts[of], kept[of]
        starts[:, 1] += begins
        kept[:, 1] = sizes
        return places[of], starts, kept, failures

    def _limited(self, lengths: Int64) -> tuple[Int64, dict[int, str]]:
        """Lengths within the limits of each text, and pairs that may not be cut to those."""
        if self.limits == NO_LIMITS:
            return lengths.copy(), {}
        most = np.array([np.iinfo(np.int64).max if x is None else x for x in self.limits])
        failures: dict[int, str] = {}
        if self.truncation == "off":
            for place in np.flatnonzero((lengths > most).any(1)).tolist():
                failures[place] = self.limits.failure(*lengths[place].tolist())
        return np.minimum(lengths, most), failures

    def _fit(self, lengths: Int64, failures: dict[int, str], truncation: Truncation) -> None:
        """Shorten lengths, in place, to what fits a sequence, and add those that cannot be."""
        if self.max_length is None:
            return
        totals = lengths.sum(1) + self.num_special
        for place in np.flatnonzero(totals > self.max_length).tolist():
            if place in failures:
                continue
            sizes = tuple(lengths[place].tolist())
            try:
                lengths[place] = truncated(sizes, self.num_special, self.max_length, truncation)
            except InputError as error:
                failures[place] = str(error)


def placed(texts: list[Int32], chosen: Int64) -> tuple[Int32, Int64, Int64]:
    """The ids of all texts, and where those of the chosen begin there and how many they are."""
    sizes = np.array([len(ids) for ids in texts], dtype=np.int64)
    ids = np.concatenate([np.zeros(0, dtype=np.int32), *texts])
    return ids, (np.cumsum(sizes) - sizes)[chosen], sizes[chosen]
