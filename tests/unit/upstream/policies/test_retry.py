"""When another attempt follows one that came to nothing: what clients see, and what targets get."""

from __future__ import annotations

from email.utils import formatdate
from math import inf
from time import time
from typing import Any

import pytest

from fastgw.config.settings.gateway import Backoff, Retries, Sticky
from fastgw.errors import Fault
from fastgw.http.http1.parser import parse_response
from fastgw.upstream.connections.stream import UpstreamPhase
from fastgw.upstream.forwarding import forwarding
from fastgw.upstream.load_balancing.sticky_sessions import Cookies
from fastgw.upstream.policies.retry import CONNECT_FAILURE, PER_TRY_TIMEOUT, RESET, RetryRules, asked_wait
from tests.support.attempts import GET, OK, Service, asking, saying
from tests.support.memory import Wire
from tests.support.table import for_each

FIRST, SECOND = "127.0.0.1:9", "127.0.0.2:9"
STATUSES = {"retries": {"conditions": ["connect_failure", "500", "503"], "max": 1}}
PER_TRY = {"retries": {"conditions": ["connect_failure", "per_try_timeout"], "per_try_timeout": "200ms", "max": 1}}
IDEMPOTENT = [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"]
OTHERS = [b"POST", b"PATCH"]


def retries(**settings: Any) -> dict[str, Any]:
    return {"retries": settings}


# --- no connection ---


@pytest.mark.parametrize("method", IDEMPOTENT + OTHERS)
def test_what_nobody_has_seen_goes_to_another_target_at_once(method: bytes) -> None:
    service = Service()
    service.asks(asking(method, b"body" if method in (b"PUT", b"POST") else b""))
    service.plane.cannot_connect()
    assert service.waiting == [SECOND]
    service.connects().sends(OK if method != b"HEAD" else saying(200))
    service.assert_over(200, retries=1)
    assert service.received(method) == 1


def test_the_same_target_is_given_time() -> None:
    service = Service(targets=1)
    service.asks()
    service.plane.cannot_connect()
    assert service.waiting == []
    (wait,) = service.waits
    assert 0 <= wait <= 0.025
    service.passes(0.05)
    service.connects().sends(OK)
    service.assert_over(200, retries=1)


def test_each_wait_may_be_twice_as_long_up_to_a_bound() -> None:
    rules = RetryRules(Retries(max=9, backoff=Backoff(base=0.025, max=0.25)))
    for retried, bound in enumerate((0.025, 0.05, 0.1, 0.2, 0.25, 0.25)):
        drawn = [rules.wait(CONNECT_FAILURE, retried, others=False) for _ in range(400)]
        assert 0 <= min(drawn) < bound / 4
        assert bound * 3 / 4 < max(drawn) <= bound


def test_who_waits_for_what() -> None:
    rules = RetryRules(Retries(backoff=Backoff(base=0.2, max=0.2)))
    for condition in (CONNECT_FAILURE, PER_TRY_TIMEOUT):
        assert rules.wait(condition, 0, others=True) == 0.0
        assert rules.wait(condition, 0, others=False) > 0.0
    assert rules.wait(RESET, 0, others=False) == 0.0
    assert rules.wait("503", 0, others=True) > 0.0
    assert RetryRules(Retries(backoff=Backoff(base=0.0, max=0.2))).wait("503", 3, others=True) == 0.0


def test_a_client_that_leaves_ends_the_wait() -> None:
    service = Service(targets=1)
    service.asks()
    service.plane.cannot_connect()
    assert service.waits
    service.client.ends()
    service.assert_over(499)  # the retry was not begun
    service.passes(1)
    assert service.waiting == []


def test_a_wait_that_is_longer_than_the_time_left_is_not_begun() -> None:
    service = Service(retries(backoff={"base": "10s", "max": "10s"}), targets=1, route={"timeout": "1ms"})
    service.asks()
    service.plane.cannot_connect()
    service.assert_over(502)


def test_retries_end() -> None:
    service = Service(retries(max=3), targets=2)
    service.asks()
    for _ in range(4):
        service.plane.cannot_connect()
        service.passes(0.3)
    service.assert_over(502, retries=3)
    assert service.watch.of("begun") == [FIRST, SECOND] * 2 or service.watch.of("begun") == [SECOND, FIRST] * 2


# --- lost connections ---


@for_each("method", [b"GET", b"POST"])
@for_each("is_reused", [False, True])
@for_each(
    ("conditions", "retried_if_reused", "retried_if_new"),
    [
        (["reset_before_response"], True, False),
        (["reset"], True, True),
        (["reset_before_response", "reset"], True, True),
        (["connect_failure"], False, False),
    ],
)
def test_which_lost_connections_are_retried(
    conditions: list[str], retried_if_reused: bool, retried_if_new: bool, is_reused: bool, method: bytes
) -> None:
    service = Service(retries(conditions=conditions), targets=1)
    wire = None
    if is_reused:
        service.asks()
        wire = service.connects()
        wire.sends(OK)
        service.plane.records.clear()
        service.client.received = b""
    service.asks(asking(method))
    if wire is None:
        wire = service.connects()
    wire.ends()
    service.passes(1)
    retried = method == b"GET" and (retried_if_reused if is_reused else retried_if_new)
    assert bool(service.waiting) == retried
    if retried:
        service.connects().sends(OK)
    service.assert_over(200 if retried else 502, retries=int(retried))


# --- answers ---


@for_each("method", IDEMPOTENT)
@for_each("status", [500, 503])
def test_an_answer_that_is_refused_is_asked_for_elsewhere(method: bytes, status: int) -> None:
    service = Service(STATUSES)
    service.asks(asking(method, b"body" if method == b"PUT" else b""))
    first = service.connects()
    first.sends(saying(status, b"" if method == b"HEAD" else b"no"))
    assert service.client.received == b""
    service.passes(0.1)
    assert service.waiting == [SECOND]
    second = service.connects()
    assert second.received.endswith(first.received.partition(b"\r\n\r\n")[2])
    second.sends(saying(200, b"" if method == b"HEAD" else b"yes"))
    assert service.client.received.startswith(b"HTTP/1.1 200 ")
    service.assert_over(200, retries=1)
    assert service.watch.of("answered") == [status, 200]
    assert len(service.plane.pool.open) == 2  # both serve on


@pytest.mark.parametrize("method", OTHERS)
def test_what_may_not_be_repeated_has_one_answer(method: bytes) -> None:
    service = Service(STATUSES)
    service.asks(asking(method, b"body"))
    service.connects().sends(saying(503, b"no"))
    assert service.client.received.endswith(b"\r\n\r\nno")
    service.assert_over(503)
    assert service.received(method) == 1


def test_unless_somebody_says_otherwise() -> None:
    service = Service({"retries": {**STATUSES["retries"], "non_idempotent": True}})
    service.asks(asking(b"POST", b"body"))
    service.connects().sends(saying(503))
    service.passes(0.1)
    second = service.connects()
    assert second.received.endswith(b"\r\n\r\nbody")
    second.sends(OK)
    service.assert_over(200, retries=1)


def test_the_last_answer_is_passed_on_as_it_is() -> None:
    service = Service(STATUSES)
    service.asks()
    service.connects().sends(saying(503, b"first", b"X-From: 1"))
    service.passes(0.1)
    service.connects().sends(saying(500, b"second", b"X-From: 2"))
    assert service.client.received.startswith(b"HTTP/1.1 500 Said\r\n")
    assert b"X-From: 2\r\n" in service.client.received
    assert service.client.received.endswith(b"second")
    service.assert_over(500, retries=1)


STREAMED = b"HTTP/1.1 503 Said\r\nX-From: 1\r\nContent-Length: 9\r\n\r\nhalf"


def nobody_left(service: Service) -> None:
    """As when a breaker opens, or all targets are ejected."""
    service.upstream.drain({target.label for target in service.upstream.targets})


def is_passed_on(service: Service, status: int, retries: int = 0) -> None:
    assert service.client.received.startswith(b"HTTP/1.1 %d Said\r\n" % status)
    assert b"X-From: 1\r\n" in service.client.received
    assert b"problem+json" not in service.client.received
    service.assert_over(status, retries)
    (record,) = service.plane.records
    assert (record.fault, record.target) == ("", FIRST)
    assert record.upstream_s > 0
    assert service.waits == []


@pytest.mark.parametrize("method", IDEMPOTENT)
def test_an_answer_after_which_nobody_is_left_is_the_last(method: bytes) -> None:
    """It is with this very answer that a breaker may open, or the last target be ejected."""
    service = Service(STATUSES)
    service.asks(asking(method, b"body" if method == b"PUT" else b""))
    first = service.connects()
    nobody_left(service)
    first.sends(saying(503, b"" if method == b"HEAD" else b"busy", b"X-From: 1"))
    service.passes(0.3)
    is_passed_on(service, 503)
    assert method == b"HEAD" or service.client.received.endswith(b"\r\n\r\nbusy")
    assert len(service.plane.pool.open) == 1  # it serves on


def test_an_answer_during_whose_wait_nobody_is_left_is_the_last() -> None:
    service = Service(STATUSES)
    service.asks()
    service.connects().sends(saying(500, b"busy", b"X-From: 1"))
    assert service.client.received == b""
    assert service.waits
    nobody_left(service)
    service.passes(0.3)
    is_passed_on(service, 500)
    assert service.client.received.endswith(b"\r\n\r\nbusy")


def test_an_answer_still_coming_after_which_nobody_is_left_is_the_last() -> None:
    service = Service(STATUSES)
    service.asks()
    first = service.connects()
    nobody_left(service)
    first.sends(STREAMED)
    assert service.client.received.endswith(b"\r\n\r\nhalf")
    first.sends(b" more")
    is_passed_on(service, 503)
    assert service.client.received.endswith(b"\r\n\r\nhalf more")


def test_for_an_answer_still_coming_another_target_is_found_first() -> None:
    """A half-open breaker lets one request pass: it is this one, although it waits before it begins."""
    service = Service(STATUSES)
    service.asks()
    first = service.connects()
    balancer, picks = service.upstream.balancer, []

    class Once:
        def pick(self, asked: Any, tried: Any = ()) -> Any:
            picks.append(tried)
            return balancer.pick(asked, tried) if len(picks) == 1 else None

    service.upstream.balancer = Once()
    first.sends(STREAMED)
    assert first.aborted
    service.passes(0.3)
    assert service.waiting == [SECOND]
    service.connects().sends(OK)
    service.assert_over(200, retries=1)


def test_a_target_that_is_taken_away_while_it_is_waited_for_is_not_asked() -> None:
    service = Service(STATUSES, targets=3)
    service.asks()
    service.connects().sends(STREAMED)
    service.upstream.drain({SECOND})
    service.passes(0.3)
    assert service.waiting == ["127.0.0.3:9"]
    service.connects().sends(OK)
    service.assert_over(200, retries=1)


# --- priority groups ---


def grouped(priorities: str, settings: dict[str, Any]) -> Service:
    """An upstream whose targets have these priorities."""
    urls = [f"http://127.0.0.{number + 1}:9" for number in range(len(priorities))]
    targets = [{"url": url, "priority": int(each)} for url, each in zip(urls, priorities, strict=True)]
    return Service({"targets": targets, **settings})


@pytest.mark.parametrize("method", IDEMPOTENT + OTHERS)
def test_a_request_that_reaches_no_target_of_a_priority_group_goes_to_the_next_group(method: bytes) -> None:
    service = grouped("0012", retries(max=3))
    service.asks(asking(method))
    reached: list[str] = []
    for _ in range(3):
        reached += service.waiting
        service.plane.cannot_connect()
        assert service.waits == []
    assert sorted(reached) == [FIRST, SECOND, "127.0.0.3:9"]
    assert service.waiting == ["127.0.0.4:9"]
    service.connects().sends(OK if method != b"HEAD" else saying(200))
    service.assert_over(200, retries=3)


@pytest.mark.parametrize("retried", [False, True])
def test_a_session_does_not_stay_with_the_backup_that_one_retry_was_sent_to(retried: bool) -> None:
    sticky = {"load_balancing": {"sticky": {"cookie": "at", "key": "k" * 32}}}
    service = grouped("01", {**retries(max=1), **sticky})
    service.asks()
    if retried:
        service.plane.cannot_connect()
    assert service.waiting == [SECOND if retried else FIRST]
    service.connects().sends(OK)
    assert service.client.received.lower().count(b"set-cookie: at=") == (0 if retried else 1)
    service.assert_over(200, retries=int(retried))


def test_after_the_last_priority_group_the_retry_waits_and_goes_to_the_first() -> None:
    service = grouped("01", retries(max=2))
    service.asks()
    for target in (FIRST, SECOND):
        assert service.waiting == [target]
        service.plane.cannot_connect()
    service.passes(0.1)
    assert service.waiting == [FIRST]
    service.connects().sends(OK)
    service.assert_over(200, retries=2)


@pytest.mark.parametrize("response", [saying(503, b"no"), b"HTTP/1.1 503 No\r\nContent-Length: 9\r\n\r\nhalf"])
def test_a_status_that_is_retried_is_retried_in_the_next_priority_group(response: bytes) -> None:
    service = grouped("01", STATUSES)
    service.asks()
    service.connects().sends(response)
    service.passes(0.3)
    assert service.waiting == [SECOND]
    service.connects().sends(OK)
    service.assert_over(200, retries=1)


def test_a_backup_that_is_drained_during_the_wait_gets_no_retry() -> None:
    service = grouped("01", STATUSES)
    service.asks()
    service.connects().sends(saying(503))
    service.upstream.drain({SECOND})
    service.passes(0.3)
    assert service.waiting == []
    service.wires[0].sends(OK)
    service.assert_over(200, retries=1)


def test_a_silent_target_is_left_for_the_next_priority_group() -> None:
    service = grouped("01", PER_TRY)
    service.asks()
    service.connects()
    service.passes(0.3)
    assert service.waiting == [SECOND]
    service.connects().sends(OK)
    service.assert_over(200, retries=1)


def test_a_reused_connection_that_was_closed_is_no_reason_for_the_next_priority_group() -> None:
    service = grouped("01", {})
    service.asks()
    first = service.connects()
    first.sends(OK)
    service.asks()
    first.ends()
    assert service.waiting == [FIRST]
    service.connects().sends(OK)
    assert [record.status for record in service.plane.records] == [200, 200]


@pytest.mark.parametrize("fault", [Fault.POOL_FULL, Fault.POOL_TIMEOUT])
def test_an_answer_is_the_last_where_no_connection_can_be_had(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(STATUSES)
    service.asks()
    first = service.connects()
    monkeypatch.setattr(service.plane.pool, "lend", lambda *_: fault)
    first.sends(saying(503, b"busy", b"X-From: 1"))
    service.passes(0.3)
    is_passed_on(service, 503, retries=1)
    assert service.client.received.endswith(b"busy")


def test_a_client_that_leaves_while_its_answer_is_held_gets_nothing() -> None:
    service = Service(STATUSES)
    service.asks()
    service.connects().sends(saying(503, b"busy"))
    service.client.ends()
    service.assert_over(499)
    assert service.client.received == b""


def test_a_body_that_is_still_coming_is_no_reason_to_lose_the_answer() -> None:
    service = Service(STATUSES)
    service.asks(b"PUT /a HTTP/1.1\r\nHost: a.test\r\nContent-Length: 8\r\n\r\nhalf")
    first = service.connects()
    nobody_left(service)
    first.sends(saying(503, b"busy", b"X-From: 1"))
    service.passes(0.3)
    service.client.sends(b"more")
    is_passed_on(service, 503)


def test_the_client_stays_with_the_target_whose_answer_it_gets() -> None:
    service = Service(STATUSES)
    service.upstream.cookies = Cookies(Sticky(cookie="at"), "u", b"k" * 16)
    service.upstream.settle()
    service.asks()
    first = service.connects()
    nobody_left(service)
    first.sends(saying(503, b"busy", b"X-From: 1"))
    service.passes(0.3)
    is_passed_on(service, 503)
    assert b"\r\nSet-Cookie: at=" in service.client.received


def test_other_answers_are_nobodys_to_refuse() -> None:
    service = Service(STATUSES)
    service.asks()
    service.connects().sends(saying(502, b"no"))
    service.assert_over(502)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 503 No\r\nContent-Length: 9\r\n\r\nhalf",
        b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 503 No\r\n\r\nuntil the end",
        b"HTTP/1.1 503 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\nmore",
    ],
)
def test_a_connection_with_something_left_on_it_is_closed(answer: bytes) -> None:
    service = Service(STATUSES)
    service.asks()
    first = service.connects()
    first.sends(answer)
    assert first.aborted
    service.passes(0.1)
    service.connects().sends(OK)
    assert service.client.received.endswith(b"\r\n\r\nok")
    service.assert_over(200, retries=1)


