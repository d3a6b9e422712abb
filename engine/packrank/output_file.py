"""Files that are written whole or not at all, and streams that are written as they are."""

import errno
import io
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import TextIO

from packrank.errors import InputError

_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/(\d+)|/dev/stderr")
# What a file system says that has no files without a name.
_UNNAMED_REFUSED = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)


# Is told what unfinished part of a file was kept, and how many lines it has.
OnPart = Callable[[str, int], None]


class Discarded(InputError):
    """Raised in the block of `replacing`: what was written is of no use, and is not kept."""


@contextmanager
def replacing(path: str | os.PathLike[str], on_part: OnPart | None = None) -> Iterator[TextIO]:
    """A new file of UTF-8 text that takes `path`'s place when the block ends without an error.

    Until then it has no name; where the file system cannot do that, one of its own in the same
    folder (.packrank-*.unfinished), which only a process that is killed outright leaves behind. Of
    a file that is there, mode and, as far as it may be given, owner are kept; where `path` is a
    link, what it leads to is replaced. Standard output ("-"), pipes and devices are written as
    they are.

    Args:
        path: of the file.
        on_part: where it is given, and the block ends with an error or a signal, the whole lines
            that have been written are kept, unless it is `Discarded`: as `path`.part, or, where
            that is taken, `path`.part.2 and so on.

    Raises:
        InputError: `path` is none of these, its folder cannot be written to, or the disk is full.
    """
    name = os.fspath(path)
    if is_stdout(name):
        opened = _stdout(name)
    elif found := _DESCRIPTOR.fullmatch(name):
        with _naming(name):
            opened = _stream(name, os.dup(int(found[1] or 2)))
    else:
        target, there = _target(name)
        if there is None or stat.S_ISREG(there.st_mode):
            opened = _replacement(name, target, there, on_part)
        elif stat.S_ISFIFO(there.st_mode) or stat.S_ISCHR(there.st_mode):
            opened = _stream(name, target)
        else:
            raise InputError(f"{name} is not a file; name one that may be written")
    with opened as sink:
        try:
            yield sink
            sink.flush()
        except OSError as error:
            if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise _refusal(name, error) from None
            raise


def is_stdout(path: str) -> bool:
    """Whether what is written there goes to standard output."""
    return path in ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


def _target(name: str) -> tuple[str, os.stat_result | None]:
    """What links lead to, and what is there."""
    with _naming(name):
        try:
            target = os.path.realpath(name)
            return target, os.stat(target)
        except FileNotFoundError:
            return target, None
        except ValueError as error:
            raise InputError(f"{name!r} is no path of a file: {error}") from None


@contextmanager
def _stdout(name: str) -> Iterator[TextIO]:
    if sys.stdout is None:
        raise InputError("standard output is closed; name a file to write")
    sys.stdout.flush()
    sink = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8")
    try:
        yield sink
        sink.flush()
    finally:
        with suppress(OSError):  # said already, or there is nobody to read it
            sink.detach()


@contextmanager
def _stream(name: str, file: int | str) -> Iterator[TextIO]:
    with _naming(name):
        sink = open(file, "w", encoding="utf-8")  # noqa: SIM115
    try:
        yield sink
    finally:
        with suppress(OSError):  # `replacing` has flushed it, or what ended the block counts more
            sink.close()


@contextmanager
def _replacement(
    name: str, target: str, there: os.stat_result | None, on_part: OnPart | None
) -> Iterator[TextIO]:
    folder = os.path.dirname(target)
    unfinished = os.path.join(folder, f".packrank-{secrets.token_hex(8)}.unfinished")
    mode = 0o666 if there is None else stat.S_IMODE(there.st_mode) & 0o777
    with _naming(name):
        file, is_named = _new_file(folder, unfinished, mode)
    # Of its own, so that the file can be named when the sink is closed, with all that it held.
    sink = os.fdopen(os.dup(file), "w", encoding="utf-8")
    try:
        with _naming(name):
            if there is not None:
                _adopt(file, there)
        yield sink
        with _naming(name):
            sink.close()
            if not is_named:
                _name(file, unfinished)
            os.replace(unfinished, target)
    except Discarded:
        raise
    except BaseException:
        if on_part is not None:
            with suppress(OSError):  # a full disk has what was written before
                sink.close()
            with suppress(OSError):
                _keep(file, unfinished if is_named else None, name, target, on_part)
        raise
    finally:
        with suppress(OSError):  # said already
            sink.close()
        os.close(file)
        with suppress(FileNotFoundError):
            os.unlink(unfinished)


def _new_file(folder: str, unfinished: str, mode: int) -> tuple[int, bool]:
    """A new file, and whether it has a name already."""
    if hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd"):
        try:
            return os.open(folder, os.O_RDWR | os.O_TMPFILE, mode), False
        except OSError as error:
            if error.errno not in _UNNAMED_REFUSED:
                raise
    return os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode), True


def _name(file: int, path: str, known_as: str | None = None) -> None:
    """Give a file a name that no other has; where it cannot have two, in place of the old one."""
    try:
        # Only with a folder to start from does Python follow the link to the file.
        os.link(f"/proc/self/fd/{file}", path, src_dir_fd=file)
    except OSError:
        with open(path, "xb") as copy:
            try:
                if known_as is not None:
                    os.replace(known_as, path)  # a full disk has no room for another
                    return
                _adopt(copy.fileno(), os.fstat(file))
                with open(os.dup(file), "rb") as source:
                    source.seek(0)
                    shutil.copyfileobj(source, copy)
                copy.flush()
            except BaseException:
                os.unlink(path)
                raise


def _keep(file: int, known_as: str | None, name: str, target: str, on_part: OnPart) -> None:
    """Give an unfinished file a name that says so, and that no other file has."""
    lines, place, end = 0, 0, 0
    while piece := os.pread(file, 1 << 20, place):
        if found := piece.count(b"\n"):
            lines, end = lines + found, place + piece.rindex(b"\n") + 1
        place += len(piece)
    if not lines:
        return
    os.ftruncate(file, end)
    for number in count(1):
        ending = ".part" if number == 1 else f".part.{number}"
        with suppress(FileExistsError):
            _name(file, target + ending, known_as)
            is_beside = os.path.realpath(name + ending) == target + ending
            on_part((name if is_beside else target) + ending, lines)
            return


def _adopt(file: int, there: os.stat_result) -> None:
    """Give a file the owner and mode of another, as far as that may be."""
    for owner, group in ((there.st_uid, -1), (-1, there.st_gid)):
        with suppress(PermissionError):
            os.chown(file, owner, group)
    os.chmod(file, stat.S_IMODE(there.st_mode))


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _refusal(name, error) from None


def _refusal(name: str, error: OSError) -> InputError:
    place = "standard output" if is_stdout(name) else name
    return InputError(f"{place} cannot be written: {error.strerror}")
