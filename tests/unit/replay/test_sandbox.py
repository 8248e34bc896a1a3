"""A sandbox answers as a gateway would, with the recorded clients and upstreams, and contacts no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastgw import config
from fastgw.filters import TYPES
from fastgw.recording.file import Recording
from fastgw.recording.records import (
    RecordedBody,
    RecordedCall,
    RecordedIdentity,
    RecordedRequest,
    RecordingBegin,
    RecordingEnd,
)
from fastgw.replay.run import LeftOutReport, ReplayReport, as_text, replay

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"
NO_BODY = RecordedBody()


def recorded(path: str, identity: RecordedIdentity | None = None, date: float = 1e9, **more: Any) -> RecordedRequest:
    """A request that the upstream `users` has answered with `ok`."""
    line = f"GET {path} HTTP/1.1\r\nHost: a\r\n"
    sent = f"{line}Via: 1.1 fastgw\r\n\r\n"
    calls = (
        RecordedCall("users", "h:1", sent.encode(), NO_BODY, 200, OK, RecordedBody(b"ok", 2), is_over=True),
    )  # fmt: skip
    values: dict[str, Any] = {
        "date": date,
        "seconds": 0.01,
        "listener": "main",
        "scheme": b"https",
        "peer_ip": "192.0.2.7",
        "peer_port": 1234,
        "server_port": 443,
        "is_trusted": False,
        "client_ip": "192.0.2.7",
        "version": 11,
        "request": f"{line}\r\n".encode(),
        "request_body": NO_BODY,
        "request_trailers": (),
        "identity": identity or RecordedIdentity(),
        "route": "users",
        "status": 200,
        "response": OK,
        "response_body": RecordedBody(b"ok", 2),
        "trailers": (),
        "fault": "",
        "why": "",
        "answered_by": "",
        "shadowed": "",
        "cache_result": "",
        "calls": calls,
    }
    return RecordedRequest(**{**values, **more})


def replayed(
    requests: list[RecordedRequest],
    tmp_path: Path,
    upstream: dict[str, Any] | None = None,
    listener: dict[str, Any] | None = None,
    **route: Any,
) -> ReplayReport:
    users = {"targets": [{"url": "http://h:1"}], "host_header": "preserve", **(upstream or {})}
    document = {
        "version": 1,
        "listeners": {"main": {"address": "127.0.0.1:1", **(listener or {})}},
        "upstreams": {"users": users},
        "consumers": [{"name": "alice", "groups": ["staff"], "key_auth": [{"key": "a-key-of-alice"}]}],
        "routes": [{"name": "users", "paths": ["/*"], "upstream": "users", "forwarded": "strip", **route}],
    }
    file = tmp_path / "new.json"
    file.write_text(json.dumps(document))
    recording = Recording(RecordingBegin("0", 1, 0.0), requests, RecordingEnd(len(requests), 0))
    return replay(recording, config.load(str(file), TYPES), None, (), live=False)


def found(report: ReplayReport) -> list[tuple[str, str, int]]:
    return [(each.where, each.name, each.count) for each in report.differences]


def decided(report: ReplayReport) -> list[tuple[str, str, int]]:
    """Without the headers that a limit adds."""
    return [each for each in found(report) if each[0] != "header"]


def test_an_equal_route_has_no_difference(tmp_path: Path) -> None:
    assert found(replayed([recorded("/a"), recorded("/b?c=d")], tmp_path)) == []


def test_a_client_is_the_recorded_one_with_its_claims(tmp_path: Path) -> None:
    jwt = {
        "issuer": "https://idp.example",
        "audiences": ["api"],
        "jwks_uri": "https://idp.example/jwks.json",
        "algorithms": ["RS256"],
    }
    claims = RecordedIdentity("", (), b'{"sub": "u1", "role": "reader"}', True)
    report = replayed([recorded("/a", claims)], tmp_path, filters={"jwt": jwt})
    assert found(report) == []
    rules = {"jwt": jwt, "authorize": {"claims": {"role": {"any": ["writer"]}}}}
    report = replayed([recorded("/a", claims)], tmp_path, filters=rules)
    assert found(report) == [("filters", "authorize", 1), ("status", "200 -> 403", 1)]
    report = replayed([recorded("/a")], tmp_path, filters={"jwt": jwt})
    assert ("status", "200 -> 401", 1) in found(report)


def test_the_sender_of_a_proxy_header_is_trusted_as_it_is_now(tmp_path: Path) -> None:
    """Its word, that the client has used TLS, keeps the request from being redirected."""
    listener = {"proxy_protocol": "required", "trusted_proxies": ["10.0.0.0/8"]}
    told = with_headers(b"X-Forwarded-Proto: https\r\n", b"", scheme=b"http", sender="10.0.0.5")
    redirect = {"https_redirect": {}}
    assert not decided(replayed([told], tmp_path, listener=listener, filters=redirect))
    for sender, senders in (("10.0.0.5", ["10.0.0.5"]), (None, [])):
        told.sender = sender
        distrusting = {**listener, "proxy_protocol_senders": senders}
        assert decided(replayed([told], tmp_path, listener=distrusting, filters=redirect))


def test_a_consumer_that_is_gone_is_refused(tmp_path: Path) -> None:
    alice, carol = (RecordedIdentity(name, (), b"", True) for name in ("alice", "carol"))
    report = replayed([recorded("/a", alice), recorded("/a", carol)], tmp_path, filters={"key_auth": {}})
    assert found(report) == [("filters", "key_auth", 1), ("status", "200 -> 401", 1)]


def test_limits_count_in_the_time_of_the_recording(tmp_path: Path) -> None:
    limit = {"rate_limit": {"limit": 2, "window": "1s", "key": "ip"}}
    slow = [recorded("/a", date=1e9 + number) for number in range(8)]
    assert not decided(replayed(slow, tmp_path, filters=limit))
    fast = [recorded("/a", date=1e9 + number / 100) for number in range(8)]
    expected = [("filters", "rate_limit", 6), ("status", "200 -> 429", 6)]
    assert decided(replayed(fast, tmp_path, filters=limit)) == expected


MASKED = b"Authorization: Bearer ***\r\n"


def with_headers(request: bytes, sent: bytes, response: bytes = b"", **more: Any) -> RecordedRequest:
    """A request with these headers more: of the client, of the gateway to its upstream, of the response."""
    made = recorded("/a", **more)
    made.request = made.request.replace(b"\r\n\r\n", b"\r\n" + request + b"\r\n")
    (call,) = made.calls
    call.request = call.request.replace(b"\r\n\r\n", b"\r\n" + sent + b"\r\n")
    made.response = made.response.replace(b"\r\n\r\n", b"\r\n" + response + b"\r\n")
    call.response = made.response
    return made


@pytest.mark.parametrize(
    ("edits", "difference"),
    [
        ({"request": {"remove": ["Authorization"]}}, ("upstream", "Authorization", 1)),
        ({"response": {"remove": ["Set-Cookie"]}}, ("header", "Set-Cookie", 1)),
        ({"response": {"add": {"Set-Cookie": "b=2"}}}, ("header", "Set-Cookie", 1)),
    ],
)
def test_a_masked_header_that_is_gone_or_new_is_a_difference(
    edits: dict[str, Any], difference: tuple[str, str, int], tmp_path: Path
) -> None:
    requests = [with_headers(MASKED, MASKED, b"Set-Cookie: a=***; Path=/\r\n")]
    assert found(replayed(requests, tmp_path)) == []
    assert found(replayed(requests, tmp_path, filters={"headers": edits})) == [difference]


@pytest.mark.parametrize(("request_", "sent"), [(b"", MASKED), (MASKED, MASKED), (MASKED, b"")])
def test_credentials_are_those_of_the_recording(request_: bytes, sent: bytes, tmp_path: Path) -> None:
    """Those of an upstream in place of the client's, and a client's that are hidden from the upstream."""
    requests = [with_headers(request_, sent)]
    way: dict[str, Any] = {"bearer": "a-token"} if sent else {"hide_authorization": True}
    assert found(replayed(requests, tmp_path, filters={"credentials": way})) == []
    lost = [] if request_ == sent else [("upstream", "Authorization", 1)]
    assert found(replayed(requests, tmp_path)) == lost


def test_a_key_that_one_of_several_methods_hides_is_hidden(tmp_path: Path) -> None:
    requests = [with_headers(b"X-Api-Key: ***\r\n", b"", identity=RecordedIdentity("alice", (), b"", True))]

    def auth(hides: bool) -> dict[str, Any]:
        return {"auth": {"any_of": [{"key_auth": {"hide_credentials": hides}}, {"basic_auth": {}}]}}

    assert found(replayed(requests, tmp_path, filters=auth(True))) == []
    assert found(replayed(requests, tmp_path, filters=auth(False))) == [("upstream", "X-Api-Key", 1)]


def test_an_integer_of_the_claims_has_all_its_digits(tmp_path: Path) -> None:
    identity = RecordedIdentity("", (), b'{"n":12345678901234567890123}', True)
    requests = [with_headers(b"", b"X-N: 12345678901234567890123\r\n", identity=identity)]
    filters = {
        "jwt": {"algorithms": ["HS256"], "secret": "0" * 32},
        "headers": {"request": {"set": {"X-N": "{claims.n}"}}},
    }
    assert found(replayed(requests, tmp_path, filters=filters)) == []


def test_the_session_of_a_provider_is_that_of_the_recording(tmp_path: Path) -> None:
    oidc = {
        "issuer": "https://idp.example",
        "login": {
            "client_id": "a",
            "client_secret": "an-example-secret",
            "session": {"cookie": "sid", "secret": "0123456789abcdef0123456789abcdef"},
            "pass_access_token": "Authorization",
        },
    }
    session = RecordedIdentity("", (), b'{"sub": "u1"}', True)
    requests = [with_headers(b"Cookie: sid=***\r\n", MASKED, identity=session)]
    requests[0].response = requests[0].response.replace(b"\r\n\r\n", b"\r\nSet-Cookie: sid=***; Path=/\r\n\r\n")
    assert found(replayed(requests, tmp_path, filters={"oidc": oidc})) == []


CUT, WHOLE = RecordedBody(b'{"a":', 12, True), RecordedBody(b'{"a": "bcd"}', 12)
HIDDEN = RecordedBody(b'{"password":"***"}', 18)
OK_JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
SCHEMA = {"type": "object", "properties": {"password": {"type": "string", "minLength": 8}}}
VALIDATE = {"validate": {"body": {"inline": SCHEMA}}}
TRANSFORM = {"transform": {"response": {"json": {"set": {"b": 1}}}}}


def with_bodies(request: RecordedBody, response: RecordedBody) -> RecordedRequest:
    head = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    call = RecordedCall(
        "users", "h:1", head + b"Via: 1.1 fastgw\r\n\r\n", request, 200, OK_JSON, response, is_over=True
    )  # fmt: skip
    framed = head + b"Content-Length: %d\r\n\r\n" % request.length
    return recorded(
        "/a", request=framed, request_body=request, response=OK_JSON, response_body=response, calls=(call,)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("request_body", "response_body", "filters", "why"),
    [
        (CUT, CUT, {}, ""),
        (HIDDEN, HIDDEN, {}, ""),
        (WHOLE, CUT, VALIDATE, ""),
        (CUT, WHOLE, VALIDATE, "its request body was cut"),
        (HIDDEN, WHOLE, VALIDATE, "its request body has masked values"),
        (CUT, CUT, TRANSFORM, "its response body was cut"),
        (WHOLE, HIDDEN, TRANSFORM, "its response body has masked values"),
    ],
)
def test_a_body_that_a_filter_reads_must_be_recorded_as_it_was(
    request_body: RecordedBody, response_body: RecordedBody, filters: dict[str, Any], why: str, tmp_path: Path
) -> None:
    """Others are compared as far as they go. What is left out is told, and neither equal nor different."""
    report = replayed([with_bodies(request_body, response_body)], tmp_path, filters=filters)
    assert (found(report), report.requests) == ([], 1)
    assert report.left_out == ([LeftOutReport("users", why, 1)] if why else [])
    assert list(report.routes) == ([] if why else ["users"])


def test_a_request_that_cannot_be_read_is_left_out_and_the_others_are_replayed(tmp_path: Path) -> None:
    report = replayed([recorded("/a", request=b"GET /a b HTTP/1.1\r\n\r\n"), recorded("/b")], tmp_path)
    assert report.left_out == [LeftOutReport("users", "its head cannot be read", 1)]
    assert report.routes["users"].requests == 1
    assert as_text(report).endswith("1 of 2 requests replayed: no differences")


def test_what_a_debug_token_adds_is_no_difference(tmp_path: Path) -> None:
    debugged = with_headers(b"", b"")
    debugged.response = OK[:-2] + b"X-Fastgw-Debug-Story: 1\r\nX-Fastgw-Debug: {}\r\nCache-Control: no-store\r\n\r\n"
    (call,) = debugged.calls
    call.response = OK[:-2] + b"Cache-Control: max-age=60\r\n\r\n"
    assert found(replayed([debugged], tmp_path)) == []


def test_a_failed_attempt_fails_again_and_the_retry_is_answered(tmp_path: Path) -> None:
    request = recorded("/a")
    refused = RecordedCall("users", "h:1", b"", NO_BODY, fault="connect_refused")
    request.calls = (refused, *request.calls)
    assert found(replayed([request], tmp_path)) == []


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("fault", ["connection_lost", "upstream_timeout"])
def test_a_request_whose_only_attempt_lost_its_connection_fails_as_recorded(
    method: str, fault: str, tmp_path: Path
) -> None:
    """With a body, too, and at once: the sandbox does not wait for a response that was never recorded."""
    body = b"x" if method == "POST" else b""
    status = {"connection_lost": 502, "upstream_timeout": 504}[fault]
    request = recorded("/a", request_body=RecordedBody(body, len(body)), status=status, fault=fault)
    line = f"{method} /a HTTP/1.1\r\nHost: a\r\n{f'Content-Length: {len(body)}' if body else 'X: y'}\r\n"
    request.request, sent = f"{line}\r\n".encode(), f"{line}Via: 1.1 fastgw\r\n\r\n".encode()
    request.calls = (RecordedCall("users", "h:1", sent, RecordedBody(body, len(body)), fault=fault),)
    report = replayed([request], tmp_path)
    assert report.left_out == []
    assert [each for each in found(report) if each[0] == "status"] == []


def test_responses_due_to_a_state_are_not_compared_and_hits_of_a_cache_are_answered(tmp_path: Path) -> None:
    limited = recorded("/a", status=429, fault="rate_limited", answered_by="rate_limit", calls=())
    assert found(replayed([limited], tmp_path)) == []
    hit = recorded("/a", cache_result="hit", calls=())
    assert found(replayed([hit], tmp_path)) == []


@pytest.mark.parametrize(
    "upstream",
    [
        {"targets": [{"url": "https://h:1"}]},
        {"protocol": "http2"},
        {"targets": [{"url": "http://h:1"}, {"url": "http://h:2"}], "host_header": "target"},
        {"load_balancing": {"algorithm": "least_connections"}, "circuit_breaker": {}},
        {"health_checks": {"active": {"path": "/up"}}, "hedge": {"after": "1s"}},
    ],
)
def test_every_kind_of_upstream_answers_as_recorded(upstream: dict[str, Any], tmp_path: Path) -> None:
    requests = [recorded("/a"), recorded("/b")]
    for request in requests:
        if upstream.get("host_header") == "target":
            call = request.calls[0]
            call.request = call.request.replace(b"Host: a", b"Host: h:1")
    assert found(replayed(requests, tmp_path, upstream)) == []


STICKY = {"load_balancing": {"sticky": {"cookie": "s", "ttl": "1h"}}}
SET = b"Set-Cookie: s=%b; Path=/; HttpOnly; SameSite=Lax; Max-Age=3600; Secure\r\n"


def with_session(asked: bytes, answered: bytes) -> RecordedRequest:
    """A request with this value of the cookie of a sticky session, to which the gateway has set this one; b"": none."""
    request = recorded("/a")
    if asked:
        request.request = request.request[:-2] + b"Cookie: s=%b\r\n\r\n" % asked
        (call,) = request.calls
        call.request = call.request[:-2] + b"Cookie: s=%b\r\n\r\n" % asked
    if answered:
        request.response = OK[:-2] + SET % answered + b"\r\n"
    return request


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        (b"", b"***"),  # the first request of a session
        (b"***", b""),  # its cookie names the target
        (b"***", b"***"),  # its cookie was not valid, or its target was not healthy
        (b"", b"MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkw"),  # with `--keep-cookies`
        (b"MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkw", b""),
    ],
)
@pytest.mark.parametrize("key", [None, "0123456789abcdef0123456789abcdef"])
def test_sticky_sessions_are_those_of_the_recording(
    asked: bytes, answered: bytes, key: str | None, tmp_path: Path
) -> None:
    sticky: dict[str, Any] = {"cookie": "s", "ttl": "1h"} | ({} if key is None else {"key": key})
    upstream = {"load_balancing": {"sticky": sticky}}
    assert found(replayed([with_session(asked, answered)], tmp_path, upstream)) == []


def test_changed_sticky_sessions_are_differences(tmp_path: Path) -> None:
    changed = {"load_balancing": {"sticky": {"cookie": "s", "ttl": "2h"}}}
    set_cookie = [("header", "Set-Cookie", 1)]
    assert found(replayed([with_session(b"", b"***")], tmp_path, changed)) == set_cookie
    assert found(replayed([with_session(b"", b"***")], tmp_path)) == set_cookie  # there are none any more
    assert found(replayed([with_session(b"", b"")], tmp_path, STICKY)) == set_cookie  # they are new


def test_a_response_from_a_cache_begins_no_sticky_session(tmp_path: Path) -> None:
    hit = recorded("/a", cache_result="hit", calls=())
    assert found(replayed([hit], tmp_path, STICKY)) == []
