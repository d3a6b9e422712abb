"""What rerankers were trained to read: their prompts, as data, each with its source."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from packrank.checkpoint.config import Activation

Bos = Literal["never", "if any", "always"]
Budget = Literal["flagembedding", "mxbai", "whole"]


@dataclass(frozen=True)
class Template:
    """The prompt of a model: bos, head, query, separator, document, closing and tail.

    Each string is tokenized by itself and without special tokens, and the ids are joined.

    Attributes:
        source: where the model's authors say so.
        query: with {query} and, unless `instructed` is there for it, {instruction}.
        instructed: takes the place of `query` where an instruction is given.
        instruction: the default; None: there is none unless one is given.
        document: with {document}.
        head: before the query.
        separator: between query and document.
        closing: after the document, cut off before any of the document is.
        tail: after that, never cut.
        document_first: it stands before the query, and what stands between is the end of its part,
            which is put back where it is cut. Only where `one_string` is.
        one_string: the authors tokenize query and document as one string. Both are still tokenized
            apart where the tokenizer splits there anyway.
        bos: whether the tokenizer's bos token comes first; "if any": unless there is none, or it
            is the pad token.
        special_tokens: what must be one token each, or the tokenizer is another model's.
        true_token: scores by its logit; None: the model has heads of its own.
        false_token: its logit is subtracted; None: nothing is.
        activation: what turns logits into scores by default.
        of_classifiers: whether that holds for models with a classifier, unless their files say
            otherwise; else it is as with any classifier.
        shift: "normalized" scores are sigmoid(logit - shift).
        shifts: the same for models of another hidden size.
        max_length: the default.
        budget: what is cut, and what `max_length` counts. "flagembedding": the query to three
            quarters, the document to the whole, then the document until bos, query, separator and
            document have max_length and as many tokens as the tail. "mxbai": the query to three
            quarters, then the document until query, separator and document have max_length.
            "whole": the document until the whole prompt has max_length.
    """

    source: str
    query: str
    document: str
    tail: tuple[str, ...]
    budget: Budget
    max_length: int
    instructed: str | None = None
    instruction: str | None = None
    head: str = ""
    separator: str = ""
    closing: str = ""
    document_first: bool = False
    one_string: bool = False
    bos: Bos = "never"
    special_tokens: tuple[str, ...] = ()
    true_token: str | None = None
    false_token: str | None = None
    activation: Activation = "identity"
    of_classifiers: bool = False
    shift: float = 0.0
    shifts: Mapping[int, float] = field(default_factory=dict)

    @property
    def takes_instruction(self) -> bool:
        """Whether an instruction has a place in it."""
        return self.instructed is not None or self.instruction is not None


_CHATML = ("<|im_start|>", "<|im_end|>")
_BGE_SOURCE = "FlagOpen/FlagEmbedding, FlagEmbedding/inference/reranker/decoder_only/"
_BGE_YES_OR_NO = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the "
    "query by providing a prediction of either 'Yes' or 'No'."
)
_QWEN3_SOURCE = "QwenLM/Qwen3-Embedding, "
_QWEN3_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
_QWEN3_HEAD = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
_QWEN3_TAIL = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"

TEMPLATES: Mapping[str, Template] = {
    "bge-gemma": Template(
        source=f"{_BGE_SOURCE}base.py",
        query="A: {query}",
        separator="\n",
        document="B: {document}",
        tail=("\n", _BGE_YES_OR_NO),
        bos="if any",
        true_token="Yes",
        budget="flagembedding",
        max_length=512,
    ),
    "bge-minicpm-layerwise": Template(
        source=f"{_BGE_SOURCE}layerwise.py",
        query="A: {query}",
        separator="\n",
        document="B: {document}",
        tail=("\n", _BGE_YES_OR_NO),
        bos="always",
        budget="flagembedding",
        max_length=512,
    ),
    "bge-gemma2-lightweight": Template(
        source=f"{_BGE_SOURCE}lightweight.py",
        query="A: {query}",
        separator="\n",
        document="B: {document}",
        tail=("\n", "Predict whether passage B contains an answer to query A."),
        bos="always",
        budget="flagembedding",
        max_length=512,
    ),
    "mxbai-v2": Template(
        source="mixedbread-ai/mxbai-rerank, mxbai_rerank/mxbai_rerank_v2.py and utils.py",
        head=(
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful "
            "assistant.<|im_end|>\n<|im_start|>user\n"
        ),
        query="query: {query}",
        instructed="instruction: {instruction}\nquery: {query}",
        separator="\n",
        document="document: {document}",
        tail=(
            "\n",
            "You are a search relevance expert who evaluates how well documents match search "
            "queries. For each query-document pair, carefully analyze the semantic relationship "
            "between them, then provide your binary relevance judgment (0 for not relevant, 1 for "
            "relevant).\nRelevance:",
            "<|im_end|>\n<|im_start|>assistant\n",
        ),
        special_tokens=_CHATML,
        true_token="1",
        false_token="0",
        # Half of what its authors estimate as the highest logit: 12, and 9 of the base model.
        shift=6.0,
        shifts={896: 4.5},
        budget="mxbai",
        max_length=8192,
    ),
    "qwen3": Template(
        source=f"{_QWEN3_SOURCE}README.md, in transformers",
        head=_QWEN3_HEAD,
        query="<Instruct>: {instruction}\n<Query>: {query}\n<Document>:",
        instruction=_QWEN3_INSTRUCTION,
        document=" {document}",
        tail=(_QWEN3_TAIL,),
        one_string=True,
        special_tokens=_CHATML,
        true_token="yes",
        false_token="no",
        activation="sigmoid",
        budget="whole",
        max_length=8192,
    ),
    # The stock chat template closes the user's turn, and the tail closes it once more.
    "qwen3-chat": Template(
        source=f"{_QWEN3_SOURCE}README.md, in vLLM, and evaluation/qwen3_reranker_model.py",
        head=_QWEN3_HEAD,
        query="<Instruct>: {instruction}\n\n<Query>: {query}\n\n<Document>:",
        instruction=_QWEN3_INSTRUCTION,
        document=" {document}",
        closing="<|im_end|>\n",
        tail=(_QWEN3_TAIL,),
        one_string=True,
        special_tokens=_CHATML,
        true_token="yes",
        false_token="no",
        activation="sigmoid",
        budget="whole",
        max_length=8192,
    ),
    "nemotron": Template(
        source="nvidia/llama-nemotron-rerank-1b-v2, README.md",
        query="question:{query} \n \n passage",
        document=":{document}",
        tail=(),
        one_string=True,
        bos="if any",
        of_classifiers=True,
        budget="whole",
        max_length=8192,
    ),
    # Its authors' codes cut the document, or the whole string with its end; here the document is.
    "monot5": Template(
        source="castorini/pygaggle, pygaggle/model/tokenize.py and rerank/transformer.py",
        query="Query: {query}",
        document=" Document: {document}",
        tail=(" Relevant:", "</s>"),
        one_string=True,
        special_tokens=("</s>",),
        true_token="true",
        false_token="false",
        activation="sigmoid",
        budget="whole",
        max_length=512,
    ),
    # Its authors cut the whole string at its end, query and all; here the document is cut.
    "contextual": Template(
        source="ContextualAI/ctxl-rerank-v2-instruct-multilingual, README.md, in transformers",
        head=(
            "Check whether a given document contains information helpful to answer the query.\n"
            "<Document>"
        ),
        document=" {document}\n<Query>",
        query=" {query} ??",
        instructed=" {query} {instruction} ??",
        tail=(),
        document_first=True,
        one_string=True,
        true_token="!",
        budget="whole",
        max_length=8192,
    ),
}
