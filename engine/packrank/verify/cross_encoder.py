"""sentence-transformers' CrossEncoder as the reference of rerankers that it can load."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from packrank.quiet import reason_of
from packrank.request import Int32
from packrank.verify.reading import Float32, NotCompared, array_of, ids_of


def open_cross_encoder(
    folder: Path, device: torch.device, max_length: int | None, instruction: str | None
) -> "CrossEncoderReference":
    """The folder by sentence-transformers, in float32; nothing is fetched, no foreign code is run.

    Raises:
        NotCompared: it is not installed, or cannot load the folder.
    """
    try:
        import sentence_transformers
        from sentence_transformers import CrossEncoder
    except ImportError:
        raise NotCompared("install sentence-transformers") from None
    name = f"sentence-transformers {sentence_transformers.__version__}"
    try:
        model = CrossEncoder(
            str(folder),
            device=str(device),
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"dtype": torch.float32},
        )
        reference = CrossEncoderReference(name, model, max_length, instruction)
        reference.tokens("a", "b")
        return reference
    except Exception as error:  # whatever a package raises that does not know the folder
        raise NotCompared(f"{name} does not load it ({reason_of(error)})") from error


class CrossEncoderReference:
    """A CrossEncoder, a pair at a time. See `Reference`."""

    def __init__(self, name: str, model: Any, max_length: int | None, prompt: str | None) -> None:
        self.name = name
        self.module: torch.nn.Module | None = model
        self._model = model
        self._options: dict[str, Any] = {}
        if max_length is not None:
            self._options["processing_kwargs"] = {"text": {"max_length": max_length}}
        if prompt is None and model.default_prompt_name is not None:
            prompt = model.prompts.get(model.default_prompt_name)
        self._prompt = prompt

    def tokens(self, query: str, document: str) -> tuple[Int32, ...]:
        """Ids of the pair: see `Reference`."""
        read = self._model.preprocess([(query, document)], prompt=self._prompt, **self._options)
        ids, mask = ids_of(read["input_ids"]), ids_of(read["attention_mask"])
        return (ids[mask != 0],)

    def values(self, query: str, document: str) -> tuple[Float32, ...]:
        """Logits: see `Reference`."""
        logits = self._model.predict(
            [(query, document)],
            prompt=self._prompt,
            batch_size=1,
            show_progress_bar=False,
            activation_fn=torch.nn.Identity(),
            **self._options,
        )
        return (np.asarray(logits, dtype=np.float32).reshape(-1),)

    def scores(self, values: tuple[Float32, ...]) -> Float32:
        """Its own activation of logits: see `Reference`."""
        logits = torch.from_numpy(values[0])[None].to(self._model.device)
        scores: torch.Tensor = self._model.activation_fn(logits)
        return array_of(scores[0])
