"""A front door for models that read many candidates of a query at once and put them in order."""

import os
from typing import Any, Literal, get_args

import torch

from packrank.arguments import check_choice_or_none, check_str, check_text, checked_count
from packrank.checkpoint.hub import HubOptions
from packrank.errors import InputError
from packrank.ordering.blocks import BlockRule
from packrank.ordering.joint_ranker import JointRanker
from packrank.ordering.opening import (
    by_blocks,
    by_letters,
    by_writing,
    check_language_model,
    is_named,
    method_of,
)
from packrank.ordering.setup import Setup
from packrank.ordering.windows import SYSTEM, WindowRule
from packrank.runtime.device import Devices

ListMethod = Literal["listwise", "first"]

# Of jina-reranker-v3 and, from a copy of its code that its authors have not confirmed, v3.5.
_QUERY, _DOCUMENT, _BLOCK = 512, 2048, 125
_QUERY_3_5, _DOCUMENT_3_5 = 1024, 8192
# Of rank_llm.
_WINDOW, _STRIDE, _WORDS, _CONTEXT = 20, 10, 300, 4096
# Options of one kind of model alone.
_OF_BLOCKS = ("query_length", "document_length", "instruction", "block_size")
_OF_WINDOWS = ("method", "window", "stride", "passage_words", "context", "system", "constrained")


class Listwise(JointRanker):
    """It reads candidates of a query side by side and says in which order they belong.

    jina-reranker-v3, whose scores are cosines; RankZephyr, RankVicuna and chat models, which write
    the order of sliding windows; FIRST, which is read off the first token. Of what is written the
    score is minus the rank.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        method: ListMethod | None = None,
        window: int | None = None,
        stride: int | None = None,
        passage_words: int | None = None,
        context: int | None = None,
        system: str | None = None,
        constrained: bool | None = None,
        query_length: int | None = None,
        document_length: int | None = None,
        instruction: str | None = None,
        block_size: int | None = None,
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
            method: of a chat model: "listwise", the order of a window is written; "first", it is
                that of the logits of the first token. None: what the model is known for by name.
                Documents are called by letters for "first" and by all models of FIRST, else by
                numbers.
            window: of a chat model: most documents that it orders at a time, 20 by default, as
                rank_llm has it; likewise the next five.
            stride: documents from the start of one window to the next, from the end to the start
                of all, 10 by default.
            passage_words: most words of a document, 300 by default; fewer where a window would not
                fit.
            context: most tokens of a prompt and its answer, 4096 by default, or all positions.
            system: what the model is told to be, rank_llm's words by default; "": nothing.
            constrained: let nothing be written but an order of all documents of the window.
            query_length: of jina-reranker-v3: most tokens of a query; a longer one is cut. None:
                as its authors have it; likewise the next three.
            document_length: the same of a document.
            instruction: stands in every prompt; None: there is none.
            block_size: most documents that are read side by side.
            device: "auto", "cpu", "cuda" or "cuda:N"; of "first" several, as `Reranker` takes them.
            dtype: as `Reranker` takes it.
            budget_tokens: most tokens that go through the model at once, but for a prompt that has
                more.
            deterministic: as `Reranker` takes it.
            revision: of a model on the hub: a branch, tag or commit; None: the newest.
            token: for private models on the hub; None: the one that is saved.
            cache_folder: where models of the hub are kept; None: its usual place.
            local_files_only: take a model of the hub from there, and ask nobody.

        Raises:
            ModelError: the folder or name cannot be used.
            InputError: an option cannot, or is of the other kind of model.
        """
        given: dict[str, Any] = {
            "method": method,
            "window": checked_count("window", window),
            "stride": checked_count("stride", stride),
            "passage_words": checked_count("passage_words", passage_words),
            "context": checked_count("context", context),
            "system": system,
            "constrained": constrained,
            "query_length": checked_count("query_length", query_length),
            "document_length": checked_count("document_length", document_length),
            "instruction": instruction,
            "block_size": checked_count("block_size", block_size),
        }
        check_choice_or_none("method", method, get_args(ListMethod))
        for name in ("instruction", "system"):
            if given[name] is not None:
                check_str(name, given[name])
                check_text(given[name], name)
        if constrained is not None and not isinstance(constrained, bool):
            raise InputError(f"constrained is {constrained!r}, expected True or False")
        setup = Setup.open(
            model,
            ("listwise", "decoder"),
            device,
            dtype,
            deterministic=deterministic,
            budget_tokens=budget_tokens,
            hub=HubOptions(revision, token, cache_folder, local_files_only),
        )
        self.num_layers = setup.config.num_layers
        if setup.kind == "listwise":
            _refuse(given, _OF_WINDOWS, "chat models", setup)
            self._way = by_blocks(setup, _block_rule(setup, given), instruction)
            return
        _refuse(given, _OF_BLOCKS, "jina-reranker-v3", setup)
        check_language_model(setup)
        known = method_of(setup.folder, setup.name)
        chosen = method or known
        if chosen not in get_args(ListMethod):
            raise InputError(
                f"{setup.name} is a language model and does not say how it ranks; pass "
                'method="listwise" (--method listwise), where it writes the order, or "first"'
            )
        rule = _window_rule(setup, given, letters="first" in (chosen, known))
        if chosen == "first":
            if constrained:
                raise InputError('constrained is for what is written, and method "first" is not')
            self._way = by_letters(setup, rule)
        else:
            self._way = by_writing(setup, rule, constrained=bool(constrained))


def _refuse(given: dict[str, Any], names: tuple[str, ...], of: str, setup: Setup) -> None:
    for name in names:
        if given[name] is not None:
            raise InputError(
                f"{name} is for {of}, and {setup.name} is a {setup.config.architecture}; leave it "
                "out"
            )


def _block_rule(setup: Setup, given: dict[str, Any]) -> BlockRule:
    longer = is_named(setup.folder, setup.name, r"reranker-v3\.5(?!\d)")
    return BlockRule(
        query_length=given["query_length"] or (_QUERY_3_5 if longer else _QUERY),
        document_length=given["document_length"] or (_DOCUMENT_3_5 if longer else _DOCUMENT),
        size=given["block_size"] or _BLOCK,
        capacity=setup.tokenizer.model_max_length or setup.config.usual_length,
    )


def _window_rule(setup: Setup, given: dict[str, Any], *, letters: bool) -> WindowRule:
    size = given["window"] or _WINDOW
    return WindowRule(
        size=size,
        stride=given["stride"] or min(_STRIDE, size),
        letters=letters,
        words=given["passage_words"] or _WORDS,
        context=given["context"] or min(_CONTEXT, setup.config.usual_length),
        system=SYSTEM if given["system"] is None else given["system"],
    )
