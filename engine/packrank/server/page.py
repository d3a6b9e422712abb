"""The page at /: files of HTML, style and code, sent as one document."""

import base64
import hashlib
from functools import lru_cache
from importlib.resources import files

from fastapi.responses import HTMLResponse

_SCRIPTS = ("page.js", "candidates.js", "ranking.js", "heat.js", "live.js", "request.js")


@lru_cache(maxsize=1)
def _document() -> tuple[str, str]:
    """The document, and the policy that lets it run its own style and script and load nothing."""
    folder = files("packrank.server").joinpath("static")

    def read(name: str) -> str:
        return folder.joinpath(name).read_text(encoding="utf-8")

    style, code = read("page.css"), "".join(map(read, _SCRIPTS))
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(code)}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return read("page.html").replace("/* style */", style).replace("/* code */", code), policy


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def page() -> HTMLResponse:
    """The page, which asks this server alone."""
    document, policy = _document()
    return HTMLResponse(
        document,
        headers={"content-security-policy": policy, "x-content-type-options": "nosniff",
                 "referrer-policy": "no-referrer", "cache-control": "no-cache",
                 "vary": "accept"},
    )  # fmt: skip
