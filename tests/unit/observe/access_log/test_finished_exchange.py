"""What is told of an exchange when it is over."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fastgw.errors import Fault
from fastgw.http.http1.parser import parse_request
from fastgw.observe.access_log.finished_exchange import record_of


@dataclass(slots=True)
class Named:
    name: str


@dataclass(slots=True)
class Response:
    status: int


@dataclass(slots=True)
class Body:
    bytes: int


@dataclass(slots=True)
class Exchange:
    """An exchange that is over, with no more than is read of it."""

    head: Any
    listener: Named = field(default_factory=lambda: Named("public"))
    route: Named | None = None
    scheme: bytes = b"http"
    client_ip: str = "192.0.2.7"
    consumer: Named | None = None
    request_body: Body | None = None
    request_bytes: int = 0
    response: Response | None = field(default_factory=lambda: Response(200))
    response_bytes: int = 0
    begun_at: float = 0.0
    upstream: str = ""
    target: str = ""
    upstream_s: float = -1.0
    retries: int = 0
    fault: Fault | None = None
    why: str = ""
    cache_result: str = ""
    grpc_status: str = ""
    shadowed: str = ""
    trace: Any = None
    subrequests: object = None
    request_id: bytes = b""


def over(fields: bytes = b"", line: bytes = b"GET / HTTP/1.1", **known: Any) -> Exchange:
    """An exchange that is over, of a request with this request line and these field lines."""
    return Exchange(parse_request(line + b"\r\nHost: a.test\r\n" + fields + b"\r\n"), **known)


def test_a_record_tells_what_the_exchange_knows() -> None:
    """Lasting from its beginning to now; texts as the client sent them."""
    ended = over(
        b"User-Agent: probe/1\r\nuser-agent: other\r\nReferer: http://r.test/\r\n",
        b"PUT /a%2fb?x=1 HTTP/1.0",
        route=Named("all"),
        begun_at=2.0,
        fault=Fault.CONNECT_REFUSED,
        why="refused",
        request_id=b"7",
    )
    record = record_of(ended, 5.5, 1e9)
    assert (record.method, record.host, record.path, record.query, record.version) == (
        b"PUT",
        b"a.test",
        b"/a%2fb",
        b"x=1",
        10,
    )
    assert (record.user_agent, record.referer, record.request_id) == (b"probe/1", b"http://r.test/", b"7")
    assert (record.listener, record.route) == ("public", "all")
    assert (record.duration_s, record.ended_date) == (3.5, 1e9)
    assert (record.fault, record.fault_detail) == ("connect_refused", "refused")


def test_a_client_that_left_before_any_answer_is_a_499() -> None:
    assert record_of(over(response=None), 0.0, 0.0).status == 499


def test_the_bytes_of_a_body_are_its_relays() -> None:
    """A tunnel has none, and is counted on the exchange."""
    assert record_of(over(request_body=Body(3)), 0.0, 0.0).request_bytes == 3
    assert record_of(over(request_bytes=4), 0.0, 0.0).request_bytes == 4
