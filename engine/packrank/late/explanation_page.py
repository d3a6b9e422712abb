"""Explanations of one query as one page of HTML, which needs nothing else."""

import unicodedata
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
h1 { font-size: 1.4em; }
h2 { font-size: 1.1em; margin: 2em 0 0; padding-top: 1em; }
h2 { border-top: 1px solid rgb(128 128 128 / 0.4); }
h3 { font-size: 1em; margin: 1em 0 0.3em; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
.token { border-radius: 3px; padding: 1px 2px; background: rgb(0 150 80 / var(--share, 0)); }
.word { border-radius: 3px; outline: 1px solid rgb(128 128 128 / 0.6); }
.word .token { padding: 1px 0; border-radius: 0; }
.added { font: 0.8em monospace; border: 1px dotted; margin: 0 2px; }
.unscored, .cut { opacity: 0.5; }
.on { outline: 2px solid #e60; }
mark { background: none; color: inherit; font-weight: bold; text-decoration: underline; }
.legend { font-size: 0.9em; }
.legend li { margin: 0.2em 0; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: 0 1.5em 0 0; white-space: pre-wrap; }
</style>
</head>
<body>
"""
_SCRIPT = """\
<script>
for (const query of document.querySelectorAll("[data-match]")) {
  const pair = [query, document.getElementById(query.dataset.match)];
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


_LEGEND = """\
<ul class="legend">
<li><span class="token" style="--share: 0.70">green</span> adds to the score, the more the brighter
in its text: of the query what a token found, of the document what all that found it add up to</li>
<li><span class="word"><span class="token">one</span><span class="token">word</span></span>: tokens
that are pieces of a word; in the tables the piece is <mark>under</mark>lined</li>
<li><span class="token added">[dotted]</span> is not of the text: the model adds it</li>
<li><span class="token unscored">faint</span> has no vector, or does not fit and was left out</li>
<li><span class="token on">framed</span>: point at a token, and it and its match are</li>
</ul>
"""


def page(*explanations: Explanation, model: str = "") -> str:
    """A page on which a query token that is pointed at shows what it matched, and the reverse.

    Every text is escaped. Without JavaScript the table below the texts says the same.

    Args:
        explanations: one for each document, in the order of the page.
        model: what to call the model; empty not to.
    """
    return "".join(
        [
            _HEAD,
            "<h1>Which tokens make up the score</h1>\n",
            f"<p>Model: {escape(model)}</p>\n" if model else "",
            _LEGEND,
            *(_section(number, found) for number, found in enumerate(explanations, 1)),
            _SCRIPT,
        ]
    )


def _section(number: int, explanation: Explanation) -> str:
    """One document: the texts, marked, and the table of matches."""
    query, document = explanation.query_tokens, explanation.document_tokens
    asking, answering = _names(explanation.query, query), _names(explanation.document, document)
    shares = explanation.shares
    best = max((match.score for match in explanation.matches), default=0.0)
    most = max(shares.values(), default=0.0)
    asked, rows = {}, []
    for place, found, score in explanation.matches:
        title, matched, link = "nothing", "nothing", ""
        if found is not None:
            title, matched = _title(answering[found]), _cell(answering[found])
            link = f' tabindex="0" data-match="d{number}-{found}"'
        asked[place] = f'{_share(score, best)} title="{title}: {score:.4f}"{link}'
        rows.append(
            f"<tr><td>{_cell(asking[place])}</td><td>{score:.4f}</td><td>{matched}</td></tr>"
        )
    answered = {
        place: f'{_share(share, most)} id="d{number}-{place}" tabindex="0" title="{share:.4f}"'
        for place, share in shares.items()
    }
    return "".join(
        [
            f"<section>\n<h2>{number}. {escape(explanation.summary)}</h2>\n",
            '<h3>Query</h3>\n<div class="text">',
            *_tokens(explanation.query, query, asked),
            '</div>\n<h3>Document</h3>\n<div class="text">',
            *_tokens(explanation.document, document, answered),
            "</div>\n<h3>Matches</h3>\n<table>\n",
            "<tr><th>query token</th><th>score</th><th>document token</th></tr>\n",
            "\n".join(rows),
            "\n</table>\n</section>\n",
        ]
    )


def _words(text: str, tokens: tuple[Token, ...]) -> Iterator[range]:
    """Places of tokens, those of one word of the text together."""
    start = 0
    for place in range(1, len(tokens) + 1):
        if place == len(tokens) or not _joined(text, tokens[place - 1], tokens[place]):
            yield range(start, place)
            start = place


def _joined(text: str, before: Token, after: Token) -> bool:
    """Whether a word goes on from one token to the next, or even a character."""
    if before.stop is None or after.start is None or after.start != before.stop:
        return before.stop is not None and after.start is not None and after.start < before.stop
    around = text[max(after.start - 1, 0) : after.start + 1]
    return len(around) == 2 and all(map(_goes_on, around))


def _goes_on(c: str) -> bool:
    """A letter, mark or digit; Chinese characters are words by themselves."""
    return unicodedata.category(c)[0] in "LMN" and not unicodedata.name(c, "").startswith("CJK")


def _names(text: str, tokens: tuple[Token, ...]) -> list[tuple[str, str, str]]:
    """Of every token what its word has before it, itself, and what the word has after it."""
    names = []
    for places in _words(text, tokens):
        if len(places) == 1:
            names.append(("", tokens[places[0]].text, ""))
            continue
        pieces = [tokens[place] for place in places]
        first, last = pieces[0].start or 0, max(piece.stop or 0 for piece in pieces)
        for piece in pieces:
            start, stop = piece.start or 0, piece.stop or 0
            names.append((text[first:start], text[start:stop], text[stop:last]))
    return names


def _cell(name: tuple[str, str, str]) -> str:
    before, piece, after = map(escape, name)
    return f"{before}<mark>{piece}</mark>{after}" if before or after else piece


def _title(name: tuple[str, str, str]) -> str:
    before, piece, after = map(escape, name)
    return f"{piece} of {before}{piece}{after}" if before or after else piece


def _share(value: float, most: float) -> str:
    """Brighter for more; nothing for what lowers the score."""
    share = value / most if most > 0 and value > 0 else 0.0
    return f' style="--share: {0.7 * share:.2f}"'


def _tokens(text: str, tokens: tuple[Token, ...], attributes: dict[int, str]) -> Iterator[str]:
    """A text, its tokens marked where they stand, and those added to it beside them."""
    done = 0
    last = max((token.stop or 0 for token in tokens), default=0)
    for places in _words(text, tokens):
        start = tokens[places[0]].start
        if start is not None:
            yield _unread(text[done:start])
            done = max(start, done)
        elif done == last > 0:
            yield _unread(text[done:])
            done = len(text)
        spans = []
        for place in places:
            token = tokens[place]
            kind = "token" if token.kind == "text" else "token added"
            kind += "" if token.scored else " unscored"
            words = token.text
            if token.start is not None and token.stop is not None:
                # Several tokens may stand for parts of one character.
                words = text[max(token.start, done) : token.stop] or "\N{MIDDLE DOT}"
                done = max(token.stop, done)
            spans.append(f'<span class="{kind}"{attributes.get(place, "")}>{escape(words)}</span>')
        yield f'<span class="word">{"".join(spans)}</span>' if len(spans) > 1 else spans[0]
    yield _unread(text[done:])


def _unread(text: str) -> str:
    return escape(text) if not text.strip() else f'<span class="cut">{escape(text)}</span>'
