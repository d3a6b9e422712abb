"""Who may ask."""

import hmac
from collections.abc import Mapping

from packrank.server.problems import Problem


def keys_of(headers: Mapping[str, str]) -> list[str]:
    """What may be the key of a request, however its client sends it.

    "Authorization: Bearer KEY", in any case, or the key alone, as llama-index sends it to TEI;
    X-API-Key; Api-Key.
    """
    given = headers.get("authorization", "").strip()
    scheme, _, rest = given.partition(" ")
    if scheme.lower() == "bearer":
        given = rest.strip()
    every = (given, headers.get("x-api-key", "").strip(), headers.get("api-key", "").strip())
    return [one for one in every if one]


def check_key(headers: Mapping[str, str], keys: tuple[str, ...]) -> str | None:
    """The key of a request, as whose caller it counts.

    Every key is compared, each in constant time.

    Raises:
        Problem: keys are wanted, and it has none of them.
    """
    given = keys_of(headers)
    if not keys:
        return given[0] if given else None
    # A header's characters stand for its bytes.
    found = [
        (one, [hmac.compare_digest(one.encode("latin-1"), key.encode()) for key in keys])
        for one in given
    ]
    for one, same in found:
        if any(same):
            return one
    said = "invalid api token" if given else "no api key supplied"
    raise Problem(401, said, headers={"www-authenticate": "Bearer"})
