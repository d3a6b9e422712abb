"""Rankings for people: columns as wide as what they hold."""

from collections.abc import Iterator, Sequence

from packrank.jobs.answers import Answer, Row
from packrank.screen import Screen, columns

_WIDEST_ID = 40  # columns; a longer id moves what follows it


def table(answer: Answer, screen: Screen) -> Iterator[str]:
    """The lines of a ranking, under a heading where its query has an id."""
    if answer.query.id is not None:
        yield screen.line(
            f"query {screen.shown(answer.query.id)}:", screen.shown(answer.query.text)
        )
    heading, names = _names(answer.rows, screen)
    stored = all(row.record is None for row in answer.rows)
    yield screen.line(f"rank     score  {heading}" + ("" if stored else "  text"))
    for rank, (row, name) in enumerate(zip(answer.rows, names, strict=True), start=1):
        text = "" if row.record is None else f" {screen.shown(row.record.fields['text'])}"
        yield screen.line(f"{rank:4} {row.score:9.4f} ", name, text).rstrip()


def _names(rows: Sequence[Row], screen: Screen) -> tuple[str, list[str]]:
    """What documents are called, under what heading: ids, or where no document has one numbers."""
    records = [row.record for row in rows if row.record is not None]
    if records and all(row.id is None for row in rows):
        heading = f"{records[0].part:>7}"
        return heading, [f"{record.number:7}" for record in records]
    names = [
        f"({row.record.place})"
        if row.id is None and row.record is not None
        else screen.shown(str(row.id))
        for row in rows
    ]
    if not records:
        return "id", names
    size = min(max(map(columns, ["id", *names])), _WIDEST_ID)
    heading, *names = [name + " " * (size - columns(name)) for name in ["id", *names]]
    return heading, names
