"""An explanation as one page of HTML, which needs nothing else."""

from collections.abc import Iterator
from html import escape

from packrank.late.explanation import Explanation
from packrank.request import Token

_HEAD = """\
<!DOCTYPE html>
<html>
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>packrank explain</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.7 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; }
h2 { font-size: 1em; margin: 1.5em 0 0.3em; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
.token { border-radius: 3px; padding: 1px 2px; background: rgb(0 150 80 / var(--share, 0)); }
.added { font: 0.8em monospace; border: 1px dotted; margin: 0 2px; }
.unscored, .cut { opacity: 0.5; }
.on { outline: 2px solid #e60; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: 0 1.5em 0 0; white-space: pre-wrap; }
</style>
</head>
<body>
"""
_SCRIPT = """\
<script>
for (const query of document.querySelectorAll("[data-match]")) {
  const pair = [query, document.getElementById("d" + query.dataset.match)];
  const mark = on => () => pair.forEach(token => token.classList.toggle("on", on));
  for (const token of pair) {
    for (const event of ["mouseenter", "focus"]) token.addEventListener(event, mark(true));
    for (const event of ["mouseleave", "blur"]) token.addEventListener(event, mark(false));
  }
}
</script>
</body>
</html>
"""


def page(explanation: Explanation) -> str:
    """A page on which a query token that is pointed at shows what it matched, and the reverse.

    Every text is escaped. Without JavaScript the table below the texts says the same.
    """
    query, document = explanation.query_tokens, explanation.document_tokens
    shares = explanation.shares
    best = max((match.score for match in explanation.matches), default=0.0)
    most = max(shares.values(), default=0.0)
    asked, rows = {}, []
    for place, found, score in explanation.matches:
        matched = "nothing" if found is None else escape(document[found].text)
        link = "" if found is None else f' tabindex="0" data-match="{found}"'
        asked[place] = f'{_share(score, best)} title="{matched}: {score:.4f}"{link}'
        name = escape(query[place].text)
        rows.append(f"<tr><td>{name}</td><td>{score:.4f}</td><td>{matched}</td></tr>")
    answered = {
        place: f'{_share(share, most)} id="d{place}" tabindex="0" title="{share:.4f}"'
        for place, share in shares.items()
    }
    return "".join(
        [
            _HEAD,
            f'<p>{escape(explanation.summary)}</p>\n<h2>Query</h2>\n<div class="text">',
            *_tokens(explanation.query, query, asked),
            '</div>\n<h2>Document</h2>\n<div class="text">',
            *_tokens(explanation.document, document, answered),
            "</div>\n<h2>Matches</h2>\n<table>\n",
            "<tr><th>query token</th><th>score</th><th>document token</th></tr>\n",
            "\n".join(rows),
            "\n</table>\n",
            _SCRIPT,
        ]
    )


def _share(value: float, most: float) -> str:
    """Brighter for more; nothing for what lowers the score."""
    share = value / most if most > 0 and value > 0 else 0.0
    return f' style="--share: {0.7 * share:.2f}"'


def _tokens(text: str, tokens: tuple[Token, ...], attributes: dict[int, str]) -> Iterator[str]:
    """A text, its tokens marked where they stand, and those added to it beside them."""
    done = 0
    last = max((token.stop or 0 for token in tokens), default=0)
    for place, token in enumerate(tokens):
        kind = "token" if token.kind == "text" else "token added"
        kind += "" if token.scored else " unscored"
        words = token.text
        if token.start is not None and token.stop is not None:
            yield _unread(text[done : token.start])
            # Several tokens may stand for parts of one character.
            words = text[max(token.start, done) : token.stop] or "\N{MIDDLE DOT}"
            done = max(token.stop, done)
        elif done == last > 0:
            yield _unread(text[done:])
            done = len(text)
        yield f'<span class="{kind}"{attributes.get(place, "")}>{escape(words)}</span>'
    yield _unread(text[done:])


def _unread(text: str) -> str:
    return escape(text) if not text.strip() else f'<span class="cut">{escape(text)}</span>'
