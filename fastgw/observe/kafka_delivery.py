"""Delivery to Kafka. The client needs the extra `fastgw[kafka]`, and is imported on first use.

Rule: lines are delivered when the brokers have acknowledged them, as `acks` wishes; those of a batch that were not are
tried again, so a line may arrive twice. The client has an event loop of its own, which runs on the thread of the log
during deliveries only.
"""

import asyncio
import logging
import ssl
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, final

from fastgw import VERSION
from fastgw.config.settings.log_sinks import KafkaSink
from fastgw.observe.access_log.remote_sink import Undelivered
from fastgw.observe.access_log.sink_tls import connection_reason, sink_context

_ACKS: Final = {"all": "all", "leader": 1, "none": 0}
_CLOSE_S: Final = 2.0
MOST_RESPONSE: Final = 16 * 1024 * 1024
"""Maximum size of a broker's response: metadata of a large cluster takes some MiB."""


@final
class _Causes(logging.Handler):
    """Takes what the client logs, which is more than it raises: why a connection failed. The log of the gateway gets
    nothing of it: the sink reports its failures, once each. Each thread has its own causes.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._of_thread = threading.local()

    def forget_causes(self) -> None:
        """Forget earlier causes."""
        logger = logging.getLogger("aiokafka")
        if self not in logger.handlers:
            logger.addHandler(self)
        logger.propagate = False
        self._of_thread.last = None

    def last_cause(self) -> BaseException | None:
        """Return the last cause since `forget_causes`."""
        cause: BaseException | None = getattr(self._of_thread, "last", None)
        return cause

    def emit(self, record: logging.LogRecord) -> None:
        for each in record.args if isinstance(record.args, tuple) else ():
            if isinstance(each, BaseException):
                self._of_thread.last = each


_CAUSES: Final = _Causes()


@final
class _BoundedFrames(asyncio.Protocol):
    """Ends a connection on which a broker announces a response of more than `MOST_RESPONSE` bytes: the client would
    read all of it into memory.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._transport: asyncio.Transport
        self._size = b""  # of the next response, as far as it has come
        self._left = 0  # bytes of the present one that have not

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._client.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            if self._left:
                passed = min(self._left, len(data) - at)
                self._left -= passed
            else:
                passed = min(4 - len(self._size), len(data) - at)
                self._size += data[at : at + passed]
                if len(self._size) == 4:
                    self._left, self._size = int.from_bytes(self._size, "big"), b""
                    if self._left > MOST_RESPONSE:
                        self._transport.abort()
                        return
            at += passed
        self._client.data_received(data)

    def eof_received(self) -> bool | None:
        keeps_open: bool | None = self._client.eof_received()
        return keeps_open

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.connection_lost(exc)

    def pause_writing(self) -> None:
        self._client.pause_writing()

    def resume_writing(self) -> None:
        self._client.resume_writing()


@final
class _ClientLoop(asyncio.SelectorEventLoop):
    """Loop of the client, which knows the connections that were opened on it. The client closes those that it gives up
    without waiting for their end, and over TLS that takes an answer of the broker.
    """

    def __init__(self) -> None:
        super().__init__()
        self._opened: weakref.WeakSet[asyncio.WriteTransport] = weakref.WeakSet()

    async def create_connection(self, protocol_factory: Any, *args: Any, **options: Any) -> Any:
        opened = await super().create_connection(lambda: _BoundedFrames(protocol_factory()), *args, **options)
        self._opened.add(opened[0])
        return opened

    async def abort_connections(self) -> None:
        """Close what is still open, without a word to the brokers."""
        for each in [*self._opened]:
            each.abort()
        await asyncio.sleep(0)  # sockets are closed in the next turn


