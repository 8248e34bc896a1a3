"""nghttpd as an upstream: HTTP/2 by another program, with trailers, pushes, few streams and TLS, and its restart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.e2e.programs import Nghttpd, run
from tests.support.certificates import Certificates
from tests.support.faults import assert_fault
from tests.support.gateway import Gateway
from tests.support.http2_peer import Http2Client

STREAMS = 8
BODY = bytes(range(256)) * 4096


class Place(NamedTuple):
    gateway: Gateway
    plain: Nghttpd
    secured: Nghttpd


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("nghttpd")
    authority = Certificates(directory)
    issued = authority.issue("inside.test")
    (directory / "secured").mkdir()
    options = ("--trailer=x-sum: 6", "--no-content-length", "--echo-upload", "--push=/page=/pushed")
    with (
        Nghttpd(directory, *options, f"--max-concurrent-streams={STREAMS}") as plain,
        Nghttpd(directory / "secured", certificate=issued) as secured,
    ):
        for name in ("page", "pushed"):
            (plain.www / name).write_text(f"the {name}")
        (secured.www / "page").write_text("over TLS")
        tls = {"ca": authority.ca, "server_name": "inside.test"}
        config = {
            "workers": 1,
            "listeners": {"main": {"address": "127.0.0.1:0", "protocols": ["http1", "http2"]}},
            "upstreams": {
                "plain": {"protocol": "http2", "targets": [plain.url]},
                "secured": {"protocol": "auto", "targets": [secured.url], "tls": tls},
            },
            "routes": [
                {"name": "secured", "hosts": ["secured.test"], "upstream": "secured"},
                {"name": "plain", "upstream": "plain"},
            ],
        }
        with Gateway(config, directory) as gateway:
            yield Place(gateway, plain, secured)


def get(path: bytes = b"/page", host: bytes = b"a.test", method: bytes = b"GET") -> bytes:
    return b"%b %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (method, path, host)


@pytest.mark.landing
def test_a_response_and_its_trailers_arrive_in_both_versions(place: Place) -> None:
    with place.gateway.connect() as client, Http2Client(place.gateway.address()) as client2:
        response = client.exchange(get())
        assert (response.status, response.body) == (200, b"the page")
        assert (response.get(b"Via"), response.trailers) == (b"2 fastgw", [(b"x-sum", b"6")])
        message = client2.exchange(path=b"/page")
        assert (message.status, message.body, message.trailers) == (200, b"the page", [(b"x-sum", b"6")])
        assert client.exchange(get(method=b"HEAD"), b"HEAD").status == 200
        assert client.exchange(get(b"/none")).status == 404


@pytest.mark.landing
def test_an_upload_comes_back_whole(place: Place) -> None:
    """A MiB: through the windows of both sides."""
    with place.gateway.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)
        assert client.read_response(b"POST").body == BODY


def test_nothing_is_pushed(place: Place) -> None:
    """RFC 9113 section 8.4: pushes are refused in SETTINGS, and nghttpd, which is told to push, sends none."""
    with place.gateway.connect() as client:
        for _ in range(3):
            assert client.exchange(get()).body == b"the page"
        assert client.exchange(get(b"/pushed")).body == b"the pushed"
    assert any(b"SETTINGS_ENABLE_PUSH(0x02):0" in line for line in place.plain.lines)
    assert not any(b"PUSH_PROMISE" in line for line in place.plain.lines)


def test_more_requests_than_its_streams_are_all_served(place: Place) -> None:
    url = f"http://{place.gateway.address()}/page"
    told = run("h2load", "-n", "400", "-c", "4", "-m", str(STREAMS), url)
    assert "400 succeeded, 0 failed, 0 errored, 0 timeout" in told
    assert not any(b"REFUSED_STREAM" in line for line in place.plain.lines)


@pytest.mark.landing
def test_alpn_chooses_http2_over_tls(place: Place) -> None:
    with place.gateway.connect() as client:
        response = client.exchange(get(host=b"secured.test"))
    assert (response.body, response.get(b"Via")) == (b"over TLS", b"2 fastgw")


def test_its_restart_is_seen(place: Place) -> None:
    """It ends its connections: none of them is used again, and requests are served as soon as it is back."""
    with place.gateway.connect() as client:
        assert client.exchange(get()).status == 200
        place.plain.end()
        assert_fault(client.exchange(get()), "connect_refused")
        place.plain.start()
        assert client.exchange(get()).body == b"the page"
