"""Architectures: names of weights, and how the layers are put together."""

from pathlib import Path

import torch

from packrank.config import ARCHITECTURES, load_config
from packrank.errors import ModelError
from packrank.models.base import Model, Parameters
from packrank.models.bert import BertModel
from packrank.models.distilbert import DistilBertModel
from packrank.models.electra import ElectraModel
from packrank.models.modernbert import ModernBertModel
from packrank.models.roberta import RobertaModel
from packrank.weights import Weights

__all__ = ["MODELS", "Model", "load_model"]

_CLASSES: dict[str, type[Model]] = {
    "bert": BertModel,
    "roberta": RobertaModel,
    "electra": ElectraModel,
    "distilbert": DistilBertModel,
    "modernbert": ModernBertModel,
}

# Architecture, as config.json names it -> what runs it.
MODELS = {architecture: _CLASSES[family] for architecture, family in ARCHITECTURES.items()}


def load_model(
    folder: Path, *, device: torch.device | str, dtype: torch.dtype, head: bool = True
) -> Model:
    """A model from its folder.

    Args:
        folder: config.json and safetensors.
        device: where it runs.
        dtype: of its matrices and hidden states; norms, biases and heads are float32.
        head: True for a sequence classifier (`logits`), False for the encoder alone
            (`hidden_states`), from a checkpoint of either kind.

    Raises:
        ModelError: unknown architecture, no head where one is asked for, or unusable weights.
    """
    config = load_config(folder)
    if head and not config.is_classifier:
        raise ModelError(
            f"{config.architecture} has no scoring head; pass a ...ForSequenceClassification "
            "checkpoint, or use LateInteraction"
        )
    model_class = MODELS[config.architecture]
    weights = Weights.open(folder)
    # An encoder saved on its own has no prefix.
    prefixed = any(name.startswith(model_class.prefix) for name in weights.files)
    parameters = Parameters(
        weights, model_class.prefix if prefixed else "", torch.device(device), dtype
    )
    return model_class(config, parameters, head=head)
