"""`fastgw demo`: the gateway in front of a small service, to be tried with three commands."""

import asyncio
import html
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from types import MappingProxyType
from typing import Final, Literal

import uvloop

from fastgw import VERSION
from fastgw.config import Config
from fastgw.config.base.value_types import Address, Url
from fastgw.config.settings.gateway import AccessLog, FilterUse, Limits, Listener, Route, Target, Upstream
from fastgw.filters.policies.request_id import RequestId
from fastgw.http.http1.parser import Http1RequestHead, parse_request
from fastgw.http.http1.serializer import status_line
from fastgw.http.malformed import Malformed
from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import notice
from fastgw.runtime.control.control import stop_requested
from fastgw.runtime.ipc.channel import FIRST_GENERATION, Channel, Ready
from fastgw.runtime.node.bound_addresses import Bound
from fastgw.runtime.node.child_slots import Work

COMMANDS: Final = (
    ("curl -i {url}/", "this page, and what the gateway adds to it"),
    ("curl -d hello {url}/echo", "a request as the service sees it"),
    ("curl -N {url}/events", "a stream: each event as it happens"),
)
PAGE: Final = """<!doctype html>
<title>fastgw demo</title>
<h1>fastgw</h1>
<p>This page comes from a small service on a unix socket, through the gateway fastgw in front of it.
Every request is given an X-Request-Id and a line on the terminal. To try:</p>
<pre>
{commands}
</pre>
"""
READ_BYTES: Final = 65536
ECHO_MAX: Final = 65536
EVENTS: Final = 10


@contextmanager
def demo(address: Address, workers: int | Literal["auto"]) -> Iterator[tuple[Config, Work]]:
    """Return the demo's configuration, and its service: a process for the supervisor to run."""
    with (
        tempfile.TemporaryDirectory(prefix="fastgw-demo-") as directory,
        socket.socket(socket.AF_UNIX) as listening,
    ):
        path = os.path.join(directory, "origin.sock")
        listening.bind(path)
        listening.listen()
        target = Target(url=Url(scheme="unix", socket=path))
        configuration = Config(
            version=1,
            workers=workers,
            listeners=MappingProxyType({"demo": Listener(address=address)}),
            limits=Limits(connections=1000),
            access_logs=(AccessLog(sink="stdout", format="combined"),),
            filters=MappingProxyType({"request_id": FilterUse("request_id", "request_id", RequestId())}),
            upstreams=MappingProxyType({"origin": Upstream(targets=(target,), host_header="preserve")}),
            routes=(Route(name="demo", upstream="origin"),),
        )
        yield configuration, partial(run_origin, listening)


def announce(bound: Bound) -> None:
    """Print the introduction of the demo."""
    notice(OperatorEvent.DEMO, f"fastgw {VERSION}: demo on {bound}, Ctrl-C to stop")
    notice(OperatorEvent.DEMO, f"  open  {bound.urls[0]}/   # a first look, in a browser")
    for label, line in zip(("try:", "", ""), commands(bound.urls[0]), strict=True):
        notice(OperatorEvent.DEMO, f"  {label:<5} {line}")


def commands(url: str) -> list[str]:
    """Return the commands to try, one line each, with aligned explanations as comments, so that whole lines can be
    pasted.
    """
    written = [(command.format(url=url), about) for command, about in COMMANDS]
    width = max(len(command) for command, _ in written)
    return [f"{command:<{width}}   # {about}" for command, about in written]


def run_origin(listening: socket.socket, channel: Channel) -> None:
    """Run the process of the service."""

    async def serve() -> None:
        server = await asyncio.start_unix_server(_converse, sock=listening, limit=READ_BYTES)
        channel.send(Ready(generation=FIRST_GENERATION))
        await stop_requested(channel)
        server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


async def _converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Handle a connection: one request, one response, then close."""
    # Cancelled: the demo ends during a stream. asyncio.streams of Python 3.11 would print that as an error.
    gone = (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError)
    with suppress(*gone, Malformed):
        head = parse_request(await reader.readuntil(b"\r\n\r\n"))
        await ANSWERS.get(head.path, _not_found)(head, reader, writer)
    writer.close()


def _write_head(writer: asyncio.StreamWriter, status: int, content_type: bytes) -> None:
    writer.write(status_line(status) + b"Content-Type: %b\r\nConnection: close\r\n\r\n" % content_type)


async def _page(head: Http1RequestHead, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    url = f"http://{head.authority.decode()}"
    _write_head(writer, 200, b"text/html; charset=utf-8")
    writer.write(PAGE.format(commands=html.escape("\n".join(commands(url)))).encode())


async def _echo(head: Http1RequestHead, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Return the received head, and the first `ECHO_MAX` bytes of the body."""
    body = head.body()
    received = b""
    while not body.done and len(received) < ECHO_MAX and (chunk := await reader.read(READ_BYTES)):
        received += body.feed(chunk)
    _write_head(writer, 200, b"text/plain; charset=utf-8")
    writer.write(head.raw + received[:ECHO_MAX] + b"\n")


async def _events(head: Http1RequestHead, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    _write_head(writer, 200, b"text/event-stream")
    for number in range(1, EVENTS + 1):
        writer.write(b"data: event %d of %d\n\n" % (number, EVENTS))
        await writer.drain()
        await asyncio.sleep(1)


async def _not_found(head: Http1RequestHead, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    _write_head(writer, 404, b"text/plain; charset=utf-8")
    writer.write(b"There is /, /echo and /events.\n")


ANSWERS: Final[
    Mapping[bytes, Callable[[Http1RequestHead, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]]
] = MappingProxyType({b"/": _page, b"/echo": _echo, b"/events": _events})
