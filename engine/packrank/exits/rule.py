"""When a candidate may stop: the rule."""

import numpy as np
from numpy.typing import NDArray


def kept(scores: NDArray[np.float32], top_k: int, margin: float) -> NDArray[np.bool_]:
    """Which candidates of a query go on past an exit layer.

    A candidate is dropped iff  score + margin < the k-th largest score  there. So the best k never
    are, and nothing is where there are no more than k. A score of NaN neither drops a candidate nor
    counts among the largest.

    Args:
        scores: [n] float32, at this layer, of the candidates that have reached it.
        top_k: k, how many are wanted in the end.
        margin: at least 0; infinity drops nothing.

    Returns:
        [n] bool.
    """
    known = np.where(np.isnan(scores), -np.inf, scores.astype(np.float64))
    if len(known) <= top_k or margin == np.inf:
        return np.ones(len(known), dtype=np.bool_)
    threshold = np.partition(known, -top_k)[-top_k]
    dropped: NDArray[np.bool_] = scores.astype(np.float64) + margin < threshold
    return ~dropped
