"""Which files a path stands for: a file, those of a folder, those that a pattern matches."""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from packrank.errors import InputError

# Ends of names that a folder's files of records have; ".gz" and ".zst" may follow.
_GROUPS = {
    "parquet": (".parquet",),
    "arrow": (".arrow", ".arrows", ".feather"),
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "csv": (".csv",),
    "tsv": (".tsv", ".tab"),
    "trec": (".trec", ".run"),
}
_GROUP_OF = {end: group for group, ends in _GROUPS.items() for end in ends}
# What the datasets library leaves beside the tables that it saves.
_NOTES = {"dataset_dict.json", "dataset_info.json", "state.json"}


def files_of(paths: Sequence[str], beir: str = "") -> list[str]:
    """The files that paths stand for, in the order of the paths, and of names in each.

    Of a folder, and those in it, they are the files whose names end as one format's do; names that
    begin with "." or "_" are passed over, as Spark and Arrow do. A path with "*", "?" or "[", if no
    file has that name, is a pattern, in which "**" stands for any folders.

    Args:
        paths: one at least; "-", standard input, and what is no regular file stand alone.
        beir: the file that is meant of a folder that has it.

    Raises:
        InputError: a path is no file, a pattern matches none, or a folder has none, or of several
            formats.
    """
    found: list[str] = []
    for path in paths:
        if path != "-" and os.path.isdir(path):
            inside = os.path.join(path, beir)
            found += [inside] if beir and os.path.isfile(inside) else _in_folder(path)
        elif path != "-" and glob.has_magic(path) and not os.path.lexists(path):
            found += _matching(path)
        else:
            found.append(path)
    if len(found) > 1:
        for path in found:
            if not os.path.exists(path):
                raise InputError(f"{path}: No such file or directory")
            if path == "-" or not os.path.isfile(path):
                raise InputError(f"{path} is no regular file, which is read by itself alone")
        for path, count in Counter(map(os.path.realpath, found)).items():
            if count > 1:
                raise InputError(f"{path} is named {count} times; name it once")
    return found


def _in_folder(folder: str) -> list[str]:
    try:
        found = sorted(_walk(folder))
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}") from None
    groups = Counter(_group(path) for path in found)
    del groups[""]
    if not groups:
        endings = ", ".join(end for ends in _GROUPS.values() for end in ends)
        raise InputError(
            f"{folder} holds no file whose name ends as those of records do: {endings}"
        )
    if len(groups) > 1:
        counts = " and ".join(f"{count} of {group}" for group, count in sorted(groups.items()))
        raise InputError(
            f"{folder} holds files of several formats, {counts}; name those that count by a "
            f"pattern, as '{os.path.join(folder, '*' + _GROUPS[min(groups)][0])}'"
        )
    return [path for path in found if _group(path)]


def _walk(folder: str) -> Iterator[str]:
    def fail(error: OSError) -> None:
        raise error

    for inside, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        for name in names:
            if not name.startswith((".", "_")) and name not in _NOTES:
                yield os.path.join(inside, name)


def _matching(pattern: str) -> list[str]:
    found = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    if not found:
        raise InputError(f"no file matches {pattern}")
    return found


def _group(path: str) -> str:
    end = Path(path.removesuffix(".gz").removesuffix(".zst")).suffix.lower()
    return _GROUP_OF.get(end, "")
