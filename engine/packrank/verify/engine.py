"""The engine's side: what it makes of pairs, by its front doors, step by step."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packrank.checkpoint.config import ModelConfig, load_config
from packrank.checkpoint.modules import encoder_folder
from packrank.errors import InputError
from packrank.late_interaction import LateInteraction
from packrank.request import Int32
from packrank.reranker import Reranker
from packrank.scoring.assembly import Options, assemble
from packrank.scoring.recognition import Scoring
from packrank.text.pairs import PairReader
from packrank.text.tokenizer import Tokenizer
from packrank.verify.published import Published
from packrank.verify.reading import Float32, Pair, Reading, array_of


@dataclass(frozen=True)
class Readings:
    """What the engine makes of pairs.

    Attributes:
        every: one a pair that it can read, by its place.
        failures: place -> reason of the others.
    """

    every: dict[int, Reading]
    failures: dict[int, str]


class RerankerSide:
    """A reranker's folder, opened by the engine.

    Attributes:
        config: of the model.
        scoring: how its folder is scored.
        max_length: tokens of a pair.
    """

    step, last_step = "logits", "activation"

    def __init__(self, folder: Path, name: str, options: dict[str, Any], where: dict[str, Any]):
        """Read the folder's files; its weights are opened by `readings`.

        Args:
            folder: of the model.
            name: what the user calls it.
            options: of them template, instruction and max_length, where they are given.
            where: device and dtype.
        """
        self._folder, self._options = folder, options | where
        names = ("max_length", "template", "instruction")
        asked: dict[str, Any] = {key: options.get(key) for key in names}
        used = assemble(folder, name, Options(**asked))
        self.config: ModelConfig = used.config
        self.scoring: Scoring = used.scoring
        self.tokenizer: Tokenizer = used.tokenizer
        self.max_length = used.layout.max_length
        # Not `used.reader`, which leaves out what a classifier does not read at its end.
        self._reader = PairReader(used.layout, used.config.vocab_size, share_prefixes=False)

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens that a query, or a document, has at most."""
        return self.max_length, self.max_length

    def readings(self, pairs: list[Pair], tokens_only: set[int]) -> Readings:
        """Ids of all pairs, logits and scores of those that are not `tokens_only`."""
        tokens, failures = self._tokens(pairs)
        run = [place for place in tokens if place not in tokens_only]
        asked = [pairs[place] for place in run]
        model = Reranker(self._folder, **self._options)
        # What is not finite is a difference, and no pair that was left out.
        logits = model.try_score(asked, activation="identity")[0].reshape(len(run), -1)
        scores = model.try_score(asked)[0].reshape(len(run), -1)
        found = {place: Reading((ids,)) for place, ids in tokens.items()}
        for row, place in enumerate(run):
            found[place] = Reading((tokens[place],), (logits[row],), scores[row])
        return Readings(found, failures)

    def published(self, one: Published) -> Float32:
        """[N, labels] logits, or scores, of published pairs, as their source computed them."""
        model = Reranker(self._folder, **self._options | one.options)
        found = model.score(
            list(one.pairs),
            activation=None if one.activated else "identity",
            cutoff_layers=one.cutoff_layer,
        )
        return found.reshape(len(one.pairs), -1)

    def _tokens(self, pairs: list[Pair]) -> tuple[dict[int, Int32], dict[int, str]]:
        tokens: dict[int, Int32] = {}
        failures: dict[int, str] = {}
        for window in self._reader.windows(pairs):
            failures |= window.failures
            for place, sequence in zip(window.indices, window.sequences, strict=True):
                tokens[place] = sequence.token_ids
        return tokens, failures


class LateSide:
    """A folder of late interaction, opened by the engine.

    Attributes:
        config: of the encoder.
        settings: what the folder asks for.
    """

    step, last_step = "token vectors", "MaxSim"

    def __init__(self, folder: Path, options: dict[str, Any], where: dict[str, Any]):
        """Open the model; the arguments are those of `RerankerSide`, lengths among the options."""
        self.config: ModelConfig = load_config(encoder_folder(folder))
        self._model = LateInteraction(folder, **options, **where)
        self.settings = self._model.settings

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens that a query, or a document, has at most."""
        return self.settings.query.max_length, self.settings.document.max_length

    def readings(self, pairs: list[Pair], tokens_only: set[int]) -> Readings:
        """Ids of all pairs, vectors and scores of those that are not `tokens_only`."""
        model, found, failures = self._model, dict[int, Reading](), dict[int, str]()
        for place, (query, document) in enumerate(pairs):
            try:
                tokens = model.token_ids(query, document)
                if place in tokens_only:
                    found[place] = Reading(tokens)
                    continue
                [asked], [read] = model.encode_queries([query]), model.encode_documents([document])
            except InputError as error:
                failures[place] = str(error)
                continue
            score = model.try_score([(query, document)])[0]
            found[place] = Reading(tokens, (array_of(asked), array_of(read)), score)
        return Readings(found, failures)

    def close(self) -> None:
        """Let go of the model."""
        del self._model
