"""Static files over HTTP/1.1, TLS and HTTP/2: what is served, what is refused, and files that change meanwhile."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.certificates import Certificates, client_tls
from tests.support.client import Client, Response
from tests.support.gateway import Gateway, wait_until
from tests.support.http2.translation import TranslatedClient
from tests.support.pieces_of_turns import PiecesOfTurns

SIZE = 1_200_000
SETTLED = 1_000_000_000
CONTENT = random.Random(1).randbytes(SIZE)


class Site:
    """A gateway that serves a folder, and clients for it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        (self.root / "sub").mkdir(parents=True)
        (self.root / "index.html").write_text("<h1>home</h1>")
        (self.root / "app.js").write_text("let a = 1")
        (self.root / "app.js.gz").write_bytes(gzip.compress(b"let a = 1", mtime=0))
        (self.root / "price.json").write_bytes(b'{"price":1,"secret":2}')
        (self.root / "price.json.gz").write_bytes(gzip.compress(b'{"price":1,"secret":2}', mtime=0))
        (self.root / "empty").write_bytes(b"")
        (self.root / "large").write_bytes(CONTENT)
        (self.root / ".env").write_text("secret")
        (self.root / "sub" / "notes").write_text("notes")
        (self.root / "sub" / "late.js").write_text("let b = 2")
        (self.root / "sub" / "late.js.gz").write_bytes(gzip.compress(b"let b = 2", mtime=0))
        (folder / "secret").write_text("secret")
        (self.root / "out").symlink_to("../secret")
        (self.root / "inner").symlink_to("sub/notes")
        os.mkfifo(self.root / "pipe")
        for file in self.root.rglob("*"):
            if not file.is_symlink():
                os.utime(file, (SETTLED, SETTLED))
        os.utime(self.root / "sub" / "late.js", (SETTLED, SETTLED + 0.25))
        self.turns = PiecesOfTurns(folder)
        authority = Certificates(folder)
        certificate, key = authority.issue("a.test")
        self.tls = client_tls(authority)
        files = {"root": "root"}
        self.gateway = Gateway(
            {
                "workers": 1,
                "extensions": ["pieces_of_turns"],
                "listeners": {
                    "main": {"address": "127.0.0.1:0", "protocols": ["http1", "http2"]},
                    "tls": {
                        "address": "127.0.0.1:0",
                        "tls": {"certificates": [{"certificate": certificate, "key": key}]},
                        "filters": {"headers": {"response": {"set": {"Cache-Control": "max-age=9"}}}},
                    },
                },
                "routes": [
                    {"name": "site", "paths": ["/*"], "files": files},
                    {
                        "name": "listed",
                        "paths": ["/listed/*"],
                        "strip_prefix": "/listed",
                        "files": {**files, "listing": True},
                    },
                    {
                        "name": "compressed",
                        "paths": ["/compressed/*"],
                        "strip_prefix": "/compressed",
                        "files": files,
                        "filters": {
                            "compress": {"types": ["application/octet-stream"]},
                            "pieces_of_turns": self.turns.settings,
                        },
                    },
                    {
                        "name": "transformed",
                        "paths": ["/transformed/*"],
                        "strip_prefix": "/transformed",
                        "files": files,
                        "filters": {"transform": {"response": {"json": {"deny": ["secret"]}}}},
                    },
                    {
                        "name": "uncoded",
                        "paths": ["/uncoded/*"],
                        "strip_prefix": "/uncoded",
                        "files": files,
                        "filters": {"headers": {"request": {"set": {"Accept-Encoding": "br, identity"}}}},
                    },
                    {"name": "app", "hosts": ["app.test"], "files": {**files, "spa": "index.html"}},
                ],
            },
            folder,
            environment=self.turns.environment,
        )
        self._clients: list[Client] = []

    def client(self, by: str = "http1") -> Client:
        address = self.gateway.address("tls" if by == "tls" else "main")
        if by == "http2":
            client: Client = TranslatedClient(address)
        else:
            client = Client(address)
        if by == "tls":
            client.sock = self.tls.wrap_socket(client.sock, server_hostname="a.test")
        self._clients.append(client)
        return client

    def close_clients(self) -> None:
        for client in self._clients:
            client.close()
        self._clients.clear()


