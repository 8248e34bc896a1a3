"""Paths: one normal form that is matched and sent, what is refused, and how routes change it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.faults import assert_fault
from tests.support.lanes import VERSIONS, Kind, Lanes, running
from tests.support.origin import Request

KINDS = {
    "plain": Kind(),
    "raw": Kind(route={"path": {"forward": "raw"}}),
    "no-slash": Kind(route={"path": {"encoded_slash": "reject"}}),
    "no-slash-filtered": Kind(route={"path": {"encoded_slash": "reject"}, "filters": {"request_id": {}}}),
    "raw-filtered": Kind(route={"path": {"forward": "raw"}, "filters": {"request_id": {}}}),
    "strip": Kind(route={"paths": ["/api/*", "/api/v1/{id}"], "strip_prefix": "/api"}),
    "rewrite": Kind(route={"paths": ["/users/{id}"], "rewrite": "/internal/{id}/view"}),
    "rest": Kind(route={"paths": ["/apps/{app}/{rest:path}"], "rewrite": "/{rest}/of/{app}"}),
    "joined": Kind(route={"paths": ["/files/{id}/{rest:path}"], "rewrite": "/avatars/{rest}.{id}"}),
    "base": Kind(base="/base/v2"),
    "base-slash": Kind(base="/base/"),
    "base-raw": Kind(base="/base", route={"path": {"forward": "raw"}}),
    "base-strip": Kind(base="/base", route={"paths": ["/api/*"], "strip_prefix": "/api"}),
    "admin": Kind(route={"paths": ["/admin/*"]}),
}


@pytest.fixture(scope="module", params=VERSIONS)
def lanes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lanes]:
    yield from running(Lanes(tmp_path_factory.mktemp("paths"), KINDS, count=20, version=request.param))


def sent(lanes: Lanes, kind: str, request_target: bytes) -> bytes:
    """The request target that the upstream gets for this one."""
    lane = lanes.take(kind)
    request: Request
    request, response = lane.forward(lane.get(request_target))
    assert response.status == 200
    lane.end()
    return request.request_target


NORMAL = {
    # RFC 3986 section 6.2.2
    b"/": b"/",
    b"/a/b": b"/a/b",
    b"/a/": b"/a/",
    b"/a/./b": b"/a/b",
    b"/a/b/../c": b"/a/c",
    b"/a/%2e/b": b"/a/b",
    b"/a/b/%2E%2e/c": b"/a/c",
    b"/a/b/.%2e/c": b"/a/c",
    b"/a/b/..": b"/a/",
    b"/a/.": b"/a/",
    b"/%61%2D%5a": b"/a-Z",
    b"/%7euser": b"/~user",
    b"/a%2fb": b"/a%2Fb",
    b"/a%2Fb/c": b"/a%2Fb/c",
    b"/a%20b": b"/a%20b",
    b"/caf%c3%a9": b"/caf%C3%A9",
    b"/a//b": b"/a//b",
    b"/a;b=c/d": b"/a;b=c/d",
    b"/a:b@c!$&'()*+,=~": b"/a:b@c!$&'()*+,=~",
    b"/...": b"/...",
    b"/a../b..c/.d": b"/a../b..c/.d",
    b"/%25": b"/%25",
    b"/100%25%20sure": b"/100%25%20sure",
    b"/job/feature%252fx": b"/job/feature%252fx",
    b"/v1%252E2": b"/v1%252E2",
    b"/CORP%5cuser": b"/CORP%5Cuser",
    b"/a%0ab%09c%0D%7F": b"/a%0Ab%09c%0D%7F",
    b"/a%25252Fb%255Cc": b"/a%25252Fb%255Cc",
    b"/a?x=/../%2e%2e": b"/a?x=/../%2e%2e",
}


@pytest.mark.parametrize(("target", "normal"), [pytest.param(*pair, id=pair[0].decode()) for pair in NORMAL.items()])
def test_the_normal_form_is_sent(lanes: Lanes, target: bytes, normal: bytes) -> None:
    """RFC 3986 section 6.2.2: dots resolved, unreserved escapes decoded, other escapes and the query kept."""
    assert sent(lanes, "plain", target) == normal


REFUSED = [
    b"/a%00b",
    b"/a%0",
    b"/a%",
    b"/a%zz",
    b"/a%2",
    b"/a\\b",
    b"/a%5C..%5Cb",
    b"/..%5Cb",
    b"/a/..%0Ab",
    b"/a%252f..%252fb",
    b"/a/..;/b",
    b"/..;/b",
    b"/..",
    b"/../a",
    b"/a/../../b",
    b"/a/%2e%2e/%2e%2e/b",
    b"/%252e%252e/a",
    b"/a/.%252e/b",
    b"/%25252e%25252e/a",
    b"/a/..%2fb",
    b"/a%2f..%2fb",
    b"/a%2f../b",
    b"/%c0%ae%c0%ae/a",
    b"/a%c0%afb",
    b"/a%0d%0aX:b",
]


@pytest.mark.parametrize("target", [pytest.param(target, id=repr(target)[2:-1]) for target in REFUSED])
def test_a_path_that_another_reader_could_take_for_another_is_refused(lanes: Lanes, target: bytes) -> None:
    """RFC 3986 section 7.3: what a server behind us could decode into another path than the one matched is a 400."""
    lane = lanes.take("plain")
    client = lane.client()
    client.send(lane.get(target))
    assert_fault(client.read_response(), "bad_request")
    lane.origin.assert_untouched()
    lane.end()


@pytest.mark.parametrize(
    "target", [b"/admin/a", b"/x/../admin/a", b"/%61dmin/a", b"/./admin/%2e/a", b"/admin/b/%2e%2e/a"]
)
def test_what_is_matched_is_what_is_sent(lanes: Lanes, target: bytes) -> None:
    """The contract's "Paths": one view for both, so no spelling of a path gets around the route for it."""
    assert sent(lanes, "admin", target) == b"/admin/a"


