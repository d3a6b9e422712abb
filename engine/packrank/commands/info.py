"""packrank info: what a machine, a model or a store is, in lines of text."""

import argparse
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch

import packrank_kernels
from packrank import __version__
from packrank.bench.machine import instruction_sets
from packrank.checkpoint.adapter import adapter_in, base_folder, tokenizer_folder
from packrank.checkpoint.config import ModelConfig, load_config
from packrank.checkpoint.kind import LATE, RERANKERS, expect, kind_of
from packrank.checkpoint.modules import encoder_folder
from packrank.commands.messages import check_stdout
from packrank.commands.options import folder_of
from packrank.commands.supported import markdown
from packrank.errors import ModelError
from packrank.late.encoder import check_weights as check_late
from packrank.late.formats import read_settings
from packrank.models import load_model
from packrank.ordering.blocks import BlockLayout, BlockRule
from packrank.ordering.chat import Chat
from packrank.ordering.opening import method_of, window_template
from packrank.runtime.capture import why_not
from packrank.runtime.device import cuda_devices
from packrank.runtime.graphs import ops_that_wait
from packrank.scoring.activations import known_activation
from packrank.scoring.assembly import check_weights as check_reranker
from packrank.scoring.recognition import Scoring, recognise
from packrank.scoring.sentence_transformers import open_tokenizer
from packrank.stores.store import Store
from packrank.stores.token_store import TokenStore
from packrank.text.tokenizer import Tokenizer

_PACKAGES = ("torch", "numpy", "tokenizers", "safetensors", "huggingface_hub")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    check_stdout()
    if args.models:
        print(markdown(), end="")
        return 0
    is_store = args.model is not None and Store.is_one(args.model)
    kind = kind_of(Path(args.model)) if is_store else None
    if args.model is None:
        lines = describe_machine()
    elif kind in ("store", "index"):
        lines = describe_store(Store.open(args.model))
    elif kind == "token store":
        lines = describe_tokens(TokenStore.open(args.model))
    else:
        lines = describe_model(folder_of(args.model))
    for line in lines:
        print(line)
    return 0


def describe_machine() -> Iterator[str]:
    """Versions, processor, threads, and op by op the backends that would run."""
    yield f"python           {sys.version.split()[0]}"
    yield f"packrank         {__version__}"
    for package in _PACKAGES:
        # torch itself names the CUDA that it was built for, the wheels on PyPI do not.
        said = torch.__version__ if package == "torch" else version(package)
        yield f"{package:16} {said}"
    yield f"processor        {platform.machine()}: {' '.join(instruction_sets())}"
    yield f"threads          {packrank_kernels.get_num_threads()}"
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        yield f"cuda             {torch.cuda.get_device_name()}"
        devices.append(torch.device("cuda"))
        yield f"cuda graphs      {_describe_graphs(devices[-1])}"
    else:
        yield f"cuda             none: {cuda_devices()}"
    for device in devices:
        narrow = (torch.bfloat16,) if device.type == "cpu" else (torch.float16, torch.bfloat16)
        for dtype in (torch.float32, *narrow):
            yield ""
            yield f"{device} {str(dtype).removeprefix('torch.')}"
            yield from _describe_backends(device, dtype)


def describe_model(folder: Path) -> Iterator[str]:
    """Architecture, sizes, what the model reads, length limit, labels and activation of a folder.

    Raises:
        ModelError: config.json, the tokenizer or the weights cannot be used, or they do not say how
            the model scores.
    """
    kind = expect(folder, (*RERANKERS, *LATE, "listwise"))
    inner = encoder_folder(folder)
    config = load_config(inner)
    yield f"model            {folder}"
    if adapter_in(inner) is not None:
        yield f"adapter          LoRA, merged into {base_folder(inner)}"
    yield f"architecture     {config.architecture}"
    decoder = "" if config.t5 is None else f", and {config.t5.num_decoder_layers} in the decoder"
    yield f"layers           {config.num_layers}{decoder}"
    yield f"hidden size      {config.hidden_size} in {config.num_heads} heads"
    yield f"MLP size         {config.intermediate_size}, {config.activation}"
    yield f"vocabulary       {config.vocab_size}"
    if kind == "listwise":
        layout = BlockLayout(
            Tokenizer.from_folder(inner), config.usual_length, BlockRule(1, 1, 1, 1)
        )
        yield "ranks by         documents side by side, each by the vector of its marker"
        yield f"markers          {', '.join(map(layout.tokenizer.token, layout.markers))}"
        load_model(inner, device="meta", dtype=torch.float32, head=False)
    elif kind in RERANKERS:
        scoring = _scored_by(folder, config)
        if isinstance(scoring, ModelError):
            yield from _describe_asked(folder, config, scoring)
            return
        yield from _describe_reranker(config, scoring, open_tokenizer(folder))
        check_reranker(inner, config, scoring)
    else:
        tokenizer = Tokenizer.from_folder(inner)
        settings = read_settings(
            folder,
            tokenizer,
            config.hidden_size,
            config.max_length,
            usual_positions=config.usual_length,
        )
        yield f"scores by        late interaction ({settings.kind})"
        yield f"max length       {settings.query.max_length} tokens of a query"
        yield f"                 {settings.document.max_length} tokens of a document"
        check_late(folder, settings)


def _scored_by(folder: Path, config: ModelConfig) -> Scoring | ModelError:
    """How a reranker's folder is scored; of a language model why it is not, where it may rank."""
    method = method_of(folder, None)
    if method not in (None, "pointwise"):
        return ModelError(f"by its name it ranks by --method {method}")
    try:
        return recognise(folder, config, open_tokenizer(folder))
    except ModelError as error:
        if config.is_classifier or config.is_body or not config.reads_prompts:
            raise
        return error


