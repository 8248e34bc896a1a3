"""Clients that keep their connections and ask again and again, and say precisely what became of each request."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import h11

from tests.support.peer import DEADLINE


class Lost(Exception):
    """A request was sent and no whole answer came."""


@dataclass
class LoadCounts:
    """What became of the requests of one or more clients."""

    statuses: Counter[int] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    """Of the answers that the gateway made itself, the end of the problem's type."""
    lost: list[str] = field(default_factory=list)


class Caller:
    """One connection to the gateway, that h11 reads: a client that is as strict as a test."""

    def __init__(self, address: str) -> None:
        self._host, _, self._port = address.rpartition(":")

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(self._host, int(self._port))
        self._judge = h11.Connection(h11.CLIENT)
        self.port: int = self._writer.get_extra_info("sockname")[1]

    async def ask(self, request_target: str = "/", method: str = "GET", body: bytes = b"") -> tuple[int, bytes]:
        """Status and body of an answer that came whole. Raises `Lost`."""
        judge = self._judge
        fields = [("Host", "a.test"), ("Content-Length", str(len(body)))]
        send = judge.send(h11.Request(method=method, target=request_target, headers=fields))
        try:
            self._writer.write(send + judge.send(h11.Data(body)) + judge.send(h11.EndOfMessage()))
            status, received = 0, b""
            async with asyncio.timeout(2 * DEADLINE):
                while type(event := judge.next_event()) is not h11.EndOfMessage:
                    if event is h11.NEED_DATA:
                        judge.receive_data(await self._reader.read(65_536))
                    elif type(event) is h11.Response:
                        status = event.status_code
                    elif type(event) is h11.Data:
                        received += event.data
                    elif type(event) is h11.ConnectionClosed:
                        raise Lost("the connection ended before an answer")
        except (OSError, h11.RemoteProtocolError, TimeoutError) as error:
            raise Lost(f"{type(error).__name__}: {error}") from error
        if judge.our_state is h11.DONE and judge.their_state is h11.DONE:
            judge.start_next_cycle()
        return status, received

    @property
    def told_to_close(self) -> bool:
        """The last answer said `Connection: close`."""
        return self._judge.our_state is h11.MUST_CLOSE

    def close(self) -> None:
        self._writer.close()


async def call(
    address: str,
    goes_on: Callable[[], bool],
    counters: LoadCounts,
    method: str = "GET",
    body: bytes = b"",
    path: str = "/",
    pause: float = 0.0,
) -> None:
    """Ask while `goes_on`, on one connection as long as that is allowed; stop when a new one is refused.

    `pause`: seconds between an answer and the next request.
    """
    caller = Caller(address)
    try:
        await caller.open()
        while goes_on():
            status, received = await caller.ask(path, method, body)
            counters.statuses[status] += 1
            if status >= 400:
                counters.faults[received.partition(b"urn:fastgw:fault:")[2].partition(b'"')[0].decode()] += 1
            if caller.told_to_close:
                caller.close()
                await caller.open()
            if pause:
                await asyncio.sleep(pause)
        caller.close()
    except (ConnectionRefusedError, ConnectionResetError):  # reset: the listener closed before it was accepted
        return
    except Lost as lost:
        counters.lost.append(str(lost))
        caller.close()
