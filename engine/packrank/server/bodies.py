"""Bodies of requests, as real clients send them: null for what is left out, "true" for true."""

from typing import Annotated, Any

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off", "")


def _flag(value: Any) -> Any:
    """RAGFlow sends "true"; some send 0 and 1."""
    if isinstance(value, str):
        lower = value.strip().lower()
        return True if lower in _TRUE else False if lower in _FALSE else value
    return bool(value) if value in (0, 1) and isinstance(value, int | float) else value


def _truncation(value: Any) -> Any:
    """NIM's words, or a flag."""
    modes = {"END": True, "NONE": False}
    if not isinstance(value, str) or not value:
        return None if value == "" else _flag(value)
    found = modes.get(value.upper(), _flag(value))
    if not isinstance(found, bool):
        raise ValueError(f"it is {value!r}, expected NONE or END")
    return found


def _count(value: Any) -> Any:
    """Whole numbers, also as texts or floats."""
    if isinstance(value, bool):
        raise ValueError("expected a whole number, not true or false")
    if isinstance(value, str) and value.strip().lstrip("+-").isdigit():
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _text(value: Any) -> str:
    """The text of what may be one by itself, {"text": ...} or {"content": [...]}."""
    if isinstance(value, dict):
        found = (value[name] for name in ("text", "content") if value.get(name) is not None)
        value = next(found, None)
        if value is None:
            raise ValueError('expected a text, or an object with "text"')
        if isinstance(value, list):
            return "\n".join(map(_part, value))
    if isinstance(value, str):
        return value
    raise ValueError(f"expected a text, got {_kind(value)}")


def _part(part: Any) -> str:
    """The text of a part of content; anything else than text is not read here."""
    kind = part.get("type", "text") if isinstance(part, dict) else "text"
    if kind != "text":
        raise ValueError(f"content of type {kind!r} is not text, and only that is read")
    text = part.get("text") if isinstance(part, dict) else part
    if isinstance(text, str):
        return text
    raise ValueError(f"expected the text of a part of content, got {_kind(text)}")


def _kind(value: Any) -> str:
    names: dict[type, str] = {
        type(None): "null", bool: "a truth value", int: "a number", float: "a number",
        list: "a list", dict: "an object",
    }  # fmt: skip
    return names.get(type(value), type(value).__name__)


def _word(value: Any) -> Any:
    """An empty text is none."""
    return None if value == "" else value


def _listed(value: Any) -> Any:
    """One document that is no list, as vLLM takes it."""
    return [value] if isinstance(value, str | dict) else value


Flag = Annotated[bool | None, BeforeValidator(_flag)]
Count = Annotated[int | None, Field(ge=0), BeforeValidator(_count)]
# -1 stands for all that the model takes.
Limit = Annotated[int | None, Field(ge=-1), BeforeValidator(_count)]

