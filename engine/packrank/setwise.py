"""A front door for language models that are asked which of several documents is the best."""

import os
from typing import Literal

import torch

from packrank.arguments import check_choice, checked_count
from packrank.checkpoint.hub import HubOptions
from packrank.ordering.joint_ranker import JointRanker
from packrank.ordering.opening import (
    DEFAULT_LENGTH,
    Limits,
    by_form,
    check_language_model,
    set_form,
)
from packrank.ordering.orders import best_of, by_sets
from packrank.ordering.setup import Setup
from packrank.runtime.device import Devices

_METHODS = ("heapsort", "sliding")


class Setwise(JointRanker):
    """It asks a language model which of a few candidates is the best, by the logits of labels.

    With any chat model or Flan-T5; nothing is generated. Scores are minus the rank;
    `Ranking.calls` says what a ranking took.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        method: Literal["heapsort", "sliding"] = "heapsort",
        num_child: int = 3,
        votes: int = 1,
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
            method: "heapsort", the first `top_k` by a heap; "sliding", by `top_k` passes from the
                end to the start.
            num_child: documents that one is compared with at a time.
            votes: how often a question is asked, documents and labels in another order each time;
                the most votes win.
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
        children = checked_count("num_child", num_child) or 3
        form = set_form(children + 1, checked_count("votes", votes) or 1)
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
        order = best_of(method, children, children + 1, by_sets)
        self._way = by_form(setup, form, order, limits)
