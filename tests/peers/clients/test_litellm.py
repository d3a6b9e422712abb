"""LiteLLM, by each of its providers that speaks to a server of one's own."""

from collections.abc import Callable
from typing import Any

import litellm
import pytest

Want = Callable[..., list[tuple[int, float]]]
QUERY = "how do snakes find prey"
TEXTS = ["Owls hunt by ear.", "Pit vipers sense heat.", "Snakes smell.", "Owls hunt by ear."]
PROVIDERS = {
    "cohere": "",
    "jina_ai": "",
    "hosted_vllm": "",
    "hosted_vllm at a version": "/v1",
    "huggingface": "",
}


def rows_of(found: Any) -> list[tuple[int, float]]:
    return [(row["index"], row["relevance_score"]) for row in found.results]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_rankings(address: str, want: Want, provider: str) -> None:
    name, base = provider.split()[0], f"{address}{PROVIDERS[provider]}"
    for options in ({}, {"top_n": 2}, {"return_documents": True}, {"return_documents": False}):
        found = litellm.rerank(
            model=f"{name}/small", query=QUERY, documents=TEXTS, api_base=base, api_key="secret",
            **options,
        )  # fmt: skip
        assert rows_of(found) == want(QUERY, TEXTS, options.get("top_n"))
        for row in found.results:
            assert row.get("document") in (None, {"text": TEXTS[row["index"]]})
            if options.get("return_documents") and name != "cohere":
                assert row["document"]


def test_documents_that_are_objects(address: str, want: Want) -> None:
    documents = [{"text": text} for text in TEXTS]
    found = litellm.rerank(
        model="hosted_vllm/small", query=QUERY, documents=documents, api_base=address,
        api_key="secret", max_tokens_per_doc=5,
    )  # fmt: skip
    assert rows_of(found) == want(QUERY, TEXTS, document_length=5)


@pytest.mark.parametrize("model", ["nvidia_nim/ranking/small", "nvidia_nim/nvidia/small"])
def test_nim_gives_logits(address: str, want: Want, model: str) -> None:
    found = litellm.rerank(
        model=model, query=QUERY, documents=TEXTS, api_base=address, api_key="secret", top_n=3
    )
    expected = [(index, score) for index, score in want(QUERY, TEXTS, 3, logits=True)]
    assert rows_of(found) == expected


def test_infinity_is_served_without_documents(address: str, want: Want) -> None:
    """It reads documents as strings where all others read objects, and asks as they do."""
    options = {"query": QUERY, "documents": TEXTS, "api_base": address, "api_key": "secret"}
    found = litellm.rerank(model="infinity/small", return_documents=False, **options)
    assert rows_of(found) == want(QUERY, TEXTS)


def test_errors_are_told(address: str) -> None:
    options = {"query": QUERY, "documents": TEXTS, "api_base": address, "api_key": "wrong"}
    for provider in ("cohere", "jina_ai", "hosted_vllm", "huggingface"):
        with pytest.raises(Exception, match="invalid api token"):
            litellm.rerank(model=f"{provider}/small", **options)
