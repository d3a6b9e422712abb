"""A file appears whole or not at all, under no name before; streams are written as they are."""

import errno
import os
import resource
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from packrank import output_file
from packrank.errors import InputError
from packrank.output_file import Discarded, replacing


@pytest.fixture(params=["without a name", "with one", "copied"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How an unfinished file is kept: the file system may know none without a name."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    if request.param == "with one":
        monkeypatch.delattr(os, "O_TMPFILE")
    elif request.param == "copied":
        monkeypatch.setattr(os, "link", refuse)
    return str(request.param)


@pytest.mark.usefixtures("way")
def test_an_output_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("before")
    with pytest.raises(KeyError), replacing(out) as sink:
        sink.write("half")
        raise KeyError
    assert out.read_text() == "before"
    with replacing(out) as sink:
        sink.write("after é")
        assert out.read_text() == "before"
    assert out.read_text("utf-8") == "after é"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.usefixtures("way")
def test_the_finished_lines_of_an_unfinished_file_are_kept(tmp_path: Path) -> None:
    out, told = tmp_path / "out", []
    (tmp_path / "out.part").write_text("of another run")

    def write(text: str, error: BaseException) -> None:
        with pytest.raises(type(error)), replacing(out, lambda *what: told.append(what)) as sink:
            sink.write(text)
            raise error

    write("é\nb\n", KeyboardInterrupt())
    assert (tmp_path / "out.part.2").read_text("utf-8") == "é\nb\n"
    write("c\n" * 100_000, RuntimeError())
    assert (tmp_path / "out.part.3").read_text() == "c\n" * 100_000
    write("d\ne\nf", InputError("the input is cut off"))
    assert (tmp_path / "out.part.4").read_text() == "d\ne\n"
    write("", KeyboardInterrupt())
    write("no whole line", InputError("the input is cut off"))
    write("g\n", Discarded("nothing of it is of use"))
    assert told == [(f"{out}.part.2", 2), (f"{out}.part.3", 100_000), (f"{out}.part.4", 2)]
    assert (tmp_path / "out.part").read_text() == "of another run"
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.usefixtures("way")
def test_a_full_disk_keeps_the_lines_that_it_has_whole(tmp_path: Path) -> None:
    """A limit on the size of files stands for one; writing fails on the way, and at the end."""
    out, told = tmp_path / "out", []
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (100_000, 1_100):  # lines of 10 bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_004, before[1]))
        try:
            with (
                pytest.raises(InputError, match="cannot be written: File too large"),
                replacing(out, lambda *what: told.append(what)) as sink,
            ):
                for _ in range(size):
                    sink.write("123456789\n")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    parts = [tmp_path / "out.part", tmp_path / "out.part.2"]
    assert told == [(str(part), 1_000) for part in parts]
    assert sorted(tmp_path.iterdir()) == parts
    for part in parts:
        assert part.read_text() == "123456789\n" * 1_000


def test_what_cannot_take_its_place_is_kept(tmp_path: Path) -> None:
    """As where a folder has come to be there meanwhile."""
    out, told = tmp_path / "out", []
    with (
        pytest.raises(InputError, match="Is a directory"),
        replacing(out, lambda *what: told.append(what)) as sink,
    ):
        sink.write("a\n")
        out.mkdir()
    assert told == [(f"{out}.part", 1)]
    assert (tmp_path / "out.part").read_text() == "a\n"


def test_a_part_lies_beside_what_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/target")
    told: list[Any] = []
    with pytest.raises(SystemExit), replacing(tmp_path / "link", lambda *x: told.append(x)) as sink:
        sink.write("a\n")
        raise SystemExit
    assert told == [(str(tmp_path / "folder/target.part"), 1)]
    assert (tmp_path / "folder/target.part").read_text() == "a\n"


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, None])
def test_the_mode_is_kept_and_of_a_new_file_the_masks(tmp_path: Path, mode: int | None) -> None:
    out = tmp_path / ("x" * 240)
    if mode is not None:
        out.touch()
        out.chmod(mode)
    before = os.umask(0o027)
    try:
        with replacing(out) as sink:
            sink.write("x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(out.stat().st_mode) == (0o640 if mode is None else mode)


def test_two_runs_at_once_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of one process id, as in two containers on one volume."""
    monkeypatch.delattr(os, "O_TMPFILE")
    out = tmp_path / "out"
    with replacing(out) as first:
        first.write("first")
        with replacing(out) as second:
            second.write("second")
            assert len(list(tmp_path.iterdir())) == 2
        assert out.read_text() == "second"
    assert out.read_text() == "first"


def test_links_lead_to_what_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to("target")
    for text in ("new", "newer"):  # dangling, and then not
        with replacing(link) as sink:
            sink.write(text)
        assert link.is_symlink() and target.read_text() == text


def test_a_pipe_is_written_as_it_is(tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    with replacing(pipe) as sink:
        sink.write("words")
    reader.join()
    assert got == ["words"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1"])
def test_standard_output_is_appended_to(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    print("before")
    with replacing(name) as sink:
        sink.write("é\n")
    print("after")
    assert capsys.readouterr().out == "before\né\nafter\n"


def test_an_open_descriptor(tmp_path: Path) -> None:
    with open(tmp_path / "log", "a+") as log:
        log.write("before\n")
        log.flush()
        with replacing(f"/dev/fd/{log.fileno()}") as sink:
            sink.write("after\n")
        log.seek(0)
        assert log.read() == "before\nafter\n"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (".", "is not a file"),
        ("no/such/folder", "No such file or directory"),
        ("x" * 256, "File name too long"),
        ("a\0b", "null byte"),
        ("loop", "Too many levels of symbolic links"),
        ("/dev/fd/999", "Bad file descriptor"),
    ],
)
def test_what_cannot_be_written_is_named_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=reason), replacing(name):
        pytest.fail("the work has begun")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk = "cannot be written: No space"
    for size in (1, 100_000):  # seen at the end, and on the way
        refused = pytest.raises(InputError, match=f"/dev/full {full_disk}")
        with refused, replacing("/dev/full") as sink:
            sink.write("x" * size)
    full = os.open("/dev/full", os.O_RDWR)
    monkeypatch.setattr(output_file, "_new_file", lambda *_: (os.dup(full), True))
    out = tmp_path / "out"
    for size in (1, 100_000):  # seen when it is closed, and on the way
        with pytest.raises(InputError, match=f"{out} {full_disk}"), replacing(out) as sink:
            sink.write("x" * size)
    os.close(full)
    assert not out.exists()
