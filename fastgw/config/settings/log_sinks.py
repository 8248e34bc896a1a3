"""Settings of access log sinks other than stdout and plain files."""

import re
from base64 import b64encode
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Annotated, Literal

from msgspec import Meta

from fastgw.config.base.route_patterns import PORT
from fastgw.config.base.settings_base import NONE, Settings
from fastgw.config.base.value_types import (
    Duration,
    Endpoint,
    EndpointUrl,
    FileName,
    KeyFile,
    Notation,
    ReadableFile,
    Size,
    Url,
    Username,
    check_no_user,
    parse_target_url,
)
from fastgw.config.settings.secrets import Secret, SecretError

LOGS_SERVICE = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
FACILITIES = ("local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7", "user", "daemon")
LEAST_SPOOL = 1 << 20
LEAST_ROTATED = 1 << 16
LEAST_INTERVAL_S = 60.0
_BROKER = rf"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):{PORT}$"


def _parse_broker(text: str) -> str:
    check_no_user(text)
    if re.fullmatch(_BROKER, text) is None:
        raise ValueError(f"{text!r} is not a host and a port")
    return text


Broker = Annotated[
    str, Notation('a broker such as "kafka-1:9092"', _parse_broker, {"type": "string", "pattern": _BROKER})
]


def _check_files(ca: str | None, certificate: str | None, key: str | None, without_tls: str) -> None:
    """Check the files of TLS. `without_tls`: why there is no TLS; "": there is. Raises `ValueError`."""
    for name, file in (("ca", ca), ("certificate", certificate), ("key", key)):
        if file is not None and without_tls:
            raise ValueError(f"`{name}` is set, but {without_tls}")
    if (certificate is None) is not (key is None):
        raise ValueError("`certificate` and `key` belong together")


class Spool(Settings):
    """Directory that keeps lines while a sink is unreachable, also over restarts and crashes of the gateway."""

    path: Annotated[str, FileName(readable=False, is_directory=True)]
    """Directory, for this sink alone, relative to the configuration file. The gateway creates it if it does not exist,
    accessible only by its own user."""
    size: Size
    """Maximum size of its files, at least 1MiB. Lines beyond it are dropped and counted."""

    def __post_init__(self) -> None:
        if self.size < LEAST_SPOOL:
            raise ValueError("`size` is less than 1MiB")


def _parse_syslog_address(text: str) -> Url:
    check_no_user(text)
    if text.partition(":")[0] not in ("udp", "tcp", "unix"):
        raise ValueError(f'"{text}" is not the address of a syslog server')
    return parse_target_url(text)


SyslogAddress = Annotated[
    Url, Notation('"udp://host:514", "tcp://host:514" or "unix:/path"', _parse_syslog_address, {"type": "string"})
]


class SyslogSink(Settings):
    """A syslog server: each line is the message of an RFC 5424 record."""

    address: SyslogAddress
    """`udp://host:514`, `tcp://host:514` (octet counting, RFC 6587) or `unix:/dev/log`."""
    facility: Literal[FACILITIES] = "local0"  # type: ignore[valid-type]  # the names stand there once
    """Facility of the records; their severity is `info`."""
    app_name: Annotated[str, Meta(pattern="^[!-~]{1,48}$")] = "fastgw"
    """`APP-NAME` of the records."""
    timeout: Duration = 5.0
    """Timeout for connecting, and for a server that does not read."""
    spool: Spool | None = None
    """Directory that keeps lines while the server is unreachable. null = 16 MiB of memory per worker. Over UDP
    the gateway cannot detect whether the server receives lines."""


