"""sentence-transformers as the reference of late interaction: token vectors and MaxSim."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from packrank.checkpoint.files import read_object
from packrank.late.settings import Settings
from packrank.quiet import reason_of
from packrank.request import Int32
from packrank.verify.reading import Float32, NotCompared, array_of, ids_of

_SIDES = ("query", "document")


def open_multi_vector(
    folder: Path, device: torch.device, settings: Settings, lengths: dict[str, int]
) -> "MultiVectorReference":
    """The folder by sentence-transformers, in float32; nothing is fetched, no foreign code is run.

    Args:
        folder: of the model.
        device: where it runs.
        settings: what the engine reads in the folder.
        lengths: query_length and document_length, where the caller gave them.

    Raises:
        NotCompared: it is not installed, cannot load the folder, or reads it otherwise than the
            folder's own library.
    """
    try:
        import sentence_transformers
        from sentence_transformers import MultiVectorEncoder, SentenceTransformer
    except ImportError:
        raise NotCompared("install sentence-transformers 6") from None
    name = f"sentence-transformers {sentence_transformers.__version__}"
    kind: Any = SentenceTransformer if settings.kind == "encoder" else MultiVectorEncoder
    try:
        model = kind(
            str(folder),
            device=str(device),
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"dtype": torch.float32},
        )
    except Exception as error:  # whatever a package raises that does not know the folder
        raise NotCompared(f"{name} does not load it ({reason_of(error)})") from error
    otherwise = _read_otherwise(folder, model, settings)
    if otherwise is not None:
        raise NotCompared(f"{name} reads {otherwise} of a {settings.kind} folder in its own way")
    return MultiVectorReference(name, model, settings, lengths)


def _read_otherwise(folder: Path, model: Any, settings: Settings) -> str | None:
    """What sentence-transformers makes other sequences of than the folder's own library does."""
    unknown = model.tokenizer.unk_token_id
    if settings.kind == "PyLate":
        saved = read_object(folder / "config_sentence_transformers.json")
        if any((saved.get("prompts") or {}).values()):
            return "prompts"
        if unknown in settings.document.skipped:
            return "unknown words of the skiplist"
    if settings.kind == "Stanford ColBERT" and unknown in (
        settings.query.marker,
        settings.document.marker,
    ):
        return "markers that the tokenizer lacks"
    return None


class MultiVectorReference:
    """A MultiVectorEncoder, or any encoder's token embeddings at length 1. See `Reference`."""

    def __init__(self, name: str, model: Any, settings: Settings, lengths: dict[str, int]) -> None:
        self.name = name
        self.module: torch.nn.Module | None = model
        self._model, self._strips = model, settings.kind == "PyLate"
        self._plain = settings.kind == "encoder"
        self._lengths = lengths

    def tokens(self, query: str, document: str) -> tuple[Int32, ...]:
        """Ids of query and document: see `Reference`."""
        return self._tokens("query", query), self._tokens("document", document)

    def values(self, query: str, document: str) -> tuple[Float32, ...]:
        """Token vectors of query and document: see `Reference`."""
        return self._vectors("query", query), self._vectors("document", document)

    def scores(self, values: tuple[Float32, ...]) -> Float32:
        """MaxSim: see `Reference`."""
        query, document = map(torch.from_numpy, values)
        if self._plain:
            best = (query @ document.T).amax(1) if len(document) else torch.tensor([-torch.inf])
            return array_of(best.sum()[None])
        found: Tensor = self._model.similarity_pairwise([query], [document])
        return array_of(found.reshape(-1))

    def _tokens(self, side: str, text: str) -> Int32:
        prompt = self._model.prompts.get(side) or None
        read = self._model.preprocess([self._read(text)], prompt=prompt, **self._options(side))
        ids = ids_of(read["input_ids"])
        # What fills a query is read, whether or not it is attended to.
        return ids if side == "query" else ids[ids_of(read["attention_mask"]) != 0]

    def _vectors(self, side: str, text: str) -> Float32:
        encode = getattr(self._model, f"encode_{side}")
        options = self._options(side)
        options.pop("task", None)
        if self._plain:
            options["output_value"] = "token_embeddings"
        [found] = encode([self._read(text)], show_progress_bar=False, batch_size=1, **options)
        vectors = torch.as_tensor(np.asarray(found.cpu()))
        return array_of(normalize(vectors, dim=1) if self._plain else vectors)

    def _read(self, text: str) -> str:
        return text.strip() if self._strips else text

    def _options(self, side: str) -> dict[str, Any]:
        options: dict[str, Any] = {"task": side}
        length = self._lengths.get(f"{side}_length")
        if length is not None:
            options["processing_kwargs"] = {"text": {"max_length": length}}
        return options
