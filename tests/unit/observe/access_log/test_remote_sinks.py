"""Sinks on other machines: what servers receive, and what happens to lines while they are away."""

from __future__ import annotations

import base64
import errno
import fcntl
import gzip
import http.server
import json
import os
import re
import resource
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse

from fastgw import operator_events
from fastgw.config.base.value_types import parse_endpoint, parse_target_url
from fastgw.config.settings.log_sinks import (
    ElasticsearchSink,
    HttpSink,
    LokiSink,
    OtlpSink,
    RemoteSink,
    Spool,
    SyslogSink,
)
from fastgw.config.settings.secrets import Secret
from fastgw.observe.access_log import remote_sink
from fastgw.observe.access_log.sink import why_not
from fastgw.observe.access_log.spool import Spool as LineSpool
from fastgw.observe.sink_kinds import sink_of
from tests.support.certificates import Certificates, server_tls
from tests.support.gateway import wait_until

RECORD = re.compile(
    rb"<134>1 [0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z [!-~]+ fastgw [0-9]+ access - (.*)",
    re.DOTALL,
)
WAIT_S = 30.0


def lines(*texts: str) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


class Server(http.server.ThreadingHTTPServer):
    """Answers with `answers`, each once and the last for ever; keeps requests."""

    daemon_threads = True

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.answers: list[tuple[int, dict[str, str], bytes]] = [(204, {}, b"")]
        self.interim: tuple[int, ...] = ()
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/in?tenant=a"

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, _, body in self.seen]

    def stop(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        answers = self.server.answers
        for interim in self.server.interim:
            self.send_response_only(interim)
            self.send_header("Link", "</a>; rel=preload")
            self.end_headers()
        status, fields, content = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.stop()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waits between attempts."""
    monkeypatch.setattr(remote_sink, "RETRY_FIRST_S", 0.0)
    monkeypatch.setattr(remote_sink, "RETRY_MOST_S", 0.0)


@pytest.fixture
def make() -> Iterator[Callable[..., Any]]:
    made: list[Any] = []

    def make_sink(**kind: Any) -> Any:
        made.append(sink_of(RemoteSink(**kind)))
        return made[-1]

    yield make_sink
    for each in made:
        each.close()


class Endless:
    """Server that reads a request, and then answers without end: `pieces` one after the other, the last for ever."""

    def __init__(self, *pieces: bytes, pause: float = 0.02) -> None:
        self._pieces, self._pause = pieces, pause
        self._ended = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}/in"
        self.accepted = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def stop(self) -> None:
        self._ended.set()
        self._listening.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self.accepted += 1
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(65536)
            pieces = [*self._pieces]
            while not self._ended.wait(self._pause):
                connection.sendall(pieces.pop(0) if len(pieces) > 1 else pieces[0])


@pytest.fixture
def endless() -> Iterator[Callable[..., Endless]]:
    made: list[Endless] = []

    def make_server(*pieces: bytes, **more: float) -> Endless:
        made.append(Endless(*pieces, **more))
        return made[-1]

    yield make_server
    for each in made:
        each.stop()


def bulk(*texts: str) -> bytes:
    """Return the content of a request of the bulk API."""
    return b"".join(b'{"create":{"_index":"web"}}\n%b\n' % text.encode() for text in texts)


def bulk_answer(*statuses: int) -> tuple[int, dict[str, str], bytes]:
    """Return an answer of the bulk API to as many lines."""
    items = [{"create": {"status": status}} for status in statuses]
    return 200, {}, json.dumps({"errors": max(statuses) > 299, "items": items}).encode()


def http_sink(server: Server, **more: Any) -> dict[str, Any]:
    return {"http": HttpSink(url=parse_endpoint(server.url), timeout=WAIT_S, **more)}


OF_KINDS: dict[str, tuple[type[HttpSink], dict[str, Any], tuple[int, dict[str, str], bytes]]] = {
    "http": (HttpSink, {}, (204, {}, b"")),
    "loki": (LokiSink, {}, (204, {}, b"")),
    "elasticsearch": (ElasticsearchSink, {"index": "web"}, (200, {}, b'{"errors":false}')),
    "otlp": (OtlpSink, {}, (200, {}, b"")),
}


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def issued(ours: Certificates) -> tuple[str, str]:
    return ours.issue("127.0.0.1")


class TestTls:
    @pytest.mark.parametrize("kind", OF_KINDS)
    def test_client_certificates_are_shown_and_renewed_ones_are_read(self, tmp_path, ours, issued, kind):
        """A server that demands a certificate, and at first gets one of an authority that it does not trust."""
        shown = dict(zip(("certificate", "key"), Certificates(tmp_path).issue("gateway.test"), strict=True))
        server = Server(tls=server_tls(issued, ours.ca))
        make, more, answer = OF_KINDS[kind]
        server.answers = [answer]
        url = parse_endpoint(f"https://127.0.0.1:{server.server_address[1]}/")
        sink = sink_of(RemoteSink(**{kind: make(url=url, ca=ours.ca, timeout=WAIT_S, **more, **shown)}))
        assert isinstance(sink, remote_sink.RemoteSink)
        try:
            with pytest.raises(remote_sink.Undelivered, match=r"TLS failed: |Connection reset|Broken pipe"):
                sink._transport.deliver([b'{"a":1}'])
            assert server.seen == []
            for renewed, file in zip(ours.issue("gateway.test"), shown.values(), strict=True):
                Path(file).write_bytes(Path(renewed).read_bytes())
            assert sink._transport.deliver([b'{"a":1}']) == 0
            assert len(server.seen) == 1
        finally:
            sink.close()
            server.stop()

    def test_files_are_read_before_the_gateway_starts(self, ours, issued):
        url, (certificate, key) = parse_endpoint("https://logs.test/in"), ours.issue("gateway.test")
        whole = HttpSink(url=url, ca=ours.ca, certificate=certificate, key=key)
        assert why_not(RemoteSink(http=whole)) is None
        mixed = LokiSink(url=url, certificate=certificate, key=issued[1])
        assert why_not(RemoteSink(loki=mixed)) == f"{issued[1]} is not the key of {certificate}"

    @pytest.mark.parametrize("name", ["ca", "certificate", "key"])
    def test_files_need_https_and_one_another(self, ours, name):
        with pytest.raises(ValueError, match=f"`{name}` is set, but `url` is not https"):
            HttpSink(url=parse_endpoint("http://logs.test/in"), **{name: ours.ca})
        if name != "ca":
            with pytest.raises(ValueError, match="belong together"):
                HttpSink(url=parse_endpoint("https://logs.test/in"), **{name: ours.ca})


DATED = [
    ('{"time":"2026-01-31T12:00:00.123Z","status":200}', 1_769_860_800_123_000_000),
    ('{"@timestamp":"2026-01-31T12:00:00.125Z"}', 1_769_860_800_125_000_000),
    ('{"version":"1.1","timestamp":1769860800.126,"_x":1}', 1_769_860_800_126_000_000),
    ('192.0.2.1 - - [31/Jan/2026:12:00:00 +0000] "GET / HTTP/1.1" 200 2', 1_769_860_800_000_000_000),
    ("2026-01-31 12:00:00.127 192.0.2.1 - GET", 1_769_860_800_127_000_000),
    ("GET 2026-01-31 12:00:00.128", 1_769_860_800_128_000_000),
]
UNDATED = [
    "a line",
    "{",
    "{}",
    '{"time":"never"}',
    '{"time":5}',
    '{"time":"9999-01-31T12:00:00Z"}',
    '{"timestamp":-1}',
    '{"timestamp":true}',
    "2026-13-31 12:00:00 x",
    "- - [99/Jan/2026:12:00:00 +0000] ",
    "- - [31/Abc/2026:12:00:00 +0000] ",
]
"""Lines without a date, or with none that can be theirs: a client may have sent it."""


class TestSyslog:
    def test_each_line_is_a_datagram_of_rfc_5424(self, make):
        with socket.socket(type=socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.1", 0))
            server.settimeout(WAIT_S)
            sink = make(syslog=SyslogSink(address=parse_target_url(f"udp://127.0.0.1:{server.getsockname()[1]}")))
            assert sink.write(lines('{"a":1}', "b")) == sink.flush() == 0
            assert [RECORD.fullmatch(server.recv(4096))[1] for _ in range(2)] == [b'{"a":1}', b"b"]

    @pytest.mark.parametrize("kind", ["tcp", "unix"])
    def test_a_stream_counts_octets_and_is_opened_again(self, make, tmp_path, kind):
        server = socket.create_server(("127.0.0.1", 0)) if kind == "tcp" else socket.socket(socket.AF_UNIX)
        if kind == "unix":
            server.bind(str(tmp_path / "log"))
            server.listen()
        where = f"tcp://127.0.0.1:{server.getsockname()[1]}" if kind == "tcp" else f"unix:{tmp_path / 'log'}"
        sink = make(syslog=SyslogSink(address=parse_target_url(where)))
        server.settimeout(WAIT_S)
        with server:
            for text in ("first", "second"):
                sink.write(lines(text, "ü"))
                sink.flush()
                connection, _ = server.accept()
                with connection, connection.makefile("rb") as stream:
                    for expected in (text.encode(), "ü".encode()):
                        length = b""
                        while (byte := stream.read(1)) != b" ":
                            length += byte
                        assert RECORD.fullmatch(stream.read(int(length)))[1] == expected
                    # The server leaves; the next delivery notices.

    @pytest.mark.parametrize("text", [line for line, _ in DATED])
    def test_a_record_has_the_date_of_its_request(self, make, text):
        with socket.socket(type=socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.1", 0))
            server.settimeout(WAIT_S)
            sink = make(syslog=SyslogSink(address=parse_target_url(f"udp://127.0.0.1:{server.getsockname()[1]}")))
            assert sink.write(lines(text)) == sink.flush() == 0
            _, date, *_ = server.recv(4096).split(b" ")
            assert date.decode() == f"2026-01-31T12:00:00.{dict(DATED)[text] // 1_000_000 % 1000:03}Z"

    def test_a_unix_socket_may_take_datagrams(self, make, tmp_path):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
            server.bind(str(tmp_path / "log"))
            server.settimeout(WAIT_S)
            sink = make(
                syslog=SyslogSink(
                    address=parse_target_url(f"unix:{tmp_path / 'log'}"), facility="daemon", app_name="gw"
                )
            )
            sink.write(lines("x" * 100_000))
            assert sink.flush() == 0
            assert server.recv(100_000).startswith(b"<30>1 ")


class TestHttp:
    def test_lines_are_posted_as_ndjson_in_batches(self, make, server):
        sink = make(**http_sink(server, batch=2, gzip=True, token=Secret(text="t0ken")))
        assert sink.write(lines("1", "2", "3")) == 0
        assert sink.flush() == 0
        assert [gzip.decompress(body) for body in server.bodies] == [b"1\n2\n", b"3\n"]
        path, fields, _ = server.seen[0]
        assert path == "/in?tenant=a"
        assert fields["content-type"] == "application/x-ndjson"
        assert fields["authorization"] == "Bearer t0ken"

    def test_basic_credentials(self, make, server):
        sink = make(**http_sink(server, username="u", password=Secret(text="p")))
        sink.write(lines("1"))
        sink.flush()
        assert server.seen[0][1]["authorization"] == "Basic " + base64.b64encode(b"u:p").decode()

    def test_without_its_secret_lines_are_kept_and_the_secret_is_not_shown(self, make, server, tmp_path, caplog):
        password = tmp_path / "missing"
        sink = make(
            **http_sink(server, token=Secret(file=str(password)), spool=Spool(path=str(tmp_path / "s"), size=1 << 20))
        )
        sink.write(lines("1"))
        assert sink.flush() == 0
        assert server.seen == []
        assert "kept in its spool" in caplog.text

    @pytest.mark.parametrize("interim", [(100,), (103,), (103, 100, 102, 103)])
    @pytest.mark.parametrize(("answer", "lost"), [((200, {}, b"ok"), 0), ((204, {}, b""), 0), ((413, {}, b""), 1)])
    def test_the_final_response_counts(self, make, server, interim, answer, lost):
        """RFC 9110 section 15.2: any number of interim responses may precede it."""
        server.interim, server.answers = interim, [answer]
        sink = make(**http_sink(server))
        for number in ("1", "2"):
            sink.write(lines(number))
            assert sink.flush() == lost
        assert server.bodies == [b"1\n", b"2\n"]

    @pytest.mark.usefixtures("quick")
    def test_what_is_refused_for_a_while_is_sent_again_in_order(self, make, server):
        server.answers = [(503, {}, b""), (429, {"Retry-After": "0"}, b""), (500, {}, b"oops"), (200, {}, b"ok")]
        sink = make(**http_sink(server))
        sink.write(lines("1"))
        assert sink.flush() == 0
        sink.write(lines("2"))
        assert sink.flush() == 0
        assert server.bodies == [b"1\n"] * 4 + [b"2\n"]

    @pytest.mark.parametrize(
        ("retry_after", "least", "most"),
        [
            pytest.param("7", 6.0, 7.0, id="seconds"),
            pytest.param("Wed, 31 Dec 2098 23:59:59 GMT", 59.0, 60.0, id="date"),
            pytest.param("99999999999", 59.0, 60.0, id="long"),
            pytest.param("Sun, 06 Nov 1994 08:49:37 GMT", 0.0, 1.0, id="past"),
            pytest.param("soon", 0.0, 1.0, id="invalid"),
        ],
    )
    def test_a_server_is_left_alone_for_the_time_it_asks_for(
        self, make, server, tmp_path, monkeypatch, retry_after, least, most
    ):
        """RFC 9110 section 10.2.3: seconds or a date; respected up to a minute."""
        monkeypatch.setattr(remote_sink, "time", SimpleNamespace(**{**vars(time), "monotonic": lambda: 1000.0}))
        server.answers = [(503, {"Retry-After": retry_after}, b"")]
        sink = make(**http_sink(server, spool=Spool(path=str(tmp_path / "s"), size=1 << 20)))
        sink.write(lines("1"))
        sink.flush()
        assert least <= sink.idle_s <= most

    def test_what_is_refused_for_ever_is_counted(self, make, server):
        server.answers = [(413, {}, b""), (204, {}, b"")]
        sink = make(**http_sink(server))
        sink.write(lines("1", "2"))
        assert sink.flush() == 2
        sink.write(lines("3"))
        assert sink.flush() == 0

    def test_what_is_refused_for_ever_is_reported_once_in_a_while_with_its_status(self, make, server, caplog):
        server.answers = [(422, {}, b"")]
        sink = make(**http_sink(server))
        for _ in range(3):
            sink.write(lines("1", "2"))
            assert sink.flush() == 2
        (told,) = caplog.messages
        assert told.endswith("it answers 422; 2 lines were refused for ever: they are dropped and counted")

    @pytest.mark.usefixtures("quick")
    @pytest.mark.parametrize("status", [101, 301, 302, 308, 401, 403, 404, 405, 407])
    def test_lines_wait_until_a_wrong_url_or_credential_is_mended(self, make, server, caplog, status):
        """A redirect is not followed: it may lead anywhere."""
        server.answers = [(status, {"Location": "http://127.0.0.1:1/"}, b""), (204, {}, b"")]
        sink = make(**http_sink(server))
        sink.write(lines("1"))
        assert sink.flush() == 0
        assert server.bodies == [b"1\n"] * 2
        assert f"it answers {status}; lines are held in memory" in caplog.text

    @pytest.mark.usefixtures("quick")
    @pytest.mark.parametrize(
        ("interval", "reported"), [(0.0, ["503", "401", "503"]), (operator_events.OUTAGE_REPORT_S, ["503"])]
    )
    def test_another_cause_of_an_outage_is_reported_once_in_a_while(
        self, make, server, caplog, monkeypatch, interval, reported
    ):
        """As when a server is back, and its credentials have been changed: the first cause would mislead."""
        monkeypatch.setattr(operator_events, "OUTAGE_REPORT_S", interval)
        server.answers = [(status, {}, b"") for status in (503, 503, 401, 401, 503, 204)]
        sink = make(**http_sink(server))
        sink.write(lines("1"))
        assert sink.flush() == 0
        *failures, back = caplog.messages
        assert [told.partition("it answers ")[2] for told in failures] == [
            f"{status}; lines are held in memory" for status in reported
        ]
        assert back.endswith("can be written again")

    @pytest.mark.parametrize(
        "pieces",
        [
            pytest.param((b"H",), id="head"),
            pytest.param((b"HTTP/1.1 204 No Content\r\nX: ", b"x"), id="field"),
            pytest.param((b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b"x"), id="body"),
            pytest.param((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"), id="chunks"),
            pytest.param((b"HTTP/1.1 100 Continue\r\n\r\n",), id="continue"),
            pytest.param((b"HTTP/1.1 103 Early Hints\r\n\r\n",), id="interim"),
        ],
    )
    def test_a_server_that_answers_a_byte_at_a_time_holds_nobody(self, make, endless, tmp_path, pieces):
        """The timeout is for the whole answer, not for each of its bytes."""
        spool = Spool(path=str(tmp_path / "spool"), size=1 << 20)
        sink = make(http=HttpSink(url=parse_endpoint(endless(*pieces).url), timeout=0.3, spool=spool))
        sink.write(lines("1"))
        assert sink.flush() == 0
        assert [each.read_bytes() for each in (tmp_path / "spool").iterdir()] == [b"1\n"]

    @pytest.mark.parametrize(
        ("pieces", "is_taken"),
        [
            pytest.param((b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,), False, id="continue"),
            pytest.param((b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000,), False, id="interim"),
            pytest.param((b"HTTP/1.1 200 OK\r\n", b"X: %b\r\n" % (b"x" * 60_000)), False, id="fields"),
            pytest.param((b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n", b"x" * 65536), True, id="body"),
        ],
    )
    def test_an_answer_without_end_is_not_read(self, make, endless, tmp_path, caplog, pieces, is_taken):
        """Lines are accepted by the status: a longer answer than needed ends the connection."""
        spool = Spool(path=str(tmp_path / "spool"), size=1 << 20)
        server = endless(*pieces, pause=0.0)
        sink = make(http=HttpSink(url=parse_endpoint(server.url), timeout=WAIT_S, spool=spool))
        sink.write(lines("1"))
        assert sink.flush() == 0
        kept = [*(tmp_path / "spool").iterdir()] if (tmp_path / "spool").exists() else []
        assert (kept == []) is is_taken
        assert ("its answer is not valid HTTP" in caplog.text) is not is_taken

    def test_garbage_of_a_server_is_not_repeated_in_the_log(self, make, endless, tmp_path, caplog):
        spool = Spool(path=str(tmp_path / "spool"), size=1 << 20)
        sink = make(http=HttpSink(url=parse_endpoint(endless(b"\xffGARBAGE\r\n\r\n").url), spool=spool))
        sink.write(lines("1"))
        assert sink.flush() == 0
        assert caplog.messages[0].endswith("its answer is not valid HTTP; lines are kept in its spool")
        assert "GARBAGE" not in caplog.text

    def test_a_stopped_log_does_not_wait_for_a_server(self, make, server):
        server.answers = [(503, {}, b"")]
        sink = make(**http_sink(server))
        sink.write(lines("1"))
        threading.Timer(0.05, lambda: setattr(sink, "abandoned", True)).start()
        assert sink.flush() == 1

    def test_loki_gets_a_stream_with_labels_and_ascending_dates(self, make, server):
        sink = make(loki=LokiSink(url=parse_endpoint(server.url), labels={"env": "prod"}))
        sink.write(lines('{"a":1}', "\udcff".encode("utf-8", "surrogateescape").decode("latin-1")))
        assert sink.flush() == 0
        [stream] = json.loads(server.bodies[0])["streams"]
        assert stream["stream"] == {"job": "fastgw", "env": "prod"}
        (first, line), (second, _) = stream["values"]
        assert line == '{"a":1}'
        assert int(second) == int(first) + 1

    def test_loki_gets_the_dates_of_the_requests_each_later_than_the_one_before(self, make, server):
        sink = make(loki=LokiSink(url=parse_endpoint(server.url)))
        (early, early_ns), (later, later_ns), *_ = DATED
        sink.write(lines(early, early, later, early, *UNDATED))
        assert sink.flush() == 0
        [stream] = json.loads(server.bodies[0])["streams"]
        dates = [int(date) for date, _ in stream["values"]]
        assert dates[:4] == [early_ns, early_ns + 1, later_ns, later_ns + 1]
        now = dates[4]
        assert now > later_ns + 10**15
        assert dates[4:] == [now + index for index in range(len(UNDATED))]

    def test_lines_whose_dates_loki_refuses_are_sent_with_that_of_their_delivery(self, make, server):
        why = b"entry with timestamp 2026-01-31 12:00:00 ignored, reason: 'entry too far behind, oldest acceptable ...'"
        server.answers = [(400, {}, why), (204, {}, b""), (400, {}, b"another reason")]
        sink = make(loki=LokiSink(url=parse_endpoint(server.url)))
        for text, _ in DATED[:2]:
            sink.write(lines(text))
            assert sink.flush() == (0 if len(server.bodies) == 2 else 1)
        values = [json.loads(body)["streams"][0]["values"] for body in server.bodies]
        assert [line for ((_, line),) in values] == [DATED[0][0], DATED[0][0], DATED[1][0]]
        (first,), (second,), (third,) = values
        assert (int(first[0]), int(third[0])) == (DATED[0][1], DATED[1][1])
        assert int(second[0]) > DATED[1][1]

    def test_lines_that_loki_has_stored_are_not_sent_again(self, make, server):
        """It refuses those that are too old, and stores the others of the same request."""
        why = b"entry ... ignored, reason: 'entry too far behind',\ntotal ignored: 1 out of 3 for stream: {}"
        server.answers = [(400, {}, why), (204, {}, b"")]
        sink = make(loki=LokiSink(url=parse_endpoint(server.url)))
        early, later = DATED[0][0], DATED[1][0]
        sink.write(lines(early, later, later))
        assert sink.flush() == 0
        values = [json.loads(body)["streams"][0]["values"] for body in server.bodies]
        assert [[line for _, line in each] for each in values] == [[early, later, later], [early]]

    def test_a_collector_decodes_records_with_trace_and_severity(self, make, server):
        sink = make(otlp=OtlpSink(url=parse_endpoint(server.url.partition("?")[0]), service="edge"))
        trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
        line = f'{{"time":"2026-01-31T12:00:00.125Z","status":502,"duration_s":0.5,"path":"/ü","trace_id":"{trace}",'
        line += f'"span_id":"{span}","consumer":null,"websocket":{{"closed":1000}}}}'
        ecs = f'{{"@timestamp":"2026-01-31T12:00:00.125Z","http.response.status_code":200,"trace.id":"{trace}"}}'
        sink.write(lines(line, ecs, "127.0.0.1 - - a line"))
        assert sink.flush() == 0
        [(path, fields, body)] = server.seen
        assert (path, fields["content-type"]) == ("/in/v1/logs", "application/x-protobuf")
        [resource] = ExportLogsServiceRequest.FromString(body).resource_logs
        assert {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"] == "edge"
        first, second, third = resource.scope_logs[0].log_records
        assert (first.trace_id.hex(), first.span_id.hex()) == (trace, span)
        assert first.time_unix_nano == 1_769_860_800_125_000_000
        assert first.observed_time_unix_nano > first.time_unix_nano
        assert (first.severity_number, first.severity_text) == (17, "ERROR")
        assert first.body.string_value == line
        told = {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in first.attributes}
        assert (told["status"], told["duration_s"], told["path"]) == (502, 0.5, "/ü")
        assert told["websocket"] == '{"closed":1000}'
        assert "consumer" not in told
        assert (second.trace_id.hex(), second.severity_text) == (trace, "INFO")
        assert (third.body.string_value, list(third.attributes)) == ("127.0.0.1 - - a line", [])

    def test_records_that_a_collector_rejects_are_lost(self, make, server):
        rejected = ExportLogsServiceResponse()
        rejected.partial_success.rejected_log_records = 2
        server.answers = [(200, {}, rejected.SerializeToString())]
        sink = make(otlp=OtlpSink(url=parse_endpoint(server.url.partition("?")[0])))
        sink.write(lines("a", "b", "c"))
        assert sink.flush() == 2

    @pytest.mark.usefixtures("quick")
    def test_of_a_bulk_only_lines_refused_for_a_while_are_sent_again_and_the_others_are_counted(
        self, make, server, caplog
    ):
        server.answers = [bulk_answer(201, 429, 400), bulk_answer(201)]
        sink = make(elasticsearch=ElasticsearchSink(url=parse_endpoint(server.url), index="web"))
        sink.write(lines('{"n":1}', '{"n":2}', '{"n":3}'))
        assert sink.flush() == 1
        assert server.bodies == [bulk('{"n":1}', '{"n":2}', '{"n":3}'), bulk('{"n":2}')]
        assert "it answers 400 to single lines; 1 lines were refused for ever" in caplog.text

    @pytest.mark.parametrize("items", [[{"create": {"status": "x"}}], [{"create": {"status": None}}], [], [1], {}])
    def test_a_bulk_whose_answer_does_not_tell_of_each_line_is_sent_again(self, make, server, items):
        server.answers = [
            (200, {}, json.dumps({"errors": True, "items": items}).encode()),
            (200, {}, b'{"errors":false}'),
        ]
        sink = make(elasticsearch=ElasticsearchSink(url=parse_endpoint(server.url), index="web"))
        sink.write(lines('{"n":1}'))
        assert sink.flush() == 0
        assert len(server.bodies) == 2

    @pytest.mark.parametrize("date", ["0001-01-01", "1900-01-01T00:00:00Z", "9999-12-31T23:59:59+00:00", "", None, 5])
    def test_a_line_with_a_date_or_status_that_otlp_cannot_express_is_delivered(self, make, server, date):
        """A chosen field may be named `time` and have what a client has sent."""
        server.answers = [(200, {}, b"")]
        sink = make(otlp=OtlpSink(url=parse_endpoint(server.url.partition("?")[0])))
        sink.write(lines(json.dumps({"time": date, "status": -1})))
        assert sink.flush() == 0
        told = ExportLogsServiceRequest.FromString(server.bodies[0])
        assert told.resource_logs[0].scope_logs[0].log_records[0].time_unix_nano > 1_700_000_000 * 10**9


class TestSpool:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "spool"

    @pytest.fixture
    def spooled(self, path: Path) -> Spool:
        return Spool(path=str(path), size=1 << 20)

    def away(self) -> str:
        with closing(socket.create_server(("127.0.0.1", 0))) as taken:
            return f"http://127.0.0.1:{taken.getsockname()[1]}/in"

    def test_lines_survive_the_end_of_the_gateway_and_are_delivered_in_order_when_the_server_is_back(
        self, make, path, spooled
    ):
        url = self.away()
        first = make(http=HttpSink(url=parse_endpoint(url), spool=spooled))
        for text in "123":
            first.write(lines(text))
            assert first.flush() == 0
        assert [each.read_bytes() for each in sorted(path.iterdir())] == [b"1\n", b"2\n", b"3\n"]
        assert path.stat().st_mode & 0o777 == 0o700
        server = Server(int(url.rsplit(":", 1)[1].partition("/")[0]))
        try:
            second = make(http=HttpSink(url=parse_endpoint(url), spool=spooled))
            while second.idle_s is not None and len(server.seen) < 3:
                second.refresh()
            second.write(lines("4"))
            assert second.flush() == 0
            assert server.bodies == [b"1\n", b"2\n", b"3\n", b"4\n"]
            assert list(path.iterdir()) == []
        finally:
            server.stop()

    def test_lines_of_a_log_that_stops_are_kept(self, make, path, spooled, server):
        sink = make(**http_sink(server, spool=spooled))
        sink.abandoned = True
        sink.write(lines("1"))
        assert sink.flush() == 0
        assert [each.read_bytes() for each in path.iterdir()] == [b"1\n"]

    def test_a_full_spool_loses_what_does_not_fit_and_counts_it(self, make, path, spooled, caplog):
        sink = make(http=HttpSink(url=parse_endpoint(self.away()), spool=spooled, batch=1))
        big = "x" * 400_000
        assert [sink.write(lines(big)) for _ in range(4)] == [0, 0, 1, 1]
        assert sum(each.stat().st_size for each in path.iterdir()) <= spooled.size
        assert caplog.text.count("its spool is full") == 1

    def test_a_full_disk_loses_lines_and_leaves_no_part_of_a_file(self, make, path, spooled, caplog):
        sink = make(http=HttpSink(url=parse_endpoint(self.away()), spool=spooled))
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))
            sink.write(lines("1", "2"))
            assert sink.flush() == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
        assert list(path.iterdir()) == []
        assert "cannot be written" in caplog.text

    def test_a_file_that_another_worker_delivers_is_left_to_it_and_foreign_files_stay(
        self, make, path, spooled, server
    ):
        path.mkdir(mode=0o700)
        (path / "notes.txt").write_text("mine")
        (path / f"{0:020}-1-0.lines").symlink_to("/etc/hostname")
        ours = make(http=HttpSink(url=parse_endpoint(self.away()), spool=spooled))
        ours.write(lines("1"))
        ours.flush()
        one, other = make(**http_sink(server, spool=spooled)), make(**http_sink(server, spool=spooled))
        other._spool.measure()
        one._spool.measure()
        held = one._spool.hold_oldest()
        assert held.lines == b"1\n"
        assert other._spool.hold_oldest() is None
        held.remove()
        assert sorted(each.name for each in path.iterdir()) == sorted([f"{0:020}-1-0.lines", "notes.txt"])

    def test_a_file_that_cannot_be_read_is_set_aside_and_the_others_are_delivered(
        self, make, path, spooled, server, caplog, monkeypatch
    ):
        path.mkdir()
        broken = path / f"{1:020}-1-0.lines"
        for number, each in enumerate((broken, path / f"{2:020}-1-0.lines")):
            each.write_bytes(b"%d\n" % number)
        opened = os.open

        def open_file(name, *more, **named):
            if str(name) == str(broken):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return opened(name, *more, **named)

        monkeypatch.setattr(os, "open", open_file)
        make(**http_sink(server, spool=spooled)).refresh()
        assert server.bodies == [b"1\n"]
        (aside,) = path.iterdir()
        assert aside.read_bytes() == b"0\n"
        assert f"{broken} cannot be read (Input/output error), and is {aside} now" in caplog.text

    def test_lines_of_the_spool_that_a_server_refuses_are_counted(self, make, path, spooled, server):
        path.mkdir()
        (path / f"{1:020}-1-0.lines").write_bytes(b"a\nb\n")
        server.answers = [(400, {}, b"")]
        sink = make(**http_sink(server, spool=spooled))
        sink.refresh()
        assert (sink.flush(), sink.flush()) == (2, 0)

    def test_of_a_file_only_the_lines_that_were_not_accepted_are_sent_again(
        self, make, path, spooled, server, monkeypatch
    ):
        """They keep their place before later lines, and survive the end of the gateway."""
        path.mkdir()
        name = f"{1:020}-1-0.lines"
        (path / name).write_bytes(b"a\nb\nc\nd\n")
        (path / f"{2:020}-1-0.lines").write_bytes(b"e\n")
        server.answers = [bulk_answer(201, 429, 400, 503), bulk_answer(201, 429), bulk_answer(201)]
        sink = make(
            elasticsearch=ElasticsearchSink(url=parse_endpoint(server.url), index="web", spool=spooled),
        )
        sink.refresh()
        assert (sink.flush(), sink.flush()) == (1, 0)
        assert (path / name).read_bytes() == b"b\nd\n"
        sink.close()
        monkeypatch.setattr(remote_sink, "RETRY_FIRST_S", 0.0)
        later = make(
            elasticsearch=ElasticsearchSink(url=parse_endpoint(server.url), index="web", spool=spooled),
        )
        later.refresh()
        assert server.bodies == [bulk("a", "b", "c", "d"), bulk("b", "d"), bulk("d"), bulk("e")]
        assert list(path.iterdir()) == []
        assert later.flush() == 0

    def test_of_a_slow_delivery_only_the_lines_that_were_not_accepted_are_sent_again(
        self, make, path, spooled, server, monkeypatch
    ):
        monkeypatch.setattr(remote_sink, "DELIVERY_WAIT_S", 0.0)
        monkeypatch.setattr(remote_sink, "RETRY_FIRST_S", 0.0)
        server.answers = [bulk_answer(201, 429, 400), bulk_answer(201)]
        sink = make(
            elasticsearch=ElasticsearchSink(url=parse_endpoint(server.url), index="web", spool=spooled),
        )
        sink.write(lines("a", "b", "c"))
        lost = sink.flush()
        wait_until(lambda: sink.refresh() or not any(path.iterdir()), "the lines to be delivered")
        assert server.bodies == [bulk("a", "b", "c"), bulk("b")]
        assert lost + sink.flush() == 1

    def test_a_file_whose_rest_cannot_be_written_is_kept_whole(self, make, path, spooled, server):
        """Lines rather arrive twice than never."""
        path.mkdir()
        name = f"{1:020}-1-0.lines"
        (path / name).write_bytes(b"a\nb\n")
        server.answers = [bulk_answer(201, 429)]
        sink = make(
            elasticsearch=ElasticsearchSink(url=parse_endpoint(server.url), index="web", spool=spooled),
        )
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))
            sink.refresh()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
        assert [(each.name, each.read_bytes()) for each in path.iterdir()] == [(name, b"a\nb\n")]

    def test_a_worker_that_opened_a_file_before_it_was_replaced_delivers_the_rest_alone(
        self, make, path, spooled, server, monkeypatch
    ):
        path.mkdir()
        (path / f"{1:020}-1-0.lines").write_bytes(b"a\nb\n")
        one, other = (make(**http_sink(server, spool=spooled))._spool for _ in range(2))
        one.measure()
        other.measure()
        held = one.hold_oldest()
        locked = fcntl.flock

        def lock(fd, operation):
            monkeypatch.undo()
            held.replace(b"b\n")
            held.release()
            locked(fd, operation)

        monkeypatch.setattr(fcntl, "flock", lock)
        rest = other.hold_oldest()
        assert rest.lines == b"b\n"
        rest.release()

    def test_a_connection_that_is_lost_behind_the_last_answer_leaves_no_lines(self, path):
        class Lost:
            refusal = ""

            def deliver(self, lines):
                raise remote_sink.Undelivered("the connection was lost", [])

            def close(self): ...

        sink = remote_sink.RemoteSink("lost", Lost(), 10, LineSpool(str(path), 1 << 20))
        sink.write(lines("a"))
        assert sink.flush() == 0
        path.mkdir(exist_ok=True)
        (path / f"{1:020}-1-0.lines").write_bytes(b"b\n")
        sink.refresh()
        wait_until(lambda: sink.refresh() or not any(path.iterdir()), "the file to be removed")
        sink.close()

    def test_lines_are_kept_while_a_delivery_hangs_and_also_those_of_the_delivery(
        self, make, path, spooled, endless, server, monkeypatch
    ):
        """The timeout of the sink does not expire in this test: a log ends, as its worker does, within seconds."""
        monkeypatch.setattr(remote_sink, "DELIVERY_WAIT_S", 0.05)
        hanging = endless(b"", pause=0.01)
        sink = make(http=HttpSink(url=parse_endpoint(hanging.url), timeout=3600.0, spool=spooled))
        for text in "123":
            sink.write(lines(text))
            assert sink.flush() == 0
            sink.refresh()
        assert hanging.accepted == 1
        assert [each.read_bytes() for each in sorted(path.iterdir())] == [b"1\n", b"2\n", b"3\n"]
        other = make(**http_sink(server, spool=spooled))
        other.refresh()
        assert server.bodies == [b"2\n", b"3\n"]  # what is being delivered is not delivered by another worker
        sink.close()
        third = make(**http_sink(server, spool=spooled))
        third.refresh()
        assert server.bodies == [b"2\n", b"3\n", b"1\n"]
        assert list(path.iterdir()) == []

    def test_lines_of_a_slow_delivery_are_removed_when_it_has_succeeded_and_tried_again_when_not(
        self, make, path, spooled, server, monkeypatch
    ):
        monkeypatch.setattr(remote_sink, "DELIVERY_WAIT_S", 0.0)
        monkeypatch.setattr(remote_sink, "RETRY_FIRST_S", 0.0)
        server.answers = [(503, {}, b""), (204, {}, b"")]
        sink = make(**http_sink(server, spool=spooled))
        sink.write(lines("1"))
        assert sink.flush() == 0
        assert [each.read_bytes() for each in path.iterdir()] == [b"1\n"]
        wait_until(lambda: sink.refresh() or not any(path.iterdir()), "the lines to be delivered")
        assert server.bodies == [b"1\n"] * 2
        assert sink.flush() == 0

    def test_parts_of_files_of_a_killed_worker_are_removed(self, path, spooled, make, server):
        path.mkdir()
        part = path / f"{1:020}-1-0.lines.part"
        part.write_bytes(b"x")
        os.utime(part, (1.0, 1.0))
        make(**http_sink(server, spool=spooled)).refresh()
        assert not part.exists()
