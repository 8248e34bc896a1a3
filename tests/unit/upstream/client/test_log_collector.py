"""Access logs over OTLP/gRPC, as a real gRPC server receives them."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as service
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc as service_grpc

from fastgw.config.base.value_types import parse_endpoint
from fastgw.config.settings.log_sinks import OtlpSink, RemoteSink, Spool
from fastgw.config.settings.secrets import Secret
from fastgw.observe.access_log import remote_sink
from fastgw.observe.access_log.remote_sink import Undelivered
from fastgw.observe.sink_kinds import sink_of
from fastgw.upstream.client import log_collector
from fastgw.upstream.client.log_collector import LogCollector
from tests.support.certificates import Certificates

DEADLINE = 30.0
LINE = b'{"status":502,"trace_id":"0af7651916cd43dd8448eb211c80319c","path":"/a"}\n'


class Collector(service_grpc.LogsServiceServicer):
    """Collector on a port. `failures`: statuses of the next calls; afterwards OK. `rejects`: records of each call that
    it rejects.
    """

    def __init__(self, port: int = 0, credentials: grpc.ServerCredentials | None = None) -> None:
        self.requests: list[service.ExportLogsServiceRequest] = []
        self.metadata: list[dict[str, str]] = []
        self.failures: list[grpc.StatusCode] = []
        self.rejects = 0
        self._pool = futures.ThreadPoolExecutor(2)
        self._server = grpc.server(self._pool)
        service_grpc.add_LogsServiceServicer_to_server(self, self._server)
        address = f"127.0.0.1:{port}"
        self.port = (
            self._server.add_insecure_port(address)
            if credentials is None
            else self._server.add_secure_port(address, credentials)
        )
        self._server.start()

    def Export(self, request: Any, context: Any) -> Any:
        if self.failures:
            context.abort(self.failures.pop(0), "")
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        answer = service.ExportLogsServiceResponse()
        answer.partial_success.rejected_log_records = self.rejects
        return answer

    @property
    def texts(self) -> list[str]:
        return [
            record.body.string_value
            for request in self.requests
            for resource in request.resource_logs
            for record in resource.scope_logs[0].log_records
        ]

    def stop(self) -> None:
        self._server.stop(None).wait()
        self._pool.shutdown()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.stop()


def sink_to(port: int, scheme: str = "http", **more: Any) -> Any:
    url = parse_endpoint(f"{scheme}://127.0.0.1:{port}")
    return sink_of(RemoteSink(otlp=OtlpSink(url=url, protocol="grpc", **more)), call_collector=LogCollector)


@pytest.mark.parametrize("compresses", [False, True])
def test_lines_are_records_of_one_call(collector: Collector, compresses: bool) -> None:
    sink = sink_to(collector.port, service="edge", gzip=compresses, token=Secret(text="t0ken"))
    with closing(sink):
        assert sink.write(LINE + b"plain\n") + sink.flush() == 0
        assert sink.write(b"later\n") + sink.flush() == 0
    assert collector.texts == [LINE.decode().rstrip(), "plain", "later"]
    first, _ = collector.requests
    resource = first.resource_logs[0]
    assert {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"] == "edge"
    record = resource.scope_logs[0].log_records[0]
    assert (record.trace_id.hex(), record.severity_text) == ("0af7651916cd43dd8448eb211c80319c", "ERROR")
    assert {each["authorization"] for each in collector.metadata} == {"Bearer t0ken"}


def test_more_than_a_message_is_several_calls(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_collector, "MOST_CALL_BYTES", 10)
    with closing(sink_to(collector.port)) as sink:
        assert sink.write(b"12345\n67890\nabcde\n") + sink.flush() == 0
    assert len(collector.requests) == 2
    assert collector.texts == ["12345", "67890", "abcde"]


@pytest.mark.parametrize("code", ["UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED"])
def test_what_may_succeed_later_is_sent_again(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: str
) -> None:
    monkeypatch.setattr(remote_sink, "RETRY_FIRST_S", 0.0)
    monkeypatch.setattr(remote_sink, "RETRY_MOST_S", 0.0)
    collector.failures = [grpc.StatusCode[code]] * 2
    with closing(sink_to(collector.port)) as sink:
        assert sink.write(b"a\n") + sink.flush() == 0
    assert collector.texts == ["a"]
    told = [record.getMessage() for record in caplog.records]
    origin = f"http://127.0.0.1:{collector.port}"
    assert told == [
        f"access log {origin}: gRPC status {code}; lines are held in memory",
        f"access log {origin} can be written again",
    ]


def test_what_a_collector_refuses_or_rejects_is_lost_and_counted(collector: Collector) -> None:
    collector.failures, collector.rejects = [grpc.StatusCode.INVALID_ARGUMENT], 1
    with closing(sink_to(collector.port)) as sink:
        assert sink.write(b"a\nb\n") + sink.flush() == 2
        assert sink.write(b"c\nd\n") + sink.flush() == 1


def test_a_collector_that_is_killed_costs_no_line(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(remote_sink, "RETRY_FIRST_S", 0.05)
    monkeypatch.setattr(remote_sink, "RETRY_MOST_S", 0.05)
    spool = Spool(path=str(tmp_path / "spool"), size=1 << 20)
    with closing(sink_to(collector.port, spool=spool)) as sink:
        assert sink.write(b"1\n") + sink.flush() == 0
        collector.stop()
        assert sink.write(b"2\n") + sink.flush() == 0
        assert len([*(tmp_path / "spool").iterdir()]) == 1
        again = Collector(collector.port)
        try:
            until = time.monotonic() + DEADLINE
            while not again.texts:
                assert time.monotonic() < until
                time.sleep(min(sink.idle_s or 0.0, 0.05))
                sink.refresh()
            assert sink.write(b"3\n") + sink.flush() == 0
            assert again.texts == ["2", "3"]
        finally:
            again.stop()
    assert f"{collector.port}: connect_refused: " in caplog.text


def test_certificates_are_verified(tmp_path: Path) -> None:
    for name in ("ours", "other"):
        (tmp_path / name).mkdir()
    ours, other = Certificates(tmp_path / "ours"), Certificates(tmp_path / "other")
    certificate, key = (Path(each).read_bytes() for each in ours.issue("127.0.0.1"))
    server = Collector(credentials=grpc.ssl_server_credentials([(key, certificate)]))
    spool = Spool(path=str(tmp_path / "spool"), size=1 << 20)
    try:
        with closing(sink_to(server.port, "https", ca=ours.ca)) as sink:
            assert sink.write(b"1\n") + sink.flush() == 0
        with closing(sink_to(server.port, "https", ca=other.ca, spool=spool)) as sink:
            assert sink.write(b"2\n") + sink.flush() == 0
        assert server.texts == ["1"]
    finally:
        server.stop()


def test_client_certificates_are_shown_and_renewed_ones_are_read(tmp_path: Path) -> None:
    """A collector that demands a certificate, and at first gets one of an authority that it does not trust."""
    for name in ("ours", "other"):
        (tmp_path / name).mkdir()
    ours, other = Certificates(tmp_path / "ours"), Certificates(tmp_path / "other")
    certificate, key = (Path(each).read_bytes() for each in ours.issue("127.0.0.1"))
    trusted = Path(ours.ca).read_bytes()
    server = Collector(credentials=grpc.ssl_server_credentials([(key, certificate)], trusted, require_client_auth=True))
    shown = dict(zip(("certificate", "key"), other.issue("gateway.test"), strict=True))
    url = parse_endpoint(f"https://127.0.0.1:{server.port}")
    collector = LogCollector(OtlpSink(url=url, protocol="grpc", ca=ours.ca, **shown))
    try:
        with pytest.raises(Undelivered):
            collector.deliver([b"1"])
        for renewed, file in zip(ours.issue("gateway.test"), shown.values(), strict=True):
            Path(file).write_bytes(Path(renewed).read_bytes())
        assert collector.deliver([b"1"]) == 0
        assert server.texts == ["1"]
        Path(ours.ca).unlink()
        server.failures.append(grpc.StatusCode.UNAVAILABLE)
        with pytest.raises(Undelivered, match="gRPC status UNAVAILABLE"):
            collector.deliver([b"2"])
        assert collector.deliver([b"2"]) == 0  # a status is no failure of the connection
    finally:
        collector.close()
        server.stop()
    missing = LogCollector(OtlpSink(url=url, protocol="grpc", ca=ours.ca))
    try:
        with pytest.raises(Undelivered, match=f"{ours.ca}: No such file or directory"):
            missing.deliver([b"3"])
    finally:
        missing.close()


def test_an_http_server_is_no_collector(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What answers is not HTTP/2: lines are kept, and the log says why."""
    with socket.create_server(("127.0.0.1", 0)) as server, futures.ThreadPoolExecutor(1) as pool:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        answered = pool.submit(answer)
        spool = Spool(path=str(tmp_path / "spool"), size=1 << 20)
        with closing(sink_to(server.getsockname()[1], spool=spool)) as sink:
            assert sink.write(b"1\n") + sink.flush() == 0
        answered.result(10.0)
    (told,) = (each for each in caplog.messages if each.startswith("access log"))
    assert "the target has answered with HTTP/1, not HTTP/2" in told
    assert told.endswith("lines are kept in its spool")


@pytest.mark.parametrize("url", ["http://a:4317/logs", "http://a:4317/?b"])
def test_a_url_of_grpc_has_no_path(url: str) -> None:
    with pytest.raises(ValueError, match="expected scheme, host and port"):
        OtlpSink(url=parse_endpoint(url), protocol="grpc")