def test_an_answer_that_comes_before_the_request_is_whole() -> None:
    """What is still to come of the body goes to the next target, behind what the first had got."""
    service = Service(STATUSES)
    service.asks(b"PUT /a HTTP/1.1\r\nHost: a.test\r\nContent-Length: 8\r\n\r\nhalf")
    first = service.connects()
    first.sends(saying(503))
    assert first.aborted
    service.passes(0.1)
    second = service.connects()
    service.client.sends(b"more")
    assert second.received.endswith(b"\r\n\r\nhalfmore")
    second.sends(OK)
    service.assert_over(200, retries=1)


NEVER_WAS = b"Mon, 99999999999999999999 Jan 2020 00:00:00 GMT"
NO_ZONE = b"Mon, 01 Jan 2020 00:00:00 +99999999999999999999"


@pytest.mark.parametrize(
    ("after", "seconds"),
    [(b"0", 0.0), (b"2", 2.0), (b"never", 0.0), (b"9" * 40, inf), (NEVER_WAS, 0.0), (NO_ZONE, 0.0), (b",,,", 0.0)],
)
def test_what_retry_after_asks_for(after: bytes, seconds: float) -> None:
    assert asked_wait(parse_response(saying(503, b"", b"Retry-After: " + after), b"GET")) == seconds


