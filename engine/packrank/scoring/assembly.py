"""A reranker's folder and its options, put together: what the model reads and how it scores."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from packrank.arguments import listed
from packrank.checkpoint.config import ModelConfig, load_config
from packrank.checkpoint.kind import RERANKERS, expect
from packrank.checkpoint.modules import encoder_folder
from packrank.checkpoint.scoring_modules import ScoringModules
from packrank.documents import Tokenization
from packrank.errors import InputError
from packrank.models import CausalSettings, T5Settings, load_model
from packrank.scoring.recognition import Scoring, recognise
from packrank.scoring.sentence_transformers import LogitScore, open_tokenizer
from packrank.text.pairs import PairLayout, PairReader
from packrank.text.prompt import PromptLayout
from packrank.text.tokenizer import Tokenizer
from packrank.text.truncation import NO_LIMITS, LongDocuments, SideLimits, Truncation

HeadIndex = Literal["upstream", "layer"]

_RATIOS = (1, 2, 4, 8)
_COMPRESSES = "CostWiseGemmaForCausalLM"


@dataclass(frozen=True)
class Options:
    """What a caller says of how a model is used; see `Reranker`."""

    max_length: int | None = None
    truncation: Truncation | None = None
    template: str | os.PathLike[str] | None = None
    instruction: str | None = None
    compress_ratio: int = 1
    compress_layers: tuple[int, ...] = (8,)
    head_index: HeadIndex = "upstream"
    share_prefixes: bool = True
    limits: SideLimits = NO_LIMITS
    prompt: str | None = None
    long_documents: LongDocuments = "truncate"


@dataclass(frozen=True)
class Assembly:
    """How a model is used.

    Attributes:
        folder: of model and tokenizer.
        config: of the model.
        layout: how a pair becomes a sequence.
        activation: what turns logits into scores by default; see `activations.known_activation`.
        shift: "normalized" scores are sigmoid(logit - shift).
        causal: how a decoder scores, or an encoder-decoder; None for encoders.
        modules: what scores in place of the checkpoint's own head; None: that does.
        share_prefixes: whether what the pairs of a query begin with is computed once.
        scoring: what the folder is scored by.
        tokenizer: of the model.
        options: the caller's.
    """

    folder: Path
    config: ModelConfig
    layout: PairLayout
    activation: str
    shift: float
    causal: CausalSettings | T5Settings | None
    modules: ScoringModules | None
    share_prefixes: bool
    scoring: Scoring
    tokenizer: Tokenizer
    options: Options

    def with_options(self, **changes: Any) -> "Assembly":
        """The same model with other options of how pairs are laid out.

        Args:
            changes: of `Options`: max_length, limits, truncation, long_documents, instruction or
                prompt.

        Raises:
            InputError: an option of which the model can make nothing.
        """
        options = replace(self.options, **changes)
        layout = _layout(self.scoring, self.tokenizer, self.config, options)
        return replace(self, layout=layout, options=options)

    @property
    def decoder(self) -> CausalSettings | None:
        """How a decoder scores; None for all else."""
        return self.causal if isinstance(self.causal, CausalSettings) else None

    @property
    def template(self) -> str | None:
        """The name of the template that pairs go into; None: into none."""
        return self.scoring.template_name

    def tokenization(self, name: str) -> Tokenization | None:
        """How a document becomes ids, by the model of this name; None: not by itself."""
        found = self.layout.tokenization
        return None if found is None else replace(found, name=name)

    @property
    def exit_settings(self) -> dict[str, Any]:
        """What changes logits beside the model's files."""
        options = self.options
        compressed = sorted(options.compress_layers) if options.compress_ratio > 1 else []
        others = {f"{side}_length": most for side, most in options.limits._asdict().items()}
        others["long_documents"] = "windows" if options.long_documents == "windows" else None
        return {
            "template": self.template,
            "instruction": options.instruction,
            "max_length": self.layout.max_length,
            "truncation": options.truncation or self.scoring.truncation,
            "head_index": None if self.decoder is None else self.decoder.head_index,
            "compress_ratio": options.compress_ratio,
            "compress_layers": compressed,
        } | {name: value for name, value in others.items() if value is not None}

    @property
    def reader(self) -> PairReader:
        """What makes sequences of pairs."""
        config, decoder = self.config, self.config.decoder
        is_classifier = self.decoder is not None and self.decoder.head == "classifier"
        # What follows the last token that counts is left out where nothing else sees it.
        leaves_out = is_classifier and decoder is not None and decoder.causal
        return PairReader(
            self.layout,
            config.vocab_size,
            self.share_prefixes and config.shares_prefixes,
            config.pad_token_id if leaves_out else -1,
            self.options.long_documents,
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the scores of a pair."""
        return self.config.label_names

    def label(self, label: Any) -> int:
        """Which score of a pair a ranking goes by.

        Args:
            label: its name or its place; None: the only one.

        Raises:
            InputError: there are several, or none like this.
        """
        names = self.labels
        if label is None and len(names) == 1:
            return 0
        known = ", ".join(map(repr, names))
        if label is None:
            raise InputError(
                f"the model has {len(names)} labels and a ranking needs one; say which with "
                f"label= (--label), one of {known}, or score them all"
            )
        if isinstance(label, int | np.integer) and not isinstance(label, bool):
            if 0 <= label < len(names):
                return int(label)
        elif names.count(label) == 1:
            return names.index(label)
        raise InputError(
            f"label is {label!r}, expected one of {known}, or a place from 0 to {len(names) - 1}"
        )

    @property
    def exit_layers(self) -> tuple[int, ...]:
        """After how many layers there is a head, ascending."""
        return self.config.exit_layers

    def check_layer(self, name: str, layer: Any) -> int:
        """A number of layers; InputError unless there is a head after so many."""
        layers = self.exit_layers
        if isinstance(layer, int | np.integer) and not isinstance(layer, bool) and layer in layers:
            return int(layer)
        known = f"{layers[0]} to {layers[-1]}"
        if len(layers) != layers[-1] - layers[0] + 1:
            known = ", ".join(map(str, layers))
        heads = f"heads after {known} layers"
        if len(layers) == 1:
            heads = f"its only head after all {layers[0]} layers"
        raise InputError(f"{name} is {layer!r}, and the model has {heads}")

    def check_exits(self) -> None:
        """Raise InputError unless candidates can stop at layers that score by themselves."""
        if self.config.num_labels != 1:
            raise InputError("candidates can stop early in models of one label alone")
        if len(self.exit_layers) == 1:
            raise InputError(
                "the model has one head, after all its layers, so no candidate can stop before"
            )
        if self.decoder is not None and self.decoder.head_index == "upstream":
            raise InputError(
                "exits need the head that belongs to each layer, and upstream's order has another "
                'one for each list of layers; pass head_index="layer"'
            )

    def cutoffs(self, asked: Any) -> tuple[tuple[int, ...] | None, list[int] | None]:
        """Numbers of layers to score after.

        Args:
            asked: one, several in any order, or None for all layers.

        Returns:
            They, ascending, and where each that was asked for is among them; None of the latter
            unless several may be asked for, and of the former for all layers.

        Raises:
            InputError: there is no head after one of them.
        """
        if asked is None:
            return None, None
        everything = (self.config.num_layers,)
        if not hasattr(asked, "__iter__") or getattr(asked, "ndim", 1) == 0:
            one = (
                self.check_layer(
                    "cutoff_layers", asked.item() if isinstance(asked, np.ndarray) else asked
                ),
            )
            return None if one == everything else one, None
        layers = listed("cutoff_layers", asked, "numbers of layers")
        if not layers:
            raise InputError("cutoff_layers is empty; leave it out to run all layers")
        layers = [self.check_layer(f"cutoff_layers[{n}]", layer) for n, layer in enumerate(layers)]
        if self.config.num_labels != 1:
            raise InputError("the model has several labels and is scored after one layer at a time")
        ascending = tuple(sorted(set(layers)))
        return ascending, [ascending.index(layer) for layer in layers]


def assemble(folder: Path, name: str, options: Options) -> Assembly:
    """Put a model's files and the caller's options together.

    Args:
        folder: as the user names it.
        name: what the user called it.
        options: see `Reranker`.

    Raises:
        ModelError: the folder cannot be used.
        InputError: an option cannot.
    """
    expect(folder, RERANKERS)
    inner = encoder_folder(folder)
    config, tokenizer = load_config(inner), open_tokenizer(folder)
    scoring = recognise(folder, config, tokenizer, template=options.template, name=name)
    if scoring.modules is not None:
        config = config.scored_by(scoring.modules)
    layout = _layout(scoring, tokenizer, config, options)
    _check_compression(config, options)
    causal: CausalSettings | T5Settings | None = None
    if config.decoder is not None:
        causal = _causal(config, scoring, layout, options)
    elif config.t5 is not None:
        causal = _t5(config.t5.decoder_start, scoring)
    return Assembly(
        folder=inner,
        config=config,
        layout=layout,
        activation=scoring.activation,
        shift=scoring.shift,
        causal=causal,
        modules=scoring.modules,
        share_prefixes=options.share_prefixes,
        scoring=scoring,
        tokenizer=tokenizer,
        options=options,
    )


def check_weights(folder: Path, config: ModelConfig, scoring: Scoring) -> None:
    """Raise ModelError unless the weights in a folder are those that config.json implies.

    Their names, dtypes and shapes are looked at, not their values.
    """
    causal: CausalSettings | T5Settings | None = None
    if config.t5 is not None:
        causal = _t5(config.t5.decoder_start, scoring)
    if config.decoder is not None:
        tokens = scoring.tokens or LogitScore(0)
        causal = CausalSettings(scoring.head, tokens.true_token_id, tokens.false_token_id)
    load_model(folder, device="meta", dtype=torch.float32, causal=causal, modules=scoring.modules)


def _layout(
    scoring: Scoring, tokenizer: Tokenizer, config: ModelConfig, options: Options
) -> PairLayout:
    layout = scoring.layout(
        tokenizer,
        config,
        max_length=options.max_length,
        truncation=options.truncation,
        instruction=options.instruction,
        prompt=options.prompt,
        limits=options.limits,
    )
    if options.long_documents == "windows" and layout.windowless is not None:
        raise InputError(
            f"the model cannot read long documents in windows: {layout.windowless}; leave "
            "long_documents at 'truncate'"
        )
    return layout


def _causal(
    config: ModelConfig, scoring: Scoring, layout: PairLayout, options: Options
) -> CausalSettings:
    tokens = scoring.tokens
    # MiniCPM's own code pairs layers and heads as they belong.
    upstream = config.architecture == _COMPRESSES and options.head_index == "upstream"
    return CausalSettings(
        head=scoring.head,
        true_token_id=None if tokens is None else tokens.true_token_id,
        false_token_id=None if tokens is None else tokens.false_token_id,
        head_index="upstream" if upstream else "layer",
        compress_ratio=options.compress_ratio,
        compress_layers=options.compress_layers,
        tail=layout.num_tail if isinstance(layout, PromptLayout) else 0,
    )


def _t5(start: int, scoring: Scoring) -> T5Settings:
    """The decoder begins, and its first token is the score."""
    tokens = scoring.tokens or LogitScore(0)
    false = tokens.false_token_id
    if false is None:
        return T5Settings((start,), (tokens.true_token_id,))
    return T5Settings((start,), (tokens.true_token_id, false), difference=True)


def _check_compression(config: ModelConfig, options: Options) -> None:
    if not isinstance(options.share_prefixes, bool):
        raise InputError(f"share_prefixes is {options.share_prefixes!r}, expected True or False")
    ratio = options.compress_ratio
    if type(ratio) is not int or ratio not in _RATIOS:
        known = ", ".join(map(str, _RATIOS))
        raise InputError(f"compress_ratio is {ratio!r}, expected one of {known}")
    for layer in options.compress_layers:
        if isinstance(layer, bool) or not isinstance(layer, int) or layer < 0:
            raise InputError(f"compress_layers holds {layer!r}, expected numbers of layers")
    if ratio == 1:
        return
    if config.architecture != _COMPRESSES:
        raise InputError(
            "compress_ratio is for bge-reranker-v2.5-gemma2-lightweight; "
            f"{config.architecture} was not trained to be compressed"
        )
    if not options.share_prefixes:
        raise InputError("compression keeps prefixes apart; leave share_prefixes on")
