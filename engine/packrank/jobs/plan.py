"""What a job's settings come to: which columns, texts, label and order."""

import os
from collections.abc import Collection, Mapping, Sequence
from typing import get_args

from packrank.arguments import check_choice, check_str, checked_count, listed
from packrank.errors import InputError
from packrank.jobs.facts import AnyScorer, Facts
from packrank.jobs.lookup import Tokens
from packrank.jobs.output import OutputFormat
from packrank.jobs.settings import Settings
from packrank.records.formats import Format
from packrank.records.opened import OpenFile
from packrank.records.paths import files_of
from packrank.records.record import Kind
from packrank.records.shapes import Shape, shape_of
from packrank.stores.token_store import TokenStore

ANY = Kind("pair", is_run=True)  # before it is known what rows are


def check_input(paths: Sequence[str], format: Format | None) -> None:
    """Raise what `run` raises of files that cannot be read; of a pipe, which is read once, none."""
    for path in files_of(paths):
        if path != "-" and (os.path.isfile(path) or not os.path.exists(path)):
            OpenFile(path, ANY, format).close()


def shape_for(job: Settings, name: str, columns: Mapping[str, bool]) -> Shape:
    """The shape of rows, as columns and settings have it."""
    try:
        return shape_of(
            columns,
            query=job.query_column,
            document=job.document_column,
            queries_by_id=job.queries is not None,
            documents_by_id=job.documents is not None or job.tokens is not None,
            scores=job.score_column,
        )
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def paths_of(job: Settings) -> list[str]:
    """What is to be read, as it is named."""
    given = job.input
    paths = [given] if isinstance(given, str | os.PathLike) else list(given)
    return [os.fspath(path) for path in paths]


def check_settings(job: Settings) -> None:
    """Raise InputError for an option that is none."""
    if not isinstance(job.model, AnyScorer):
        name = type(job.model).__name__
        raise InputError(f"model is a {name}, expected a Reranker or LateInteraction")
    checked_count("top_k", job.top_k)
    if job.output_format is not None:
        check_choice("output_format", job.output_format, get_args(OutputFormat))
    check_str("tag", job.tag)
    if job.tag.split() != [job.tag]:
        raise InputError(f"tag is {job.tag!r}, expected a word without blanks")


def kept_columns(job: Settings, columns: Collection[str]) -> tuple[str, ...] | None:
    """Columns of the input that are written, each of which some of its first rows have."""
    if job.columns is None:
        return None
    names = tuple(listed("columns", job.columns, "names of columns"))
    if absent := [name for name in names if name not in columns]:
        known = ", ".join(map(repr, columns))
        raise InputError(f"there is no column {absent[0]!r} to keep; there are {known}")
    return names


def label_of(facts: Facts, job: Settings, is_run: bool) -> int:
    """The score that ranks."""
    names, label = facts.labels, job.label
    if label is None:
        if len(names) > 1 and (is_run or job.top_k is not None or job.mining is not None):
            raise InputError(f"the model has {len(names)} labels; name the one that ranks")
        return 0
    if isinstance(label, str) and names.count(label) == 1:
        return names.index(label)
    if isinstance(label, int) and 0 <= label < len(names):
        return label
    raise InputError(f"there is no label {label!r}; there are {', '.join(map(repr, names))}")


def tokens_of(facts: Facts, job: Settings) -> Tokens:
    """The token store of a job, which must be of the tokenizer of its model."""
    assert job.tokens is not None
    if job.documents is not None:
        raise InputError("documents and tokens are both given; the tokens are of the documents")
    if facts.activation is None:
        raise InputError("tokens are for rerankers, and the model scores by late interaction")
    store = TokenStore.open(job.tokens)
    store.check(facts.tokenization)
    return Tokens(store)