def test_retry_after_may_be_a_date() -> None:
    def asked(seconds: float) -> float:
        date = formatdate(time() + seconds, usegmt=True).encode()
        return asked_wait(parse_response(saying(503, b"", b"Retry-After: " + date), b"GET"))

    assert 98 <= asked(100) <= 100
    assert asked(-100) == 0.0


def test_who_asks_for_more_time_than_we_have_is_believed() -> None:
    service = Service(STATUSES)
    service.asks()
    service.connects().sends(saying(503, b"busy", b"Retry-After: 1"))
    assert service.client.received.endswith(b"busy")
    service.assert_over(503)


def test_who_asks_for_a_little_time_gets_it() -> None:
    service = Service({"retries": {**STATUSES["retries"], "backoff": {"base": "25ms", "max": "3s"}}})
    service.asks()
    service.connects().sends(saying(503, b"", b"Retry-After: 2"))
    assert service.waits == [2.0]
    service.passes(2.1)
    service.connects().sends(OK)
    service.assert_over(200, retries=1)


# --- time ---


def test_a_silent_target_is_left_for_another() -> None:
    service = Service(PER_TRY)
    service.asks()
    first = service.connects()
    service.passes(0.3)
    assert first.aborted
    service.connects().sends(OK)
    service.assert_over(200, retries=1)
    assert service.watch.faults == ["upstream_timeout"]


