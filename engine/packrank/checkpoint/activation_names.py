"""Names of what turns logits into scores: ours, and those that files of models have for them."""

from typing import Literal

Activation = Literal[
    "identity", "sigmoid", "normalized", "tanh", "softmax", "relu", "logsigmoid", "softplus"
]

# Where torch has its activations, and what they are called here.
_TORCH = ("torch.nn", "torch.nn.modules", "torch.nn.modules.activation", "torch.nn.modules.linear")
_TORCH_NAMES: dict[str, Activation] = {
    "Identity": "identity",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Softmax": "softmax",
    "ReLU": "relu",
    "LogSigmoid": "logsigmoid",
    "Softplus": "softplus",
}


def activation_named(path: str | None) -> str | None:
    """The activation that a dotted path names; as sentence-transformers, None outside torch.

    Of a class of torch that is not known here it is the path itself.
    """
    if path is None or not path.startswith("torch."):
        return None
    place, _, name = path.rpartition(".")
    return _TORCH_NAMES.get(name, path) if place in _TORCH else path
