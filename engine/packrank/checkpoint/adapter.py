"""Adapters of peft: where the base of one lies, and the config.json of the two together.

A folder with adapter_config.json is an adapter. Its base is the folder itself where config.json and
weights are beside it, as transformers has it, else what base_model_name_or_path names.
"""

import math
import os
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from packrank.checkpoint.files import field, read_object, shown
from packrank.checkpoint.headers import read_headers
from packrank.checkpoint.hub import HubOptions, asked_as, resolve
from packrank.errors import ModelError

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
# What peft, and transformers when it saves adapters, put before every name.
PREFIX = "base_model.model."

_MERGE = "merge it into its base (peft: merge_and_unload, save_pretrained) and pass that folder"
_CONFIG = "config.json"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model*.bin")

# Keys that change what the tensors of a LoRA mean, beside those that `Adapter` reads.
_REFUSED = {
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
}
# Keys that say how an adapter was trained, or what its tensors say as well.
_HARMLESS = {
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "fan_in_fan_out",  # peft itself takes it for false in linear layers
    "inference_mode",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
    "velora_config",  # changes the backward pass alone
}
_READ = {
    "alpha_pattern",
    "exclude_modules",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_bias",
    "modules_to_save",
    "r",
    "rank_pattern",
    "target_modules",
    "use_dora",
    "use_rslora",
}
# These begin by taking the adapter's first values off the base, which is then another than named.
_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")

# Task -> the end of the class that peft loads the base as.
_TASKS = {
    "SEQ_CLS": "ForSequenceClassification",
    "CAUSAL_LM": "ForCausalLM",
    "FEATURE_EXTRACTION": "Model",
}
_ENDS = re.compile(
    "(ForSequenceClassification|ForCausalLM|ForMaskedLM|ForPreTraining|ForTokenClassification|Model)$"
)
# The embedding of tokens, saved whole.
_EMBEDDINGS = tuple(
    f"{name}.{end}"
    for name in ("word_embeddings", "tok_embeddings", "embed_tokens")
    for end in ("weight", "base_layer.weight")
)
# The last matrix of a classifier, a row a label.
_HEADS = ("classifier.weight", "classifier.out_proj.weight", "score.weight")