def test_the_last_attempt_has_no_more_time_than_the_first() -> None:
    service = Service(PER_TRY)
    service.asks()
    service.connects()
    service.passes(0.3)
    service.connects().sends(b"HTTP/1.1 200 OK\r\nContent-")
    service.passes(0.3)
    assert service.client.received.startswith(b"HTTP/1.1 504 ")
    service.assert_over(504, retries=1)
    assert service.watch.faults == ["upstream_timeout"] * 2


def test_the_time_for_a_try_ends_with_the_head() -> None:
    service = Service(PER_TRY)
    service.asks()
    wire = service.connects()
    wire.sends(OK[:-1])
    service.passes(1)
    wire.sends(OK[-1:])
    service.assert_over(200)


def test_a_connection_that_does_not_come_is_a_try_too() -> None:
    service = Service(PER_TRY)
    service.asks()
    first = service.waiting
    service.passes(0.3)
    assert service.waiting == [SECOND] != first
    service.connects().sends(OK)
    service.assert_over(200, retries=1)
    assert service.watch.faults == ["connect_timeout"]


@pytest.mark.parametrize("method", OTHERS)
def test_what_may_not_be_repeated_has_all_the_time(method: bytes) -> None:
    service = Service(PER_TRY)
    service.asks(asking(method, b"body"))
    wire = service.connects()
    service.passes(5)
    wire.sends(OK)
    service.assert_over(200)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_body_that_was_not_kept_has_all_the_time(at_once: bool) -> None:
    """Nothing of it can be sent again, whether it came with the head or later."""
    service = Service({"retries": {**PER_TRY["retries"], "body_bytes": 0}})
    request = asking(b"PUT", b"body")
    service.asks(request if at_once else request[:-1])
    wire = service.connects()
    service.asks(b"" if at_once else request[-1:])
    service.passes(5)
    wire.sends(OK)
    service.assert_over(200)


