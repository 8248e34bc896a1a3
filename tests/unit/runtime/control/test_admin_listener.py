"""The admin listener: bounded in time and in connections, ended by whoever began it, over TLS where that is wanted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from fastgw.admin.api import create_app
from fastgw.admin.authorization import Access
from fastgw.config.base.value_types import Address
from fastgw.config.settings.gateway import ClientAuth, ServerCertificate, ServerTls
from fastgw.config.settings.secrets import Secret
from fastgw.downstream.tls.contexts import server_context
from fastgw.runtime.control import admin_listener as serving
from fastgw.runtime.control.admin_listener import serve
from tests.support.admin import MADE, FakeNode, Served, served, taken
from tests.support.certificates import Certificates
from tests.support.gateway import wait_until
from tests.support.on_loop import on_loop, until

HEAD = b"Host: localhost\r\nAuthorization: Bearer %b\r\n" % MADE.encode()
STATUS = b"GET /status HTTP/1.1\r\n" + HEAD + b"\r\n"
RELOAD = b"POST /reload HTTP/1.1\r\n" + HEAD + b"\r\n"


def ended(connection: socket.socket) -> bytes:
    """What comes until the connection ends, whichever way."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            received += piece
    return received


class TestBounds:
    @pytest.mark.parametrize("begun", [b"", b"GET /sta", b"GET /status HTTP/1.1\r\nHost: loc"])
    def test_a_request_that_does_not_come_is_not_waited_for(self, monkeypatch, begun):
        monkeypatch.setattr(serving, "REQUEST_TIMEOUT", 0.05)
        with served() as here, here.connect() as connection:
            connection.sendall(begun)
            assert ended(connection) == b""

    def test_nor_is_a_second_one_on_the_same_connection(self, monkeypatch):
        monkeypatch.setattr(serving, "REQUEST_TIMEOUT", 0.1)
        with served() as here, here.connect() as connection:
            connection.sendall(STATUS)
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
            connection.sendall(b"GET ")
            assert b"HTTP/1.1" not in ended(connection)

    def test_nor_the_end_of_a_body_that_nobody_wants(self, monkeypatch):
        monkeypatch.setattr(serving, "REQUEST_TIMEOUT", 0.1)
        with served(Secret(text="x")) as here, here.connect() as connection:
            connection.sendall(RELOAD[:-2] + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            answer = ended(connection)
            assert answer.startswith(b"HTTP/1.1 401 ")
            assert answer.count(b"HTTP/1.1") == 1

    def test_an_answer_that_does_not_come_to_its_end_is_given_up(self, monkeypatch):
        monkeypatch.setattr(serving, "EXCHANGE_TIMEOUT", 0.05)
        with served() as here, here.connect() as connection:
            here.node.hold = Future()
            connection.sendall(RELOAD)
            assert ended(connection) == b""
            here.node.hold.set_result(None)

    def test_in_a_crowd_who_has_waited_longest_makes_room(self):
        with served() as here, contextlib.ExitStack() as stack:
            idle = [stack.enter_context(here.connect()) for _ in range(serving.CONNECTIONS_MAX)]
            assert here.ask("GET /status")[0] == 200
            assert ended(idle[0]) == b""
            idle[-1].sendall(STATUS)
            assert idle[-1].recv(15) == b"HTTP/1.1 200 OK"

    def test_nobody_whose_request_is_under_way_does(self):
        with served() as here, contextlib.ExitStack() as stack:
            here.node.hold = Future()
            busy = []
            for _ in range(serving.CONNECTIONS_MAX):
                busy.append(stack.enter_context(here.connect()))
                busy[-1].sendall(RELOAD)
            wait_until(lambda: here.node.asked == len(busy), "all requests to be under way")
            with here.connect() as late:
                assert ended(late) == b""
            here.node.hold.set_result(None)
            assert [each.recv(15) for each in busy] == [b"HTTP/1.1 200 OK"] * len(busy)

    def test_a_head_that_is_too_long_is_refused(self):
        with served() as here, here.connect() as connection:
            connection.sendall(b"GET /status HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * serving.HEAD_MAX)
            assert ended(connection).startswith(b"HTTP/1.1 400 ")


class TestRequests:
    @pytest.mark.parametrize(
        "sent",
        [
            b"hello\r\n\r\n",
            b"GET /status HTTP/1.1\r\n\r\n",
            b"GET /status HTTP/1.1\r\nHost : localhost\r\n\r\n",
            b"GET /st\xe4tus HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"POST /reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        ],
    )
    def test_what_is_no_request_is_told_so(self, sent):
        with served() as here, here.connect() as connection:
            connection.sendall(sent)
            status, head, body = taken(connection)
            assert (status, json.loads(body)["status"]) == (400, 400)
            assert "application/problem+json" in head

    def test_nothing_follows_an_answer_on_account_of_the_body_behind_it(self, monkeypatch):
        with served(Secret(text="x")) as here, here.connect() as connection:
            connection.sendall(RELOAD[:-2] + b"Transfer-Encoding: chunked\r\n\r\n")
            begun = connection.recv(65536)
            connection.sendall(b"no chunk\r\n")
            answer = begun + ended(connection)
            assert answer.startswith(b"HTTP/1.1 401 ")
            assert answer.count(b"HTTP/1.1") == 1

    def test_requests_may_come_all_at_once(self):
        with served() as here, here.connect() as connection:
            connection.sendall(STATUS * 2 + STATUS[:-2] + b"Connection: close\r\n\r\n")
            assert ended(connection).count(b"HTTP/1.1 200 OK") == 3

    def test_an_upgrade_is_an_ordinary_request(self, caplog):
        with served() as here:
            fields = ("Connection: upgrade", "Upgrade: websocket")
            with here.connect() as connection:
                connection.sendall(STATUS[:-2] + "\r\n".join([*fields, "", ""]).encode())
                assert connection.recv(15) == b"HTTP/1.1 200 OK"
        assert not caplog.records

    def test_by_a_unix_socket_too(self, tmp_path):
        with served(path=tmp_path / "admin.sock") as here:
            assert here.ask("GET /status")[0] == 200


class TestTheEnd:
    @on_loop
    async def test_what_is_under_way_is_answered_and_the_socket_stays(self):
        node = FakeNode()
        node.hold = Future()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            address = listening.getsockname()
            app = create_app(node, Access(Address(host="127.0.0.1", port=1), Secret(text=MADE), run_key=b"run"))
            task = asyncio.create_task(serve(app, listening))
            idle, idle_writer = await asyncio.open_connection(*address)
            reader, writer = await asyncio.open_connection(*address)
            writer.write(STATUS)
            assert await reader.readexactly(15) == b"HTTP/1.1 200 OK"
            writer.write(RELOAD)
            await reader.readuntil(b"null}")
            await until(lambda: node.asked == 1)
            task.cancel()
            assert await idle.read() == b""
            node.hold.set_result(None)
            assert b"HTTP/1.1 200 OK" in await reader.read()
            with pytest.raises(asyncio.CancelledError):
                await task
            for each in (idle_writer, writer):
                each.close()
                await each.wait_closed()
            # Whoever connects now waits in the queue for the next to serve.
            reader, writer = await asyncio.open_connection(*address)
            writer.write(STATUS)
            task = asyncio.create_task(serve(app, listening))
            assert await reader.readexactly(15) == b"HTTP/1.1 200 OK"
            writer.close()
            await writer.wait_closed()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    @on_loop
    async def test_what_does_not_end_is_cut(self, monkeypatch):
        monkeypatch.setattr(serving, "END_TIMEOUT", 0.05)
        node = FakeNode()
        node.hold = Future()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            app = create_app(node, Access(Address(host="127.0.0.1", port=1), Secret(text=MADE), run_key=b"run"))
            task = asyncio.create_task(serve(app, listening))
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            writer.write(RELOAD)
            await until(lambda: node.asked == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            node.hold.set_result(None)
            await until(lambda: node.told == ["reload"])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("others"))


class TestTls:
    @staticmethod
    def settings(*issued: tuple[str, str], **more: Any) -> ServerTls:
        shown = tuple(ServerCertificate(certificate=certificate, key=key) for certificate, key in issued)
        return ServerTls(certificates=shown, **more)

    @staticmethod
    def ask(
        here: Served, trusted: Certificates, name: str, issued: tuple[str, str] | None = None, **fields: str
    ) -> int:
        """The status of the answer, 0 where there is none."""
        context = ssl.create_default_context(cafile=trusted.ca)
        if issued is not None:
            context.load_cert_chain(*issued)
        request = STATUS[:-2].replace(b"localhost", name.encode())
        if fields:
            request = request.replace(f"Authorization: Bearer {MADE}\r\n".encode(), b"")
        for field, value in fields.items():
            request += f"{field}: {value}\r\n".encode()
        refusals = contextlib.suppress(ssl.SSLError, ConnectionError)
        with here.connect() as plain, refusals, context.wrap_socket(plain, server_hostname=name) as connection:
            connection.sendall(request + b"Connection: close\r\n\r\n")
            return taken(connection)[0]
        return 0

    def test_the_token_is_asked_for_under_any_name_that_the_certificate_has(self, authority):
        tls = server_context(self.settings(authority.issue("gw.example.com")))
        with served(Secret(text="x"), tls=tls) as here:
            assert self.ask(here, authority, "gw.example.com") == 401
            assert self.ask(here, authority, "gw.example.com", Authorization="Bearer x") == 200
            assert self.ask(here, authority, "rebound.example", Authorization="Bearer x") == 0
            origin = "https://gw.example.com"
            assert self.ask(here, authority, "gw.example.com", Authorization="Bearer x", Origin=origin) == 200
            assert (
                self.ask(here, authority, "gw.example.com", Authorization="Bearer x", Origin="http" + origin[5:]) == 403
            )

    @pytest.mark.parametrize("token", [None, Secret(text="x")])
    def test_a_certificate_that_is_required_is_enough(self, authority, others, token):
        client_auth = ClientAuth(ca=authority.ca)
        tls = server_context(self.settings(authority.issue("127.0.0.1"), client_auth=client_auth))
        with served(token, bound="0.0.0.0", tls=tls) as here:
            here = Served(Address(host="127.0.0.1", port=here.address.port), here.node)
            assert self.ask(here, authority, "127.0.0.1", authority.issue("operator")) == 200
            assert self.ask(here, authority, "127.0.0.1", others.issue("operator")) == 0
            assert self.ask(here, authority, "127.0.0.1", Authorization="Bearer x") == 0

    def test_one_that_is_optional_stands_for_the_token(self, authority, others):
        client_auth = ClientAuth(mode="optional", ca=authority.ca)
        tls = server_context(self.settings(authority.issue("127.0.0.1"), client_auth=client_auth))
        with served(Secret(text="x"), tls=tls) as here:
            assert self.ask(here, authority, "127.0.0.1", authority.issue("operator")) == 200
            assert self.ask(here, authority, "127.0.0.1", Authorization="Bearer x") == 200
            assert self.ask(here, authority, "127.0.0.1") == 401
            assert self.ask(here, authority, "127.0.0.1", others.issue("operator")) == 0

    def test_the_first_certificate_that_fits_the_name_is_shown_else_the_first(self, authority):
        issued = [authority.issue(name) for name in ("one.example", "two.example", "*.wild.example")]
        with served(Secret(text="x"), tls=server_context(self.settings(*issued))) as here:
            for name in ("one.example", "two.example", "a.wild.example"):
                assert self.ask(here, authority, name) == 401
            assert self.ask(here, authority, "three.example") == 0

    def test_an_old_version_is_not_spoken(self, authority):
        context = ssl.create_default_context(cafile=authority.ca)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with served(tls=server_context(self.settings(authority.issue("127.0.0.1"), min_version="1.3"))) as here:
            with here.connect() as plain, pytest.raises(ssl.SSLError):
                context.wrap_socket(plain, server_hostname="127.0.0.1")
            assert self.ask(here, authority, "127.0.0.1") == 200

    @pytest.mark.parametrize("sent", [b"", STATUS])
    def test_a_handshake_that_does_not_come_is_not_waited_for(self, authority, monkeypatch, sent):
        monkeypatch.setattr(serving, "HANDSHAKE_TIMEOUT", 0.05)
        with served(tls=server_context(self.settings(authority.issue("127.0.0.1")))) as here:
            with here.connect() as connection:
                connection.sendall(sent)
                assert b"HTTP" not in ended(connection)
            assert self.ask(here, authority, "127.0.0.1") == 200

    def test_a_file_that_is_no_certificate_is_told(self, tmp_path: Path):
        (tmp_path / "a.pem").write_text("nothing")
        with pytest.raises(OSError, match="PEM"):
            server_context(self.settings((str(tmp_path / "a.pem"), str(tmp_path / "a.pem"))))