# What OpenAPI says of texts, which `_text` reads.
_TEXT: dict[str, Any] = {
    "anyOf": [
        {"type": "string"},
        {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    ]
}
_TEXTS: dict[str, Any] = {"type": "array", "items": _TEXT, "minItems": 1}
_NULL = {"type": "null"}

Text = Annotated[str, BeforeValidator(_text), WithJsonSchema(_TEXT)]
Texts = Annotated[list[Text], WithJsonSchema(_TEXTS)]
Side = Annotated[Any, WithJsonSchema({"anyOf": [*_TEXT["anyOf"], _TEXTS, _NULL]})]


class Body(BaseModel):
    """Of any route: what is not known is left alone, as every server but Cohere's does."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=(), populate_by_name=True)


class Common(Body):
    """What all scoring routes take; each name is some server's.

    Attributes:
        model: a name of a model that is served; others go to the first, unless that is forbidden.
        raw_scores: logits; so does use_activation false.
        truncate: cut pairs that are too long; false refuses them.
        long_documents: "windows": read documents that do not fit in windows; "truncate": cut them.
        priority: lower goes first.
        instruction: of the model's template.
        cutoff_layer: layers to run.
        exit: "calibrated": let candidates stop early.
    """

    model: str | None = None
    raw_scores: Flag = None
    use_activation: Flag = None
    truncate: Flag = None
    truncation_direction: str | None = None
    truncation_side: str | None = None
    truncate_prompt_tokens: Limit = None
    max_tokens_per_query: Count = None
    max_tokens_per_doc: Count = None
    long_documents: Annotated[str | None, BeforeValidator(_word)] = None
    priority: Annotated[int | None, Field(ge=0, le=999), BeforeValidator(_count)] = None
    instruction: str | None = None
    instruct: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    cutoff_layer: Count = None
    exit: Annotated[str | None, BeforeValidator(_word)] = None

    @property
    def raw(self) -> bool:
        """Whether logits are asked for."""
        return bool(self.raw_scores) or self.use_activation is False

    @property
    def told(self) -> str | None:
        """The instruction, by whichever name it came."""
        kwargs = self.chat_template_kwargs or {}
        found = self.instruction or self.instruct or kwargs.get("instruction")
        return found if isinstance(found, str) else None


class Ranked(Common):
    """What is ranked, in any dialect.

    Attributes:
        top_n: how many come back, by any server's name for it; 0: all.
        top_k: the same.
        return_documents: whether their texts come back too.
        return_text: the same.
    """

    top_n: Count = None
    top_k: Count = None
    return_documents: Flag = None
    return_text: Flag = None

    @property
    def count(self) -> int | None:
        """How many come back; None: all."""
        return (self.top_k if self.top_n is None else self.top_n) or None

    @property
    def echo(self) -> bool | None:
        """Whether texts come back; None: as the route has it."""
        return self.return_text if self.return_documents is None else self.return_documents


class Rerank(Ranked):
    """Of Cohere's, Jina's and vLLM's rerank routes.

    Attributes:
        query: a text.
        documents: texts, or objects with "text", or one of these alone; or none, and
            `document_ids` of a store.
        rank_fields: of documents that are objects: whose values are read, in this order.
    """

    query: Text
    documents: Annotated[
        list[Any] | None,
        BeforeValidator(_listed),
        WithJsonSchema({"anyOf": [_TEXTS, *_TEXT["anyOf"], _NULL]}),
    ] = None
    document_ids: list[str] | None = None
    rank_fields: list[str] | None = None


class TeiRerank(Ranked):
    """Of text-embeddings-inference's rerank route.

    Attributes:
        query: a text.
        texts: what is ranked.
    """

    query: Text
    texts: Texts


class NimText(Body):
    """A text, as NIM wraps it."""

    text: str


_NIM_TEXTS: dict[str, Any] = {**_TEXTS, "items": _TEXT["anyOf"][1]}


class NimRanking(Ranked):
    """Of NVIDIA NIM's ranking route.

    Attributes:
        query: an object with "text".
        passages: the same.
        truncate: "END" cuts what is too long, "NONE" refuses it; or as the others have it.
    """

    query: NimText
    passages: Annotated[list[NimText], WithJsonSchema(_NIM_TEXTS)]
    truncate: Annotated[
        bool | None,
        BeforeValidator(_truncation),
        WithJsonSchema({"enum": ["END", "NONE", True, False, None]}),
    ] = None


class Score(Common):
    """Of vLLM's score route: one of four pairs of names; one to one, one to many, or many to many.

    Attributes:
        queries: one or several; or data_1, or text_1.
        documents: the same; or items, data_2, text_2.
    """

    queries: Side = None
    documents: Side = None
    items: Side = None
    data_1: Side = None
    data_2: Side = None
    text_1: Side = None
    text_2: Side = None


_PAIR: dict[str, Any] = {
    "type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2,
}  # fmt: skip


class Predict(Common):
    """Of text-embeddings-inference's predict route.

    Attributes:
        inputs: "a" or ["a"]: a text alone; ["a", "b"]: one pair; [["a"], ["a", "b"]]: several.
    """

    inputs: Annotated[Any, WithJsonSchema({"anyOf": [_PAIR, {**_TEXTS, "items": _PAIR}]})]


class Tokenize(Body):
    """Of text-embeddings-inference's and vLLM's tokenize routes.

    Attributes:
        inputs: a text, or several, of TEI's.
        prompt: a text, of vLLM's.
        add_special_tokens: as the model has them around one text.
        return_token_strs: of vLLM's: also what each token stands for.
    """

    inputs: str | list[str] | None = None
    prompt: str | None = None
    return_token_strs: Flag = None
    add_special_tokens: Flag = None
    model: str | None = None


SIDES = ("queries", "data_1", "text_1")  # what the first of two sides may be called


def sides(body: Score) -> tuple[list[str], list[str]]:
    """Queries and documents of a score request, as many of one as of the other.

    Raises:
        ValueError: they are not there, or do not match.
    """
    names = (("queries", "documents"), ("queries", "items"), ("data_1", "data_2"),
             ("text_1", "text_2"))  # fmt: skip
    for left, right in names:
        first, second = getattr(body, left), getattr(body, right)
        if first is not None and second is not None:
            break
    else:
        raise ValueError(
            "expected queries and documents; or text_1 and text_2, data_1 and data_2, queries "
            "and items"
        )
    queries, documents = several(first), several(second)
    if len(queries) == 1:
        queries *= len(documents)
    if len(queries) != len(documents):
        raise ValueError(
            f"{left} has {len(queries)} and {right} {len(documents)}; expected one query, or as "
            "many as documents"
        )
    return queries, documents


def several(value: Any) -> list[str]:
    """Texts of what may be one or a list of them."""
    return [_text(one) for one in value] if isinstance(value, list) else [_text(value)]


def text_of(document: Any, fields: list[str] | None = None) -> str:
    """What is read of a document that was given as a text or an object.

    Args:
        document: as it came.
        fields: whose values count, as Cohere has it: "name: value" each, on lines of their own.

    Raises:
        ValueError: it has no text.
    """
    if fields and isinstance(document, dict):
        found = {name: document[name] for name in fields if document.get(name) is not None}
        lines = [f"{name}: {_shown(value)}" for name, value in found.items()]
        if not lines:
            raise ValueError("it has none of the rank_fields")
        return "\n".join(lines)
    return _text(document)


def _shown(value: Any) -> str:
    try:
        return value if isinstance(value, str) else orjson.dumps(value).decode()
    except orjson.JSONEncodeError as error:
        raise ValueError(f"one of the rank_fields cannot be read: {error}") from None


def pairs_of(inputs: Any) -> tuple[list[tuple[str, str | None]], bool]:
    """Pairs of a predict request, a text alone with None; and whether it was one input.

    Raises:
        ValueError: they are none of what TEI takes.
    """
    one = _pair(inputs)
    if one is not None:
        return [one], True
    every = [_pair(row) if isinstance(row, list) else None for row in _rows(inputs)]
    found = [pair for pair in every if pair is not None]
    if not found or len(found) < len(every):
        raise ValueError(
            '`inputs` must be "text", ["text"], ["query", "text"], or a list of such lists'
        )
    return found, False


def _rows(inputs: Any) -> list[Any]:
    return inputs if isinstance(inputs, list) else []


def _pair(value: Any) -> tuple[str, str | None] | None:
    """A pair, or a text alone; None if it is neither."""
    texts = [value] if isinstance(value, str) else value
    is_one = isinstance(texts, list) and len(texts) in (1, 2)
    if not is_one or not all(isinstance(text, str) for text in texts):
        return None
    return texts[0], texts[1] if len(texts) == 2 else None
