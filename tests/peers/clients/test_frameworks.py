"""LlamaIndex, Haystack and rerankers, by the dialects of Jina, vLLM and TEI."""

from collections.abc import Callable
from typing import Any

import pytest
from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker
from haystack_integrations.components.rankers.jina import JinaRanker
from haystack_integrations.components.rankers.vllm import VLLMRanker
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.postprocessor.jinaai_rerank import JinaRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference
from rerankers import Reranker

Want = Callable[..., list[tuple[int, float]]]
QUERY = "how do snakes find prey"
# More than TEI takes in a request by default.
TEXTS = [f"{text} {'again ' * n}" for n in range(12) for text in ("Owls hunt.", "Vipers.", "A")]
KEY = Secret.from_token("secret")


def nodes() -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(text=text, id_=str(n))) for n, text in enumerate(TEXTS)]


def documents() -> list[Document]:
    return [Document(content=text, id=str(n)) for n, text in enumerate(TEXTS)]


def rows_of(found: list[Any]) -> list[tuple[int, float]]:
    """Of nodes or documents."""
    return [(int(one.node.id_ if isinstance(one, NodeWithScore) else one.id), one.score)
            for one in found]  # fmt: skip


@pytest.mark.parametrize("end", ["", "/v1"])
def test_llama_index_by_jina(address: str, want: Want, end: str) -> None:
    reranker = JinaRerank(top_n=5, base_url=f"{address}{end}", api_key="secret")
    assert rows_of(reranker.postprocess_nodes(nodes(), QueryBundle(QUERY))) == want(QUERY, TEXTS, 5)
    reranker = JinaRerank(base_url=address, api_key="wrong")
    with pytest.raises(RuntimeError, match="invalid api token"):
        reranker.postprocess_nodes(nodes(), QueryBundle(QUERY))


@pytest.mark.parametrize("key", ["secret", "Bearer secret"])
def test_llama_index_by_tei(address: str, want: Want, key: str) -> None:
    reranker = TextEmbeddingInference(top_n=5, base_url=address, auth_token=key)
    assert rows_of(reranker.postprocess_nodes(nodes(), QueryBundle(QUERY))) == want(QUERY, TEXTS, 5)


def test_haystack_by_jina(address: str, want: Want) -> None:
    ranker = JinaRanker(api_key=KEY, base_url=f"{address}/v1/rerank", top_k=5)
    found = ranker.run(QUERY, documents())
    assert rows_of(found["documents"]) == want(QUERY, TEXTS, 5)
    assert found["meta"]["usage"]["total_tokens"] > 0
    assert found["meta"]["model"] == "small"
    ranker = JinaRanker(api_key=Secret.from_token("wrong"), base_url=f"{address}/v1/rerank")
    with pytest.raises(RuntimeError, match="invalid api token"):
        ranker.run(QUERY, documents())


@pytest.mark.parametrize("end", ["", "/v1"])
def test_haystack_by_vllm(address: str, want: Want, end: str) -> None:
    ranker = VLLMRanker(
        model="small",
        api_key=KEY,
        api_base_url=f"{address}{end}",
        extra_parameters={"truncate_prompt_tokens": -1},
    )
    assert rows_of(ranker.run(QUERY, documents())["documents"]) == want(QUERY, TEXTS)
    assert rows_of(ranker.run(QUERY, documents(), top_k=3)["documents"]) == want(QUERY, TEXTS, 3)


def test_haystack_by_tei(address: str, want: Want) -> None:
    ranker = HuggingFaceTEIRanker(url=address, token=KEY, top_k=5, max_retries=1)
    assert rows_of(ranker.run(QUERY, documents())["documents"]) == want(QUERY, TEXTS, 5)
    raw = HuggingFaceTEIRanker(url=address, token=KEY, raw_scores=True, max_retries=1)
    found = raw.run(QUERY, documents())["documents"]
    assert rows_of(found) == want(QUERY, TEXTS, 10, logits=True)
    wrong = HuggingFaceTEIRanker(url=address, token=Secret.from_token("wrong"), max_retries=1)
    with pytest.raises(RuntimeError, match="invalid api token"):
        wrong.run(QUERY, documents())


@pytest.mark.parametrize(
    ("provider", "path"),
    [
        ("cohere", "/v1/rerank"),
        ("cohere", "/v2/rerank"),
        ("jina", "/v1/rerank"),
        ("text-embeddings-inference", "/rerank"),
        ("text-embeddings-inference", "/"),
    ],
)
def test_rerankers(address: str, want: Want, provider: str, path: str) -> None:
    url = f"{address}{path}"
    ranker = Reranker("small", model_type=provider, api_key="secret", verbose=0, url=url)
    found = ranker.rank(QUERY, TEXTS)
    assert [(one.document.doc_id, one.score) for one in found.results] == want(QUERY, TEXTS)