def refused(lanes: Lanes, kind: str, request_target: bytes, fault: str) -> None:
    lane = lanes.take(kind)
    client = lane.client()
    assert_fault(client.exchange(lane.get(request_target)), fault)
    lane.end()


@pytest.mark.parametrize("kind", ["raw", "raw-filtered"])
def test_a_raw_path_of_which_servers_make_different_ones_is_refused(lanes: Lanes, kind: str) -> None:
    for hollow in (b"", b"%5C", b"%0A", b"%252F", b"%255C%250A;x"):
        refused(lanes, kind, b"/public/" + hollow + b"/../admin", "bad_request")


def test_an_encoded_slash_is_no_slash(lanes: Lanes) -> None:
    """RFC 3986 section 2.2: `%2F` is data in a segment; a prefix by elements does not match through it."""
    refused(lanes, "admin", b"/admin%2Fa", "route_not_found")


@pytest.mark.parametrize("kind", ["no-slash", "no-slash-filtered"])
def test_an_encoded_slash_may_be_rejected(lanes: Lanes, kind: str) -> None:
    """`path: {encoded_slash: reject}`: answered 400."""
    for slash in (b"%2F", b"%5C", b"%252f", b"%25255C"):
        refused(lanes, kind, b"/a" + slash + b"b", "bad_request")
    assert sent(lanes, kind, b"/a/b") == b"/a/b"


@pytest.mark.parametrize("kind", ["base", "base-raw"])
def test_the_asterisk_does_not_leave_the_path_that_an_upstream_begins_with(lanes: Lanes, kind: str) -> None:
    """RFC 9110 section 9.3.7: `*` is the whole of a server, and only what is below that path is for these clients."""
    lane = lanes.take(kind)
    answer = lane.client().exchange(lane.fill(b"OPTIONS * HTTP/1.1\r\nHost: $HOST\r\n\r\n"), b"OPTIONS")
    assert (answer.status, answer.get(b"Allow")) == (204, b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
    lane.end()
    lane = lanes.take(kind)
    got, _ = lane.forward(b"OPTIONS /a HTTP/1.1\r\nHost: $HOST\r\n\r\n")
    assert got.head.start_line == b"OPTIONS " + KINDS[kind].base.encode() + b"/a HTTP/1.1"
    lane.end()


@pytest.mark.parametrize("target", [b"/a/./b/%7e", b"/%61?b", b"/a%2fb", b"/a/b/../c"])
def test_raw_sends_the_clients_bytes(lanes: Lanes, target: bytes) -> None:
    """`path: {forward: raw}`: for targets that tell spellings apart; what is refused stays refused."""
    assert sent(lanes, "raw", target) == target


@pytest.mark.parametrize(
    ("kind", "target", "expected"),
    [
        ("strip", b"/api/a/b?c", b"/a/b?c"),
        ("strip", b"/api/", b"/"),
        ("strip", b"/api", b"/"),
        ("strip", b"/api?x", b"/?x"),
        ("strip", b"/api/v1/7", b"/v1/7"),
        ("strip", b"/api//a", b"//a"),
        ("rewrite", b"/users/7", b"/internal/7/view"),
        ("rewrite", b"/users/7?x=%2F", b"/internal/7/view?x=%2F"),
        ("rewrite", b"/users/a%2Fb", b"/internal/a%2Fb/view"),
        ("rest", b"/apps/shop/a/b", b"/a/b/of/shop"),
        ("joined", b"/files/png/7", b"/avatars/7.png"),
        ("joined", b"/files/.x/a/", b"/avatars/a/..x"),
        ("base", b"/a/b?c", b"/base/v2/a/b?c"),
        ("base", b"/", b"/base/v2/"),
        ("base-slash", b"/a", b"/base/a"),
        ("base-strip", b"/api/a", b"/base/a"),
        ("base-strip", b"/api", b"/base/"),
    ],
)
def test_routes_change_the_path(lanes: Lanes, kind: str, target: bytes, expected: bytes) -> None:
    """`strip_prefix` by whole elements, `rewrite` with parameters, and a target's base path in front by one slash."""
    assert sent(lanes, kind, target) in ({expected, b"/base"} if expected == b"/base/" else {expected})


def test_a_dot_segment_that_values_complete_is_refused(lanes: Lanes) -> None:
    """`.` before `;x` is one for servers that remove path parameters."""
    lane = lanes.take("joined")
    assert_fault(lane.client().exchange(lane.get(b"/files/;x/a/")), "bad_request")
    lane.origin.assert_untouched()
    lane.end()


@pytest.mark.parametrize("target", [b"/api/../secret", b"/users/%2e%2e", b"/apps/x/../../secret"])
@pytest.mark.parametrize("kind", ["strip", "rewrite", "rest"])
def test_no_parameter_leads_out_of_its_place(lanes: Lanes, kind: str, target: bytes) -> None:
    """RFC 3986 section 5.2.4: dots are resolved before a route is found, so they can never come to life behind it."""
    lane = lanes.take(kind)
    client = lane.client()
    assert_fault(client.exchange(lane.get(target)), "route_not_found")
    lane.origin.assert_untouched()
    lane.end()
