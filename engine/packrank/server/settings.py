"""How a server is set up."""

from dataclasses import dataclass, field

MAX_BODY_BYTES = 64 << 20
MAX_DOCUMENTS = 10_000


@dataclass(frozen=True)
class Settings:
    """What an operator says; flags of `packrank serve` have the same names.

    Attributes:
        api_keys: any of which opens scoring routes; none: everyone may score.
        max_body_bytes: of a request.
        max_documents: of a request; more are refused.
        max_document_characters: of one document; longer ones are refused before they are tokenized.
        timeout_s: after which a request is given up; None: never.
        drain_s: that shutting down waits for requests that are here.
        strict_models: refuse the name of a model that is not served, in place of the first one's.
        auto_truncate: cut pairs that are too long, unless a request says otherwise.
        return_documents: on the routes of Cohere's second version, which leaves them out.
        cors_origins: whose pages may ask from a browser; none: nobody's.
        page: whether there is one at /.
    """

    api_keys: tuple[str, ...] = field(default=(), repr=False)
    max_body_bytes: int = MAX_BODY_BYTES
    max_documents: int = MAX_DOCUMENTS
    max_document_characters: int = 1 << 20
    timeout_s: float | None = None
    drain_s: float = 30.0
    strict_models: bool = False
    auto_truncate: bool = True
    return_documents: bool = False
    cors_origins: tuple[str, ...] = ()
    page: bool = True