def test_a_slow_upload_is_not_the_targets_fault() -> None:
    service = Service(PER_TRY)
    service.asks(b"PUT /a HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\r\n")
    first = service.connects()
    for piece in (b"b", b"o", b"d"):
        service.passes(1)
        service.client.sends(piece)
    assert not first.aborted
    service.client.sends(b"y")
    service.passes(0.3)
    assert first.aborted
    second = service.connects()
    assert second.received.endswith(b"\r\n\r\nbody")
    second.sends(OK)
    service.assert_over(200, retries=1)


def test_response_headers_is_the_time_of_a_try_as_well() -> None:
    settings = {"retries": {"conditions": ["per_try_timeout"]}, "timeouts": {"response_headers": "300ms"}}
    service = Service(settings)
    service.asks()
    service.connects()
    service.passes(0.4)
    service.connects().sends(OK)
    service.assert_over(200, retries=1)


def test_without_the_condition_a_late_answer_is_a_504() -> None:
    service = Service({"timeouts": {"response_headers": "300ms"}})
    service.asks()
    service.connects()
    service.passes(0.4)
    service.assert_over(504)


def test_the_routes_time_is_that_of_all_tries() -> None:
    service = Service({"retries": {**PER_TRY["retries"], "max": 9}}, targets=3, route={"timeout": "1s"})
    service.asks()
    for _ in range(24):
        if service.waiting:
            service.connects()
        service.passes(0.05)
    assert service.client.received.startswith(b"HTTP/1.1 504 ")
    assert [record.status for record in service.plane.records] == [504]
    assert 2 <= service.plane.records[0].retries <= 4
    service.watch.assert_even()
    service.plane.assert_quiet()


