"""Texts of one side, queries or documents, to a vector for every scored token."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from packrank.arguments import check_text
from packrank.checkpoint.weights import Weights
from packrank.errors import InputError, ModelError
from packrank.late.settings import Dense, Expansion, Side
from packrank.models.base import Parameters
from packrank.request import Int32, Pack, Sequence, Token
from packrank.runtime.runner import Runner
from packrank.text.tokenizer import Tokenizer, batches
from packrank.work import Tally

# A window is tokenized at once. Its ids take a few MB, and some 50 MB while they are made; and it
# is many packs, so that the last one, which is not full, costs little.
WINDOW_TEXTS = 1024
WINDOW_CHARACTERS = 2_000_000


class TokenVectors:
    """Encodes texts of one side, "query" or "document" by name. Threads may share one.

    Memory follows the runner's token budget and the vectors that are returned: only one pack's
    hidden states are alive.

    Args:
        name: of the side.
        tokenizer: of the encoder.
        runner: the encoder on its device.
        side: how texts of this side are read.
        expansion: what fills short ones, None: nothing does.
        finish: what makes vectors [R, D] of states [R, hidden], row by row.
    """

    def __init__(
        self,
        name: str,
        tokenizer: Tokenizer,
        runner: Runner,
        side: Side,
        expansion: Expansion | None,
        finish: Callable[[Tensor], Tensor],
    ) -> None:
        self._name = name
        self._tokenizer = tokenizer
        self._runner = runner
        self._side = side
        self._expansion = expansion
        self._finish = finish
        self._skipped = np.array(sorted(side.skipped), dtype=np.int32)
        marked = side.marker is not None
        # Of a text's own tokens, as many fit.
        self._room = side.max_length - tokenizer.num_special_tokens(pair=False) - marked
        self._run = Tally()
        self._cut = Tally()

    @property
    def num_tokens(self) -> int:
        """Tokens that have gone through the model so far."""
        return self._run.total

    @property
    def num_cut(self) -> int:
        """How many of the texts so far were longer than the model reads, equal ones counted."""
        return self._cut.total

    def encode(
        self, texts: Iterable[str], cut: set[str] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Encode every distinct text once.

        Args:
            texts: any strings.
            cut: to which those are added that were longer than the model reads.

        Returns:
            Text -> [L, D], on the model's device and in its dtype, L = 0 where every token is
            skipped; each has memory of its own. And text -> reason of those that cannot be encoded.
        """
        vectors: dict[str, Tensor] = {}
        failures: dict[str, str] = {}
        times = Counter(texts)
        for window in batches(list(times), len, WINDOW_TEXTS, WINDOW_CHARACTERS):
            sound = []
            for text in window:
                try:
                    check_text(text, self._name)
                    sound.append(text)
                except InputError as error:
                    failures[text] = str(error)
            longer = self._encode_window(sound, vectors, failures)
            self._cut.add(sum(times[text] for text in longer))
            if cut is not None:
                cut.update(longer)
        return vectors, failures

    def _encode_window(
        self, texts: list[str], vectors: dict[str, Tensor], failures: dict[str, str]
    ) -> list[str]:
        """Fill in the vectors, or failures, of distinct texts; returns those that were cut."""
        kept: list[str] = []
        cut: list[str] = []
        sequences: list[Sequence] = []
        num_keys: list[int] = []
        whole = [self._side.read(text) for text in texts]
        encoded, broken = self._tokenizer.try_encode(whole)
        for text, full, ids in zip(texts, whole, encoded, strict=True):
            tokens, keys = self._lay_out(self._refill(ids))
            reason = broken.get(full) or self._refusal(tokens)
            if reason is not None:
                failures[text] = reason
                continue
            if len(ids) > self._room:
                cut.append(text)
            kept.append(text)
            sequences.append(Sequence(tokens, np.zeros_like(tokens)))
            num_keys.append(keys)
        attended = None
        if self._expansion is not None and not self._expansion.attend:
            attended = np.array(num_keys, dtype=np.int32)
        wanted = self._scored_of if len(self._skipped) else None
        packs = self._runner.packs_of_hidden_states(sequences, attended, wanted, self._finish)
        for indices, rows, cu_seqlens in packs:
            for index, mine in zip(indices, _copies(rows, cu_seqlens), strict=True):
                vectors[kept[index]] = mine
            del rows  # or they would be alive while the next pack is computed
            self._run.add(sum(len(sequences[index].token_ids) for index in indices))
        return cut

    def token_ids(self, text: str) -> Int32:
        """[L] int32. The sequence that the model reads of a text, fillers included.

        Raises:
            InputError: the text cannot be encoded.
        """
        check_text(text, self._name)
        ids, _ = self._tokenizer.offsets(self._side.read(text))
        tokens, _ = self._lay_out(self._refill(ids))
        reason = self._refusal(tokens)
        if reason is not None:
            raise InputError(reason)
        return tokens

    def tokens(self, text: str) -> tuple[tuple[Token, ...], int]:
        """What each token of a text's sequence is; vectors are those of the scored ones.

        Returns:
            The tokens that the model reads, and how many of the text's own were cut off.

        Raises:
            InputError: the text cannot be encoded.
        """
        check_text(text, self._name)
        ids, offsets = self._tokenizer.offsets(self._side.read(text))
        ids = self._refill(ids)
        # Places in the text go the way of their ids, as numbers that no token has.
        places, num_keys = self._lay_out(-1 - np.arange(len(ids), dtype=np.int32))
        is_text = places < 0
        laid_out = places.copy()
        laid_out[is_text] = ids[-1 - places[is_text]]
        reason = self._refusal(laid_out)
        if reason is not None:
            raise InputError(reason)
        scored = self._is_scored(laid_out).tolist()
        marker = -1 if self._side.marker is None else min(num_keys - 1, 1)
        tokens = []
        for i, place in enumerate(places.tolist()):
            name = self._tokenizer.token(int(laid_out[i]))
            if place < 0:
                tokens.append(self._token(text, offsets[-1 - place], name, scored[i]))
            elif i >= num_keys:
                tokens.append(Token(name, "expansion", scored[i]))
            else:
                tokens.append(Token(name, "marker" if i == marker else "special", scored[i]))
        return tuple(tokens), max(len(ids) - self._room, 0)

    def _token(self, text: str, span: tuple[int, int], name: str, scored: bool) -> Token:
        """A token of the prompt or of the text, by its characters in what was read of both."""
        start, stop = self._side.span(text, *span)
        shown, prompt = (self._side.prompt + text)[start:stop] or name, len(self._side.prompt)
        if start < prompt and stop <= prompt:
            return Token(shown, "prompt", scored)
        return Token(shown, "text", scored, max(start - prompt, 0), stop - prompt)

    def _refill(self, ids: Int32) -> Int32:
        """A text's tokens, with what fills queries in place of `Side.refilled`."""
        refilled, expansion = self._side.refilled, self._expansion
        if refilled is None or expansion is None:
            return ids
        return np.where(ids == refilled, np.int32(expansion.token_id), ids)

    def _lay_out(self, ids: Int32) -> tuple[Int32, int]:
        """[L] int32, and how many of them come before the expansion.

        Special tokens, marker, as many of a text's tokens as fit, then what fills a short query.
        """
        marker, length = self._side.marker, self._side.max_length
        if marker is None:
            tokens = self._tokenizer.single(ids, length, "longest_first").token_ids
        else:
            tokens = self._tokenizer.single(ids, length - 1, "longest_first").token_ids
            tokens = np.insert(tokens, min(len(tokens), 1), marker)
        num_keys = len(tokens)
        if self._expansion is not None:
            tokens = _expand(tokens, self._expansion)
        return tokens, num_keys

    def _is_scored(self, ids: Int32) -> NDArray[np.bool_]:
        return ~np.isin(ids, self._skipped)

    def _scored_of(self, pack: Pack) -> NDArray[np.bool_]:
        return self._is_scored(pack.token_ids)

    def _refusal(self, tokens: Int32) -> str | None:
        """Why the model cannot take these tokens, None if it can."""
        vocab_size = self._runner.model.config.vocab_size
        if not len(tokens):
            return f"the {self._name} is empty, and the tokenizer adds no special tokens"
        if tokens.max() >= vocab_size:
            return (
                f"the {self._name} holds token {tokens.max()}, and the model knows {vocab_size}; "
                "is the tokenizer another model's?"
            )
        return None