@pytest.fixture(scope="module")
def gateway_of_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("files"))
    with made.gateway:
        yield made


@pytest.fixture
def site(gateway_of_site: Site) -> Iterator[Site]:
    yield gateway_of_site
    gateway_of_site.close_clients()


BY = ["http1", "tls", "http2"]
Ask = Callable[..., Response]


@pytest.fixture(params=BY)
def ask(site: Site, request: pytest.FixtureRequest) -> Ask:
    client = site.client(request.param)

    def exchange(path: str, *lines: str, method: str = "GET", host: str = "a.test") -> Response:
        text = "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", *lines, "", ""])
        return client.exchange(text.encode("latin-1"), method.encode())

    return exchange


def test_a_file_is_served_with_its_validators(ask: Ask) -> None:
    response = ask("/app.js")
    assert (response.status, response.body) == (200, b"let a = 1")
    assert response.get(b"content-type") == b"text/javascript; charset=utf-8"
    assert response.get(b"last-modified") == b"Sun, 09 Sep 2001 01:46:40 GMT"
    assert response.get(b"accept-ranges") == b"bytes"
    assert response.get(b"vary") == b"Accept-Encoding"
    etag = response.get(b"etag")
    assert etag is not None
    assert etag.startswith(b'"')
    head = ask("/app.js", method="HEAD")
    assert (head.status, head.get(b"etag"), head.get(b"content-length"), head.body) == (200, etag, b"9", b"")
    again = ask("/app.js", f"If-None-Match: {etag.decode()}")
    assert (again.status, again.body, again.get(b"etag")) == (304, b"", etag)
    assert ask("/app.js", "If-Modified-Since: Sun, 09 Sep 2001 01:46:40 GMT").status == 304
    assert ask("/app.js", "If-Modified-Since: Sun, 09 Sep 2001 01:46:39 GMT").status == 200
    failed = ask("/app.js", 'If-Match: "other"')
    assert (failed.status, b"precondition_failed" in failed.body) == (412, True)


def test_the_precompressed_file_is_served_to_those_who_accept_it(ask: Ask) -> None:
    packed = ask("/app.js", "Accept-Encoding: br, gzip;q=0.5")
    assert (packed.get(b"content-encoding"), gzip.decompress(packed.body)) == (b"gzip", b"let a = 1")
    assert packed.get(b"content-type") == b"text/javascript; charset=utf-8"
    assert packed.get(b"etag") != ask("/app.js").get(b"etag")
    for value in ("br", "gzip;q=0", "identity", "*;q=0", "gzip;q=0.5, identity;q=0.8"):
        plain = ask("/app.js", f"Accept-Encoding: {value}")
        assert (plain.get(b"content-encoding"), plain.body, plain.get(b"vary")) == (
            None,
            b"let a = 1",
            b"Accept-Encoding",
        )
    assert ask("/index.html", "Accept-Encoding: gzip").get(b"vary") is None


def test_a_precompressed_file_with_whole_seconds_is_served(ask: Ask) -> None:
    """brotli and pigz keep the time of the file without the fraction of the second."""
    packed = ask("/sub/late.js", "Accept-Encoding: gzip")
    assert (packed.get(b"content-encoding"), gzip.decompress(packed.body)) == (b"gzip", b"let b = 2")
    assert packed.get(b"last-modified") == ask("/sub/late.js").get(b"last-modified")


@pytest.mark.parametrize(
    "line", ["Accept-Encoding: gzip", "Range: bytes=0-5", "Accept-Encoding: gzip\r\nRange: bytes=0-5"]
)
def test_a_file_that_is_transformed_is_taken_whole_and_without_a_coding(ask: Ask, line: str) -> None:
    """As from an upstream, which is asked for the content without ranges and content codings."""
    plain = ask("/transformed/price.json")
    assert (plain.status, plain.body) == (200, b'{"price":1}')
    response = ask("/transformed/price.json", *line.split("\r\n"))
    assert (response.status, response.body, response.get(b"content-encoding")) == (200, b'{"price":1}', None)
    assert response.get(b"etag") == plain.get(b"etag")
    head = ask("/transformed/price.json", *line.split("\r\n"), method="HEAD")
    assert (head.status, head.get(b"content-encoding"), head.get(b"etag")) == (200, None, plain.get(b"etag"))
    assert ask("/transformed/price.json", line, f"If-None-Match: {(plain.get(b'etag') or b'').decode()}").status == 304