# --- bodies ---


@pytest.mark.parametrize(("body", "status"), [(b"four", 200), (b"fives", 503)])
def test_how_much_of_a_body_is_kept(body: bytes, status: int) -> None:
    service = Service({"retries": {**STATUSES["retries"], "body_bytes": 4}})
    service.asks(asking(b"PUT", body))
    service.connects().sends(saying(503))
    if status == 200:
        service.passes(0.1)
        second = service.connects()
        assert second.received.endswith(b"\r\n\r\n" + body)
        second.sends(OK)
    service.assert_over(status, retries=int(status == 200))


def test_more_may_be_kept_than_by_default() -> None:
    service = Service({"retries": {**STATUSES["retries"], "body_bytes": "1MiB"}})
    body = b"x" * 500_000
    service.asks(asking(b"PUT", body))
    first = service.connects()
    assert first.received.endswith(body)
    first.sends(saying(503))
    service.passes(0.1)
    second = service.connects()
    assert second.received.endswith(b"\r\n\r\n" + body)
    second.sends(OK)
    service.assert_over(200, retries=1)


# --- the budget ---


def test_a_budget_is_a_share_and_a_few() -> None:
    """Of 20 requests under way 20 % may be retrying, and 3 besides; the others get what there is, and are counted."""
    service = Service({"retries": {**STATUSES["retries"], "max": 10}})
    clients = [service.plane.client() for _ in range(20)]
    for client in clients:
        client.sends(GET)
    wires = [service.connects() for _ in clients]
    for wire in wires:
        wire.sends(saying(503, b"no"))
    answered = [client for client in clients if client.received]
    # each that is answered leaves fewer requests under way, of which the rest is a share
    assert len(clients) - len(answered) == service.upstream.retry_budget.in_use
    assert 3 + 1 <= service.upstream.retry_budget.in_use <= 3 + 4
    assert service.denied == len(answered)
    service.passes(0.3)
    assert not service.waiting, "their connections serve again"
    for wire in wires:
        if wire.protocol.phase is UpstreamPhase.AWAITING:
            wire.sends(OK)
    assert sum(client.received.endswith(b"\r\n\r\nok") for client in clients) == len(clients) - len(answered)
    service.watch.assert_even()
    service.plane.assert_quiet()


