"""Architectures: names of weights, and how the layers are put together."""

import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from packrank.checkpoint.architectures import MARKED, missing_of_head
from packrank.checkpoint.config import ARCHITECTURES, ModelConfig, load_config
from packrank.checkpoint.scoring_modules import ScoringModules
from packrank.checkpoint.weights import Weights
from packrank.errors import ModelError, RangeError
from packrank.models.base import Model, Parameters
from packrank.models.bert import BertModel
from packrank.models.causal import CausalModel, CausalSettings
from packrank.models.deberta import DebertaModel
from packrank.models.distilbert import DistilBertModel
from packrank.models.electra import ElectraModel
from packrank.models.generative import GenerativeModel
from packrank.models.gte import GteModel
from packrank.models.marked import MarkedModel
from packrank.models.modernbert import ModernBertModel
from packrank.models.modular_head import ModularHead
from packrank.models.roberta import RobertaModel
from packrank.models.t5 import T5Model, T5Settings
from packrank.request import Pack

__all__ = [
    "MODELS",
    "CausalModel",
    "CausalSettings",
    "GenerativeModel",
    "Model",
    "T5Model",
    "T5Settings",
    "load_model",
]

_CLASSES: dict[str, type[Model]] = {
    "bert": BertModel,
    "roberta": RobertaModel,
    "electra": ElectraModel,
    "distilbert": DistilBertModel,
    "modernbert": ModernBertModel,
    "deberta-v2": DebertaModel,
    "gte": GteModel,
    "t5": T5Model,
}

# Architecture, as config.json names it -> what runs it.
MODELS: dict[str, type[Model]] = {
    architecture: _CLASSES.get(family, CausalModel)
    for architecture, family in ARCHITECTURES.items()
}


def load_model(
    folder: Path,
    *,
    device: torch.device | str,
    dtype: torch.dtype | None,
    head: bool = True,
    deterministic: bool = False,
    causal: CausalSettings | T5Settings | None = None,
    modules: ScoringModules | None = None,
) -> Model:
    """A model from its folder.

    Args:
        folder: config.json and safetensors.
        device: where it runs.
        dtype: of its matrices and hidden states; norms, biases and heads are float32. None takes
            float16, which has eight times bfloat16's precision at its speed, where the weights and
            a trial pack stay in its range, else bfloat16; always that where a family is known to
            leave it.
        head: True for a sequence classifier (`logits`), False for the encoder alone
            (`hidden_states`), from a checkpoint of either kind.
        deterministic: a sequence's bits do not depend on the others of its pack. On a CPU they
            never do; on a CUDA device it leaves out faster kernels that cannot promise it.
        causal: how a decoder is used, or an encoder-decoder; None: by its classifier.
        modules: what scores in place of the checkpoint's own head; None: nothing does.

    Raises:
        ModelError: unknown architecture, no head where one is asked for, or unusable weights.
    """
    config = load_config(folder)
    is_t5 = config.t5 is not None
    settings = causal if isinstance(causal, CausalSettings) else CausalSettings()
    by_classifier = not is_t5 and (config.decoder is None or settings.head == "classifier")
    if modules is not None:
        config = config.scored_by(modules)
    elif head and by_classifier and not config.is_classifier:
        raise ModelError(
            f"{config.architecture} has no scoring head; pass a ...ForSequenceClassification "
            "checkpoint, or use LateInteraction"
        )
    model_class = _CLASSES.get(config.family, CausalModel)
    weights = Weights.open(folder)
    _check_parts(config, weights, head=head and by_classifier and modules is None)
    # An encoder saved on its own has no prefix.
    known = (model_class.prefix, *model_class.prefixes)
    prefix = next((one for one in known if any(x.startswith(one) for x in weights.files)), "")

    # "cuda" is whichever device is current now; other threads may have another.
    place = torch.empty(0, device=device).device

    def load(dtype: torch.dtype) -> Model:
        parameters = Parameters(weights, prefix, place, dtype, deterministic)
        modular = None if modules is None else ModularHead(modules, parameters)
        if config.architecture == MARKED:
            model: Model = MarkedModel(config, parameters)
        elif config.decoder is not None:
            generates = settings.head == "vocabulary"
            decoder = GenerativeModel if generates else CausalModel
            model = decoder(config, parameters, settings, modular)
        elif is_t5:
            named = causal if isinstance(causal, T5Settings) else None
            model = T5Model(config, parameters, named)
        else:
            model = model_class(config, parameters, head=modular or head)
        weights.check_taken()
        return model

    if dtype is not None:
        return load(dtype)
    if is_t5 or (config.decoder is not None and config.decoder.wide_range):
        return load(torch.bfloat16)
    model = None
    with suppress(RangeError):
        model = load(torch.float16)
        if _stays_finite(model, head):
            return model
    model = None  # its memory is needed for the next
    return load(torch.bfloat16)


def _check_parts(config: ModelConfig, weights: Weights, *, head: bool) -> None:
    """Refuse a checkpoint without layers or the head that its config.json says it has."""
    said = {r"(?:^|\.)layers?": config.num_layers}
    if config.t5 is not None:
        said = {
            r"encoder\.block": config.num_layers,
            r"decoder\.block": config.t5.num_decoder_layers,
        }
    for pattern, count in said.items():
        layers = [re.search(rf"{pattern}\.(\d+)\.", name) for name in weights.files]
        found = 1 + max((int(match[1]) for match in layers if match is not None), default=-1)
        if found < count:
            raise ModelError(f"config.json says {count} layers, and the weights hold {found}")
    missing = missing_of_head(config.family, weights.__contains__)
    if head and missing:
        raise ModelError(
            f"config.json says {config.architecture}, and the weights hold no head for it (no "
            f"{' and no '.join(missing)}): elsewhere one would be made at random. Pass the model "
            "that was trained to score, or use LateInteraction"
        )


def _stays_finite(model: Model, head: bool) -> bool:
    """Whether a pack of random tokens leaves the model without overflow."""
    count, length = 4, min(64, model.config.max_length)
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, count * length, np.int32)
    starts = np.arange(count + 1, dtype=np.int32) * np.int32(length)
    pack = Pack(token_ids=ids, token_types=np.zeros_like(ids), cu_seqlens=starts)
    out = model.logits(pack) if head else model.hidden_states(pack)
    return bool(out.isfinite().all())
