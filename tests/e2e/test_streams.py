"""Server-sent events and WebSockets: what lives long and moves a little at a time."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import random
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus

from tests.e2e.conftest import fronting
from tests.e2e.programs import Printing, Uvicorn, program
from tests.support.gateway import Gateway
from tests.support.peer import DEADLINE

EVENTS = 20


class Events:
    """An application that sends an event only when it is told to, and notices when its client has left."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: set[asyncio.Semaphore] = set()
        self.left = 0  # clients

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self._loop = asyncio.get_running_loop()
        told = asyncio.Semaphore(0)
        self._waiting.add(told)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b": begun\n\n", "more_body": True})
        leaving = asyncio.ensure_future(self._leaving(receive))
        for number in range(EVENTS):
            waiting = asyncio.ensure_future(told.acquire())
            await asyncio.wait([waiting, leaving], return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                waiting.cancel()
                self.left += 1
                return
            await send({"type": "http.response.body", "body": b"data: %d\n\n" % number, "more_body": True})
        leaving.cancel()
        await send({"type": "http.response.body", "body": b""})

    async def _leaving(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    def tell(self) -> None:
        """Let every stream send its next event."""
        assert self._loop is not None
        for each in list(self._waiting):
            self._loop.call_soon_threadsafe(each.release)


class Services:
    """One gateway in front of three services: WebSocket on `websockets` and on uvicorn, and the events of a test."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.events = Events()
        services = {
            "events": stack.enter_context(Uvicorn(self)).url,
            "uvicorn": stack.enter_context(Uvicorn(uvicorn_speaks)).url,
            "websockets": stack.enter_context(speaking()),
        }
        self.gateway = stack.enter_context(Gateway(fronting(workers=1, **services), directory))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.events(scope, receive, send)


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with contextlib.ExitStack() as stack:
        yield Services(tmp_path_factory.mktemp("streams"), stack)


@pytest.fixture
def events(services: Services) -> Events:
    services.events = Events()
    return services.events


@pytest.fixture
def event_url(services: Services) -> str:
    return f"{services.gateway.url('events')}/"


@pytest.mark.landing
def test_events_reach_httpx_as_they_happen(events: Events, event_url: str) -> None:
    """The service sends the next event only after the client has seen the one before."""
    with httpx.Client(trust_env=False, timeout=DEADLINE) as client, client.stream("GET", event_url) as response:
        blocks = response.iter_text()
        assert next(blocks) == ": begun\n\n"
        for number in range(EVENTS):
            events.tell()
            assert next(blocks) == f"data: {number}\n\n"
        assert list(blocks) == []


@pytest.mark.landing
def test_events_reach_curl_as_they_happen(events: Events, event_url: str) -> None:
    """The same for `curl -N`; when it is killed, the service learns of it."""
    with Printing([program("curl"), "-sSN", event_url]) as curl:
        curl.lines.wait_for(lambda line: line == b": begun\n")
        for number in range(EVENTS // 2):
            events.tell()
            curl.lines.wait_for(lambda line, number=number: line == b"data: %d\n" % number)
    wait(lambda: events.left == 1)


def wait(fact: Callable[[], bool]) -> None:
    async def look() -> None:
        async with asyncio.timeout(DEADLINE):
            while not fact():
                await asyncio.sleep(0.005)

    asyncio.run(look())


def test_many_event_streams_at_once(events: Events, event_url: str) -> None:
    """An event that happens reaches each of 100 clients before the next one happens."""

    async def follow() -> None:
        limits = httpx.Limits(max_connections=None)
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(
                httpx.AsyncClient(trust_env=False, timeout=DEADLINE, limits=limits)
            )
            responses = [await stack.enter_async_context(client.stream("GET", event_url)) for _ in range(100)]
            streams = [response.aiter_text() for response in responses]
            assert set(await asyncio.gather(*map(anext, streams))) == {": begun\n\n"}
            for number in range(3):
                events.tell()
                assert set(await asyncio.gather(*map(anext, streams))) == {f"data: {number}\n\n"}

    asyncio.run(follow())
    wait(lambda: events.left == 100)


# --- WebSocket ---


async def speak(socket: ServerConnection) -> None:
    """A service that echoes, and does what a few words ask for."""
    async for message in socket:
        match message:
            case "close":
                await socket.close(4001, "as you wish")
            case "vanish":
                socket.transport.abort()
            case "ping me":
                await (await socket.ping(b"service"))
                await socket.send("you answered")
            case "flood":
                for number in range(200):
                    await socket.send(random.Random(number).randbytes(10_000))
            case _:
                await socket.send(message)


Talk = Callable[[str], Coroutine[Any, Any, None]]


@pytest.fixture(params=["websockets", "uvicorn"])
def talk(request: pytest.FixtureRequest, services: Services) -> Callable[[Talk], None]:
    """Runs a conversation with the gateway's URL, before a service on `websockets` or on uvicorn."""

    def run(conversation: Talk, path: str = "/chat") -> None:
        async def all_of_it() -> None:
            async with asyncio.timeout(4 * DEADLINE):
                await conversation(f"ws://{services.gateway.address(request.param)}{path}")

        asyncio.run(all_of_it())

    return run


@contextlib.contextmanager
def speaking() -> Iterator[str]:
    """The service on `websockets`, on a thread."""
    started: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Event, str]] = queue.SimpleQueue()

    async def serving() -> None:
        ended = asyncio.Event()
        async with serve(
            speak,
            "127.0.0.1",
            0,
            select_subprotocol=lambda _, offered: next(iter(offered), None),
            max_size=None,
            backlog=1024,
        ) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            started.put((asyncio.get_running_loop(), ended, url))
            await ended.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serving()), daemon=True)
    thread.start()
    loop, ended, url = started.get(timeout=DEADLINE)
    yield url
    loop.call_soon_threadsafe(ended.set)
    thread.join(DEADLINE)


