"""nginx and uvicorn behind the gateway: a client sees what it would see of them directly."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import FILES
from tests.e2e.programs import Nginx, Uvicorn, run
from tests.e2e.service import PIECES
from tests.support.gateway import Gateway

OURS = {"via", "connection", "keep-alive", "date"}  # what a proxy adds, what belongs to one connection, what changes
FRAMING = ("content-length", "transfer-encoding")  # made anew for each connection
IDENTITY = {"Accept-Encoding": "identity"}
BLOCK = random.Random(1).randbytes(1_000_000)


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=10) as client:
        yield client


def end_to_end(response: httpx.Response) -> list[tuple[str, str]]:
    """The fields that are the origin's own, in order."""
    return [(name, value) for name, value in response.headers.multi_items() if name not in OURS and name not in FRAMING]


FILE_REQUESTS = {
    "whole": {},
    "first bytes": {"Range": "bytes=0-99"},
    "last bytes": {"Range": "bytes=-100"},
    "from the middle": {"Range": "bytes=2999000-"},
    "beyond its end": {"Range": "bytes=5000000-"},
    "compressed": {"Accept-Encoding": "gzip"},
    "for another tag": {"If-None-Match": '"another"'},
    "since long ago": {"If-Modified-Since": "Thu, 01 Jan 1970 00:00:00 GMT"},
    "in an old range": {"Range": "bytes=0-99", "If-Range": '"another"'},
}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("name", [*FILES, "missing.txt"])
@pytest.mark.parametrize("fields", FILE_REQUESTS.values(), ids=FILE_REQUESTS)
def test_files_of_nginx(
    client: httpx.Client, nginx: Nginx, front: Gateway, method: str, name: str, fields: dict[str, str]
) -> None:
    """Files, ranges of them, conditional and compressed: status, fields in their order and every byte are nginx's."""
    fields = {**IDENTITY, **fields}
    direct = client.request(method, f"{nginx.url}/{name}", headers=fields)
    proxied = client.request(method, f"{front.url('nginx')}/{name}", headers=fields)
    assert (proxied.status_code, proxied.reason_phrase) == (direct.status_code, direct.reason_phrase)
    assert proxied.content == direct.content
    assert end_to_end(proxied) == end_to_end(direct)
    if "content-length" in direct.headers:
        assert proxied.headers["content-length"] == direct.headers["content-length"]
    assert "1.1 fastgw" in proxied.headers["via"]


@pytest.mark.landing
def test_many_ranges_at_once(client: httpx.Client, front: Gateway) -> None:
    """A multipart answer (RFC 9110 section 14.6) passes, its length included."""
    got = client.get(f"{front.url('nginx')}/random.bin", headers={**IDENTITY, "Range": "bytes=0-9,1000-1009,-10"})
    content = FILES["random.bin"]
    assert got.status_code == 206
    assert got.headers["content-type"].startswith("multipart/byteranges")
    assert int(got.headers["content-length"]) == len(got.content)
    for part in (content[:10], content[1000:1010], content[-10:]):
        assert b"\r\n\r\n" + part + b"\r\n" in got.content


@pytest.mark.landing
def test_what_is_cached_is_not_sent_again(client: httpx.Client, front: Gateway) -> None:
    """304 to a tag or a date that still holds, without a body; and the connection goes on."""
    first = client.get(f"{front.url('nginx')}/page.txt", headers=IDENTITY)
    for field, known in (("If-None-Match", "etag"), ("If-Modified-Since", "last-modified")):
        again = client.get(f"{front.url('nginx')}/page.txt", headers={field: first.headers[known]})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"].removeprefix("W/") == first.headers["etag"].removeprefix("W/")


@pytest.mark.landing
def test_compressed_on_the_way(front: Gateway) -> None:
    """nginx compresses while it sends, so the length is unknown: curl gets chunks that make up the file."""
    head = run("curl", "-sS", "--compressed", "-D", "-", "-o", "/dev/null", f"{front.url('nginx')}/page.txt").lower()
    assert "content-encoding: gzip" in head
    assert "transfer-encoding: chunked" in head
    assert run("curl", "-sS", "--compressed", f"{front.url('nginx')}/page.txt").encode() == FILES["page.txt"]


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 5_000_000])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_echo_of_uvicorn(client: httpx.Client, front: Gateway, size: int, chunked: bool) -> None:
    """A body arrives, framed as the client framed it, and comes back, whatever its size."""
    body = random.Random(size).randbytes(size)
    pieces = (body[at : at + 10_000] for at in range(0, size, 10_000))
    response = client.post(f"{front.url('uvicorn')}/echo", content=pieces if chunked else body)
    assert response.content == body
    assert response.headers["x-framing"] == ("transfer-encoding=chunked" if chunked else f"content-length={size}")


