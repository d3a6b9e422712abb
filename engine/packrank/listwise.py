"""A front door for models that read all candidates of a query at once."""

import os
import re

import torch

from packrank.arguments import check_str, check_text, checked_count
from packrank.checkpoint.hub import HubOptions
from packrank.ordering.blocks import BlockLayout, BlockRule
from packrank.ordering.by_blocks import ByBlocks
from packrank.ordering.joint_ranker import JointRanker
from packrank.ordering.setup import Setup
from packrank.runtime.device import Devices

# Of jina-reranker-v3 and, from a copy of its code that its authors have not confirmed, v3.5.
_QUERY, _DOCUMENT, _BLOCK = 512, 2048, 125
_QUERY_3_5, _DOCUMENT_3_5 = 1024, 8192


class Listwise(JointRanker):
    """It reads the candidates of a query side by side and says in which order they belong."""

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        device: Devices = "auto",
        dtype: str | torch.dtype = "auto",
        query_length: int | None = None,
        document_length: int | None = None,
        instruction: str | None = None,
        block_size: int | None = None,
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
            device: "auto", "cpu", "cuda" or "cuda:N".
            dtype: as `Reranker` takes it.
            query_length: most tokens of a query; a longer one is cut. None: what the model's
                authors take.
            document_length: the same of a document.
            instruction: stands in every prompt; None: there is none.
            block_size: most documents that are read side by side; None: as its authors have it.
            budget_tokens: most tokens that go through the model at once, but for a block that has
                more.
            deterministic: as `Reranker` takes it.
            revision: of a model on the hub: a branch, tag or commit; None: the newest.
            token: for private models on the hub; None: the one that is saved.
            cache_folder: where models of the hub are kept; None: its usual place.
            local_files_only: take a model of the hub from there, and ask nobody.

        Raises:
            ModelError: the folder or name cannot be used.
            InputError: an option cannot.
        """
        if instruction is not None:
            check_str("instruction", instruction)
            check_text(instruction, "instruction")
        query = checked_count("query_length", query_length)
        document = checked_count("document_length", document_length)
        size = checked_count("block_size", block_size)
        setup = Setup.open(
            model,
            ("listwise",),
            device,
            dtype,
            deterministic=deterministic,
            budget_tokens=budget_tokens,
            hub=HubOptions(revision, token, cache_folder, local_files_only),
        )
        positions = setup.config.usual_length
        longer = re.search(r"reranker-v3\.5", setup.name) is not None
        rule = BlockRule(
            query_length=query or (_QUERY_3_5 if longer else _QUERY),
            document_length=document or (_DOCUMENT_3_5 if longer else _DOCUMENT),
            size=size or _BLOCK,
            capacity=setup.tokenizer.model_max_length or positions,
        )
        self.num_layers = setup.config.num_layers
        layout = BlockLayout(setup.tokenizer, positions, rule, instruction)
        self._way = ByBlocks(layout, setup.encoder())