def _describe_asked(folder: Path, config: ModelConfig, why: ModelError) -> Iterator[str]:
    """A language model, which scores no pair."""
    yield f"scores by        none: {why}"
    known = method_of(folder, None)
    others = ("pairwise", "setwise") if config.t5 else ("listwise", "first", "pairwise", "setwise")
    methods = [*([known] if known else []), *(one for one in others if one != known)]
    yield f"ranks by         --method {', '.join(methods[:-1])} or {methods[-1]}"
    if config.decoder is None:
        return
    inner = encoder_folder(folder)
    source = window_template(inner, None)
    try:
        Chat.of(tokenizer_folder(inner), Tokenizer.from_folder(inner), source)
        where = "the folder's chat template" if source is None else "rank_llm's of RankVicuna"
        yield f"template         {where}"
    except ModelError as error:
        yield f"template         none: {error}"


def _describe_reranker(
    config: ModelConfig, scoring: Scoring, tokenizer: Tokenizer
) -> Iterator[str]:
    kind = "cross-encoder" if config.decoder is None else "decoder"
    if config.t5 is not None:
        kind = "encoder-decoder"
    if scoring.modules is not None:
        config = config.scored_by(scoring.modules)
        kind = f"{'' if config.decoder is None else 'decoder as a '}modular cross-encoder"
        kind += f", {' and '.join(scoring.modules.pooling)} pooled"
    if config.decoder is not None and not config.decoder.causal:
        kind += ", attention both ways"
    if scoring.tokens is not None:
        kind += f", logit of {tokenizer.token(scoring.tokens.true_token_id)!r}"
        if scoring.tokens.false_token_id is not None:
            kind += f" less that of {tokenizer.token(scoring.tokens.false_token_id)!r}"
    yield f"scores by        {kind}"
    if len(config.exit_layers) > 1:
        yield f"exit layers      {', '.join(map(str, config.exit_layers))}"
    template = scoring.template
    if template is not None:
        yield f"template         {scoring.template_name}, from {template.source}"
        if template.instruction is not None:
            yield f"instruction      {template.instruction!r}"
        elif template.takes_instruction:
            yield "instruction      none, but it takes one"
    elif scoring.chat is not None:
        yield "template         the folder's chat template"
    elif config.decoder is not None:
        yield "template         none: query and document as the tokenizer joins them"
    counted = "" if template is None else ", as the template counts them"
    length = scoring.layout(tokenizer, config).max_length
    yield f"max length       {length} tokens of a pair{counted}"
    names = f": {', '.join(config.label_names)}" if config.num_labels > 1 else ""
    yield f"labels           {config.num_labels}{names}"
    try:
        yield f"activation       {known_activation(scoring.activation, config.num_labels)}"
    except ModelError as error:
        yield f"activation       none: {error}"
    if scoring.prompt:
        where = "as the system's message" if scoring.chat else "before every query"
        yield f"prompt           {scoring.prompt!r} {where}"


def describe_store(store: Store) -> Iterator[str]:
    """What a store holds, and what encoded it."""
    model = store.model or {}
    per_token = store.embeddings.bytes_per_token
    yield f"store            {store.path}"
    if store.layout != "packrank":
        yield f"layout           {store.layout}"
    yield f"encoded by       {model.get('name', 'not written down')}"
    yield f"format           {store.format}, {per_token:g} bytes a token"
    yield f"dimensions       {store.size}"
    deleted = f", {store.deleted:,} deleted ones left out" if store.deleted else ""
    yield f"documents        {len(store):,}{deleted}"
    if store.num_cut is not None:
        length = model.get("document_length")
        yield f"cut              {store.num_cut:,} of them" + (
            f", to {length} tokens" if length else ""
        )
    yield f"tokens           {store.num_tokens:,}"
    where = "mapped" if store.is_mapped else "read into memory"
    yield f"size             {store.num_tokens * per_token / 1e6:,.1f} MB, {where}"
    yield f"complete         {'yes' if store.complete else 'no; packrank encode goes on with it'}"


def describe_tokens(store: TokenStore) -> Iterator[str]:
    """What a store of token ids holds, and whose."""
    how = store.tokenization
    yield f"store            {store.path}"
    yield f"tokenized by     {how.name}"
    if how.before or how.after:
        yield f"each reads       {f'{how.before}...{how.after}'!r}"
    yield "format           token ids, 4 bytes a token"
    yield f"documents        {len(store):,}"
    yield f"tokens           {store.num_tokens:,}"
    yield f"size             {store.num_tokens * 4 / 1e6:,.1f} MB, mapped"
    yield f"complete         {'yes' if store.complete else 'no; packrank tokenize goes on with it'}"


def _describe_backends(device: torch.device, dtype: torch.dtype) -> Iterator[str]:
    for op, row in packrank_kernels.backends(device, dtype).items():
        accepted = [name for name, reason in row if reason is None]
        yield f"  {op:17} {accepted[0]}" + (
            f" (also: {', '.join(accepted[1:])})" if accepted[1:] else ""
        )
        for name, reason in row:
            if reason is not None:
                yield f"  {'':17} not {name}: {reason}"


def _describe_graphs(device: torch.device) -> str:
    """Whether packs run in graphs, by trying a small one; else why not."""
    if waiting := ops_that_wait(device, torch.float16):
        return f"none: {', '.join(waiting)} would wait for the device"
    reason = why_not(device)
    return "captured and replayed" if reason is None else f"none: {reason}"
