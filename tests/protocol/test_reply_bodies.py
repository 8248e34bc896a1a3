"""Replies of filters that are sent as they come: pieces, and ranges of files, on plain sockets and over TLS."""

from __future__ import annotations

import hashlib
import http.client
import os
import random
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastgw
from tests.support.certificates import Certificates, client_tls
from tests.support.extension import install
from tests.support.gateway import OFF, Gateway, wait_until

FILTER = '''
"""A filter of a test."""

import asyncio
import os
import threading

from fastgw.filters.api import BodyHook, Env, Exchange, FileRange, Filter, Hooks, Phase, Pieces, Reply


FREE = threading.Event()


class Serves(Filter, name="serves", phase=Phase.TRANSFORM):
    """Answer by the path."""

    file: str
    notes: str

    def build(self, env: Env) -> Hooks:
        def note(text: str) -> None:
            with open(self.notes, "a") as notes:
                notes.write(text + "\\n")

        send = os.sendfile

        def sendfile(*given):
            note("sendfile")
            return send(*given)

        os.sendfile = sendfile

        async def counted(to: int, wrong: str = ""):
            try:
                for number in range(to):
                    yield b"%06d\\n" % number
                    if not number % 100:
                        await asyncio.sleep(0)
                if wrong == "raises":
                    raise ZeroDivisionError
                if wrong == "text":
                    yield "text"
            finally:
                note(f"closed {to}")

        async def file(exchange: Exchange) -> Reply:
            first, _, last = exchange.path.rpartition(b"/")[2].partition(b"-")
            start = int(first or 0)
            length = int(last) - start + 1 if last else None
            try:
                body = await FileRange.open(self.file, start, length)
            except ValueError as error:
                return Reply(416, str(error).encode())
            return Reply(206 if last else 200, body)

        def request(exchange: Exchange):
            match exchange.path.split(b"/")[1]:
                case b"pieces":
                    return Reply(200, Pieces(counted(1000)), [(b"Content-Type", b"text/plain")])
                case b"known":
                    return Reply(200, Pieces(counted(1000), 7000))
                case b"short":
                    return Reply(200, Pieces(counted(10), 71))
                case b"long":
                    return Reply(200, Pieces(counted(10), 69))
                case b"raises":
                    return Reply(200, Pieces(counted(10, "raises")))
                case b"text":
                    return Reply(200, Pieces(counted(10, "text")))
                case b"endless":
                    return Reply(200, Pieces(counted(10**9)))
                case b"file":
                    return file(exchange)
                case b"busy":
                    FREE.clear()
                    loop = asyncio.get_running_loop()
                    for _ in range(64):
                        loop.run_in_executor(None, FREE.wait)
                case b"free":
                    FREE.set()
                case b"doubled":
                    return Reply(200, Pieces(counted(3)), [(b"ETag", b'"a"')])
            return None

        def doubled(exchange: Exchange, payload: bytes) -> bytes:
            return payload * 2 if exchange.path == b"/doubled" else payload

        changed = BodyHook(doubled, changes=True) if self.file.endswith("changed") else None
        return Hooks(request=request, response_body=changed)
'''
SIZE = 30 * 1024 * 1024 + 7


class Place:
    def __init__(self, folder: Path) -> None:
        self.file, self.notes = folder / "file", folder / "notes"
        self.file.write_bytes(random.Random(7).randbytes(SIZE))
        (folder / "changed").write_bytes(b"small")
        self.notes.touch()
        install(folder, "serves", {"serves.py": FILTER}, {"serves": "serves:Serves"})
        authority = Certificates(folder)
        certificate, key = authority.issue("a.test")
        self.tls = client_tls(authority)
        serves = {"file": str(self.file), "notes": str(self.notes)}
        settings = {
            "workers": 1,
            "extensions": ["serves"],
            "listeners": {
                "main": {"address": "127.0.0.1:0"},
                "tls": {
                    "address": "127.0.0.1:0",
                    "tls": {"certificates": [{"certificate": certificate, "key": key}]},
                },
            },
            "routes": [
                {"name": "changed", "paths": ["/doubled"], "respond": {"body": ""},
                 "filters": {"serves": {**serves, "file": str(folder / "changed")}}},
                {"name": "all", "respond": {"body": ""}, "filters": {"serves": serves}},
            ],
            **OFF,
        }  # fmt: skip
        environment = {"PYTHONPATH": f"{folder}:{Path(fastgw.__file__).parents[1]}"}
        self.gateway = Gateway(settings, folder, environment=environment)

    def noted(self) -> list[str]:
        return self.notes.read_text().splitlines()

    def connection(self, listener: str = "main") -> http.client.HTTPConnection:
        host, port = self.gateway.address(listener).rsplit(":", 1)
        if listener == "main":
            return http.client.HTTPConnection(host, int(port), timeout=20)
        made = http.client.HTTPSConnection("a.test", int(port), timeout=20, context=self.tls)
        made.sock = self.tls.wrap_socket(socket.create_connection((host, int(port)), 20), server_hostname="a.test")
        return made

    def get(self, path: str, listener: str = "main", method: str = "GET") -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = self.connection(listener)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read()
            return answer.status, answer.headers, body
        finally:
            connection.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("serves"))
    with made.gateway:
        yield made