def _copies(rows: Tensor, cu_seqlens: Int32) -> list[Tensor]:
    """[R, D] of a pack to [L, D] of each of its texts.

    A copy each: a view would keep its whole pack alive while any of it is kept. On a CUDA device
    they are made by a launch or two, whatever their number.
    """
    pieces = torch.split(rows, np.diff(cu_seqlens).tolist())
    copies = [torch.empty_like(piece) for piece in pieces]
    torch._foreach_copy_(copies, pieces)
    return copies


@dataclass(frozen=True, eq=False)
class Finish:
    """What makes vectors of an encoder's states, row by row.

    Attributes:
        projection: in turn.
        normalize: whether vectors have length 1 then.
    """

    projection: "list[Projection]"
    normalize: bool

    def __call__(self, states: Tensor) -> Tensor:
        """[R, hidden] -> [R, D]."""
        for layer in self.projection:
            states = layer(states)
        return normalize(states) if self.normalize else states


class Projection:
    """A `Dense` with its weights."""

    def __init__(
        self, dense: Dense, device: torch.device, dtype: torch.dtype, deterministic: bool
    ) -> None:
        weights = Weights.open(dense.folder)
        _check_shape(weights, dense)
        parameters = Parameters(weights, "", device, dtype, deterministic)
        sizes = (dense.in_features, dense.out_features)
        self._linear = parameters.linear(
            "linear", *sizes, bias=dense.bias, activation=dense.activation
        )
        self._adds_input = dense.residual
        self._residual = None
        if dense.residual and dense.in_features != dense.out_features:
            self._residual = parameters.linear("residual", *sizes, bias=False)

    def __call__(self, x: Tensor) -> Tensor:
        """[T, in_features] -> [T, out_features]."""
        y = self._linear(x)
        if not self._adds_input:
            return y
        return y + (x if self._residual is None else self._residual(x))


def normalize(x: Tensor) -> Tensor:
    """Rows of x [T, D] at length 1, rows of zeros as they are; float32 inside, dtype of x out."""
    wide = x.float()
    norms: Tensor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    return (wide / norms.clamp_min(1e-12)).to(x.dtype)


def _check_shape(weights: Weights, dense: Dense) -> None:
    """Refuse another shape by the name of the file that gives the sizes."""
    header, shape = weights.headers.get("linear.weight"), (dense.out_features, dense.in_features)
    if header is not None and header.shape != shape:
        raise ModelError(
            f"linear.weight has shape {list(header.shape)}, {dense.config} implies {list(shape)}"
        )


def _expand(tokens: Int32, expansion: Expansion) -> Int32:
    missing = max(expansion.length - len(tokens), 0)
    return np.append(tokens, np.full(missing, expansion.token_id, dtype=np.int32))
