"""Prompts of listwise rerankers, as castorini/rank_llm puts them together."""

SYSTEM = (
    "You are RankLLM, an intelligent assistant that can rank passages based on their relevancy to "
    "the query"
)


def told(texts: list[str], query: str, *, letters: bool = False) -> str:
    """What the user says, as rank_llm puts it together."""
    names = [chr(65 + n) if letters else str(n + 1) for n in range(len(texts))]
    kind = "an alphabetical" if letters else "a numerical"
    example = "[B] > [A]" if letters else "[2] > [1]"
    prefix = (
        f"I will provide you with {len(texts)} passages, each indicated by {kind} identifier []. "
        f"Rank the passages based on their relevance to the search query: {query}.\n"
    )
    body = "".join(f"[{name}] {text}\n" for name, text in zip(names, texts, strict=True))
    suffix = (
        f"Search Query: {query}.\nRank the {len(texts)} passages above based on their relevance to "
        "the search query. All the passages should be included and listed using identifiers, in "
        "descending order of relevance. The output format should be [] > [], e.g., "
        f"{example}, Answer concisely and directly and only respond with the ranking results, do "
        "not say any word or explain."
    )
    return prefix + body + suffix
