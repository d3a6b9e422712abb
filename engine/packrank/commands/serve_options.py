"""What `packrank serve` is told; names are those of text-embeddings-inference and vLLM."""

import argparse
from pathlib import Path
from typing import TypeAlias

from packrank.commands.options import MODEL_HELP, add_model_options, positive
from packrank.errors import InputError

_SERVE = """\
Serve models over HTTP, on the routes that clients of Cohere, Jina, vLLM, text-embeddings-inference
and NVIDIA NIM know; GET / in a browser is a page to try them on. The first model answers for names
that are not served. SIGTERM lets requests that are here finish.
"""
_PORT = 8000

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_serve(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("serve", help="answer over HTTP", description=_SERVE)
    parser.add_argument("models", nargs="+", metavar="MODEL", help=MODEL_HELP)
    where = parser.add_argument_group("where it listens")
    where.add_argument("--host", default="127.0.0.1", help="0.0.0.0 is everywhere (default: here)")
    where.add_argument("--port", type=_port, default=_PORT, help=f"default: {_PORT}; 0: any")
    where.add_argument("--uds", metavar="PATH", help="a Unix socket, in place of these")
    where.add_argument("--ssl-keyfile", metavar="FILE", help="of TLS; likewise:")
    where.add_argument("--ssl-certfile", metavar="FILE")
    where.add_argument(
        "--cors-origin", action="append", default=[], metavar="ORIGIN",
        help="whose pages may ask from a browser; several times for several",
    )  # fmt: skip
    where.add_argument("--no-page", action="store_true", help="no page at /")
    who = parser.add_argument_group("who may ask, and how much")
    who.add_argument(
        "--api-key", action="append", default=[], metavar="KEY",
        help="that opens scoring routes; several times for several",
    )  # fmt: skip
    who.add_argument(
        "--api-key-file", metavar="FILE",
        help="of keys, one a line, which the list of processes then does not show",
    )  # fmt: skip
    who.add_argument(
        "--max-client-batch-size", type=positive, default=10_000, metavar="N",
        help="documents of a request (default: 10000)",
    )  # fmt: skip
    who.add_argument(
        "--payload-limit", type=positive, default=64 << 20, metavar="BYTES",
        help="of a request (default: 64 MiB)",
    )  # fmt: skip
    who.add_argument(
        "--max-queue-tokens", type=positive, metavar="N",
        help="that wait or run, of each model; beyond that requests get 429 (default: 64 packs)",
    )  # fmt: skip
    who.add_argument(
        "--request-timeout", type=_seconds, metavar="SECONDS", help="after which one gets 504"
    )
    who.add_argument(
        "--shutdown-timeout", type=_seconds, default=30.0, metavar="SECONDS",
        help="that requests may still take after SIGTERM (default: 30)",
    )  # fmt: skip
    how = parser.add_argument_group("how it answers")
    how.add_argument(
        "--served-model-name", action="append", default=[], metavar="NAME",
        help="in place of a model's own; once a model, in their order",
    )  # fmt: skip
    how.add_argument(
        "--strict-models", action="store_true", help="404 for a name that is not served"
    )
    how.add_argument(
        "--auto-truncate", action=argparse.BooleanOptionalAction, default=True,
        help="cut pairs that are too long, unless a request says otherwise (default: yes)",
    )  # fmt: skip
    how.add_argument(
        "--v2-echo-documents", action="store_true",
        help="let documents come back on /v2/rerank too, as some clients need it",
    )  # fmt: skip
    how.add_argument(
        "--store", metavar="STORE",
        help="of packrank encode: late interaction then ranks by document_ids",
    )  # fmt: skip
    how.add_argument(
        "--max-batch-tokens", "--max-num-batched-tokens", type=positive, metavar="N",
        dest="budget_tokens", help="of a pack",
    )  # fmt: skip
    how.add_argument(
        "--cache-bytes", type=_bytes, default=64 << 20, metavar="N",
        help="of token ids of documents that come again, a model (default: 64 MiB; 0: none)",
    )  # fmt: skip
    how.add_argument(
        "--log-level", default="info", choices=("debug", "info", "warning", "error"),
        help="default: info, a line a request",
    )  # fmt: skip
    how.add_argument(
        "--otlp-endpoint", metavar="URL",
        help="of an OpenTelemetry collector, by HTTP (usually port 4318), for a span a request",
    )  # fmt: skip
    how.add_argument(
        "--otlp-service-name", default="packrank", metavar="NAME", help="default: packrank"
    )
    how.add_argument("--max-model-len", dest="max_length", type=positive, help=argparse.SUPPRESS)
    add_model_options(parser)


def keys_of(args: argparse.Namespace) -> tuple[str, ...]:
    """All that open scoring routes.

    Raises:
        InputError: the file cannot be read, or has none.
    """
    given = list(args.api_key)
    if args.api_key_file is not None:
        try:
            lines = Path(args.api_key_file).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise InputError(f"--api-key-file {args.api_key_file}: {error}") from None
        given += lines
        if not any(line.strip() for line in lines):
            raise InputError(f"--api-key-file {args.api_key_file} has no key")
    keys = tuple(key.strip() for key in given if key.strip())
    if len(keys) < len(args.api_key):
        raise InputError("--api-key is empty; leave it out for a server that everyone may ask")
    return keys


def _port(text: str) -> int:
    value = int(text) if text.isdecimal() and len(text) < 6 else -1
    if not 0 <= value < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return value


def _bytes(text: str) -> int:
    if not text.isdecimal() or len(text) > 15:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of bytes")
    return int(text)