@final
class KafkaTransport:
    """Producer of one topic, begun on first use and again after a failure."""

    refusal = "lines are longer than the broker takes"

    def __init__(self, settings: KafkaSink) -> None:
        self._settings = settings
        self._runner: asyncio.Runner | None = None
        self._producer: Any = None

    def __repr__(self) -> str:
        return f"<KafkaTransport {self._settings.topic} at {','.join(self._settings.brokers)}>"

    def deliver(self, lines: Sequence[bytes]) -> int:
        if self._runner is None:
            self._runner = asyncio.Runner(loop_factory=_ClientLoop)
        return self._runner.run(self._deliver(lines))

    async def _deliver(self, lines: Sequence[bytes]) -> int:
        try:
            from aiokafka.errors import MessageSizeTooLargeError
        except ImportError as error:
            raise Undelivered("the package aiokafka is missing; pip install 'fastgw[kafka]'", lines) from error
        sent: list[tuple[bytes, asyncio.Future[Any]]] = []
        refused = 0
        try:
            async with asyncio.timeout(2 * self._settings.timeout):
                producer = self._producer or await self._start()
                for line in lines:
                    try:
                        sent.append((line, await producer.send(self._settings.topic, line)))
                    except MessageSizeTooLargeError:
                        refused += 1
                results = await asyncio.gather(*(each for _, each in sent), return_exceptions=True)
        except Exception as error:  # the edge of a library: what a broker answers may be a TypeError in there
            await self._end()
            cause = _CAUSES.last_cause() or error
            acknowledged = {id(line) for line, each in sent if each.done() and not _fails(each)}
            raise Undelivered(_reason(cause), [line for line in lines if id(line) not in acknowledged]) from error
        failed = [(line, error) for (line, _), error in zip(sent, results, strict=True) if _is_error(error)]
        again = [(line, error) for line, error in failed if not isinstance(error, MessageSizeTooLargeError)]
        refused += len(failed) - len(again)
        if again:
            await self._end()
            raise Undelivered(_reason(again[0][1]), [line for line, _ in again], refused=refused)
        return refused

    async def _start(self) -> Any:
        """Connect to the brokers. Raises `KafkaError`, `OSError` and `ValueError`."""
        from aiokafka import AIOKafkaProducer

        _CAUSES.forget_causes()
        settings = self._settings
        sasl = settings.credentials()
        protocol = ("SASL_" if sasl else "") + ("SSL" if settings.tls else "PLAINTEXT")
        mechanism, username, password = sasl or ("PLAIN", None, None)
        producer = AIOKafkaProducer(
            bootstrap_servers=[*settings.brokers],
            client_id=f"fastgw-{VERSION}",
            acks=_ACKS[settings.acks],
            compression_type="gzip" if settings.gzip else None,
            request_timeout_ms=int(settings.timeout * 1000),
            security_protocol=protocol,
            ssl_context=_context(settings),
            sasl_mechanism=mechanism,
            sasl_plain_username=username,
            sasl_plain_password=password,
        )
        try:
            await producer.start()
        except BaseException:
            await producer.stop()
            raise
        self._producer = producer
        _CAUSES.forget_causes()
        return producer

    async def _end(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(Exception):  # the edge of a library: whatever was sent is tried again
                async with asyncio.timeout(_CLOSE_S):
                    await producer.stop()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, _ClientLoop)
        await loop.abort_connections()

    def close(self) -> None:
        if self._runner is not None:
            self._runner.run(self._end())
            self._runner.close()
            self._runner = None


def _context(settings: KafkaSink) -> ssl.SSLContext | None:
    return sink_context(settings.ca, settings.certificate, settings.key) if settings.tls else None


def _is_error(result: object) -> bool:
    return isinstance(result, BaseException)


def _fails(future: "asyncio.Future[Any]") -> bool:
    return future.cancelled() or future.exception() is not None


def _reason(error: object) -> str:
    """Return why lines were not delivered, in the words of people where the client has its own."""
    from aiokafka.errors import (
        KafkaConnectionError,
        SaslAuthenticationFailed,
        TopicAuthorizationFailedError,
        UnknownTopicOrPartitionError,
        UnsupportedSaslMechanismError,
    )

    if isinstance(error, KafkaConnectionError) and isinstance(error.__cause__, OSError):
        error = error.__cause__
    if isinstance(error, OSError):
        return connection_reason(error)
    told = {
        SaslAuthenticationFailed: "the broker refuses `sasl`: username or password is wrong",
        UnsupportedSaslMechanismError: "the broker does not have `sasl.mechanism`",
        TopicAuthorizationFailedError: "the user may not write to the topic",
        UnknownTopicOrPartitionError: "the topic does not exist",
    }
    known = next((text for kind, text in told.items() if isinstance(error, kind)), None)
    name, text = type(error).__name__, str(error)
    return known or (text if text.startswith(name) else f"{name}: {text}").partition("\n")[0][:200]
