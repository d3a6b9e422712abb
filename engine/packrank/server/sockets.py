"""Where a server listens: taken before anything is loaded, and refused in a sentence."""

import os
import socket
import stat
from contextlib import suppress

from packrank.errors import InputError

_EVERYONE = 0o666  # may ask by a path, as by a port; its folder says who may reach it


def listening(host: str, port: int) -> list[socket.socket]:
    """Sockets bound to all addresses of a host, on one port.

    Args:
        host: a name or an address.
        port: 0: one that is free.

    Raises:
        InputError: the address cannot be had.
    """
    found: list[socket.socket] = []
    try:
        kinds = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(kinds):
            # Named, or asyncio takes it for no TCP and leaves Nagle's algorithm on: the second
            # part of an answer would wait 40 ms for the client to acknowledge the first.
            one = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            found.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind((address[0], port, *address[2:]))
            port = one.getsockname()[1]
    except (OSError, UnicodeError) as error:
        for one in found:
            one.close()
        reason = error.strerror if isinstance(error, OSError) else "it is no name of a host"
        raise InputError(f"cannot listen on {host}:{port}: {reason}") from None
    return found


def listening_at(path: str) -> socket.socket:
    """A Unix socket bound to a path; one that a server has left there is replaced.

    Raises:
        InputError: the path cannot be had.
    """
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.stat(path).st_mode):
                raise InputError(f"cannot listen at {path}: something else has this name")
            if _answers(path):
                raise InputError(f"cannot listen at {path}: a server does already")
            os.unlink(path)
        one.bind(path)
        os.chmod(path, _EVERYONE)
    except OSError as error:
        one.close()
        raise InputError(f"cannot listen at {path}: {error.strerror or error}") from None
    except InputError:
        one.close()
        raise
    return one


def address_of(one: socket.socket, *, tls: bool) -> str:
    """Where clients reach a socket that listens: a URL, or unix: and a path."""
    if one.family == socket.AF_UNIX:
        return f"unix:{one.getsockname()}"
    host, port = one.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    return f"{'https' if tls else 'http'}://{host}:{port}"


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
    return True
