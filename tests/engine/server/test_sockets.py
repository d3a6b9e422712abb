"""Where a server listens: every address of a host on one port, a path that nobody else has."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from packrank.errors import InputError
from packrank.server.sockets import address_of, listening, listening_at


def close(*sockets: socket.socket) -> None:
    for one in sockets:
        one.close()


def test_all_addresses_of_a_name_are_on_one_port() -> None:
    found = listening("localhost", 0)
    addresses = [address_of(one, tls=False) for one in found]
    ports = {one.getsockname()[1] for one in found}
    close(*found)
    assert len(ports) == 1 and len(set(addresses)) == len(addresses) >= 1
    assert f"http://127.0.0.1:{ports.pop()}" in addresses


@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6 here")
def test_an_address_with_colons_is_one_of_a_url() -> None:
    try:
        [found] = listening("::1", 0)
    except InputError:
        pytest.skip("there is no IPv6 here")
    assert address_of(found, tls=True) == f"https://[::1]:{found.getsockname()[1]}"
    close(found)


def test_nothing_is_kept_of_an_address_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []
    kind = socket.socket

    def noted(*arguments: object) -> socket.socket:
        made.append(kind(*arguments))  # type: ignore[arg-type]
        return made[-1]

    [first] = listening("127.0.0.1", 0)
    first.listen()
    monkeypatch.setattr(socket, "socket", noted)
    with pytest.raises(InputError, match="already in use"):
        listening("127.0.0.1", first.getsockname()[1])
    assert made and all(one.fileno() == -1 for one in made)
    close(first)


def test_no_part_of_an_answer_waits_for_the_one_before() -> None:
    """Nagle's algorithm is off, which costs 40 ms an answer on connections that are kept."""

    async def nodelay() -> int:
        seen: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def met(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            own = writer.get_extra_info("socket")
            seen.set_result(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        [found] = listening("127.0.0.1", 0)
        async with await asyncio.start_server(met, sock=found):
            _, writer = await asyncio.open_connection(*found.getsockname())
            writer.close()
            return await seen

    assert asyncio.run(nodelay())


def test_a_path_that_a_server_has_left_is_taken_and_one_that_it_has_is_not(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    close(listening_at(path))
    assert os.path.exists(path)
    again = listening_at(path)
    assert address_of(again, tls=False) == f"unix:{path}"
    again.listen()
    with pytest.raises(InputError, match="a server does already"):
        listening_at(path)
    close(again)