ALL = b"".join(b"%06d\n" % number for number in range(1000))


@pytest.mark.parametrize("listener", ["main", "tls"])
def test_pieces_go_out_in_chunks_or_with_the_length_that_is_said(place: Place, listener: str) -> None:
    status, fields, body = place.get("/pieces", listener)
    assert (status, body) == (200, ALL)
    assert fields["Transfer-Encoding"] == "chunked"
    assert fields["Content-Type"] == "text/plain"
    status, fields, body = place.get("/known", listener)
    assert (status, body, fields["Content-Length"]) == (200, ALL, "7000")
    status, fields, body = place.get("/known", listener, "HEAD")
    assert (status, body, fields["Content-Length"]) == (200, b"", "7000")


def test_a_connection_serves_again_behind_pieces(place: Place) -> None:
    connection = place.connection()
    for path in ("/pieces", "/known", "/file/0-99", "/pieces"):
        connection.request("GET", path)
        answer = connection.getresponse()
        assert len(answer.read()) == (100 if path.startswith("/file") else 7000)
        assert not answer.will_close
    connection.close()


@pytest.mark.parametrize("path", ["/short", "/long", "/raises", "/text"])
def test_a_body_that_is_not_what_was_said_is_cut_off(place: Place, path: str) -> None:
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        place.get(path)
    wait_until(lambda: "closed 10" in place.noted(), "the iterator to be closed")


@pytest.mark.parametrize("listener", ["main", "tls"])
def test_a_file_and_its_ranges_come_as_they_are(place: Place, listener: str) -> None:
    place.notes.write_text("")
    status, fields, body = place.get("/file/", listener)
    assert (status, fields["Content-Length"]) == (200, str(SIZE))
    assert hashlib.sha256(body).digest() == hashlib.sha256(place.file.read_bytes()).digest()
    assert ("sendfile" in place.noted()) is (listener == "main")  # what TLS enciphers the kernel cannot send
    content = place.file.read_bytes()
    for start, end in ((0, 0), (1, 1), (65_535, 65_536), (1_048_575, 3_000_000), (SIZE - 1, SIZE - 1)):
        status, fields, body = place.get(f"/file/{start}-{end}", listener)
        assert (status, body) == (206, content[start : end + 1])
    assert place.get(f"/file/0-{SIZE}", listener)[0] == 416


def test_a_filter_changes_what_another_sends_in_pieces(place: Place) -> None:
    status, fields, body = place.get("/doubled")
    assert (status, body) == (200, b"".join(b"%06d\n" % number * 2 for number in range(3)))
    assert fields["ETag"] == 'W/"a"'


def descriptors(place: Place) -> int:
    """How many descriptors of the file its processes have open."""
    found = 0
    for pid in place.gateway.child_pids:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                found += os.readlink(entry) == str(place.file)
            except OSError:
                continue
    return found


@pytest.mark.parametrize("listener", ["main", "tls"])
def test_who_leaves_in_the_middle_has_nothing_kept_open(place: Place, listener: str) -> None:
    for path, wanted in (("/endless", "closed 1000000000"), ("/file/", "")):
        before = place.noted().count(wanted)
        connection = place.connection(listener)
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.read(10_000)
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        answer.close()
        connection.close()
        if wanted:
            wait_until(lambda: place.noted().count(wanted) > before, "the iterator to be closed")  # noqa: B023
            assert place.noted().count(wanted) == before + 1
    wait_until(lambda: descriptors(place) == 0, "the file to be closed")


def test_a_reader_that_is_slow_is_waited_for(place: Place) -> None:
    """The gateway holds no more than a piece for it, and neither makes nor reads more."""
    connection = place.connection()
    connection.request("GET", "/endless")
    answer = connection.getresponse()
    first = answer.read(700)
    assert first == ALL[:700]
    connection.close()
    slow = place.connection()
    slow.request("GET", "/file/")
    reader = slow.getresponse()
    digest = hashlib.sha256()
    while piece := reader.read(1_000_003):
        digest.update(piece)
    assert digest.digest() == hashlib.sha256(place.file.read_bytes()).digest()
    slow.close()


def test_a_file_that_becomes_shorter_is_cut_off(place: Place) -> None:
    content = place.file.read_bytes()
    connection = place.connection()
    connection.request("GET", "/file/")
    answer = connection.getresponse()
    answer.read(1)
    os.truncate(place.file, 10)
    try:
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            answer.read()
    finally:
        place.file.write_bytes(content)
        connection.close()


@pytest.mark.parametrize("listener", ["main", "tls"])
def test_a_file_comes_though_all_threads_of_filters_are_busy(place: Place, listener: str) -> None:
    place.get("/busy")
    try:
        assert place.get("/file/", listener)[2] == place.file.read_bytes()
    finally:
        place.get("/free")
