"""Documents that do not fit beside their query, read in windows that overlap.

A window has as many tokens of the document as would stay if it were cut, so that the first is the
pair as it is cut. The next begins its overlap before that one's end; the one that would reach past
the document's end is its last tokens instead, as many. A pair's logit is the maximum over its
windows, label by label.

Source: `rerank` of jinaai/jina-reranker-v2-base-multilingual, where `overlap_tokens` is 80 and a
quarter of a window at most. It cuts every query to half of what a pair holds; here a query is cut
as it is without windows, which is the same wherever query and document are both longer than that.
"""

import numpy as np
from numpy.typing import NDArray

# Tokens that two neighbouring windows share, where that is no more than such a part of a window.
OVERLAP = 80
OVERLAP_PART = 4
# Such a part of what query and document have together is the least that a window may have: beside
# a query that leaves less, a document would be read some ten times over and more.
LEAST_PART = 8

Windows = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def windows_of(lengths: NDArray[np.int64], sizes: NDArray[np.int64]) -> Windows:
    """Windows of documents.

    Args:
        lengths: [N]. Tokens of each document.
        sizes: [N]. Tokens of a window of each: at least one, where the document has more.

    Returns:
        [W] each, in the order of the documents: which document a window is of, where it begins
        there, and how many tokens it has. A document of no more tokens than `sizes` is one window.
    """
    strides = sizes - _overlap(sizes)
    over = np.maximum(lengths - sizes, 0)
    counts = 1 + -(-over // np.maximum(strides, 1))
    of = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts)
    return of, np.minimum(number * strides[of], over[of]), np.minimum(lengths, sizes)[of]


def least_window(room: int) -> int:
    """The least tokens of a window, where query and document have so many together."""
    return max(room // LEAST_PART, 1)


def too_small(size: int, least: int, max_length: int) -> str:
    """What to say of a pair whose query leaves so few tokens for windows of its document."""
    return (
        f"the query leaves {max(size, 0)} tokens for windows of the document within max_length "
        f"{max_length}, and a window has {least} at least; shorten it or raise max_length"
    )


def tokens_of_windows(document: int, size: int, beside: int) -> int:
    """Tokens of all sequences of a pair.

    Args:
        document: its tokens.
        size: of a window of it, at least one.
        beside: tokens of each sequence that are not the document's.
    """
    over = max(document - size, 0)
    stride = size - min(OVERLAP, size // OVERLAP_PART)
    return (1 + -(-over // stride)) * (beside + min(document, size))


def _overlap(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.minimum(OVERLAP, sizes // OVERLAP_PART)
