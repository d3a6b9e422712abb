"""transformers as the reference: classifiers as they are, and decoders under their prompts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from packrank.checkpoint.adapter import adapter_in, read_config, tokenizer_folder
from packrank.checkpoint.files import read_object
from packrank.checkpoint.modules import encoder_folder
from packrank.quiet import reason_of
from packrank.request import Int32
from packrank.scoring.recognition import Scoring
from packrank.verify.adapters import add_adapter, base_alone
from packrank.verify.prompt import prompt_ids
from packrank.verify.reading import Float32, NotCompared, array_of, ids_of

_LOCAL = {"local_files_only": True, "trust_remote_code": False}


def open_classifier(
    folder: Path,
    device: torch.device,
    scoring: Scoring,
    *,
    num_labels: int,
    max_length: int,
    instruction: str | None,
) -> "TransformersReference":
    """A folder by transformers, in float32: its classifier, or its logits of the scoring tokens.

    Args:
        folder: as the user names it.
        device: where it runs.
        scoring: how the engine scores the folder.
        num_labels: scores of a pair.
        max_length: tokens of a pair, as the template counts them if there is one.
        instruction: in place of the template's own.

    Raises:
        NotCompared: transformers is not installed, or has no tokenizer for the folder.
    """
    try:
        import transformers
        from transformers import AutoTokenizer
    except ImportError:
        raise NotCompared("install transformers") from None
    name, inner = f"transformers {transformers.__version__}", encoder_folder(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder(inner), **_LOCAL)
    except Exception as error:
        raise NotCompared(f"{name} has no tokenizer for it ({reason_of(error)})") from error
    reference = TransformersReference(name, tokenizer, scoring, folder, max_length, instruction)
    if scoring.head in ("classifier", "tokens"):
        reference.load(inner, device, num_labels)
    return reference


def _load(folder: Path, head: str, num_labels: int) -> Any:
    if adapter_in(folder) is None:
        model, missing = _load_alone(folder, head)
    else:
        with base_alone(folder) as base:
            model, missing = _load_alone(base, head, num_labels=num_labels)
        missing -= add_adapter(model, folder)
    if missing:
        raise NotCompared(f"transformers finds no {', '.join(sorted(missing)[:3])} in it")
    return model


def _load_alone(folder: Path, head: str, **options: int) -> tuple[Any, set[str]]:
    """A model in float32, and the names of weights that the folder does not have."""
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForSeq2SeqLM,
        AutoModelForSequenceClassification,
    )

    kind = AutoModelForSequenceClassification
    if head != "classifier":
        kind, options = AutoModelForCausalLM, {}
    config = AutoConfig.from_pretrained(folder, **options, **_LOCAL)
    if config.is_encoder_decoder:
        kind = AutoModelForSeq2SeqLM
    # torch's fused attention has no cap.
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    model, report = kind.from_pretrained(
        folder,
        config=config,
        dtype=torch.float32,
        output_loading_info=True,
        attn_implementation="eager" if capped else None,
        **_LOCAL,
    )
    return model, set(report["missing_keys"])


# What templates score by, as torch has it.
_BY_NAME: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "identity": lambda x: x,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "softplus": F.softplus,
    "logsigmoid": F.logsigmoid,
    "softmax": lambda x: x.softmax(-1),
}


def _activation(folder: Path, num_labels: int) -> torch.nn.Module:
    """What sentence-transformers would load: the class of torch that is named, or by the labels."""
    saved = folder / "config_sentence_transformers.json"
    config = read_config(encoder_folder(folder))
    named = read_object(saved).get("activation_fn") if saved.is_file() else None
    named = named or (config.get("sentence_transformers") or {}).get("activation_fn")
    named = named or config.get("sbert_ce_default_activation_function")
    if named is None:
        return torch.nn.Sigmoid() if num_labels == 1 else torch.nn.Identity()
    made: torch.nn.Module = getattr(torch.nn, named.rpartition(".")[2])()
    return made


class TransformersReference:
    """A tokenizer, and maybe a model. See `Reference`.

    Attributes:
        why_not: why there is no model, if there is none.
    """

    def __init__(
        self,
        name: str,
        tokenizer: Any,
        scoring: Scoring,
        folder: Path,
        max_length: int,
        instruction: str | None,
    ) -> None:
        self.name, self._folder = name, folder
        self.module: torch.nn.Module | None = None
        self.why_not = f"{name} does not run models with heads at several layers"
        self._tokenizer, self._scoring = tokenizer, scoring
        self._max_length, self._instruction = max_length, instruction

    def load(self, folder: Path, device: torch.device, num_labels: int) -> None:
        """Open the model; where transformers cannot, tokens alone are compared."""
        try:
            self.module = _load(folder, self._scoring.head, num_labels).to(device).eval()
        except NotCompared as error:
            self.why_not = str(error)
        except Exception as error:  # whatever it raises of a folder that it does not know
            self.why_not = f"{self.name} does not load it ({reason_of(error)})"

    def tokens(self, query: str, document: str) -> tuple[Int32, ...]:
        """Ids of the pair: see `Reference`."""
        return (ids_of(self._read(query, document)["input_ids"]),)

    def values(self, query: str, document: str) -> tuple[Float32, ...] | None:
        """Logits: see `Reference`."""
        if self.module is None:
            return None
        device = next(self.module.parameters()).device
        read = self._read(query, document)
        inputs = {key: torch.tensor([ids], device=device) for key, ids in read.items()}
        config: Any = self.module.config
        if config.is_encoder_decoder:
            start = getattr(config, "decoder_start_token_id", None)
            start = config.pad_token_id if start is None else start
            inputs["decoder_input_ids"] = torch.tensor([[start]], device=device)
        logits = self.module(**inputs).logits[0]
        if self._scoring.tokens is None:
            return (array_of(logits.reshape(-1)),)
        true, false = self._scoring.tokens.true_token_id, self._scoring.tokens.false_token_id
        scored = logits[-1, true] if false is None else logits[-1, true] - logits[-1, false]
        return (array_of(scored.reshape(1)),)

    def scores(self, values: tuple[Float32, ...]) -> Float32:
        """The activation of the template's authors, or of the folder: see `Reference`."""
        logits = torch.from_numpy(values[0])
        template, is_by_tokens = self._scoring.template, self._scoring.head == "tokens"
        if template is not None and (is_by_tokens or template.of_classifiers):
            if self._scoring.activation == "normalized":
                return array_of((logits - self._scoring.shift).sigmoid())
            return array_of(_BY_NAME[self._scoring.activation](logits))
        scores: torch.Tensor = _activation(self._folder, len(logits))(logits[None])
        return array_of(scores[0])

    def _read(self, query: str, document: str) -> dict[str, list[int]]:
        template = self._scoring.template
        if template is None:
            found = self._tokenizer(
                [query], [document], truncation=self._truncation, max_length=self._max_length
            )
            return {name: rows[0] for name, rows in found.items()}
        bos = self._tokenizer.bos_token_id
        if template.bos == "never" or (
            template.bos == "if any" and bos == self._tokenizer.pad_token_id
        ):
            bos = None
        ids = prompt_ids(
            template,
            lambda text: list(self._tokenizer(text, add_special_tokens=False)["input_ids"]),
            bos,
            query,
            document,
            max_length=self._max_length,
            instruction=self._instruction,
        )
        return {"input_ids": ids, "attention_mask": np.ones_like(ids).tolist()}

    @property
    def _truncation(self) -> str | bool:
        truncation = self._scoring.truncation
        return False if truncation == "off" else truncation
