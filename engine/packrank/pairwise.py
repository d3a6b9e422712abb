"""A front door for language models that are asked which of two documents is better."""

import os
from typing import Literal, get_args

import torch

from packrank.arguments import check_choice, check_choice_or_none
from packrank.checkpoint.hub import HubOptions
from packrank.ordering.joint_ranker import JointRanker
from packrank.ordering.opening import (
    DEFAULT_LENGTH,
    Limits,
    PairPrompt,
    by_form,
    check_language_model,
    pair_form,
)
from packrank.ordering.orders import all_pairs, best_of, by_pairs
from packrank.ordering.setup import Setup
from packrank.runtime.device import Devices

_METHODS = ("allpair", "heapsort", "sliding")


class Pairwise(JointRanker):
    """It asks a language model about pairs of candidates, each in both orders.

    Pairwise ranking prompting, with any chat model or Flan-T5; and duoT5. What a model says one
    way and takes back the other way is a tie. Scores are minus the rank; `Ranking.calls` says what
    a ranking took.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        method: Literal["allpair", "heapsort", "sliding"] = "heapsort",
        prompt: PairPrompt | None = None,
        query_length: int = DEFAULT_LENGTH,
        document_length: int = DEFAULT_LENGTH,
        device: Devices = "auto",
        dtype: str | torch.dtype = "auto",
        budget_tokens: int | None = None,
        deterministic: bool = False,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_folder: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> None:
        """Load a model.

        Args:
            model: a folder with config.json, safetensors and a tokenizer, or a hub name.
            method: "allpair", all pairs, by wins; "heapsort", the first `top_k` by a heap;
                "sliding", by `top_k` passes from the end to the start, which are the fewer the
                better the given order is. Ties keep the given order.
            prompt: "prp", in words; "duot5", as that was trained; None: the second of a model that
                is called duoT5.
            query_length: most tokens of a query; a longer one is cut.
            document_length: the same of a document.
            device: as `Reranker` takes it; likewise the others.
            dtype: see there.
            budget_tokens: see there.
            deterministic: see there.
            revision: see there.
            token: see there.
            cache_folder: see there.
            local_files_only: see there.

        Raises:
            ModelError: the folder or name cannot be used.
            InputError: an option cannot.
        """
        check_choice("method", method, _METHODS)
        check_choice_or_none("prompt", prompt, get_args(PairPrompt))
        limits = Limits.checked(query_length, document_length)
        setup = Setup.open(
            model,
            ("decoder", "encoder-decoder"),
            device,
            dtype,
            deterministic=deterministic,
            budget_tokens=budget_tokens,
            hub=HubOptions(revision, token, cache_folder, local_files_only),
        )
        check_language_model(setup)
        self.num_layers = setup.config.num_layers
        form = pair_form(setup, prompt, all_pairs=method == "allpair")
        order = all_pairs if method == "allpair" else best_of(method, 2, 2, by_pairs)
        self._way = by_form(setup, form, order, limits)