def test_what_nobody_has_had_work_of_needs_no_budget() -> None:
    """One of two targets is down: no request is lost, however many there are at once."""
    service = Service(retries(budget="0%"))
    clients = [service.plane.client() for _ in range(20)]
    for client in clients:
        client.sends(GET)
    for _ in range(40):
        if service.waiting:
            (service.connects if service.waiting[0] == SECOND else service.plane.cannot_connect)()
    for wire in service.wires:
        wire.sends(OK)
    assert all(client.received.endswith(b"ok") for client in clients)
    assert service.denied == 0
    service.watch.assert_even()
    service.plane.assert_quiet()


def test_without_a_share_a_few_are_left() -> None:
    service = Service({"retries": {**STATUSES["retries"], "budget": "0%"}})
    clients = [service.plane.client() for _ in range(10)]
    for client in clients:
        client.sends(GET)
    for wire in [service.connects() for _ in clients]:
        wire.sends(saying(503))
    assert (service.upstream.retry_budget.in_use, service.denied) == (3, 7)
    for client in clients:
        client.ends()
    service.watch.assert_even()
    service.plane.assert_quiet()


# --- deadlines passed on ---


def told_ms(wire: Wire) -> int:
    (line,) = (line for line in wire.received.split(b"\r\n") if line.lower().startswith(b"x-request-timeout:"))
    return int(line.partition(b":")[2])


def test_the_target_is_told_how_long_it_is_waited_for() -> None:
    route = {"deadline_header": "X-Request-Timeout", "timeout": "2s"}
    service = Service({"retries": {**PER_TRY["retries"], "per_try_timeout": "1500ms"}}, route=route)
    service.asks(asking(b"GET", b"", b"x-request-timeout: 99999", b"X-Request-Timeout: 1"))
    first = service.connects()
    assert told_ms(first) == 1500
    service.passes(1.6)
    second = service.connects()
    assert 300 <= told_ms(second) <= 500
    second.sends(OK)
    service.assert_over(200, retries=1)


def test_there_is_always_something_to_tell() -> None:
    service = Service({"timeouts": {"response_headers": "4s"}}, route={"deadline_header": "X-Request-Timeout"})
    service.asks()
    wire = service.connects()
    assert told_ms(wire) == 4000
    wire.sends(OK)
    service.assert_over(200)


def test_nothing_of_the_kind_is_sent_unasked() -> None:
    service = Service()
    service.asks()
    wire = service.connects()
    assert b"Timeout" not in wire.received
    wire.sends(OK)
    service.assert_over(200)


def test_a_defect_while_a_response_is_taken_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection has done its part by then, and would tell nobody that it was lost."""
    monkeypatch.setattr(forwarding, "asked_wait", lambda *_: 1 // 0)
    service = Service(retries(conditions=["503"]))
    service.client.sends(GET)
    service.connects().sends(saying(503, b"busy"))
    assert service.client.received.startswith(b"HTTP/1.1 500 ")
    service.plane.assert_quiet()
