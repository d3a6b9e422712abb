"""sentence-transformers' CrossEncoder, as far as it scores, over `Reranker`.

Source: sentence_transformers.cross_encoder.CrossEncoder, 6.2.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from packrank.arguments import check_str, checked_count, listed
from packrank.checkpoint.config import Activation
from packrank.drop_in.keywords import device_names, refuse_remote_code, renaming, taken_keywords
from packrank.drop_in.surroundings import ModelCardData, Surroundings
from packrank.errors import InputError, PairError
from packrank.reranker import Reranker
from packrank.scoring.sentence_transformers import read_prompts

ActivationFn = Callable[[Tensor], Tensor]
Scores = NDArray[np.float32] | Tensor | list[Tensor]

_ORGANISATION = "cross-encoder"  # of a hub name that has none
_CHUNK_PAIRS = 128  # at least so many are scored between two moves of the progress bar
_ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "softplus": nn.Softplus,
    "logsigmoid": nn.LogSigmoid,
    "softmax": lambda: nn.Softmax(dim=-1),
}
# Older names of arguments, which sentence-transformers takes as well.
_RENAMED = {
    "model_name": "model_name_or_path",
    "automodel_args": "model_kwargs",
    "tokenizer_args": "processor_kwargs",
    "tokenizer_kwargs": "processor_kwargs",
    "config_args": "config_kwargs",
    "cache_dir": "cache_folder",
    "default_activation_function": "activation_fn",
    "sentences": "inputs",
    "activation_fct": "activation_fn",
}
_older_names = renaming(_RENAMED, dropped=("num_workers",))


class CrossEncoder(Surroundings):
    """A cross-encoder with sentence-transformers' names, for code that was written for those.

    `predict` and `rank` return what they return there; what is refused says what serves instead.
    Threads may share one.

    Attributes:
        reranker: the `Reranker` behind it, which can do more.
        activation_fn: from logits to scores, see `predict`; another one may be set.
        prompts: by name.
        default_prompt_name: of the one that goes before every query, None if none does.
        model_card_data: see `ModelCardData`.
    """

    @_older_names
    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str] | None = None,
        *,
        modules: None = None,
        device: str | torch.device | list[str] | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        cache_folder: str | os.PathLike[str] | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
        token: bool | str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        model_card_data: Any = None,
        backend: str = "torch",
        num_labels: int | None = None,
        max_length: int | None = None,
        activation_fn: ActivationFn | None = None,
        keep_in_fp32_modules: Iterable[str] | None = None,
    ) -> None:
        """Load a model.

        Args:
            model_name_or_path: a folder, or a hub name; without a "/" it is cross-encoder's.
            modules: None; a model is opened from its folder.
            device: "cpu", "cuda", "cuda:N" or several of these; None: a CUDA device if there is
                one.
            prompts: by name, over those that are saved.
            default_prompt_name: which of them goes before every query; None: as saved.
            cache_folder: where models of the hub are kept; None: its usual place.
            trust_remote_code: False; a model's own code is not run.
            revision: of a model on the hub.
            local_files_only: ask no hub.
            token: of the hub.
            model_kwargs: "dtype" (or "torch_dtype"; None: float32; "auto": as `Reranker` has it,
                which is half precision on a CUDA device) and "device_map". What changes no score
                here, such as "attn_implementation", is taken and not needed.
            processor_kwargs: "model_max_length".
            config_kwargs: "num_labels".
            model_card_data: what the attribute is; None: a `ModelCardData`.
            backend: "torch"; Packrank's own kernels are in its place.
            num_labels: as many as the model has, or None.
            max_length: most tokens of a pair, special ones included; None: as the files say.
            activation_fn: from logits to scores, see `predict`; None: as the files say, else a
                sigmoid of one label.
            keep_in_fp32_modules: None or empty; the scoring head is in float32 in any case.

        Raises:
            ModelError: the model cannot be used.
            InputError: an argument cannot.
        """
        name = _model_name(model_name_or_path)
        refuse_remote_code(trust_remote_code)
        _check_served(modules, backend, keep_in_fp32_modules)
        asked = {
            **taken_keywords("model_kwargs", model_kwargs),
            **taken_keywords("processor_kwargs", processor_kwargs),
            **taken_keywords("config_kwargs", config_kwargs),
        }
        if max_length is None:
            max_length = asked.get("model_max_length")
        self._call_length: int | None = None
        self.reranker = Reranker(
            name,
            device=device_names(asked.get("device_map") or device),
            dtype=asked.get("dtype") or asked.get("torch_dtype") or "float32",
            max_length=max_length,
            revision=revision,
            token=token,
            cache_folder=cache_folder,
            local_files_only=local_files_only,
        )
        num_labels = asked.get("num_labels") if num_labels is None else num_labels
        if num_labels not in (None, self.num_labels):
            raise InputError(
                f"num_labels is {num_labels!r}, and the model has {self.num_labels}; leave it out"
            )
        if isinstance(activation_fn, type):
            raise InputError(
                f"activation_fn is the class {activation_fn.__name__}, expected an instance of it"
            )
        if activation_fn is not None and not callable(activation_fn):
            raise InputError(f"activation_fn is {activation_fn!r}, expected a function of tensors")
        self.activation_fn = activation_fn or _ACTIVATIONS[self.reranker.activation]()
        saved, default = read_prompts(self.reranker.folder)
        given = {key: saved.get(key, "") if x is None else x for key, x in (prompts or {}).items()}
        self.prompts = {**saved, **given}
        # What the engine puts before every query unless it is told not to.
        self._has_saved_prompt = default is not None
        self.default_prompt_name = default if default_prompt_name is None else default_prompt_name
        if self.default_prompt_name is not None:
            self._named_prompt(self.default_prompt_name)
        self.model_card_data = model_card_data or ModelCardData(name, revision)
        self.backend, self.trust_remote_code = backend, trust_remote_code

    @property
    def max_seq_length(self) -> int:
        """Most tokens of a pair, special ones included; another number may be set."""
        return self._call_length or self.reranker.max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self._call_length = checked_count("max_length", value)

    max_length = max_seq_length

    @_older_names
    def predict(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: ActivationFn | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | torch.device | list[str] | None = None,
        pool: Mapping[str, Any] | None = None,
        chunk_size: int | None = None,
    ) -> Any:
        """Scores of pairs.

        Args:
            inputs: N (query, document) pairs, or anything that yields them; or one pair.
            prompt_name: of the prompt that goes before every query; None: the default one.
            prompt: a prompt itself.
            batch_size: after how many pairs, at the earliest, the progress bar moves. Pairs are
                packed by their tokens, whatever it is.
            show_progress_bar: on standard error; None: no.
            activation_fn: from logits [N, labels] to scores of the same shape, float32 on the CPU;
                None: `self.activation_fn`.
            apply_softmax: over several labels, after that.
            convert_to_numpy: return an array.
            convert_to_tensor: return a tensor on `device`, in place of that; neither: a list of
                tensors.
            device: None, or the model's own; of several devices open the model on all.
            pool: of `start_multi_process_pool`.
            chunk_size: of what processes are handed, which Packrank decides.

        Returns:
            [N] float32 of one label, [N, labels] of several; of one pair its own.

        Raises:
            PairError: a pair cannot be scored; `.index` says which. `reranker.try_score` goes on.
            InputError: an argument of the wrong kind.
        """
        size = checked_count("batch_size", batch_size) or 32
        checked_count("chunk_size", chunk_size)
        is_one, pairs = _pairs_of(inputs)
        reranker = self._at(device, pool)
        self._check_unchanged()
        chosen = self._prompt(prompt, prompt_name)
        step = max(size, _CHUNK_PAIRS) if show_progress_bar else max(len(pairs), 1)
        logits = []
        with tqdm(total=len(pairs), unit="pair", disable=not show_progress_bar) as bar:
            for start in range(0, len(pairs), step):
                chunk = pairs[start : start + step]
                logits.append(self._logits(reranker, chunk, chosen, start))
                bar.update(len(chunk))
        scores = torch.zeros(0)
        if logits:
            scores = self._activated(np.concatenate(logits), activation_fn, apply_softmax)
        if convert_to_tensor:
            scores = scores.to(self.device)
            return scores[0] if is_one else scores
        if convert_to_numpy:
            array = scores.numpy() if logits else np.array([])
            return array[0] if is_one else array
        return scores[0] if is_one else list(scores)

    @_older_names
    def rank(
        self,
        query: str,
        documents: Iterable[str],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: ActivationFn | None = None,
        device: str | torch.device | list[str] | None = None,
        pool: Mapping[str, Any] | None = None,
        chunk_size: int | None = None,
        **unused: Any,
    ) -> list[dict[str, Any]]:
        """Documents by their scores for a query, best first; of equal ones the earlier first.

        Args and errors: see `predict`.

        Returns:
            For each of the `top_k` best, all if None, "corpus_id", its place among `documents`,
            "score" and, with `return_documents`, "text".

        Raises:
            InputError: the model has several labels.
        """
        if unused.keys() - {"apply_softmax", "convert_to_numpy", "convert_to_tensor"}:
            raise TypeError(f"rank() got an unexpected keyword argument {min(unused)!r}")
        if self.num_labels != 1:
            raise InputError(
                f"the model has {self.num_labels} labels and rank needs one score of a document; "
                "use predict, or reranker.rank with label="
            )
        check_str("query", query)
        texts = listed("documents", documents, "strings")
        top_k = checked_count("top_k", top_k)
        scores = self.predict(
            [(query, text) for text in texts],
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            activation_fn=activation_fn,
            device=device,
            pool=pool,
            chunk_size=chunk_size,
        ).tolist()
        order = sorted(range(len(texts)), key=lambda index: -scores[index])[:top_k]
        text = [{"text": texts[index]} if return_documents else {} for index in order]
        return [
            {"corpus_id": index, "score": scores[index], **more}
            for index, more in zip(order, text, strict=True)
        ]

    def _prompt(self, prompt: str | None, name: str | None) -> str | None:
        """What goes before every query, None for what the engine itself puts there."""
        if prompt is not None:
            return prompt
        if name is not None:
            return self._named_prompt(name)
        found = self.prompts.get(self.default_prompt_name or "")
        return "" if found is None and self._has_saved_prompt else found

    def _named_prompt(self, name: str) -> str:
        if name not in self.prompts:
            known = ", ".join(map(repr, self.prompts)) or "none"
            raise InputError(f"there is no prompt {name!r}; there is {known}")
        return self.prompts[name]

    def _logits(
        self, reranker: Reranker, pairs: list[Any], prompt: str | None, start: int
    ) -> NDArray[np.float32]:
        """[N, labels] float32."""
        logits, failures = reranker.try_score(
            pairs, activation="identity", prompt=prompt, max_length=self._call_length
        )
        for index, reason in failures.items():
            raise PairError(start + index, reason, "reranker.try_score")
        return logits.reshape(len(pairs), -1)

    def _activated(
        self,
        logits: NDArray[np.float32],
        activation_fn: ActivationFn | None,
        apply_softmax: bool | None,
    ) -> Tensor:
        """[N] or [N, labels] float32."""
        with torch.inference_mode():
            scores = (activation_fn or self.activation_fn)(torch.from_numpy(logits))
            if not isinstance(scores, Tensor) or scores.ndim < 1 or len(scores) != len(logits):
                shape = tuple(getattr(scores, "shape", ()))
                raise InputError(
                    f"activation_fn made a {type(scores).__name__} of shape {shape} of logits of "
                    f"shape {logits.shape}, expected a tensor with as many rows"
                )
            scores = scores.float()
            if self.num_labels == 1 and scores.ndim > 1:
                scores = scores.squeeze(-1)
            if apply_softmax and scores.ndim > 1:
                scores = scores.softmax(1)
        return scores.clone()  # no longer bound to inference


def _model_name(name: Any) -> str:
    """As `Reranker` takes it."""
    if name is None:
        raise InputError("model_name_or_path is None; pass a model's folder or its hub name")
    if isinstance(name, str) and "/" not in name and name and not os.path.exists(name):
        return f"{_ORGANISATION}/{name}"
    return str(os.fspath(name))


def _check_served(modules: Any, backend: Any, kept: Iterable[str] | None) -> None:
    if modules is not None:
        raise InputError(
            "modules are torch's, which Packrank does not run; save them by "
            "sentence_transformers.CrossEncoder and open the folder"
        )
    if backend != "torch":
        raise InputError(
            f"backend is {backend!r}, and Packrank has kernels of its own for it; leave it out"
        )
    if kept:
        raise InputError(
            "keep_in_fp32_modules names layers of torch's; the scoring head is in float32 in any "
            "case, and dtype 'float32' keeps all layers there"
        )


def _pairs_of(inputs: Any) -> tuple[bool, list[Any]]:
    """Whether it is one pair, and the pairs."""
    if isinstance(inputs, np.ndarray):
        inputs = inputs.tolist()
    pairs = listed("inputs", inputs, "(query, document) pairs")
    if len(pairs) and isinstance(inputs, list | tuple) and all(isinstance(x, str) for x in pairs):
        return True, [pairs]
    return False, pairs