@pytest.mark.landing
def test_chunks_of_uvicorn(client: httpx.Client, front: Gateway) -> None:
    """A body of unknown length stays one: chunked, no length."""
    with client.stream("GET", f"{front.url('uvicorn')}/pieces") as response:
        assert response.headers["transfer-encoding"] == "chunked"
        assert "content-length" not in response.headers
        assert b"".join(response.iter_raw()) == b"".join(PIECES)


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
@pytest.mark.parametrize("code", [200, 201, 204, 205, 304, 404, 418, 500, 503])
def test_statuses_of_uvicorn(client: httpx.Client, uvicorn: Uvicorn, front: Gateway, method: str, code: int) -> None:
    """An error of the service is its own, not the gateway's."""
    direct = client.request(method, f"{uvicorn.url}/status?{code}")
    proxied = client.request(method, f"{front.url('uvicorn')}/status?{code}")
    assert (proxied.status_code, proxied.content) == (code, direct.content)
    assert end_to_end(proxied) == end_to_end(direct)


@pytest.mark.landing
@pytest.mark.parametrize(
    "how",
    [
        ["-T", "{file}"],
        ["-T", "-"],
        ["-T", "{file}", "-H", "Expect: 100-continue"],
        ["-T", "-", "-H", "Expect: 100-continue"],
        ["-T", "{file}", "--http1.0"],
        ["-T", "{file}", "-H", "Transfer-Encoding: chunked"],
    ],
    ids=lambda how: " ".join(how),
)
def test_uploads_of_curl_to_nginx(nginx: Nginx, front: Gateway, tmp_path: Path, how: list[str]) -> None:
    """With a length or chunked, with or without asking first, HTTP/1.0 too: the file is there, whole."""
    file = tmp_path / "upload"
    file.write_bytes(BLOCK)
    name = f"put/{tmp_path.name}"
    with file.open("rb") as stdin:
        arguments = [each.format(file=file) for each in how]
        run("curl", "-sS", "-f", *arguments, f"{front.url('nginx')}/{name}", stdin=stdin)
    assert (nginx.www / name).read_bytes() == BLOCK


@pytest.mark.landing
def test_a_download_is_resumed(front: Gateway, tmp_path: Path) -> None:
    """curl asks for what is missing."""
    file = tmp_path / "partial"
    file.write_bytes(FILES["random.bin"][:1_000_000])
    run("curl", "-sS", "-f", "-C", "-", "-o", file, f"{front.url('nginx')}/random.bin")
    assert file.read_bytes() == FILES["random.bin"]


@pytest.mark.landing
def test_curl_needs_one_connection(front: Gateway) -> None:
    """Answers of every kind leave the connection usable: curl opens it once."""
    url = front.url("nginx")
    urls = [f"{url}/{name}" for name in ("page.txt", "missing.txt", "empty.txt", "random.bin", "page.txt")]
    outputs = [argument for _ in urls for argument in ("-o", "/dev/null")]
    assert run("curl", "-sS", "-w", "%{num_connects}\n", *outputs, *urls).split() == ["1", "0", "0", "0", "0"]


@pytest.mark.landing
def test_http_1_0_of_curl(front: Gateway) -> None:
    """A body that uvicorn sends chunked ends with the connection."""
    got = run("curl", "-sS", "--http1.0", "-i", f"{front.url('uvicorn')}/pieces")
    head, _, body = got.partition("\n\n")  # text mode turned CRLF into LF
    assert body.encode() == b"".join(PIECES)
    assert "transfer-encoding" not in head.lower()
    assert "connection: close" in head.lower()


def test_a_digest_of_an_upload_that_curl_streams(front: Gateway, tmp_path: Path) -> None:
    """Every byte of a chunked upload to uvicorn, in order."""
    file = tmp_path / "upload"
    file.write_bytes(BLOCK * 8)
    with file.open("rb") as stdin:
        got = run("curl", "-sS", "-T", "-", "-X", "POST", f"{front.url('uvicorn')}/digest", stdin=stdin)
    assert got == hashlib.sha256(BLOCK * 8).hexdigest()


LOADS = {
    "wrk": ["-t1", "-c32", "-d1s", "--latency"],
    "h2load": ["--h1", "-n1000", "-c20"],
    "hey": ["-n", "200", "-c", "20", "-disable-redirects"],  # it accepts gzip, for which nginx takes 10 ms each
}


@pytest.mark.parametrize("origin", ["nginx/empty.txt", "nginx/page.txt", "uvicorn/pieces"])
@pytest.mark.parametrize("name", LOADS)
def test_load_without_errors(front: Gateway, name: str, origin: str) -> None:
    """Kept-alive connections under load: not one request fails."""
    listener, _, path = origin.partition("/")
    told = run(name, *LOADS[name], f"{front.url(listener)}/{path}")
    if name == "wrk":
        assert "requests in" in told
        assert "Socket errors" not in told
        assert "Non-2xx" not in told
    elif name == "h2load":
        assert "1000 succeeded, 0 failed, 0 errored, 0 timeout" in told
        assert "1000 2xx, 0 3xx, 0 4xx, 0 5xx" in told
    else:
        assert "[200]\t200 responses" in told
        assert "Error distribution" not in told
