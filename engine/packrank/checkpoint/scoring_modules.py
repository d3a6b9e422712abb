"""Modules that sentence-transformers puts after a model's body: hidden states to scores."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packrank.checkpoint.files import field, read_object, shown
from packrank.checkpoint.modules import Module
from packrank.errors import ModelError

TOKENS, VECTOR, SCORES = "token_embeddings", "sentence_embedding", "scores"

# Of a Pooling, in the order in which older files join what they ask for.
_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_POOLING_KEYS = {
    *("pooling_mode", "include_prompt", "embedding_dimension", "word_embedding_dimension"),
    *_MODES,
}

# Classes of torch.nn that map a vector to one of the same size, made without arguments.
_OVER_ALL = ("LogSoftmax", "Softmax", "Softmin")
ACTIVATIONS = (
    *("CELU", "ELU", "GELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "Identity"),
    *("LeakyReLU", "LogSigmoid", "Mish", "PReLU", "RReLU", "ReLU", "ReLU6", "SELU", "SiLU"),
    *("Sigmoid", "Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink"),
    *_OVER_ALL,
)
# Those that the linear kernel applies itself, by its names.
FUSED = {"GELU": "gelu", "ReLU": "relu", "SiLU": "silu", "Tanh": "tanh"}
_PLACES = ("torch.nn", "torch.nn.modules", "torch.nn.modules.activation")


@dataclass(frozen=True)
class DenseModule:
    """target = activation(linear(source)), plus the source, projected where sizes differ.

    Attributes:
        folder: of its weights.
        source: what it reads; target: what it gives.
        in_features: size of the one; out_features: of the other.
        bias: whether the linear layer has one.
        activation: one of `ACTIVATIONS`.
        residual: whether the source is added.
    """

    folder: Path
    source: str
    target: str
    in_features: int
    out_features: int
    bias: bool
    activation: str
    residual: bool

    @property
    def tensors(self) -> set[str]:
        """Names of all its weights."""
        names = {"linear.weight"}
        if self.bias:
            names.add("linear.bias")
        if self.activation == "PReLU":
            names.add("activation_function.weight")
        if self.residual and self.in_features != self.out_features:
            names.add("residual.weight")
        return names


@dataclass(frozen=True)
class LayerNormModule:
    """A LayerNorm of the pooled vector.

    Attributes:
        folder: of its weights.
        size: of the vector.
    """

    folder: Path
    size: int
    source: str = VECTOR
    target: str = VECTOR

    @property
    def tensors(self) -> set[str]:
        """Names of all its weights."""
        return {"norm.weight", "norm.bias"}


@dataclass(frozen=True)
class NormalizeModule:
    """target is the source at length 1."""

    source: str
    target: str


VectorModule = DenseModule | LayerNormModule | NormalizeModule


@dataclass(frozen=True)
class ScoringModules:
    """From a body's hidden states to scores.

    Attributes:
        tokens: applied to every hidden state, in order.
        pooling: modes, whose vectors are joined.
        vectors: applied to what is pooled, in order.
        num_labels: scores of a pair.
        includes_prompt: whether the tokens of a prompt are pooled.
        skipped: how many tokens at the start of a sequence are not pooled.
    """

    tokens: tuple[VectorModule, ...]
    pooling: tuple[str, ...]
    vectors: tuple[VectorModule, ...]
    num_labels: int
    includes_prompt: bool = True
    skipped: int = 0


def read_scoring_modules(modules: list[Module], hidden_size: int) -> ScoringModules:
    """Those after the Transformer of a cross-encoder.

    Args:
        modules: in their order.
        hidden_size: of the Transformer.

    Raises:
        ModelError: one is not supported, or they do not fit together.
    """
    sizes = {TOKENS: hidden_size}
    steps: list[VectorModule] = []
    pooling: tuple[str, ...] = ()
    includes_prompt, at = True, 0
    for module in modules:
        path = module.folder / "config.json"
        if module.name == "Pooling":
            if pooling:
                raise ModelError(f"{path}: a second Pooling is not supported")
            pooling, includes_prompt = _read_pooling(path)
            at, sizes = len(steps), {VECTOR: sizes[TOKENS] * len(pooling)}
            continue
        if module.name == "Dropout" and VECTOR in sizes:  # of no effect but in training
            continue
        step = _read(module, path, sizes)
        if step is None:
            continue
        if not pooling and (step.source, step.target) != (TOKENS, TOKENS):
            raise ModelError(
                f"{path}: before a Pooling it works on {step.source} and gives {step.target}, and "
                f"only {TOKENS} is supported there"
            )
        if pooling and step.target == TOKENS:
            raise ModelError(f"{path}: after the Pooling it gives {TOKENS}, which nothing reads")
        if isinstance(step, DenseModule):
            if not pooling and step.activation in _OVER_ALL:
                raise ModelError(f"{path}: {step.activation} of token vectors is not supported")
            sizes[step.target] = step.out_features
        else:
            sizes[step.target] = sizes[step.source]
        steps.append(step)
    if SCORES not in sizes:
        names = ", ".join(module.name for module in modules)
        raise ModelError(
            f"after the Transformer come {names or 'no modules'}, none of which gives scores; a "
            f'cross-encoder ends in a Dense whose module_output_name is "{SCORES}"'
        )
    return ScoringModules(
        tokens=tuple(steps[:at]),
        pooling=pooling,
        vectors=tuple(steps[at:]),
        num_labels=sizes[SCORES],
        includes_prompt=includes_prompt,
    )


def _read(module: Module, path: Path, sizes: dict[str, int]) -> VectorModule | None:
    """A module that reads one vector and gives one; None of one that does nothing there."""
    config = read_object(path) if path.is_file() else {}
    if module.name == "Normalize":
        unit = NormalizeModule(*_names(config, path))
        return unit if unit.source in sizes else None
    if module.name == "LayerNorm":
        step: VectorModule = LayerNormModule(module.folder, _size(config, "dimension", path))
        size = step.size if isinstance(step, LayerNormModule) else 0
    elif module.name == "Dense":
        step = read_dense(module.folder)
        size = step.in_features
    else:
        raise ModelError(
            f"{module.folder} is a {module.name}, which is not supported; of a cross-encoder's "
            "modules there are Transformer, Pooling, Dense, LayerNorm, Normalize, Dropout and "
            "LogitScore"
        )
    if step.source not in sizes:
        raise ModelError(f"{path}: it works on {step.source}, which no module before it gives")
    if sizes[step.source] != size:
        raise ModelError(
            f"{path}: it reads vectors of size {size}, and those before it have "
            f"{sizes[step.source]}"
        )
    return step


def read_dense(folder: Path, *, usual: str = VECTOR, activation: str = "Tanh") -> DenseModule:
    """A Dense of sentence-transformers or PyLate.

    Args:
        folder: of its config.json and weights.
        usual: what it works on, where the file does not name it.
        activation: one of `ACTIVATIONS`, where the file does not name it.

    Raises:
        ModelError: the file is no Dense's, or asks for what is not supported.
    """
    path = folder / "config.json"
    config = read_object(path) if path.is_file() else {}
    source, target = _names(config, path, usual)
    return DenseModule(
        folder=folder,
        source=source,
        target=target,
        in_features=_size(config, "in_features", path),
        out_features=_size(config, "out_features", path),
        bias=_flag(config, "bias", True, path),
        activation=_activation(config, path, activation),
        residual=_flag(config, "use_residual", False, path),
    )


def _activation(config: dict[str, Any], path: Path, usual: str) -> str:
    """The class that is named."""
    if "activation_function" not in config:
        return usual
    named = field(config, "activation_function", str, None, path)
    place, _, name = str(named).rpartition(".")
    places = (*_PLACES, "torch.nn.modules.linear") if name == "Identity" else _PLACES
    if name not in ACTIVATIONS or place not in places:
        raise ModelError(
            f"{path}: activation_function is {shown(named)}, expected a class of torch.nn: "
            f"{', '.join(ACTIVATIONS)}"
        )
    return name


def _read_pooling(path: Path) -> tuple[tuple[str, ...], bool]:
    config = read_object(path)
    unknown = sorted(set(config) - _POOLING_KEYS)
    if unknown:
        raise ModelError(f"{path}: {unknown[0]} is not supported; is it a Pooling?")
    modes = field(config, "pooling_mode", (str, list), None, path)
    if "pooling_mode" not in config:
        modes = [mode for key, mode in _MODES.items() if field(config, key, bool, False, path)]
        modes = modes or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    if not modes or not all(mode in list(_MODES.values()) for mode in modes):
        known = ", ".join(_MODES.values())
        raise ModelError(f"{path}: pooling_mode is {shown(modes)}, expected some of {known}")
    return tuple(modes), _flag(config, "include_prompt", True, path)


def _names(config: dict[str, Any], path: Path, usual: str = VECTOR) -> tuple[str, str]:
    """What a module reads and what it gives."""
    if "module_input_name" in config and config["module_input_name"] is None:
        raise ModelError(f"{path}: module_input_name is null, expected a name")
    source = field(config, "module_input_name", str, usual, path)
    return source, field(config, "module_output_name", str, source, path)


def _size(config: dict[str, Any], name: str, path: Path) -> int:
    value = field(config, name, int, None, path)
    if value is None or value < 1:
        raise ModelError(f"{path}: {name} is {value}, expected a number of at least 1")
    return int(value)


def _flag(config: dict[str, Any], name: str, default: bool, path: Path) -> bool:
    if name in config and config[name] is None:
        raise ModelError(f"{path}: {name} is null, expected true or false")
    return bool(field(config, name, bool, default, path))
