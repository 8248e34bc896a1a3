"""Service of the demo: its page, an echo, a stream and some data; and sample traffic through the gateway."""

import asyncio
import json
import random
import re
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

import uvloop

from fastgw.demo.page import csp, page
from fastgw.http.http1.body import body_reader
from fastgw.http.http1.parser import parse_request
from fastgw.http.http1.serializer import status_line
from fastgw.http.malformed import Malformed
from fastgw.http.messages import RequestHead
from fastgw.runtime.control.control import stop_requested
from fastgw.runtime.ipc.channel import FIRST_GENERATION, Channel, Ready

READ_BYTES: Final = 65536
ECHO_MAX: Final = 65536
EVENTS: Final = 10
SAMPLE_PAUSE_S: Final = 0.25
"""Mean pause between two requests of the sample traffic."""
SAMPLE_PATHS: Final = ("/users/{}", "/users/{}", "/orders/{}", "/echo", "/nowhere")
SLOW_S: Final = 0.03
"""Median time that an order takes."""
FAILED: Final = 0.02
"""Share of the orders that fail."""
TEXT: Final = b"text/plain; charset=utf-8"

Answer = Callable[[RequestHead, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def run_service(listening: socket.socket, sample: str, dashboard: str, is_clone: bool, channel: Channel) -> None:
    """Run the process of the service. `sample`: socket of the gateway for the sample traffic; `dashboard`: file with
    the dashboard's URL, written when the gateway serves; `is_clone`: whether the files of a clone are there.
    """
    own_page: Answer = partial(_page, Path(dashboard), is_clone)
    answers = {**ANSWERS, b"/": own_page}

    async def serve() -> None:
        server = await asyncio.start_unix_server(partial(_converse, answers), sock=listening, limit=READ_BYTES)
        traffic = asyncio.create_task(_sample_traffic(sample))
        channel.send(Ready(generation=FIRST_GENERATION))
        await stop_requested(channel)
        traffic.cancel()
        server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


async def _sample_traffic(path: str) -> None:
    """Send the gateway some requests per second, so that the dashboard has something to show."""
    while True:
        await asyncio.sleep(random.expovariate(1 / SAMPLE_PAUSE_S))
        with suppress(OSError):  # the gateway does not listen yet, or no more
            reader, writer = await asyncio.open_unix_connection(path)
            target = random.choice(SAMPLE_PATHS).format(random.randrange(1000))
            writer.write(f"GET {target} HTTP/1.1\r\nHost: demo.internal\r\nConnection: close\r\n\r\n".encode())
            await reader.read()
            writer.close()


async def _converse(
    answers: Mapping[bytes, Answer], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Handle a connection: one request, one response, then close."""
    # Cancelled: the demo ends during a stream. asyncio.streams of Python 3.11 would print that as an error.
    gone = (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError)
    with suppress(*gone, Malformed):
        head = parse_request(await reader.readuntil(b"\r\n\r\n"))
        pattern = re.sub(rb"(?<=.)/[^/]+$", b"/*", head.path)
        await (answers.get(head.path) or answers.get(pattern) or _not_found)(head, reader, writer)
    writer.close()


def _write_head(writer: asyncio.StreamWriter, status: int, content_type: bytes, fields: bytes = b"") -> None:
    writer.write(status_line(status) + b"Content-Type: %b\r\n%bConnection: close\r\n\r\n" % (content_type, fields))


async def _page(
    dashboard: Path, is_clone: bool, head: RequestHead, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    try:
        its_url = dashboard.read_text()
    except FileNotFoundError:
        its_url = ""
    request_id = (head.first(b"x-request-id") or b"").decode()
    shown = page(f"http://{head.authority.decode()}", request_id, its_url, is_clone=is_clone)
    _write_head(writer, 200, b"text/html; charset=utf-8", b"Content-Security-Policy: %b\r\n" % csp().encode())
    writer.write(shown)


async def _echo(head: RequestHead, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Return the received head, and the first `ECHO_MAX` bytes of the body."""
    body = body_reader(head)
    received = b""
    while not body.done and len(received) < ECHO_MAX and (chunk := await reader.read(READ_BYTES)):
        received += body.feed(chunk)
    _write_head(writer, 200, TEXT)
    writer.write(head.raw + received[:ECHO_MAX] + b"\n")


async def _events(head: RequestHead, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    _write_head(writer, 200, b"text/event-stream")
    for number in range(1, EVENTS + 1):
        writer.write(b"data: event %d of %d\n\n" % (number, EVENTS))
        await writer.drain()
        await asyncio.sleep(1)


async def _limited(head: RequestHead, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    _write_head(writer, 200, TEXT)
    writer.write(b"within the limit\n")


async def _user(head: RequestHead, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    _write_json(writer, 200, {"user": _last_segment(head)})


async def _order(head: RequestHead, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take some time, and fail sometimes: the dashboard shows how long, and how often."""
    await asyncio.sleep(random.lognormvariate(0.0, 0.5) * SLOW_S)
    if random.random() < FAILED:
        _write_json(writer, 503, {"error": "out of stock: the demo fails some orders on purpose"})
    else:
        _write_json(writer, 200, {"order": _last_segment(head)})


def _last_segment(head: RequestHead) -> str:
    return head.path.rpartition(b"/")[2].decode()


def _write_json(writer: asyncio.StreamWriter, status: int, body: Mapping[str, str]) -> None:
    _write_head(writer, status, b"application/json")
    writer.write(json.dumps(body).encode() + b"\n")


async def _not_found(head: RequestHead, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    _write_head(writer, 404, TEXT)
    writer.write(b"There is /, /echo, /events, /limited, /users/7 and /orders/7.\n")


ANSWERS: Final[Mapping[bytes, Answer]] = MappingProxyType(
    {b"/echo": _echo, b"/events": _events, b"/limited": _limited, b"/users/*": _user, b"/orders/*": _order}
)
"""Functions that answer a path, or, with `/*`, the paths with one segment more."""
