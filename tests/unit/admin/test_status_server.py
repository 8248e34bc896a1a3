"""What the status listener answers, whoever serves it."""

from __future__ import annotations

import asyncio

import pytest

from fastgw.admin.status_server import StatusPages
from fastgw.config.base.value_types import Address
from fastgw.config.settings.gateway import Status
from fastgw.http.http1.parser import parse_request
from tests.support.on_loop import on_loop


def ask(pages: StatusPages, request: str, *fields: str, host: str = "a") -> tuple[int, dict[str, str], bytes]:
    raw = "\r\n".join([f"{request} HTTP/1.1", f"Host: {host}", *fields, "", ""]).encode()
    sent: list[bytes] = []
    pages.answer(parse_request(raw), sent.append)
    return parsed(*sent)


def parsed(sent: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = sent.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body


def metrics(accept: bytes) -> tuple[bytes, bytes]:
    return b"text/x", b"for " + accept + b"\n"


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text; version=1.0.0;q=0.9,*/*;q=0.1"])
def test_metrics_are_in_the_format_that_is_asked_for(accept):
    pages = StatusPages(lambda: True, metrics, Status)
    status, fields, body = ask(pages, "GET /metrics", f"Accept: {accept}")
    assert (status, fields["Content-Type"], body) == (200, "text/x", f"for {accept}\n".encode())
    assert ask(pages, "GET /metrics")[2] == b"for \n"


@pytest.mark.parametrize("fails", [False, True])
@on_loop
async def test_metrics_that_come_later_are_waited_for_and_probes_are_not(fails):
    """As where a worker stands in for control."""
    summed_up = asyncio.get_running_loop().create_future()
    pages = StatusPages(lambda: True, lambda accept: summed_up, Status)
    sent: list[bytes] = []
    pages.answer(parse_request(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"), sent.append)
    await asyncio.sleep(0)
    assert sent == []
    assert ask(pages, "GET /livez")[::2] == (200, b"alive\n")
    assert ask(pages, "GET /readyz")[::2] == (200, b"ready\n")
    if fails:
        summed_up.set_exception(MemoryError())
    else:
        summed_up.set_result((b"text/x", b"late\n"))
    await asyncio.sleep(0)
    status, _, body = parsed(*sent)
    assert (status, body) == ((503, b"the metrics are unavailable\n") if fails else (200, b"late\n"))


def test_what_a_ready_gateway_does_without_is_told_beside_it():
    notes = ["the Redis of `state` at a:1 is unreachable: no answer in time; limits count on each gateway on its own"]
    for is_ready, page in ((True, (200, f"ready\n{notes[0]}\n".encode())), (False, (503, b"not ready\n"))):
        pages = StatusPages(lambda is_ready=is_ready: is_ready, metrics, Status, lambda: notes)
        assert ask(pages, "GET /readyz")[::2] == page


def test_readiness_is_asked_for_each_time():
    ready = [True, False]
    pages = StatusPages(ready.pop, metrics, Status)
    assert ask(pages, "GET /readyz")[::2] == (503, b"not ready\n")
    assert ask(pages, "GET /readyz")[::2] == (200, b"ready\n")


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
def test_head_tells_what_get_would_without_its_body(path):
    pages = StatusPages(lambda: True, metrics, Status)
    _, fields, body = ask(pages, f"GET {path}")
    assert ask(pages, f"HEAD {path}") == (200, fields, b"")
    assert fields["Content-Length"] == str(len(body))


@pytest.mark.parametrize(("request_line", "status"), [("GET /", 404), ("GET /status", 404), ("POST /livez", 405)])
def test_there_is_nothing_else(request_line, status):
    assert ask(StatusPages(lambda: True, metrics, Status), request_line)[0] == status


def test_no_page_of_another_site_reads_it_by_dns_rebinding():
    """Monitoring scrapes by addresses, and by names that only a private resolver knows."""
    own = ("127.0.0.1:9902", "[::1]:9902", "localhost", "gateway:9902", "Gateway.Prod.SVC.", "gw1.internal", "gw.local")
    public = ("evil.example", "evil.example:9902", "127.0.0.1.evil.example", "localhost.evil.example", "svc.example")
    named = ("gw1.example.com", "a.b.example.com", "example.com", "xexample.com")
    at_name, listed = Address(host="example.com", port=9902), ("gw1.example.com", "*.b.example.com")
    for settings, good, bad in (
        (Status(), own, (*public, *named)),
        (Status(address=at_name), (*own, "EXAMPLE.com"), (*public, "gw1.example.com", "xexample.com")),
        (
            Status(hosts=listed),
            (*own, "GW1.example.com:1", "a.b.example.com"),
            (*public, "example.com", "b.example.com"),
        ),
        (Status(address=Address(path="/run/s")), (*own, *public, *named), ()),
    ):
        pages = StatusPages(lambda: True, metrics, lambda settings=settings: settings)
        for host in good + bad:
            for path in ("/metrics", "/readyz", "/livez"):
                status, _, body = ask(pages, f"GET {path}", host=host)
                assert (status, b"status.hosts" in body) == ((403, True) if host in bad else (200, False)), host
        sent: list[bytes] = []
        pages.answer(parse_request(b"GET /livez HTTP/1.0\r\n\r\n"), sent.append)
        assert parsed(*sent)[0] == 200  # no browser leaves it out
