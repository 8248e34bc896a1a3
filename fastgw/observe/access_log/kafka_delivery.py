"""Delivery to Kafka. The client needs the extra `fastgw[kafka]`, and is imported on first use.

Rule: lines are delivered when the brokers have acknowledged them, as `acks` wishes; those of a batch that were not are
tried again, so a line may arrive twice. The client has an event loop of its own, which runs on the thread of the log
during deliveries only.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Literal, final

from fastgw import VERSION
from fastgw.observe.access_log.remote_sink import Undelivered

Acks = Literal["all", "leader", "none"]
_ACKS: Final = {"all": "all", "leader": 1, "none": 0}
_CLOSE_S: Final = 2.0


@final
class KafkaTransport:
    """Producer of one topic, begun on first use and again after a failure.

    `sasl`: returns mechanism, username and password for each connection, because secrets are renewed, or None; raises
    `ValueError`.
    """

    def __init__(
        self,
        brokers: Sequence[str],
        topic: str,
        *,
        acks: Acks,
        compresses: bool,
        tls: bool,
        ca: str | None,
        sasl: Callable[[], tuple[str, str, str] | None],
        timeout: float,
    ) -> None:
        self._brokers, self._topic, self._acks, self._compresses = [*brokers], topic, acks, compresses
        self._tls, self._ca, self._sasl, self._timeout = tls, ca, sasl, timeout
        self._runner: asyncio.Runner | None = None
        self._producer: Any = None

    def __repr__(self) -> str:
        return f"<KafkaTransport {self._topic} at {','.join(self._brokers)}>"

    def deliver(self, lines: Sequence[bytes]) -> int:
        if self._runner is None:
            self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        return self._runner.run(self._deliver(lines))

    async def _deliver(self, lines: Sequence[bytes]) -> int:
        try:
            from aiokafka.errors import KafkaError, MessageSizeTooLargeError
        except ImportError as error:
            raise Undelivered("the package aiokafka is missing; install fastgw[kafka]", lines) from error
        sent: list[tuple[bytes, asyncio.Future[Any]]] = []
        refused = 0
        try:
            async with asyncio.timeout(2 * self._timeout):
                producer = self._producer or await self._start()
                for line in lines:
                    try:
                        sent.append((line, await producer.send(self._topic, line)))
                    except MessageSizeTooLargeError:
                        refused += 1
                results = await asyncio.gather(*(each for _, each in sent), return_exceptions=True)
        except (KafkaError, OSError, ValueError) as error:
            await self._end()
            acknowledged = {id(line) for line, each in sent if each.done() and not _fails(each)}
            raise Undelivered(_reason(error), [line for line in lines if id(line) not in acknowledged]) from error
        failed = [(line, error) for (line, _), error in zip(sent, results, strict=True) if _is_error(error)]
        refused += sum(isinstance(error, MessageSizeTooLargeError) for _, error in failed)
        again = [line for line, error in failed if not isinstance(error, MessageSizeTooLargeError)]
        if again:
            await self._end()
            raise Undelivered(_reason(failed[0][1]), again)
        return refused

    async def _start(self) -> Any:
        """Connect to the brokers. Raises `KafkaError`, `OSError` and `ValueError`."""
        from aiokafka import AIOKafkaProducer

        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # the sink reports its failures, once each
        sasl = self._sasl()
        protocol = ("SASL_" if sasl else "") + ("SSL" if self._tls else "PLAINTEXT")
        mechanism, username, password = sasl or ("PLAIN", None, None)
        producer = AIOKafkaProducer(
            bootstrap_servers=self._brokers,
            client_id=f"fastgw-{VERSION}",
            acks=_ACKS[self._acks],
            compression_type="gzip" if self._compresses else None,
            request_timeout_ms=int(self._timeout * 1000),
            security_protocol=protocol,
            ssl_context=ssl.create_default_context(cafile=self._ca) if self._tls else None,
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
        return producer

    async def _end(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(Exception):  # the edge of a library: whatever was sent is tried again
                async with asyncio.timeout(_CLOSE_S):
                    await producer.stop()

    def close(self) -> None:
        if self._runner is not None:
            self._runner.run(self._end())
            self._runner.close()
            self._runner = None


def _is_error(result: object) -> bool:
    return isinstance(result, BaseException)


def _fails(future: "asyncio.Future[Any]") -> bool:
    return future.cancelled() or future.exception() is not None


def _reason(error: object) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}".partition("\n")[0][:200]
