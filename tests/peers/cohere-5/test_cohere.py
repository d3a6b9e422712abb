"""Cohere's fifth client, and LangChain's and LlamaIndex's, which ask for it."""

from collections.abc import Callable

import cohere
import pytest
from langchain_cohere import CohereRerank
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.postprocessor.cohere_rerank import CohereRerank as LlamaIndexRerank

Want = Callable[..., list[tuple[int, float]]]
QUERY = "how do snakes find prey"
TEXTS = ["Owls hunt by ear.", "Pit vipers sense heat.", "Snakes smell.", "Owls hunt by ear."]


@pytest.mark.parametrize("kind", [cohere.Client, cohere.ClientV2])
@pytest.mark.parametrize("end", ["", "/v1"])
def test_rankings(address: str, want: Want, kind: type[cohere.Client], end: str) -> None:
    client = kind("secret", base_url=f"{address}{end}")
    for top_n in (None, 2):
        found = client.rerank(model="rerank-v3.5", query=QUERY, documents=TEXTS, top_n=top_n)
        rows = [(row.index, row.relevance_score) for row in found.results]
        assert rows == want(QUERY, TEXTS, top_n)
    assert found.meta.billed_units.search_units == 1


def test_documents_of_the_first_version(address: str, want: Want) -> None:
    client = cohere.Client("secret", base_url=address)
    documents = [{"text": text, "url": f"u{n}"} for n, text in enumerate(TEXTS)]
    found = client.rerank(query=QUERY, documents=documents, return_documents=True, model="m")
    rows = [(row.index, row.relevance_score) for row in found.results]
    assert rows == want(QUERY, TEXTS)
    assert all(row.document.text == TEXTS[row.index] for row in found.results)


def test_errors_are_the_clients_own(address: str) -> None:
    client = cohere.ClientV2("wrong", base_url=address)
    with pytest.raises(cohere.UnauthorizedError, match="invalid api token"):
        client.rerank(model="m", query=QUERY, documents=TEXTS)


def test_langchain(address: str, want: Want) -> None:
    reranker = CohereRerank(model="m", cohere_api_key="secret", base_url=address)
    found = reranker.compress_documents([Document(text) for text in TEXTS], QUERY)
    assert [(one.page_content, one.metadata["relevance_score"]) for one in found] == [
        (TEXTS[index], score) for index, score in want(QUERY, TEXTS, 3)
    ]
    for top_n in (None, 2):
        rows = reranker.rerank(TEXTS, QUERY, top_n=top_n)
        assert [(row["index"], row["relevance_score"]) for row in rows] == want(QUERY, TEXTS, top_n)
    titled = [{"title": "a", "body": text} for text in TEXTS]
    rows = reranker.rerank(titled, QUERY, rank_fields=["body"], top_n=None)
    read = [f"body: {text}\n" for text in TEXTS]
    assert [(row["index"], row["relevance_score"]) for row in rows] == want(QUERY, read)


def test_llama_index(address: str, want: Want) -> None:
    reranker = LlamaIndexRerank(top_n=3, api_key="secret", base_url=address, max_retries=1)
    nodes = [NodeWithScore(node=TextNode(text=text, id_=str(n))) for n, text in enumerate(TEXTS)]
    found = reranker.postprocess_nodes(nodes, QueryBundle(QUERY))
    assert [(int(one.node.id_), one.score) for one in found] == want(QUERY, TEXTS, 3)