class HttpSink(Settings):
    """An HTTP server that receives lines by POST, as `application/x-ndjson`."""

    url: EndpointUrl
    """URL to send lines to. A status of 2xx confirms them; 408, 429, 5xx and missing answers are retried after 1 s to
    30 s, or `Retry-After`; lines with another status are dropped and counted. Lines may arrive twice if an answer was
    lost."""
    batch: Annotated[int, Meta(ge=1, le=10_000)] = 500
    """Maximum number of lines per request. Fewer are sent after 50 ms."""
    gzip: bool = False
    """Whether requests are compressed (`Content-Encoding: gzip`)."""
    token: Secret | None = None
    """Token for `Authorization: Bearer`."""
    username: Username | None = None
    """Username for `Authorization: Basic`."""
    password: Secret | None = None
    """Password of `username`."""
    ca: ReadableFile | None = None
    """Certificates of the authorities that are trusted, in PEM. null = those of the system."""
    certificate: ReadableFile | None = None
    """PEM file with the client certificate and its chain. Needs `key`. Renewed files are used from the next connection
    on."""
    key: KeyFile | None = None
    """PEM file with the private key of the client certificate, without a passphrase. Needs `certificate`."""
    timeout: Duration = 10.0
    """Timeout for connecting, and for the whole response to a batch."""
    spool: Spool | None = None
    """Directory that keeps lines while the server is unreachable. null = 16 MiB of memory per worker."""

    def __post_init__(self) -> None:
        if (self.username is None) is not (self.password is None):
            raise ValueError("`username` and `password` belong together")
        if self.token is not None and self.username is not None:
            raise ValueError("`token` and `username` exclude one another")
        _check_files(self.ca, self.certificate, self.key, "" if self.url.origin.tls else "`url` is not https")

    def authorization(self) -> str | None:
        """Return the value of `Authorization`. Raises `ValueError` if its secret is unavailable."""
        try:
            if self.token is not None:
                return f"Bearer {self.token.value()}"
            if self.password is not None:
                basic = f"{self.username}:{self.password.value()}"
                return f"Basic {b64encode(basic.encode()).decode()}"
        except SecretError as error:
            raise ValueError(str(error)) from error
        return None


class LokiSink(HttpSink):
    """Grafana Loki (`/loki/api/v1/push`)."""

    labels: Mapping[
        Annotated[str, Meta(pattern="^[a-zA-Z_][a-zA-Z0-9_]*$")], Annotated[str, Meta(min_length=1, max_length=256)]
    ] = NONE
    """Labels of the stream, in addition to `job="fastgw"`."""


class ElasticsearchSink(HttpSink):
    """Elasticsearch or OpenSearch (`/_bulk`). Needs a `format` of JSON objects."""

    index: Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9._-]{0,254}$")]
    """Index or data stream."""


class OtlpSink(HttpSink):
    """An OpenTelemetry collector: each line is a log record, sent by OTLP, encoded as protobuf. Of lines in JSON the
    fields are attributes, and the record has the trace and span of the request."""

    url: EndpointUrl
    """URL of the collector, such as `http://collector:4318`. With `protocol: http`, `/v1/logs` is appended to its path.
    """
    protocol: Literal["http", "grpc"] = "http"
    """`http`: OTLP/HTTP, usually port 4318; `grpc`: OTLP/gRPC, usually port 4317, which needs HTTP/2. Statuses of gRPC
    are retried as OTLP specifies, and those that wrong settings cause (`UNAUTHENTICATED`, `PERMISSION_DENIED`,
    `UNIMPLEMENTED`) as well."""
    service: Annotated[str, Meta(min_length=1, max_length=255)] = "fastgw"
    """Name of this gateway (`service.name`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if "?" in self.url.target:
            raise ValueError("`url` has a query; expected scheme, host and port")
        if self.url.target.rstrip("/").endswith("/v1/logs"):
            raise ValueError("`url` ends with `/v1/logs`, which is appended to it; expected the URL before it")
        if self.protocol == "grpc" and self.url.target != "/":
            raise ValueError("`url` has a path, which gRPC does not have; expected scheme, host and port")

    @property
    def endpoint(self) -> Endpoint:
        """URL that lines are sent to."""
        target = LOGS_SERVICE if self.protocol == "grpc" else f"{self.url.target.rstrip('/')}/v1/logs"
        return Endpoint(self.url.origin, target)


class KafkaSasl(Settings):
    """Authentication at Kafka brokers (SASL)."""

    username: Annotated[str, Meta(min_length=1, max_length=256)]
    """Name of the user."""
    password: Secret
    """Password of the user."""
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    """Mechanism. `PLAIN` sends the password itself, and needs `tls`."""


class KafkaSink(Settings):
    """A topic of Kafka: each line is the value of a message without a key. Needs `fastgw[kafka]`."""

    brokers: Annotated[tuple[Broker, ...], Meta(min_length=1, max_length=64)]
    """Brokers to begin with, such as `kafka-1:9092`; they name the others."""
    topic: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9._-]{1,249}$")]
    """Topic to send lines to. Lines are spread over its partitions."""
    acks: Literal["all", "leader", "none"] = "all"
    """Confirmation of lines: by `all` replicas in sync, by the `leader` of the partition, or `none`: lines may be lost.
    Lines that are not confirmed are retried after 1 s to 30 s, and may arrive twice."""
    batch: Annotated[int, Meta(ge=1, le=10_000)] = 500
    """Maximum number of lines that wait for their confirmation. Fewer are sent after 50 ms."""
    gzip: bool = False
    """Whether batches are compressed."""
    tls: bool = False
    """Whether connections use TLS. The names in the brokers' certificates are verified."""
    ca: ReadableFile | None = None
    """Certificates of the authorities that are trusted, in PEM. null = those of the system."""
    certificate: ReadableFile | None = None
    """PEM file with the client certificate and its chain. Needs `key`."""
    key: KeyFile | None = None
    """PEM file with the private key of the client certificate, without a passphrase. Needs `certificate`."""
    sasl: KafkaSasl | None = None
    """Authentication. null = none."""
    timeout: Duration = 10.0
    """Timeout for connecting, and for the confirmation of a batch."""
    spool: Spool | None = None
    """Directory that keeps lines while the brokers are unreachable. null = 16 MiB of memory per worker."""

    def __post_init__(self) -> None:
        if find_spec("aiokafka") is None:
            raise ValueError("the package aiokafka is missing; pip install 'fastgw[kafka]'")
        _check_files(self.ca, self.certificate, self.key, "" if self.tls else "`tls` is not")
        if self.sasl is not None and self.sasl.mechanism == "PLAIN" and not self.tls:
            raise ValueError("`sasl.mechanism` PLAIN sends the password itself; expected `tls: true`, or SCRAM-SHA-512")

    def credentials(self) -> tuple[str, str, str] | None:
        """Return mechanism, username and password. Raises `ValueError` if the secret is unavailable."""
        if self.sasl is None:
            return None
        try:
            return self.sasl.mechanism, self.sasl.username, self.sasl.password.value()
        except SecretError as error:
            raise ValueError(str(error)) from error


