"""Pipelined connection to Redis: commands are written without waiting for earlier responses, which arrive in order.

All of `state` uses it; caches use aiocache (`cache_client`). redis-py's own client lends a connection to each command,
or batch of commands, until it is answered: many connections, and a task for each. Needs the extra
`fastgw[redis]`.
"""

import asyncio
import errno
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, final

import hiredis
from redis.asyncio.connection import parse_url

from fastgw.redis.error_messages import UNSUPPORTED_MODES

Answered = Callable[[Any], None]
ERRORS: Final = (OSError, hiredis.HiredisError)
"""Errors that `opened` may raise; a timeout is an `OSError`."""
PORT: Final = 6379


class UnsupportedMode(OSError):
    """The server has only a part of the keys, or none: what `state` needs on one server is not there."""


def packed(*words: bytes) -> bytes:
    """Return an encoded command."""
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


@final
class Pipe(asyncio.Protocol):
    """Pipelined connection. When it ends, commands in flight get no response. It ends on a response without a
    command.
    """

    def __init__(self) -> None:
        self.lost: Callable[[str], None] | None = None
        """Called with the reason when the connection has ended, except by `close`."""
        self.is_closed = False
        self._asking: set[asyncio.Future[Any]] = set()
        self._reader = hiredis.Reader()
        self._unanswered: deque[Answered] = deque()
        self._transport: Any = None

    def __repr__(self) -> str:
        return f"<Pipe, {'closed' if self.is_closed else f'{len(self._unanswered)} unanswered'}>"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def send(self, commands: Iterable[bytes], answered: Iterable[Answered]) -> None:
        """Send commands in one write. An error response is a `hiredis.HiredisError`, which is returned and not
        raised.
        """
        self._unanswered.extend(answered)
        self._transport.write(b"".join(commands))

    async def execute(self, *words: bytes) -> Any:
        """Return the response to one command. Raises `ERRORS`."""
        (answer,) = await self._answers([words])
        return answer

    async def execute_transaction(self, *commands: Sequence[bytes]) -> Sequence[Any]:
        """Return the responses to commands that Redis executes as a transaction: all of them, or none.

        Raises `ERRORS`, also if one of them fails.
        """
        *_, answers = await self._answers([[b"MULTI"], *commands, [b"EXEC"]])
        failed = next((each for each in answers or () if isinstance(each, Exception)), None)
        if failed is not None:
            raise failed
        return answers or ()

    async def _answers(self, commands: Sequence[Sequence[bytes]]) -> Sequence[Any]:
        """Send commands in one write, and return their responses once all have arrived. Raises `ERRORS`."""
        if self.is_closed:
            raise ConnectionResetError
        answers: list[Any] = []
        done = asyncio.get_running_loop().create_future()

        def answered(answer: Any) -> None:
            answers.append(answer)
            if len(answers) == len(commands) and not done.done():
                done.set_result(None)

        self._asking.add(done)
        try:
            self.send([packed(*words) for words in commands], [answered] * len(commands))
            await done
        finally:
            self._asking.discard(done)
        failed = next((each for each in answers if isinstance(each, Exception)), None)
        if failed is not None:
            raise failed
        return answers

    def data_received(self, data: bytes) -> None:
        reader, unanswered = self._reader, self._unanswered
        try:
            reader.feed(data)
            while unanswered and (answer := reader.gets()) is not False:
                unanswered.popleft()(answer)
            if not unanswered and not self.is_closed and reader.has_data():  # it would be taken for the next response
                self._end("it sent an unexpected response")
        except hiredis.HiredisError as error:
            self._end(type(error).__name__)

    def connection_lost(self, error: Exception | None) -> None:
        self._end("the connection was closed" if error is None else type(error).__name__)

    def close(self) -> None:
        """Close at once, also with commands in flight."""
        self.lost, self.is_closed = None, True
        self._unanswered.clear()
        if self._transport is not None:
            self._transport.abort()

    def _end(self, why: str) -> None:
        lost = self.lost
        self.close()
        for asking in self._asking:
            if not asking.done():
                asking.set_exception(ConnectionResetError(why))
        if lost is not None:
            lost(why)


async def opened(url: str, timeout: float, lost: Callable[[str], None], *first: Sequence[bytes]) -> Pipe:
    """Connect and authenticate. `lost`: see `Pipe.lost`. `first`: commands that have to succeed. Raises `ERRORS`,
    among them `UnsupportedMode`.
    """
    loop = asyncio.get_running_loop()
    options = parse_url(url)
    pipe, failed = Pipe(), True
    try:
        async with asyncio.timeout(timeout):
            if "path" in options:
                await loop.create_unix_connection(lambda: pipe, options["path"])
            else:
                context = _context(options) if url.startswith("rediss:") else None
                await loop.create_connection(lambda: pipe, options["host"], options.get("port", PORT), ssl=context)
            if options.get("password"):
                known = [options["username"].encode()] if options.get("username") else []
                await pipe.execute(b"AUTH", *known, options["password"].encode())
            await _check_mode(pipe)
            if options.get("db"):
                await pipe.execute(b"SELECT", b"%d" % options["db"])
            for command in first:
                await pipe.execute(*command)
        if pipe.is_closed:
            raise ConnectionResetError
        pipe.lost, failed = lost, False
        return pipe
    finally:
        if failed:
            pipe.close()


async def _check_mode(pipe: Pipe) -> None:
    """Raise `UnsupportedMode` for a node of a Redis Cluster, and for a Sentinel. Every user may call HELLO."""
    try:
        answer = await pipe.execute(b"HELLO")
    except hiredis.ReplyError:
        return  # a proxy: whether it has the commands that are needed, they show themselves
    mode = answer[answer.index(b"mode") + 1] if isinstance(answer, list) and b"mode" in answer[:-1] else None
    if isinstance(mode, bytes) and (why := UNSUPPORTED_MODES.get(mode)):
        raise UnsupportedMode(errno.EPROTONOSUPPORT, why)


def _context(options: Mapping[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    if options.get("ssl_certfile"):
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    if options.get("ssl_check_hostname") is False or options.get("ssl_cert_reqs") == "none":
        context.check_hostname = False
    if options.get("ssl_cert_reqs") == "none":
        context.verify_mode = ssl.CERT_NONE
    return context