def test_the_accepted_codings_are_those_that_filters_leave(ask: Ask) -> None:
    response = ask("/uncoded/price.json", "Accept-Encoding: gzip")
    assert (response.status, response.get(b"content-encoding")) == (200, None)


@pytest.mark.parametrize("path", ["/large", "/app.js"])
def test_ranges(ask: Ask, path: str) -> None:
    content = CONTENT if path == "/large" else b"let a = 1"
    size = len(content)
    for wanted, first, last in (("0-0", 0, 0), ("2-5", 2, 5), ("-3", size - 3, size - 1), (f"4-{10**30}", 4, size - 1)):
        part = ask(path, f"Range: bytes={wanted}")
        assert (part.status, part.body == content[first : last + 1]) == (206, True)
        assert part.get(b"content-range") == b"bytes %d-%d/%d" % (first, last, size)
    behind = ask(path, f"Range: bytes={size}-")
    assert (behind.status, behind.get(b"content-range")) == (416, b"bytes */%d" % size)
    for odd in ("bytes=5-2", "bytes=a-b", "lines=0-1", "bytes=0-,0-,0-", "bytes=" + "0-0," * 99):
        whole = ask(path, f"Range: {odd}")
        assert (whole.status, whole.body == content) == (200, True)
    assert ask(path, "Range: bytes=0-0", 'If-Range: "other"').status == 200
    assert ask(path, "Range: bytes=0-0", "If-Range: Sun, 09 Sep 2001 01:46:40 GMT").status == 206
    assert ask(path, "Range: bytes=0-0", method="HEAD").status == 200


@pytest.mark.parametrize("path", ["/large", "/app.js"])
def test_several_ranges_come_in_one_body(ask: Ask, path: str) -> None:
    content = CONTENT if path == "/large" else b"let a = 1"
    response = ask(path, "Range: bytes=0-1, 4-4, -1")
    kind, _, boundary = (response.get(b"content-type") or b"").partition(b"; boundary=")
    assert (response.status, kind) == (206, b"multipart/byteranges")
    pieces = response.body.split(b"--" + boundary)
    assert [piece.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for piece in pieces[1:-1]] == [
        content[:2],
        content[4:5],
        content[-1:],
    ]
    assert pieces[-1] == b"--\r\n"


def test_parts_of_a_file_that_may_be_compressed_have_the_vary_of_the_whole(ask: Ask) -> None:
    for wanted in ("0-1", "0-1, 4-4"):
        part = ask("/compressed/large", f"Range: bytes={wanted}")
        assert (part.status, part.get(b"vary")) == (206, b"Accept-Encoding")


def test_a_large_file_comes_whole(ask: Ask) -> None:
    response = ask("/large")
    assert response.get(b"content-length") == b"%d" % SIZE
    assert hashlib.sha256(response.body).digest() == hashlib.sha256(CONTENT).digest()
    assert ask("/empty").body == b""
    assert ask("/large", method="HEAD").get(b"content-length") == b"%d" % SIZE


def test_filters_get_one_piece_of_a_file_in_a_turn_of_the_event_loop(site: Site, ask: Ask) -> None:
    """Other connections are served between two pieces: to compress one may take milliseconds."""
    site.turns.clear()
    response = ask("/compressed/large", "Accept-Encoding: gzip")
    assert gzip.decompress(response.body) == CONTENT
    turns = site.turns.read()
    assert sum(map(sum, turns)) == SIZE
    assert all(len(lengths) == 1 and lengths[0] <= 65_536 for lengths in turns)


@pytest.mark.parametrize(
    "path",
    [
        "/none",
        "/.env",
        "/%2Eenv",
        "/sub/.x",
        "/out",
        "/pipe",
        "/app.js/",
        "//app.js",
        "/sub//notes",
        "/sub%2Fnotes",
        "/sub/",
        "/" + "x" * 300,
        "/" + "x/" * 2500,
    ],
    ids=lambda path: path[:20],
)
def test_what_is_no_file_is_404(ask: Ask, path: str) -> None:
    response = ask(path)
    assert (response.status, b"file_not_found" in response.body) == (404, True)
    assert b"secret" not in response.body