@dataclass(frozen=True)
class Adapter:
    """What adapter_config.json says.

    Attributes:
        folder: of the adapter.
        raw: the object.
    """

    folder: Path
    raw: dict[str, Any]

    @property
    def path(self) -> Path:
        """adapter_config.json."""
        return self.folder / ADAPTER_CONFIG

    def field(self, key: str, kind: type | tuple[type, ...], default: Any) -> Any:
        """The value of a key, of a type; the default where it is absent or null."""
        return field(self.raw, key, kind, default, self.path)

    def rank(self, module: str) -> int:
        """R of a module, named as in the adapter."""
        rank = self._of(module, "rank_pattern", self.field("r", int, 8))
        if type(rank) is not int or rank < 1:
            raise ModelError(f"{self.path}: the rank of {module} is {shown(rank)}")
        return rank

    def scale(self, module: str) -> float:
        """Factor on the product of a module's two matrices."""
        rank = self.rank(module)
        alpha = self._of(module, "alpha_pattern", self.field("lora_alpha", float, 8))
        try:
            divisor = rank**0.5 if self.field("use_rslora", bool, False) else rank
            scale = math.nan if isinstance(alpha, bool) else float(alpha / divisor)
        except (OverflowError, TypeError):
            scale = math.nan
        if not math.isfinite(scale):
            raise ModelError(
                f"{self.path}: alpha of {module} is {shown(alpha)}, and r {shown(rank)}"
            )
        return scale

    def why_not(self, module: str) -> str | None:
        """The key by which peft makes no LoRA of a module, named as in the adapter; else None.

        Source: peft's check_target_module_exists. What it takes where target_modules is absent
        hangs on its version, and is not held against the adapter.
        """
        if self._names("exclude_modules", module):
            return "exclude_modules"
        saved = self.field("modules_to_save", list, [])
        if any(self._matched("modules_to_save", rf"(^|.*\.){m}($|\..*)", module) for m in saved):
            return "modules_to_save"
        wanted = self.field("target_modules", (str, list), "all-linear")
        if wanted != "all-linear" and not self._names("target_modules", module):
            return "target_modules"
        layers = self.field("layers_to_transform", (int, list), [])
        if layers == [] or (
            wanted != "all-linear" and (isinstance(wanted, str) or module in wanted)
        ):
            return None
        named = self.field("layers_pattern", (str, list), None) or []
        named = [named] if isinstance(named, str) else named
        before = [rf"(?:^|.*?\.){one}" for one in named] or [r".*?\.[^.]*"]
        for pattern in before:
            if found := self._matched("layers_pattern", rf"{pattern}\.(?P<layer>\d+)\.", module):
                among = layers if isinstance(layers, list) else [layers]
                return None if int(found["layer"]) in among else "layers_to_transform"
        return "layers_to_transform"

    def _names(self, key: str, module: str) -> bool:
        """Whether a key, a pattern of whole names or a list of what names end in, has a module."""
        value = self.field(key, (str, list), [])
        if isinstance(value, str):
            return bool(value and self._matched(key, rf"(?:{value})\Z", module))
        return any(module == one or module.endswith(f".{one}") for one in value)

    def _of(self, module: str, key: str, usual: Any) -> Any:
        """What the first pattern that matches the end of a module's name says, as peft has it."""
        patterns = self.field(key, dict, {})
        found = [one for one in patterns if self._matched(key, rf"(.*\.)?({one})$", module)]
        return patterns[found[0]] if found else usual

    def _matched(self, key: str, pattern: str, module: str) -> re.Match[str] | None:
        try:
            return re.match(pattern, module)
        except (re.error, OverflowError, RecursionError) as error:
            raise ModelError(f"{self.path}: {key} holds no regular expression ({error})") from error

    def check(self) -> None:
        """Raise ModelError unless the adapter is a LoRA of which every key is understood."""
        kind = self.field("peft_type", str, None)
        if kind is None:
            raise ModelError(f"{self.path} has no peft_type; only LoRA adapters of peft are merged")
        if kind != "LORA":
            raise ModelError(f"{self.folder} is a {kind} adapter, not a LoRA; {_MERGE}")
        for key, value in self.raw.items():
            if value and key not in _HARMLESS | _READ:
                what = "not supported" if key in _REFUSED else "not known"
                raise ModelError(f"{self.path}: {key} {shown(value)} is {what}; {_MERGE}")
        start = self.field("init_lora_weights", (bool, str), True)
        if isinstance(start, str) and start.startswith(_CHANGE_THE_BASE):
            raise ModelError(
                f"{self.path}: init_lora_weights {start!r} changes the base as well; save it as a "
                "LoRA (peft: save_pretrained with path_initial_model_for_weight_conversion), or "
                + _MERGE
            )

    def base(self) -> Path:
        """The folder of the base. Raises ModelError if it cannot be found."""
        if _is_complete(self.folder):
            return self.folder
        name = self.field("base_model_name_or_path", str, None)
        if not name:
            raise ModelError(
                f"{self.folder} is an adapter, and neither is its base beside it nor named; set "
                f"base_model_name_or_path in {ADAPTER_CONFIG}"
            )
        revision = self.field("revision", str, None)
        try:
            folder = (
                resolve(name)
                if os.path.isdir(name)
                else _found(name, replace(asked_as(self.folder), revision=revision))
            )
        except ModelError as error:
            raise ModelError(
                f"{self.folder} is an adapter, and its base cannot be opened: {error}; set "
                f"base_model_name_or_path in {ADAPTER_CONFIG}"
            ) from error
        if (folder / ADAPTER_CONFIG).is_file():
            raise ModelError(
                f"{self.folder} is an adapter whose base {folder} is one too; merge that first"
            )
        return folder


def adapter_in(folder: Path) -> Adapter | None:
    """The adapter that a folder is, None if it is none.

    Raises:
        ModelError: it is one that cannot be merged.
    """
    path, weights = folder / ADAPTER_CONFIG, folder / ADAPTER_WEIGHTS
    if not path.is_file():
        if weights.is_file():
            raise ModelError(
                f"{folder} has {ADAPTER_WEIGHTS} but no {ADAPTER_CONFIG}; add it, or remove the "
                "former if it is merged into the weights"
            )
        return None
    adapter = Adapter(folder, read_object(path))
    adapter.check()
    return adapter


