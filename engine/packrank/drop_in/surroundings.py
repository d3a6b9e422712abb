"""What evaluators and wrappers read of sentence-transformers' CrossEncoder beside its scores."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch

from packrank.checkpoint.modules import encoder_folder
from packrank.drop_in.keywords import device_names
from packrank.errors import InputError, ModelError
from packrank.reranker import Reranker

_Self = TypeVar("_Self", bound="Surroundings")

_TRAINS = "trains, and Packrank scores; train with sentence_transformers.CrossEncoder and save it"
_SAVES = "saves a model, and what was opened stays as it is; copy its folder"
_COMPUTES = "computes by torch's modules, of which there are none here; predict and rank score"
_MOVES = "changes how a model runs; open it with device= and model_kwargs={'dtype': ...}"
_NARROWS = (
    "is for devices that are faster so; leave it out on a CPU, and on another open the model with "
    "model_kwargs={'dtype': 'float16'} or 'bfloat16'"
)
_ABSENT = {
    **dict.fromkeys(("fit", "old_fit", "train", "add_adapter", "load_adapter"), _TRAINS),
    **dict.fromkeys(("save", "save_pretrained", "save_to_hub", "push_to_hub"), _SAVES),
    **dict.fromkeys(("forward", "preprocess", "tokenize", "parameters", "state_dict"), _COMPUTES),
    **dict.fromkeys(("half", "bfloat16"), _NARROWS),
    **dict.fromkeys(("float", "double", "cuda", "cpu"), _MOVES),
    **dict.fromkeys(("tokenizer", "config"), "is read by transformers; pip install transformers"),
}


class ModelCardData:
    """What evaluators and wrappers read of a model's card, and what they tell it.

    Attributes:
        model_name: as the model was called when it was opened; also model_id.
        base_model: None; it is not looked for.
        base_model_revision: of the hub, as the caller said.
        evaluations: (evaluator, metrics, epoch, steps) as evaluators told them.
    """

    def __init__(self, name: str, revision: str | None) -> None:
        self.model_name = self.model_id = name
        self.base_model = None
        self.base_model_revision = revision
        self.evaluations: list[tuple[Any, dict[str, Any], int, int]] = []

    def set_evaluation_metrics(
        self, evaluator: Any, metrics: dict[str, Any], epoch: int = 0, steps: int = 0
    ) -> None:
        """Keep what an evaluator found."""
        self.evaluations.append((evaluator, metrics, epoch, steps))


class Body:
    """What wrappers ask the model inside a cross-encoder for.

    Attributes:
        name_or_path: as the model was called when it was opened.
        device: see `Surroundings.device`.
    """

    __slots__ = ("_outer", "device", "name_or_path")

    def __init__(self, outer: "Surroundings") -> None:
        self.name_or_path = outer.model_card_data.model_name
        self.device = outer.device
        self._outer = outer

    @property
    def config(self) -> Any:
        """See `Surroundings.config`."""
        return self._outer.config

    def eval(self) -> "Body":
        """Itself: it never trains."""
        return self

    def requires_grad_(self, requires_grad: bool = True) -> "Body":
        """Itself; InputError where it should train."""
        if requires_grad:
            raise InputError(f"CrossEncoder.model.requires_grad_ {_TRAINS}")
        return self

    def to(self, *to: Any, **more: Any) -> "Body":
        """Itself; InputError unless all that is asked for is the device that it is on."""
        self._outer.to(*to, **more)
        return self

    def __getattr__(self, name: str) -> Any:
        """AttributeError, with the reason where one is known."""
        known = {**_ABSENT, "tokenizer": "is the CrossEncoder's"}
        reason = known.get(name, "is of torch's module, of which there is none here")
        raise AttributeError(f"CrossEncoder.model.{name} {reason}")


class Surroundings:
    """Device, labels, tokenizer and card of a cross-encoder, and what is not there, by name.

    Attributes:
        reranker: the `Reranker` behind it, which can do more.
        model_card_data: see `ModelCardData`.
    """

    reranker: Reranker
    model_card_data: Any
    activation_fn: Any
    _as_read: tuple[Any, ...]

    @property
    def num_labels(self) -> int:
        """Scores of a pair."""
        return self.reranker.num_labels

    @property
    def device(self) -> torch.device:
        """Where the model runs; of several devices the first."""
        return self.reranker.devices[0]

    @cached_property
    def tokenizer(self) -> Any:
        """Transformers' tokenizer of the model, to look at; pairs go by Packrank's own."""
        found = _of_transformers("tokenizer", "AutoTokenizer", self.reranker.folder)
        self._as_read = _settings_of(found)
        return found

    @cached_property
    def config(self) -> Any:
        """Transformers' configuration of the model, to look at."""
        return _of_transformers("config", "AutoConfig", self.reranker.folder)

    @property
    def model(self) -> Body:
        """What wrappers ask for the model's name, device and configuration."""
        return Body(self)

    def start_multi_process_pool(self, target_devices: list[str] | None = None) -> dict[str, Any]:
        """A pool for `predict` to work on: a process for each CUDA device, where there are several.

        On a CPU the model's own threads take all cores already, and no process is started.

        Args:
            target_devices: names of devices; None: all CUDA devices, or the CPU.
        """
        devices = target_devices or [f"cuda:{n}" for n in range(torch.cuda.device_count())]
        distinct = list(dict.fromkeys(map(str, devices))) or ["cpu"]
        same = _numbers(distinct) == _numbers(self.reranker.devices)
        reranker = self.reranker if same else self.reranker.opened_with(device=distinct)
        return {"input": None, "output": None, "processes": distinct, "reranker": reranker}

    @staticmethod
    def stop_multi_process_pool(pool: dict[str, Any]) -> None:
        """End a pool's processes."""
        pool.pop("reranker", None)

    def eval(self: _Self) -> _Self:
        """Itself: it never trains."""
        return self

    def to(self: _Self, *to: Any, **more: Any) -> _Self:
        """Itself; InputError unless all that is asked for is the device that it is on."""
        asked = [*to, *(more.pop(key) for key in ("device",) if key in more)]
        if more or len(asked) != 1 or not isinstance(asked[0], str | torch.device):
            raise InputError(f"CrossEncoder.to {_MOVES}")
        self._at(asked[0], None)
        return self

    def compile(self, *_: Any, **__: Any) -> None:
        """Nothing: the kernels are compiled, and a graph is captured where that helps."""

    def __getattr__(self, name: str) -> Any:
        """AttributeError, with the reason where sentence-transformers' class has what is asked."""
        if name == "default_activation_function":  # as activation_fn was called before
            return self.activation_fn
        if name in _ABSENT:
            raise AttributeError(f"CrossEncoder.{name} {_ABSENT[name]}")
        raise AttributeError(f"CrossEncoder has no attribute {name!r}")

    def _check_unchanged(self) -> None:
        """Raise InputError where a setting of the tokenizer was changed, which changes no pair."""
        found = self.__dict__.get("tokenizer")
        if found is not None and _settings_of(found) != self._as_read:
            raise InputError(
                "the tokenizer was changed, and pairs do not go by it; set max_seq_length, or save "
                "the model with that tokenizer and open it"
            )

    def _at(
        self, device: str | torch.device | list[str] | None, pool: Mapping[str, Any] | None
    ) -> Reranker:
        """The model that a call works on."""
        if pool is not None:
            if not isinstance(pool.get("reranker"), Reranker):
                raise InputError("pool is none of start_multi_process_pool's, or was stopped")
            found: Reranker = pool["reranker"]
            return found
        if device is not None:
            names = device_names(device)
            if _numbers(names if isinstance(names, list) else [names]) != _numbers(
                self.reranker.devices
            ):
                at = ", ".join(map(str, self.reranker.devices))
                raise InputError(
                    f"device is {device!r}, and the model is on {at}; open one with that device"
                )
        return self.reranker


def _settings_of(tokenizer: Any) -> tuple[Any, ...]:
    """What changes how a tokenizer lays a pair out."""
    return tokenizer.model_max_length, tokenizer.truncation_side, len(tokenizer)


def _numbers(devices: Sequence[str | torch.device]) -> list[tuple[str, int]]:
    """Devices in a form that compares: "cuda" is the first of them."""
    return [(one.type, one.index or 0) for one in map(torch.device, devices)]


def _of_transformers(name: str, loader: str, folder: Path) -> Any:
    try:
        import transformers
    except ImportError:
        raise AttributeError(f"CrossEncoder.{name} {_ABSENT[name]}") from None
    try:
        return getattr(transformers, loader).from_pretrained(encoder_folder(folder))
    except AttributeError as error:  # which would read as if there were no such attribute
        raise ModelError(f"transformers cannot read the {name} of {folder}: {error}") from error
