"""Cohere's own clients, and Haystack's, with nothing but an address of ours."""

import asyncio
from collections.abc import Callable

import cohere
import pytest
from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.rankers.cohere import CohereRanker

Want = Callable[..., list[tuple[int, float]]]
QUERY = "how do snakes find prey"
TEXTS = ["Owls hunt by ear.", "Pit vipers sense heat.", "", "Owls hunt by ear.", "Snakes smell."]
CLIENTS = [cohere.Client, cohere.ClientV2]


@pytest.fixture(params=["", "/", "/v1"], ids=["plain", "slash", "version"])
def base(address: str, request: pytest.FixtureRequest) -> str:
    """However the address was pasted."""
    return f"{address}{request.param}"


@pytest.mark.parametrize("kind", CLIENTS)
def test_rankings(base: str, want: Want, kind: type[cohere.Client]) -> None:
    client = kind("secret", base_url=base)
    for top_n in (None, 1, 3, 99):
        found = client.rerank(model="rerank-v3.5", query=QUERY, documents=TEXTS, top_n=top_n)
        rows = [(row.index, row.relevance_score) for row in found.results]
        assert rows == want(QUERY, TEXTS, top_n)
    assert found.id and found.meta.billed_units.search_units == 1
    assert found.meta.tokens.input_tokens > 0
    assert found.meta.api_version.version == "2"


def test_what_the_second_version_adds(address: str, want: Want) -> None:
    client = cohere.ClientV2("secret", base_url=address)
    long = [text * 9 for text in TEXTS]
    for most in (4096, 4):
        found = client.rerank(
            model="m", query=QUERY, documents=long, max_tokens_per_doc=most, priority=5, top_n=None
        )
        rows = [(row.index, row.relevance_score) for row in found.results]
        assert rows == want(QUERY, long, document_length=most)
    assert all(getattr(row, "document", None) is None for row in found.results)


def test_what_the_first_version_has(address: str, want: Want) -> None:
    client = cohere.Client("secret", base_url=address)
    found = client.rerank(query=QUERY, documents=TEXTS, return_documents=True)
    assert [row.document.text for row in found.results] == [
        TEXTS[index] for index, _ in want(QUERY, TEXTS)
    ]
    documents = [{"title": f"t{n}", "body": text} for n, text in enumerate(TEXTS)]
    found = client.rerank(query=QUERY, documents=documents, rank_fields=["body", "title"])
    read = [f"body: {one['body']}\ntitle: {one['title']}" for one in documents]
    assert [(row.index, row.relevance_score) for row in found.results] == want(QUERY, read)


def test_errors_are_the_clients_own(address: str) -> None:
    client = cohere.ClientV2("wrong", base_url=address)
    with pytest.raises(cohere.UnauthorizedError) as raised:
        client.rerank(model="m", query=QUERY, documents=TEXTS)
    assert raised.value.body["message"] == "invalid api token"
    client = cohere.ClientV2("secret", base_url=address)
    with pytest.raises(cohere.BadRequestError, match="must not be empty"):
        client.rerank(model="m", query=QUERY, documents=[])
    with pytest.raises(cohere.UnprocessableEntityError, match="top_n"):
        client.rerank(model="m", query=QUERY, documents=TEXTS, top_n=-1)


def test_many_at_once(address: str, want: Want) -> None:
    queries = [f"{QUERY} {n}" for n in range(20)]

    async def ask() -> list[cohere.v2.V2RerankResponse]:
        async with cohere.AsyncClientV2("secret", base_url=address) as client:
            return await asyncio.gather(
                *(client.rerank(model="m", query=query, documents=TEXTS) for query in queries)
            )

    for query, found in zip(queries, asyncio.run(ask()), strict=True):
        assert [(row.index, row.relevance_score) for row in found.results] == want(query, TEXTS)


def test_haystack(address: str, want: Want) -> None:
    ranker = CohereRanker(api_key=Secret.from_token("secret"), api_base_url=address, top_k=3)
    found = ranker.run(QUERY, [Document(content=text, id=str(n)) for n, text in enumerate(TEXTS)])
    rows = [(int(one.id), one.score) for one in found["documents"]]
    assert rows == want(QUERY, TEXTS, 3)
