"""The sink that the settings of a log describe."""

from collections.abc import Callable
from typing import Final

from fastgw.config.settings import log_sinks
from fastgw.observe.access_log.http_delivery import BulkBody, HttpTransport, LineBody, LokiBody
from fastgw.observe.access_log.otlp_logs import OtlpLogBody
from fastgw.observe.access_log.remote_sink import RemoteSink, Transport
from fastgw.observe.access_log.rotation import Rotation
from fastgw.observe.access_log.sink import Sink
from fastgw.observe.access_log.spool import Spool
from fastgw.observe.access_log.syslog import SyslogTransport
from fastgw.observe.kafka_delivery import KafkaTransport

SYSLOG_BATCH: Final = 500
CallCollector = Callable[[log_sinks.OtlpSink], Transport]
"""Function that returns the transport to a collector over gRPC, whose client is of a higher package."""


def sink_of(
    settings: str | log_sinks.RemoteSink, directives: bytes = b"", call_collector: CallCollector | None = None
) -> Sink | RemoteSink:
    """Return the sink. `settings`: `stdout`, the path of a file, or another sink. `directives`: lines that
    begin a file. `call_collector`: None where no sink uses gRPC.
    """
    if isinstance(settings, str):
        return Sink(settings, directives)
    if (file := settings.file) is not None:
        return Sink(file.path, directives, Rotation(file.path, file.size, file.every, file.keep, file.gzip))
    transport: Transport
    batch, http = SYSLOG_BATCH, settings.http or settings.loki or settings.elasticsearch or settings.otlp
    if http is not None:
        transport, batch, spool = _http_transport(http, call_collector), http.batch, http.spool
    elif (kafka := settings.kafka) is not None:
        transport, batch, spool = KafkaTransport(kafka), kafka.batch, kafka.spool
    else:
        syslog = settings.syslog
        assert syslog is not None
        transport = SyslogTransport(syslog.address, syslog.facility, syslog.app_name, syslog.timeout)
        spool = syslog.spool
    return RemoteSink(str(settings), transport, batch, None if spool is None else Spool(spool.path, spool.size))


def _http_transport(http: log_sinks.HttpSink, call_collector: CallCollector | None) -> Transport:
    body, url = LineBody(), http.url
    if isinstance(http, log_sinks.LokiSink):
        body = LokiBody(http.labels)
    elif isinstance(http, log_sinks.ElasticsearchSink):
        body = BulkBody(http.index)
    elif isinstance(http, log_sinks.OtlpSink):
        if http.protocol == "grpc":
            assert call_collector is not None
            return call_collector(http)
        body, url = OtlpLogBody(http.service), http.endpoint
    files = http.ca, http.certificate, http.key
    return HttpTransport(url, body, http.authorization, http.timeout, files, http.gzip)
