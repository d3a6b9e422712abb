"""What can go wrong, as types; each message is one sentence that says what to do.

PackrankError
├── ModelError       a model folder or name cannot be used
│   └── RangeError   its weights do not fit the range of a dtype
├── StoreError       token embeddings or token ids on disk cannot be read or written
├── Overloaded       an engine's queue is full; `.retry_after` says when it may not be
├── DeadlineExceeded an engine could not answer in time
├── EngineClosed     an engine takes no more requests
└── InputError       a call's arguments cannot be scored
    └── PairError    one pair cannot be scored; `.index` says which
"""

from collections.abc import Mapping


class PackrankError(Exception):
    """Base of every error raised on purpose."""


class ModelError(PackrankError):
    """A model folder or hub name cannot be used."""


class RangeError(ModelError):
    """A weight is out of the range of the dtype that it should be rounded to."""


class StoreError(PackrankError):
    """Token embeddings or token ids on disk cannot be read, or cannot be written."""


class InputError(PackrankError, ValueError):
    """The arguments of a call cannot be scored."""


class PairError(InputError):
    """One pair cannot be scored.

    Attributes:
        index: position of the pair among those given.
        reason: why.
        instead: the method that scores the others all the same, "" if there is none.
    """

    def __init__(self, index: int, reason: str, instead: str = "") -> None:
        hint = f" ({instead} scores the others)" if instead else ""
        super().__init__(f"pair {index}: {reason}{hint}")
        self.index, self.reason, self.instead = index, reason, instead

    def __reduce__(self) -> tuple[type["PairError"], tuple[int, str, str]]:
        return PairError, (self.index, self.reason, self.instead)


class Unfinite(str):
    """The reason of a pair where the model is to blame: what it computed is no finite number."""

    __slots__ = ()


UNFINITE = Unfinite("the model's logits for it are not finite numbers")


def raise_first(failures: Mapping[int, str], instead: str, before: int = 0) -> None:
    """Raise the PairError of the first pair that failed; nothing, where none did.

    Args:
        failures: index -> reason.
        instead: see `PairError`.
        before: pairs that come before those of `failures`.
    """
    if failures:
        index = min(failures)
        raise PairError(before + index, failures[index], instead)


class JobError(PackrankError):
    """A job cannot go on: its folder, its input or its settings are not what they were."""


class Overloaded(PackrankError):
    """An engine's queue is full.

    Attributes:
        retry_after: seconds in which half of the queue should have run, 60 at most.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type["Overloaded"], tuple[str, float]]:
        return Overloaded, (str(self), self.retry_after)


class DeadlineExceeded(PackrankError, TimeoutError):
    """An engine could not answer before the deadline of the request."""


class EngineClosed(PackrankError):
    """An engine takes no more requests, or was closed before it came to this one."""
