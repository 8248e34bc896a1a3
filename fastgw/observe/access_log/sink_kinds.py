"""The sink that the settings of a log describe."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from fastgw.config.base.value_types import Endpoint, Url
from fastgw.observe.access_log.http_delivery import BulkBody, HttpTransport, LineBody, LokiBody
from fastgw.observe.access_log.kafka_delivery import Acks, KafkaTransport
from fastgw.observe.access_log.otlp_logs import OtlpLogBody
from fastgw.observe.access_log.remote_sink import RemoteSink, Transport
from fastgw.observe.access_log.rotation import Rotation
from fastgw.observe.access_log.sink import Sink
from fastgw.observe.access_log.spool import Spool
from fastgw.observe.access_log.syslog import SyslogTransport

SYSLOG_BATCH = 500


class SpoolSettings(Protocol):
    """Settings of a spool."""

    @property
    def path(self) -> str: ...
    @property
    def size(self) -> int: ...


class SyslogSettings(Protocol):
    """Settings of a syslog server."""

    @property
    def address(self) -> Url: ...
    @property
    def facility(self) -> str: ...
    @property
    def app_name(self) -> str: ...
    @property
    def timeout(self) -> float: ...
    @property
    def spool(self) -> SpoolSettings | None: ...


class HttpSettings(Protocol):
    """Settings of an HTTP server."""

    @property
    def url(self) -> Endpoint: ...
    @property
    def batch(self) -> int: ...
    @property
    def gzip(self) -> bool: ...
    @property
    def ca(self) -> str | None: ...
    @property
    def certificate(self) -> str | None: ...
    @property
    def key(self) -> str | None: ...
    @property
    def timeout(self) -> float: ...
    @property
    def spool(self) -> SpoolSettings | None: ...
    def authorization(self) -> str | None:
        """Return the value of `Authorization`. Raises `ValueError` if its secret is unavailable."""


class LokiSettings(HttpSettings, Protocol):
    """Settings of Loki."""

    @property
    def labels(self) -> Mapping[str, str]: ...


class BulkSettings(HttpSettings, Protocol):
    """Settings of Elasticsearch."""

    @property
    def index(self) -> str: ...


class OtlpSettings(HttpSettings, Protocol):
    """Settings of an OpenTelemetry collector."""

    @property
    def protocol(self) -> str: ...
    @property
    def service(self) -> str: ...
    @property
    def endpoint(self) -> Endpoint: ...


class KafkaSettings(Protocol):
    """Settings of a topic of Kafka."""

    @property
    def brokers(self) -> Sequence[str]: ...
    @property
    def topic(self) -> str: ...
    @property
    def acks(self) -> Acks: ...
    @property
    def batch(self) -> int: ...
    @property
    def gzip(self) -> bool: ...
    @property
    def tls(self) -> bool: ...
    @property
    def ca(self) -> str | None: ...
    @property
    def certificate(self) -> str | None: ...
    @property
    def key(self) -> str | None: ...
    @property
    def timeout(self) -> float: ...
    @property
    def spool(self) -> SpoolSettings | None: ...
    def credentials(self) -> tuple[str, str, str] | None:
        """Return mechanism, username and password. Raises `ValueError` if the secret is unavailable."""


class FileSettings(Protocol):
    """Settings of a file that is rotated."""

    @property
    def path(self) -> str: ...
    @property
    def size(self) -> int | None: ...
    @property
    def every(self) -> float | None: ...
    @property
    def keep(self) -> int: ...
    @property
    def gzip(self) -> bool: ...


class RemoteSettings(Protocol):
    """Settings of a sink other than stdout and plain files: exactly one is set."""

    @property
    def file(self) -> FileSettings | None: ...
    @property
    def syslog(self) -> SyslogSettings | None: ...
    @property
    def http(self) -> HttpSettings | None: ...
    @property
    def loki(self) -> LokiSettings | None: ...
    @property
    def elasticsearch(self) -> BulkSettings | None: ...
    @property
    def otlp(self) -> OtlpSettings | None: ...
    @property
    def kafka(self) -> KafkaSettings | None: ...


CallCollector = Callable[[OtlpSettings], Transport]
"""Function that returns the transport to a collector over gRPC, whose client is of a higher package."""


def sink_of(
    settings: str | RemoteSettings, directives: bytes = b"", call_collector: CallCollector | None = None
) -> Sink | RemoteSink:
    """Return the sink. `settings`: `stdout`, the path of a file, or another sink. `directives`: lines that
    begin a file. `call_collector`: None where no sink uses gRPC.
    """
    if isinstance(settings, str):
        return Sink(settings, directives)
    if (file := settings.file) is not None:
        return Sink(file.path, directives, Rotation(file.path, file.size, file.every, file.keep, file.gzip))
    name = str(settings)
    if (kafka := settings.kafka) is not None:
        producer = KafkaTransport(
            kafka.brokers,
            kafka.topic,
            acks=kafka.acks,
            compresses=kafka.gzip,
            tls=kafka.tls,
            ca=kafka.ca,
            certificate=kafka.certificate,
            key=kafka.key,
            sasl=kafka.credentials,
            timeout=kafka.timeout,
        )
        return RemoteSink(name, producer, kafka.batch, _spool_of(kafka.spool))
    if (syslog := settings.syslog) is not None:
        transport = SyslogTransport(syslog.address, syslog.facility, syslog.app_name, syslog.timeout)
        return RemoteSink(name, transport, SYSLOG_BATCH, _spool_of(syslog.spool))
    if (otlp := settings.otlp) is not None and otlp.protocol == "grpc":
        assert call_collector is not None
        return RemoteSink(name, call_collector(otlp), otlp.batch, _spool_of(otlp.spool))
    body: LineBody = LineBody()
    http = settings.http
    if settings.loki is not None:
        http, body = settings.loki, LokiBody(settings.loki.labels)
    if settings.elasticsearch is not None:
        http, body = settings.elasticsearch, BulkBody(settings.elasticsearch.index)
    if settings.otlp is not None:
        http, body = settings.otlp, OtlpLogBody(settings.otlp.service)
    assert http is not None
    url = http.url if settings.otlp is None else settings.otlp.endpoint
    files = http.ca, http.certificate, http.key
    sent = HttpTransport(url, body, http.authorization, http.timeout, files, http.gzip)
    return RemoteSink(name, sent, http.batch, _spool_of(http.spool))


def _spool_of(settings: SpoolSettings | None) -> Spool | None:
    return None if settings is None else Spool(settings.path, settings.size)
