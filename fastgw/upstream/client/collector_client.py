"""Client of a telemetry collector: one batch over HTTP or gRPC, and whether a batch that failed is repeated.

Names are resolved and batches compressed in threads; the caller decides how often a batch is repeated.
"""

import asyncio
import gzip
import random
from typing import Final, Protocol, final

from fastgw.config.base.value_types import Endpoint
from fastgw.config.settings.upstreams import UpstreamTls
from fastgw.http.grpc.frames import PREFIX, frame
from fastgw.http.grpc.status import STATUS, GrpcStatus, parse_status
from fastgw.http.retry_after import wait_in
from fastgw.upstream.client.http_client import Fetched, Fetcher, FetchFailed
from fastgw.upstream.targets.tls import ClientTls, read_tls

FIRST_BACKOFF_S: Final = 0.5
MOST_BACKOFF_S: Final = 30.0
MOST_ASKED_S: Final = 60.0
"""Maximum seconds in `Retry-After` that are respected."""
PROTOBUF: Final = b"application/x-protobuf"
_RETRIED: Final = frozenset((429, 502, 503, 504))
_OF_SETTINGS: Final = frozenset((401, 403, 404))
_RETRIED_CALLS: Final = frozenset(
    (
        GrpcStatus.CANCELLED,
        GrpcStatus.DEADLINE_EXCEEDED,
        GrpcStatus.ABORTED,
        GrpcStatus.OUT_OF_RANGE,
        GrpcStatus.UNAVAILABLE,
        GrpcStatus.DATA_LOSS,
    )
)
"""Failures that are retried, according to the OTLP specification."""
_CALLS_OF_SETTINGS: Final = frozenset(
    (GrpcStatus.UNAUTHENTICATED, GrpcStatus.PERMISSION_DENIED, GrpcStatus.UNIMPLEMENTED)
)

CollectorHeaders = tuple[tuple[bytes, bytes], ...]


class ExportSettings(Protocol):
    """Settings of an export to a collector."""

    @property
    def endpoint(self) -> Endpoint: ...
    @property
    def compression(self) -> str: ...
    @property
    def tls(self) -> UpstreamTls: ...
    @property
    def timeout(self) -> float: ...


class BatchRefused(Exception):
    """A batch was not accepted. The text is for the log. `wait`: seconds until a retry; None: OTLP does not retry it.
    `is_of_settings`: the URL or the credentials are wrong, so the batch may be accepted once they are mended.
    """

    def __init__(self, reason: str, wait: float | None, *, is_of_settings: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.is_of_settings = wait, is_of_settings


class RetryPause:
    """Growing pauses between the attempts at a batch, with jitter."""

    def __init__(self) -> None:
        self._backoff_s = FIRST_BACKOFF_S

    def after(self, wait: float) -> float:
        """Return the seconds until the next attempt. `wait`: those that the collector has asked for."""
        seconds = max(wait, self._backoff_s * random.uniform(0.5, 1.0))
        self._backoff_s = min(2 * self._backoff_s, MOST_BACKOFF_S)
        return seconds


@final
class CollectorClient:
    """Client for one export. `is_call`: it speaks gRPC."""

    def __init__(
        self, fetcher: Fetcher, export: ExportSettings, headers: CollectorHeaders, content_type: bytes, *, is_call: bool
    ) -> None:
        self._fetcher, self._export, self._is_call = fetcher, export, is_call
        is_gzip = export.compression == "gzip"
        fields = [*headers, (b"Content-Type", b"application/grpc" if is_call else content_type)]
        if is_gzip:
            fields.append((b"Grpc-Encoding" if is_call else b"Content-Encoding", b"gzip"))
        self._fields = fields
        self._tls: ClientTls | None = None  # read at first, and again after a failure: certificates are renewed

    def __repr__(self) -> str:
        return f"<CollectorClient of {self.origin}>"

    @property
    def origin(self) -> str:
        """Origin of the collector, for the log."""
        return str(self._export.endpoint.origin)

    async def prepare(self, message: bytes) -> bytes:
        """Return a message as it is sent: compressed in a thread, and in a frame of gRPC."""
        is_gzip = self._export.compression == "gzip"
        if is_gzip:
            message = await asyncio.get_running_loop().run_in_executor(None, gzip.compress, message, 1)
        return frame(message, int(is_gzip)) if self._is_call else message

    async def send(self, body: bytes, headers: CollectorHeaders = ()) -> bytes:
        """Send a prepared batch once, and return the collector's response. `headers`: of this batch, in addition.
        Raises `BatchRefused`.
        """
        export = self._export
        if self._tls is None:
            self._tls = await self._read_tls()
        try:
            answer = await self._fetcher.fetch(
                export.endpoint,
                method=b"POST",
                fields=[*headers, *self._fields],
                body=body,
                tls=self._tls,
                timeout=export.timeout,
                repeatable=True,
                http2=self._is_call,
            )
        except FetchFailed as failed:
            self._tls = None
            raise BatchRefused(failed.reason, 0.0) from None
        wait = min(wait_in(answer.fields.get(b"Retry-After")), MOST_ASKED_S)
        if self._is_call and answer.status == 200:
            return _outcome_of_call(answer, wait)
        if not 200 <= answer.status < 300:
            wished = wait if answer.status in _RETRIED else None
            is_of_settings = answer.status in _OF_SETTINGS
            raise BatchRefused(f"{self.origin}: status {answer.status}", wished, is_of_settings=is_of_settings)
        return answer.body

    async def _read_tls(self) -> ClientTls:
        """Read the files of TLS. Raises `BatchRefused`."""
        try:
            return await asyncio.get_running_loop().run_in_executor(None, read_tls, self._export.tls)
        except OSError as error:
            raise BatchRefused(f"{self.origin}: {error.filename}: {error.strerror}", 0.0) from error


def _outcome_of_call(answer: Fetched, wait: float) -> bytes:
    """Return the response of a gRPC call. Raises `BatchRefused`."""
    sent = next((value for name, value in answer.trailers if name.lower() == STATUS), answer.fields.get(STATUS))
    status = parse_status(sent)
    if status is not GrpcStatus.OK:
        wished = wait if status in _RETRIED_CALLS else None
        raise BatchRefused(f"gRPC status {status.name}", wished, is_of_settings=status in _CALLS_OF_SETTINGS)
    return answer.body[PREFIX:]