class FileSink(Settings):
    """A file that the gateway rotates itself, without signals: it is renamed to `PATH.20260131-235959-123456` (UTC);
    a new one begins. Lines stay whole; none is lost or doubled. It is reopened on SIGUSR1 as other files are."""

    path: Annotated[str, FileName(readable=False)]
    """Path of the file, relative to the configuration file."""
    size: Size | None = None
    """Size from which on it is rotated, at least 64KiB; by some lines more. null = any size."""
    every: Duration | None = None
    """Interval of rotations, at least 1m, counted from midnight UTC for parts of a day: `1h`, `1d`. The first line of a
    new interval rotates the file. null = by size alone."""
    keep: Annotated[int, Meta(ge=1, le=10_000)] = 10
    """Maximum number of rotated files; the oldest are deleted."""
    gzip: bool = False
    """Whether rotated files are compressed, as `PATH.20260131-235959-123456.gz`, in a thread of their own."""

    def __post_init__(self) -> None:
        if self.size is None and self.every is None:
            raise ValueError("expected `size`, `every` or both")
        if self.size is not None and self.size < LEAST_ROTATED:
            raise ValueError("`size` is less than 64KiB")
        if self.every is not None and self.every < LEAST_INTERVAL_S:
            raise ValueError("`every` is less than 1m")


class RemoteSink(Settings):
    """Sink on another machine, or a rotated file. Exactly one of its settings is set."""

    file: FileSink | None = None
    """A file that the gateway rotates."""
    syslog: SyslogSink | None = None
    """A syslog server."""
    http: HttpSink | None = None
    """An HTTP server."""
    loki: LokiSink | None = None
    """Grafana Loki."""
    elasticsearch: ElasticsearchSink | None = None
    """Elasticsearch or OpenSearch."""
    otlp: OtlpSink | None = None
    """An OpenTelemetry collector."""
    kafka: KafkaSink | None = None
    """A topic of Kafka."""

    def __post_init__(self) -> None:
        kinds = (self.file, self.syslog, self.http, self.loki, self.elasticsearch, self.otlp, self.kafka)
        if sum(each is not None for each in kinds) != 1:
            raise ValueError(
                "expected exactly one of `file`, `syslog`, `http`, `loki`, `elasticsearch`, `otlp` and `kafka`"
            )

    def __str__(self) -> str:
        if self.file is not None:
            return self.file.path
        if self.kafka is not None:
            return f"kafka {','.join(self.kafka.brokers)}"
        if self.syslog is not None:
            return f"syslog {self.syslog.address}"
        sink = self.http or self.loki or self.elasticsearch or self.otlp
        assert sink is not None
        return str(sink.url.origin)