async def uvicorn_speaks(scope: Any, receive: Any, send: Any) -> None:
    """What `speak` does, as far as ASGI can say it."""
    await receive()
    if scope["path"] == "/refused":
        await send({"type": "websocket.close"})
        return
    await send({"type": "websocket.accept", "subprotocol": next(iter(scope["subprotocols"]), None)})
    while (message := await receive())["type"] == "websocket.receive":
        match message.get("text"):
            case "close":
                await send({"type": "websocket.close", "code": 4001, "reason": "as you wish"})
            case None:
                await send({"type": "websocket.send", "bytes": message["bytes"]})
            case text:
                await send({"type": "websocket.send", "text": text})


def to(url: str, **options: Any) -> connect:
    return connect(url, proxy=None, open_timeout=DEADLINE, close_timeout=DEADLINE, max_size=None, **options)


@pytest.mark.landing
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_messages_are_echoed(talk: Callable[[Talk], None], compression: str | None) -> None:
    """Text and bytes from nothing to 1 MiB, compressed by the ends or not."""

    async def conversation(url: str) -> None:
        async with to(url, compression=compression) as socket:
            for size in (0, 1, 125, 126, 65_535, 65_536, 1 << 20):
                for message in ("x" * size, random.Random(size).randbytes(size)):
                    await socket.send(message)
                    assert await socket.recv() == message

    talk(conversation)


def test_both_sides_talk_at_once(talk: Callable[[Talk], None]) -> None:
    """32 messages of 256 KiB are under way both ways before the first answer is read: nothing waits for ever."""
    messages = [random.Random(number).randbytes(1 << 18) for number in range(32)]

    async def conversation(url: str) -> None:
        async with to(url, compression=None) as socket:
            sending = asyncio.gather(*map(socket.send, messages))
            assert [await socket.recv() for _ in messages] == messages
            await sending

    talk(conversation)


