"""What `packrank serve` cannot begin with: a sentence, exit status 2, and nothing left behind."""

import logging
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from packrank.commands.cli import main

pytest.importorskip("uvicorn")


@pytest.fixture(autouse=True)
def restored_logs() -> Iterator[None]:
    """Whoever logs after this has not the standard error of this test."""
    names = ("packrank", "uvicorn.error", "uvicorn.access", "asyncio", "concurrent.futures")
    every = [logging.getLogger(name) for name in names]
    before = [(one.handlers, one.propagate, one.level, one.disabled) for one in every]
    yield
    for one, (handlers, propagate, level, disabled) in zip(every, before, strict=True):
        one.handlers, one.propagate, one.level, one.disabled = handlers, propagate, level, disabled


def said(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The sentence, after lines of a log if there are any."""
    assert main(["serve", *map(str, words)]) == 2
    captured = capsys.readouterr()
    *log, last = captured.err.splitlines()
    assert captured.out == "" and all(line.startswith("{") for line in log)
    assert last.startswith("packrank: ")
    return last


@pytest.mark.parametrize(
    "words",
    [
        ["--port", "70000"], ["--port", "-1"], ["--port", "http"], ["--payload-limit", "0"],
        ["--request-timeout", "0"], ["--shutdown-timeout", "nan"], ["--cache-bytes", "-1"],
        ["--max-queue-tokens", "many"], ["--log-level", "loud"], ["--nonsense"],
    ],
    ids=lambda words: " ".join(words),
)  # fmt: skip
def test_options_that_make_no_sense(
    small_bert: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", str(small_bert), *words])
    assert ended.value.code == 2
    assert words[0] in capsys.readouterr().err.splitlines()[-1]


def test_models_that_cannot_be_served(
    small_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no folder" in said(capsys, tmp_path / "nowhere")
    assert "one name" in said(capsys, small_bert, small_bert)
    twice = ["--served-model-name", "a", "--served-model-name", "b"]
    assert "2 times, for 1 models" in said(capsys, small_bert, *twice)
    broken = tmp_path / "broken"
    shutil.copytree(small_bert, broken)
    (broken / "model.safetensors").write_bytes(b"x" * 1000)
    assert "model.safetensors" in said(capsys, small_bert, broken, "--port", 0)  # while it serves


def test_a_collector_that_has_no_address(
    small_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "expected a URL such as" in said(capsys, small_bert, "--otlp-endpoint", "localhost:4318")


def test_places_where_nobody_can_listen(
    small_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}: Address already" in said(capsys, small_bert, "--port", port)
    for host in ("nowhere.invalid", "192.0.2.1", "a" * 300):
        assert f"cannot listen on {host}:0: " in said(
            capsys, small_bert, "--host", host, "--port", 0
        )
    file = tmp_path / "file"
    file.write_text("kept")
    assert "something else has this name" in said(capsys, small_bert, "--uds", file)
    assert file.read_text() == "kept"
    assert "No such file" in said(capsys, small_bert, "--uds", tmp_path / "no" / "folder")
    assert "too long" in said(capsys, small_bert, "--uds", tmp_path / ("a" * 200))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl here")
def test_what_is_no_certificate(
    small_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def made(name: str, *words: str) -> tuple[Path, Path]:
        kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        files = tmp_path / f"{name}.crt", tmp_path / f"{name}.key"
        command = ["openssl", "req", "-x509", *kind, *words, "-batch", "-subj", "/CN=x"]
        named = ["-out", str(files[0]), "-keyout", str(files[1])]
        subprocess.run([*command, *named], check=True, capture_output=True)
        return files

    def tried(certificate: Any, key: Any) -> str:
        words = ["--ssl-certfile", certificate] if certificate else []
        return said(capsys, small_bert, *words, *(["--ssl-keyfile", key] if key else []))

    sound, other = made("sound", "-nodes"), made("other", "-nodes")
    locked = made("locked", "-passout", "pass:secret")
    assert "takes --ssl-certfile" in tried(None, sound[1])
    assert "nowhere is no file" in tried(tmp_path / "nowhere", sound[1])
    for certificate, key in (
        (sound[0], other[1]), (sound[1], sound[1]), (sound[0], None), locked,
        (sound[0], small_bert / "config.json"),
    ):  # fmt: skip
        assert "cannot be used for TLS" in tried(certificate, key)
