"""FlagEmbedding's rerankers over `Reranker`: one class, whichever of them a folder holds.

Source: FlagEmbedding.inference.reranker, 1.4.
"""

import os
from collections.abc import Sequence
from typing import Any

import torch

from packrank.arguments import check_str, checked_count, listed
from packrank.drop_in.keywords import device_names, refuse_remote_code
from packrank.errors import InputError
from packrank.reranker import Reranker
from packrank.text.pairs import is_pair, plain_texts_of, texts_of

# What FlagEmbedding puts before query and passage of a decoder; its template has them.
_TEMPLATES_OWN = ("A: ", "B: ")
_USUAL_LENGTH = 512


class FlagReranker:
    """FlagReranker, FlagLLMReranker, and their layerwise and lightweight kin, for scoring.

    Attributes:
        reranker: the `Reranker` behind it, which can do more.
        max_length: most tokens of a pair, as FlagEmbedding counts them.
        query_max_length: most tokens of a query; None: three quarters of that.
        normalize: whether scores go through a sigmoid.
        cutoff_layers: after which layers a layerwise model scores; None: after all.
        prompt: of a decoder whose template takes an instruction, that; None: its own.
    """

    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str],
        use_fp16: bool = False,
        query_instruction_for_rerank: str | None = None,
        query_instruction_format: str = "{}{}",
        passage_instruction_for_rerank: str | None = None,
        passage_instruction_format: str = "{}{}",
        trust_remote_code: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
        devices: str | int | list[str] | list[int] | None = None,
        batch_size: int = 128,
        query_max_length: int | None = None,
        max_length: int = _USUAL_LENGTH,
        normalize: bool = False,
        *,
        use_bf16: bool = False,
        cutoff_layers: Sequence[int] | None = None,
        compress_layers: Sequence[int] = (8,),
        compress_ratio: int = 1,
        prompt: str | None = None,
    ) -> None:
        """Load a model.

        Args:
            model_name_or_path: a folder, or a hub name.
            use_fp16: on a CUDA device; a CPU computes in float32 all the same.
            query_instruction_for_rerank: goes before every query of a cross-encoder.
            query_instruction_format: of the two, the instruction first.
            passage_instruction_for_rerank: the same of passages.
            passage_instruction_format: the same.
            trust_remote_code: False; a model's own code is not run.
            cache_dir: where models of the hub are kept; None: its usual place.
            devices: names or numbers of CUDA devices, or "cpu"; None: one CUDA device if there is
                one.
            batch_size: taken and not needed; pairs are packed by their tokens.
            query_max_length: see the attribute.
            max_length: see the attribute.
            normalize: see the attribute.
            use_bf16: compute in bfloat16.
            cutoff_layers: see the attribute.
            compress_layers: of a lightweight model, before which layers tokens are merged.
            compress_ratio: of a lightweight model, how many of them become one.
            prompt: see the attribute.

        Raises:
            ModelError: the model cannot be used.
            InputError: an argument cannot.
        """
        refuse_remote_code(trust_remote_code)
        checked_count("batch_size", batch_size)
        names = device_names(devices)
        on_cpu = names == "cpu" or (names == "auto" and not torch.cuda.is_available())
        half = "float16" if use_fp16 and not on_cpu else "float32"
        self.reranker = Reranker(
            model_name_or_path,
            device=names,
            dtype="bfloat16" if use_bf16 else half,
            truncation="only_second",
            compress_ratio=compress_ratio,
            compress_layers=compress_layers,
            cache_folder=cache_dir,
        )
        # FlagEmbedding does not read the prompts that sentence-transformers saves.
        is_plain = self.reranker.template is None and not self.reranker.is_chat
        self._no_prompt = "" if is_plain else None
        self._compression = tuple(compress_layers), compress_ratio
        self._around = [
            self._instruction(query_instruction_for_rerank, query_instruction_format),
            self._instruction(passage_instruction_for_rerank, passage_instruction_format),
        ]
        most = self.reranker.num_positions
        if self.reranker.template is not None:
            most = self.reranker.max_length
        self.max_length = checked_count("max_length", max_length) or _USUAL_LENGTH
        if self.max_length == _USUAL_LENGTH:
            self.max_length = min(most, _USUAL_LENGTH)
        self.query_max_length = checked_count("query_max_length", query_max_length)
        self.normalize, self.cutoff_layers, self.prompt = normalize, cutoff_layers, prompt

    def compute_score(
        self,
        sentence_pairs: Any,
        batch_size: int | None = None,
        query_max_length: int | None = None,
        max_length: int | None = None,
        normalize: bool | None = None,
        *,
        cutoff_layers: Sequence[int] | None = None,
        compress_layers: Sequence[int] | None = None,
        compress_ratio: int | None = None,
        prompt: str | None = None,
    ) -> list[float] | list[list[float]]:
        """Scores of pairs.

        Args:
            sentence_pairs: N (query, passage) pairs; or one pair.
            batch_size: taken and not needed.
            query_max_length: instead of the attribute, for this call; likewise the others.
            max_length: see there.
            normalize: see there.
            cutoff_layers: see there.
            compress_layers: as the constructor takes it, from this call on: where it is another
                than before, the model is opened anew; likewise compress_ratio.
            compress_ratio: see there.
            prompt: see there.

        Returns:
            A score a pair, in their order; of several cutoff layers such a list for each.

        Raises:
            PairError: a pair cannot be scored; `.index` says which.
            InputError: an argument of the wrong kind.
        """
        checked_count("batch_size", batch_size)
        every = listed("sentence_pairs", sentence_pairs, "(query, passage) pairs")
        pairs = [self._instructed(pair) for pair in ([every] if is_pair(every) else every)]
        self._compress(compress_layers, compress_ratio)
        layers = self.cutoff_layers if cutoff_layers is None else cutoff_layers
        wanted = self.normalize if normalize is None else normalize
        length, query_length = self._limits(max_length, query_max_length)
        scores = self.reranker.score(
            pairs,
            activation="sigmoid" if wanted else "identity",
            cutoff_layers=layers,
            instruction=self.prompt if prompt is None else prompt,
            prompt=self._no_prompt,
            max_length=length,
            query_length=query_length,
        )
        if scores.ndim == 1:
            flat: list[float] = scores.tolist()
            return flat
        if layers is None:
            raise InputError(
                f"the model has {self.reranker.num_labels} labels, and FlagReranker is for one; "
                "use Reranker.score"
            )
        columns: list[list[float]] = scores.T.tolist()
        return columns[0] if len(columns) == 1 else columns

    def _compress(self, layers: Sequence[int] | None, ratio: int | None) -> None:
        before = self._compression
        asked = (before[0] if layers is None else tuple(layers), ratio or before[1])
        if asked != before:
            self.reranker = self.reranker.opened_with(
                compress_layers=asked[0], compress_ratio=asked[1]
            )
            self._compression = asked

    def _limits(self, max_length: int | None, query_length: int | None) -> tuple[int, int | None]:
        """Lengths of pair and query as `Reranker` takes them."""
        length = checked_count("max_length", max_length) or self.max_length
        query_length = checked_count("query_max_length", query_length) or self.query_max_length
        if self.reranker.template is None:
            query_length = query_length or length * 3 // 4
        return length, query_length

    def _instruction(self, instruction: str | None, form: str) -> tuple[str, str] | None:
        if instruction is None:
            return None
        check_str("instruction", instruction)
        if self.reranker.template is not None:
            if instruction in _TEMPLATES_OWN and form == "{}{}":
                return None
            raise InputError(
                f"the instruction {instruction!r} would go into a template, which has "
                f"{' and '.join(map(repr, _TEMPLATES_OWN))}; leave it out"
            )
        return form.replace("\\n", "\n"), instruction

    def _instructed(self, pair: Any) -> Any:
        if self._around == [None, None]:
            return pair
        texts = texts_of(pair) if self._around[1] is None else plain_texts_of(pair)
        return tuple(
            text if around is None else around[0].format(around[1], text)
            for around, text in zip(self._around, texts, strict=True)
        )