@pytest.mark.parametrize("path", ["/../secret", "/%2e%2e/secret", "/a%00", "/..%2fsecret", "/%252e%252e/x", "/a\\b"])
def test_what_climbs_is_400(ask: Ask, path: str) -> None:
    assert ask(path).status == 400


def test_links_within_the_root_are_followed(ask: Ask) -> None:
    assert ask("/inner").body == b"notes"


def test_other_methods_are_refused(ask: Ask) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        response = ask("/app.js", "Content-Length: 0", method=method)
        assert (response.status, response.get(b"allow")) == (405, b"GET, HEAD")


def test_directories(ask: Ask) -> None:
    assert ask("/").body == b"<h1>home</h1>"
    moved = ask("/sub?a=1")
    assert (moved.status, moved.get(b"location")) == (301, b"/sub/?a=1")
    assert ask("/listed").get(b"location") == b"/listed/"
    listed = ask("/listed/sub/")
    assert (listed.status, listed.get(b"content-type")) == (200, b"text/html; charset=utf-8")
    assert b'<a href="./notes">notes</a>' in listed.body
    assert ask("/listed/sub/notes").body == b"notes"


def test_the_page_of_an_application(ask: Ask) -> None:
    assert ask("/users/7", host="app.test").body == b"<h1>home</h1>"
    assert ask("/gone.js", host="app.test").status == 404
    assert ask("/.env", host="app.test").status == 404


# files that change


def test_a_replaced_file_is_noticed(site: Site) -> None:
    client = site.client()
    file = site.root / "changing"

    def content() -> tuple[bytes, bytes | None]:
        response = client.exchange(b"GET /changing HTTP/1.1\r\nHost: a.test\r\n\r\n")
        return response.body, response.get(b"etag")

    file.write_text("one")
    assert content()[0] == b"one"
    before = content()[1]
    (site.root / "new").write_text("two and more")
    os.replace(site.root / "new", file)
    wait_until(lambda: content()[0] == b"two and more", "the new content")
    assert content()[1] != before
    file.unlink()
    wait_until(lambda: b"file_not_found" in content()[0], "the file to be gone")


@pytest.mark.parametrize("by", BY)
def test_a_file_that_is_replaced_while_it_is_sent_is_sent_as_it_was(site: Site, by: str) -> None:
    file = site.root / f"replaced-{by}"
    file.write_bytes(CONTENT)
    client = site.client(by)
    client.send(f"GET /{file.name} HTTP/1.1\r\nHost: a.test\r\n\r\n".encode())
    head = client.read_head()
    (site.root / "next").write_bytes(b"other")
    os.replace(site.root / "next", file)
    assert client.read_body(head, until_close=False).body == CONTENT


def receive(sock: socket.socket) -> bytes:
    """Return what comes next; nothing at the end of the stream, however it ends."""
    try:
        return sock.recv(1 << 20)
    except OSError:
        return b""


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize(
    ("change", "at", "count"),
    [
        ("truncate", 0, -1),
        ("overwrite", 0, 10),
        ("overwrite by more", 0, len(CONTENT) * 31),
        ("overwrite the end by more", len(CONTENT) * 30 - 1, 10),
    ],
)
def test_a_file_that_loses_content_while_it_is_sent_is_cut_off(
    site: Site, by: str, change: str, at: int, count: int
) -> None:
    file = site.root / f"{change}-{by}".replace(" ", "-")
    file.write_bytes(CONTENT * 30)  # more than sockets hold
    os.utime(file, (SETTLED, SETTLED))  # so that the change has another time, whatever the clock's tick
    client = site.client(by)
    client.send(f"GET /{file.name} HTTP/1.1\r\nHost: a.test\r\n\r\n".encode())
    head = client.read_head()
    with open(file, "r+b") as changed:
        changed.seek(at)
        if change == "truncate":
            changed.truncate(SIZE)
        else:
            changed.write(b"x" * count)
    received = len(client.unread)
    while piece := receive(client.sock):
        received += len(piece)
    assert received < int(head.get(b"content-length") or 0)
    site.gateway.wait_for_record(path=f"/{file.name}", fault="file_unreadable", status=200)