def base_folder(folder: Path) -> Path:
    """Where config.json and weights of a model lie: the folder, or that of an adapter's base.

    Raises:
        ModelError: an adapter whose base cannot be found, or that cannot be merged.
    """
    adapter = adapter_in(folder)
    return folder if adapter is None else adapter.base()


def tokenizer_folder(folder: Path) -> Path:
    """Where the tokenizer of a model lies: the folder, or that of a base whose adapter has none.

    Raises:
        ModelError: as `base_folder`.
    """
    has_none = not any((folder / name).is_file() for name in _TOKENIZERS)
    return base_folder(folder) if has_none else folder


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model; of an adapter that of its base, as the class that it was trained in.

    Raises:
        ModelError: there is none, or as `base_folder`.
    """
    adapter = adapter_in(folder)
    if adapter is None:
        if not (folder / _CONFIG).is_file():
            _refuse_outer(folder)
        return read_object(folder / _CONFIG)
    own = folder / _CONFIG
    raw = read_object(own if own.is_file() else adapter.base() / _CONFIG)
    return raw | _as_trained(adapter, raw)


def base_name(folder: Path) -> str:
    """What an adapter calls its base; "" where it does not, and of what is no adapter."""
    adapter = adapter_in(folder)
    return "" if adapter is None else adapter.field("base_model_name_or_path", str, "")


@lru_cache(maxsize=64)
def _found(name: str, hub: HubOptions) -> Path:
    """A base of the hub, asked for once a process."""
    return resolve(name, hub)


def _is_complete(folder: Path) -> bool:
    """Whether a model lies in a folder, whatever else does."""
    weights = any(True for name in _WEIGHTS for _ in folder.glob(name))
    return weights and (folder / _CONFIG).is_file()


def _refuse_outer(folder: Path) -> None:
    """Raise ModelError if a folder's own folders are adapters."""
    found = sorted(path.parent.name for path in folder.glob(f"*/{ADAPTER_CONFIG}"))
    if found:
        raise ModelError(
            f"{folder} has no config.json, but adapters in {', '.join(found)}; pass one of them"
        )


def _as_trained(adapter: Adapter, raw: dict[str, Any]) -> dict[str, Any]:
    """What an adapter changes of its base's config.json."""
    found = field(raw, "architectures", list, [], _CONFIG)
    architecture = found[0] if found and isinstance(found[0], str) else ""
    task = adapter.field("task_type", str, None)
    if task is None:
        mapping = adapter.field("auto_mapping", dict, {})
        trained = field(mapping, "base_model_class", str, None, adapter.path) or architecture
    elif task not in _TASKS:
        known = ", ".join(_TASKS)
        raise ModelError(f"{adapter.path}: task_type is {shown(task)}, expected one of {known}")
    elif architecture.endswith(_TASKS[task]):
        trained = architecture
    else:
        trained = _ENDS.sub(_TASKS[task], architecture)
    tensors = read_headers(adapter.folder / ADAPTER_WEIGHTS) if _has_weights(adapter) else {}
    heads = [tensors[name] for head in _HEADS for name in (head, PREFIX + head) if name in tensors]
    changes: dict[str, Any] = {"architectures": [trained]} if trained else {}
    for name, header in tensors.items():
        if name.endswith(_EMBEDDINGS):  # saved whole where tokens were added
            changes["vocab_size"] = header.shape[0]
    if not trained.endswith(_TASKS["SEQ_CLS"]):
        if heads:
            raise ModelError(
                f"{adapter.folder} holds a classifier, and its task_type does not say so; set "
                f"task_type to SEQ_CLS in {ADAPTER_CONFIG} if it is one of sequences"
            )
        return changes
    if heads:
        labels = heads[0].shape[0] if heads[0].shape else 0
        known_labels = field(raw, "id2label", dict, {}, _CONFIG)
        if len(known_labels) != labels:
            changes |= {"num_labels": labels, "label2id": None}
            changes["id2label"] = {str(index): f"LABEL_{index}" for index in range(labels)}
    elif trained != architecture:
        raise ModelError(
            f"{adapter.folder} is for sequence classification, but neither it nor its base "
            f"({architecture}) has a classifier; train it with the classifier in modules_to_save"
        )
    return changes


def _has_weights(adapter: Adapter) -> bool:
    return (adapter.folder / ADAPTER_WEIGHTS).is_file()
