"""security_headers: what browsers are told, on every answer, and HSTS on https alone."""

import pytest

from fastgw import config
from tests.support.generations import load_document
from tests.support.memory import SERVICE, Plane

HOST = b"Host: a.test\r\n"
TRUSTED = {"main": {"address": "127.0.0.1:0", "trusted_proxies": ["10.0.0.0/8"]}}
BY_HTTPS = b"X-Forwarded-Proto: https\r\n"


def warned(settings: dict[str, object], request: bytes = BY_HTTPS, response: bytes = b"") -> dict[str, list[str]]:
    """The fields that the client gets, by lower-case name."""
    plane = Plane({"listeners": TRUSTED, "filters": {"security_headers": settings}})
    client = plane.client("10.0.0.1")
    client.sends(b"GET / HTTP/1.1\r\n" + HOST + request + b"\r\n")
    plane.connects().sends(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + response + b"\r\nok")
    assert client.received.endswith(b"\r\n\r\nok")
    return fields(client.received)


def fields(answer: bytes) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in answer.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
        name, _, value = line.decode().partition(": ")
        found.setdefault(name.lower(), []).append(value)
    return found


def test_the_basic_preset_breaks_no_site() -> None:
    got = warned({})
    assert got["strict-transport-security"] == ["max-age=31536000"]
    assert got["x-content-type-options"] == ["nosniff"]
    assert got["x-frame-options"] == ["SAMEORIGIN"]
    assert got["referrer-policy"] == ["strict-origin-when-cross-origin"]
    assert "content-security-policy" not in got


@pytest.mark.parametrize("preset", ["strict", "api"])
def test_other_presets_load_and_frame_nothing_foreign(preset: str) -> None:
    got = warned({"preset": preset})
    assert "frame-ancestors 'none'" in got["content-security-policy"][0]
    assert got["x-frame-options"] == ["DENY"]
    assert ("cross-origin-opener-policy" in got) is (preset == "strict")


@pytest.mark.parametrize(
    ("request_fields", "secure"),
    [
        (b"", False),
        (b"X-Forwarded-Proto: http\r\n", False),
        (b"X-Forwarded-Proto: https\r\n", True),
        (b"X-Forwarded-Proto: HTTPS, http\r\n", True),
        (b"X-Forwarded-Proto: ftp\r\n", False),
        (b"Forwarded: for=1.2.3.4;proto=https, for=10.0.0.2;proto=http\r\n", True),
        (b'Forwarded: for="[::1]"; Proto="https"\r\n', True),
        (b"Forwarded: for=1.2.3.4;proto=http\r\n", False),
    ],
)
def test_hsts_is_for_https_alone(request_fields: bytes, secure: bool) -> None:
    """RFC 6797 section 7.2: a host must not send it over plain HTTP."""
    assert ("strict-transport-security" in warned({}, request_fields)) is secure
    keeping = warned({"existing": "keep"}, request_fields, b"X-Frame-Options: DENY\r\n")
    assert ("strict-transport-security" in keeping) is secure


def test_an_outsider_does_not_tell_how_it_came() -> None:
    plane = Plane({"filters": {"security_headers": {}}, "routes": []})
    client = plane.client()
    client.sends(b"GET / HTTP/1.1\r\n" + HOST + BY_HTTPS + b"\r\n")
    assert b"Strict-Transport-Security" not in client.received


def test_each_field_can_be_another_or_none() -> None:
    got = warned(
        {"x_frame_options": None, "referrer_policy": "no-referrer, strict-origin", "permissions_policy": "usb=()"}
    )
    assert "x-frame-options" not in got
    assert got["referrer-policy"] == ["no-referrer, strict-origin"]
    assert got["permissions-policy"] == ["usb=()"]


OWN = b"x-frame-options: DENY\r\nContent-Security-Policy: default-src *\r\n"


def test_what_the_service_says_is_replaced() -> None:
    got = warned({}, response=OWN)
    assert got["x-frame-options"] == ["SAMEORIGIN"]
    assert got["content-security-policy"] == ["default-src *"]  # of which this preset says nothing
    assert warned({"x_frame_options": None}, response=OWN)["x-frame-options"] == ["DENY"]


def test_what_the_service_says_may_be_kept() -> None:
    got = warned({"preset": "strict", "existing": "keep"}, response=OWN)
    assert got["x-frame-options"] == ["DENY"]
    assert got["content-security-policy"] == ["default-src *"]
    assert got["x-content-type-options"] == ["nosniff"]


@pytest.mark.parametrize("request_line", [b"GET /none HTTP/1.1\r\n" + HOST, b"GET / HTTP/1.1\r\n"])
def test_refusals_have_them_too(request_line: bytes) -> None:
    """Whether there is no route, or no request that could be read."""
    plane = Plane({"filters": {"security_headers": {}}, "routes": []})
    client = plane.client()
    client.sends(request_line + b"\r\n")
    assert fields(client.received)["x-content-type-options"] == ["nosniff"]


def test_a_route_may_have_its_own() -> None:
    """Though this stands before routing: on the way back the route is known."""
    own = {"security_headers": {"preset": "api"}}
    route = {"name": "r", "paths": ["/api"], "upstream": "u", "filters": own}
    plane = Plane({"filters": {"security_headers": {}}, "routes": [route]})
    client = plane.client()
    client.sends(b"GET /api HTTP/1.1\r\n" + HOST + b"\r\n")
    plane.connects().sends(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert fields(client.received)["x-frame-options"] == ["DENY"]


@pytest.mark.parametrize(
    "settings",
    [
        {"strict_transport_security": "max-age=never"},
        {"referrer_policy": "none"},
        {"x_frame_options": "ALLOW-FROM https://a.test"},
        {"content_security_policy": "default-src *\r\nX-Evil: 1"},
        {"preset": "none"},
    ],
)
def test_what_no_browser_would_take_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(config.ConfigError):
        load_document({**SERVICE, "filters": {"security_headers": settings}})