@pytest.mark.extended
@pytest.mark.parametrize("by", BY)
def test_a_file_that_is_appended_to_while_it_is_sent_is_sent_as_it_was(site: Site, by: str) -> None:
    file = site.root / f"appended-{by}"
    file.write_bytes(CONTENT * 30)
    client = site.client(by)
    client.send(f"GET /{file.name} HTTP/1.1\r\nHost: a.test\r\n\r\n".encode())
    head = client.read_head()
    with open(file, "ab") as appended:
        appended.write(b"x" * len(CONTENT))
    assert head.get(b"content-length") == b"%d" % (len(CONTENT) * 30)
    assert client.read_body(head, until_close=False).body == CONTENT * 30


@pytest.mark.parametrize("by", BY)
def test_a_file_that_was_changed_before_it_is_asked_for_again_is_sent_as_it_is(site: Site, by: str) -> None:
    """It is open for as long as it is requested, and its responses would be cut off for a second."""
    file = site.root / f"grown-{by}"
    file.write_bytes(CONTENT)
    client = site.client(by)
    request = f"GET /{file.name} HTTP/1.1\r\nHost: a.test\r\n\r\n".encode()
    for content in (CONTENT, CONTENT + b"more", b"x" * (SIZE + 5)):
        file.write_bytes(content)
        assert client.exchange(request).body == content


def test_a_client_that_does_not_read_is_waited_for_and_may_leave(site: Site) -> None:
    file = site.root / "endless"
    with open(file, "wb") as large:
        large.truncate(1 << 30)
    client = site.client()
    client.send(b"GET /endless HTTP/1.1\r\nHost: a.test\r\n\r\n")
    client.read_head()
    client.reset()
    record = site.gateway.wait_for_record(path="/endless")
    assert record["fault"] == "client_left"
    assert record["response_bytes"] < 1 << 28


@pytest.mark.parametrize("by", ["main", "tls"])
def test_a_response_from_memory_is_that_of_the_full_path(site: Site, by: str) -> None:
    """The first request opens the file, later ones get ready bytes, unless they ask for something else.

    A listener with a filter that sets a header has responses of its own.
    """
    client = site.client(by)

    def fields(request: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        response = client.exchange(request, request.split(b" ")[0])
        varying = (b"date", b"connection")
        return (
            response.status,
            sorted(line for line in response.head.lines if line[0].lower() not in varying),
            response.body,
        )

    lines = b" HTTP/1.1\r\nHost: a.test\r\n"
    for accepts in (b"", b"Accept-Encoding: gzip\r\n", b"Accept-Encoding: br;q=0\r\nAccept-Encoding: gzip;q=0\r\n"):
        request = b"GET /app.js" + lines + accepts
        whole = fields(request + b"X-A: 1\r\nRange: lines=1\r\n\r\n")  # is no ordinary request
        assert (whole[0], dict(whole[1]).get(b"Cache-Control")) == (200, None if by == "main" else b"max-age=9")
        assert {repr(fields(request + b"\r\n")) for _ in range(5)} == {repr(whole)}
        assert fields(request + b"Range: bytes=0-0\r\n\r\n")[0] == 206
        for condition in (b"*", b'W/"x", ' + dict(whole[1])[b"ETag"], b'"x"', b"x"):
            line = b"If-None-Match: " + condition + b"\r\n"
            full, ready = fields(request + line + b"Range: lines=1\r\n\r\n"), fields(request + line + b"\r\n")
            assert (ready, ready[0]) == (full, 200 if b"x" in condition[:3] and len(condition) < 5 else 304)
        since = b"If-Modified-Since: Sun, 09 Sep 2001 01:46:40 GMT\r\n"
        assert fields(request + since + b"\r\n")[0] == 304
        assert fields(request + since + b'If-None-Match: "x"\r\n\r\n')[0] == 200
        assert fields(request.replace(b"GET", b"HEAD") + b"\r\n") == (200, whole[1], b"")
        assert fields(request + b"\r\n") == whole
    client.send(b"GET /app.js" + lines + b"\r\n" + b"GET /app.js" + lines + b"Connection: close\r\n\r\n")  # pipelined
    assert [client.read_response().status for _ in range(2)] == [200, 200]
    client.assert_ended()
    record = site.gateway.wait_for_record(path="/app.js", method="GET", response_bytes=9)
    assert (record["route"], record["status"], record["fault"]) == ("site", 200, None)