@pytest.mark.landing
def test_pings_are_answered_by_the_other_end(talk: Callable[[Talk], None]) -> None:
    """A pong comes from the service, not from anything between."""

    async def conversation(url: str) -> None:
        async with to(url) as socket:
            assert await (await socket.ping(b"client")) >= 0

    talk(conversation)


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
def test_the_clients_close_code_is_agreed(talk: Callable[[Talk], None], code: int) -> None:
    """The closing handshake goes to the service and back."""

    async def conversation(url: str) -> None:
        async with to(url) as socket:
            await socket.close(code, "enough")
            assert (socket.close_code, socket.close_reason) == (code, "enough")

    talk(conversation)


@pytest.mark.landing
def test_the_services_close_code_arrives(talk: Callable[[Talk], None]) -> None:
    """Code and reason are the service's own."""

    async def conversation(url: str) -> None:
        async with to(url) as socket:
            await socket.send("close")
            with pytest.raises(ConnectionClosedError) as closed:
                await socket.recv()
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as you wish")

    talk(conversation)


@pytest.mark.landing
def test_subprotocols_are_negotiated_by_the_ends(talk: Callable[[Talk], None]) -> None:
    """The client offers, the service chooses."""

    async def conversation(url: str) -> None:
        async with to(url, subprotocols=["v1", "unknown"]) as socket:
            assert socket.subprotocol == "v1"

    talk(conversation)


def test_many_tunnels_at_once(talk: Callable[[Talk], None]) -> None:
    """300 tunnels: each carries its own messages, and none waits for another that is silent."""

    async def conversation(url: str) -> None:
        async with contextlib.AsyncExitStack() as stack:
            sockets: list[ClientConnection] = await asyncio.gather(
                *(stack.enter_async_context(to(url, compression=None)) for _ in range(300))
            )
            for round_ in range(3):
                talking = sockets[:: round_ + 1]
                for number, socket in enumerate(talking):
                    await socket.send(f"{round_} {number}")
                answers = await asyncio.gather(*(socket.recv() for socket in talking))
                assert answers == [f"{round_} {number}" for number in range(len(talking))]

    talk(conversation)


only_websockets = pytest.mark.parametrize("talk", ["websockets"], indirect=True)  # ASGI has no words for it


@pytest.mark.landing
@only_websockets
def test_the_service_may_ping(talk: Callable[[Talk], None]) -> None:
    """A ping of the service is answered by the client."""

    async def conversation(url: str) -> None:
        async with to(url) as socket:
            await socket.send("ping me")
            assert await socket.recv() == "you answered"

    talk(conversation)


@only_websockets
def test_a_service_that_vanishes(talk: Callable[[Talk], None]) -> None:
    """Without a closing handshake the client learns that there was none (1006)."""

    async def conversation(url: str) -> None:
        async with to(url) as socket:
            await socket.send("vanish")
            with pytest.raises(ConnectionClosedError) as closed:
                await socket.recv()
            assert closed.value.rcvd is None

    talk(conversation)


@pytest.mark.landing
@only_websockets
def test_what_was_sent_before_the_close_arrives(talk: Callable[[Talk], None]) -> None:
    """2 MB that the service sends before it closes reach a client that reads only then."""

    async def conversation(url: str) -> None:
        async with to(url, compression=None, max_queue=1) as socket:
            await socket.send("flood")
            await socket.send("close")
            received = []
            with contextlib.suppress(ConnectionClosedOK, ConnectionClosedError):
                while True:
                    received.append(await socket.recv())
            assert received == [random.Random(number).randbytes(10_000) for number in range(200)]
            assert socket.close_code == 4001

    talk(conversation)


@pytest.mark.parametrize("talk", ["uvicorn"], indirect=True)
def test_a_refused_handshake_is_the_services_answer(talk: Callable[..., None]) -> None:
    """403 of uvicorn reaches the client, who can tell it from the gateway's."""

    async def conversation(url: str) -> None:
        with pytest.raises(InvalidStatus) as refused:
            await to(url)
        assert refused.value.response.status_code == 403
        assert "Proxy-Status" not in refused.value.response.headers

    talk(conversation, "/refused")
