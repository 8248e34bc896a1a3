"""Delivery of an access log's lines to an OpenTelemetry collector over gRPC, by the client that exports traces.

The thread of a log waits for each call. The client has an event loop of its own, which runs on that thread during calls
only: so lines are also delivered while a worker ends, whose own loop no longer runs.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, final

import uvloop

from fastgw.config.base.value_types import Endpoint
from fastgw.config.settings.log_sinks import OtlpSink
from fastgw.config.settings.upstreams import UpstreamTls
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.observe.access_log.otlp_logs import OtlpLogBody
from fastgw.observe.access_log.remote_sink import Undelivered, split_by_size
from fastgw.upstream.client.collector_client import PROTOBUF, BatchRefused, CollectorClient, CollectorHeaders
from fastgw.upstream.client.http_client import Fetcher

MOST_CALL_BYTES: Final = 1024 * 1024
"""Size of lines from which on another call takes them: collectors refuse messages of more than 4 MiB."""


class _Export(NamedTuple):
    endpoint: Endpoint
    compression: str
    tls: UpstreamTls
    timeout: float


class _Calls:
    """Event loop with an HTTP client, whose connections live as long as it."""

    def __init__(self, export: _Export) -> None:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._worker_loop = WorkerLoop(self._runner.get_loop())
        self._worker_loop.start()
        self._fetcher = Fetcher(self._worker_loop)
        self._client = CollectorClient(self._fetcher, export, (), PROTOBUF, is_call=True)

    def send_message(self, authorization: str | None, message: bytes) -> bytes:
        """Return the response to a message. Raises `BatchRefused`."""
        headers = () if authorization is None else ((b"Authorization", authorization.encode()),)
        return self._runner.run(self._prepare_and_send(message, headers))

    async def _prepare_and_send(self, message: bytes, headers: CollectorHeaders) -> bytes:
        await asyncio.sleep(0)  # a turn of the loop, which reads what has come since the last call: GOAWAY, or the end
        return await self._client.send(await self._client.prepare(message), headers)

    def close(self) -> None:
        self._fetcher.stop()
        self._runner.run(asyncio.sleep(0))  # connections that are closed end in the next turn
        self._worker_loop.close()
        self._runner.close()


@final
class LogCollector:
    """Transport of one log. Its client begins with the first lines, on the thread that delivers them."""

    def __init__(self, settings: OtlpSink) -> None:
        self._export = _Export(
            settings.endpoint,
            "gzip" if settings.gzip else "none",
            UpstreamTls(ca=settings.ca, certificate=settings.certificate, key=settings.key),
            settings.timeout,
        )
        self._authorization: Callable[[], str | None] = settings.authorization
        self._body = OtlpLogBody(settings.service)
        self._calls: _Calls | None = None
        self.refusal = ""

    def __repr__(self) -> str:
        return f"<LogCollector of {self._export.endpoint.origin}>"

    def deliver(self, lines: Sequence[bytes]) -> int:
        delivered = refused = 0
        for part in split_by_size(lines, MOST_CALL_BYTES):
            try:
                if rejected := self._deliver_part(part):
                    self.refusal = self._body.refusal
                    refused += rejected
            except ValueError as error:  # a secret that is unavailable
                raise Undelivered(str(error), lines[delivered:], refused=refused) from error
            except BatchRefused as error:
                why = str(error).removeprefix(f"{self._export.endpoint.origin}: ")  # the sink names it itself
                if error.wait is None and not error.is_of_settings:
                    self.refusal = why
                    refused += len(part)
                else:
                    raise Undelivered(why, lines[delivered:], error.wait or 0.0, refused=refused) from error
            delivered += len(part)
        return refused

    def _deliver_part(self, lines: Sequence[bytes]) -> int:
        """Deliver lines in one call, and return the number of those that are refused."""
        authorization = self._authorization()
        if self._calls is None:
            self._calls = _Calls(self._export)
        answer = self._calls.send_message(authorization, self._body.encode(lines))
        return self._body.count_refused(lines, answer)

    def close(self) -> None:
        calls, self._calls = self._calls, None
        if calls is not None:
            calls.close()
