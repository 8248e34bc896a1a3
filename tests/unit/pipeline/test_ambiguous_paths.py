"""Paths that servers read in different ways: whichever way, they are one route's, or refused."""

from __future__ import annotations

import re
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastgw.config.base.route_patterns import parse_host, parse_path
from fastgw.exchange import Chain, Exchange, Route
from fastgw.exchange.action import Action
from fastgw.exchange.shadow_exchange import Nobody
from fastgw.forwarded_headers import Peer
from fastgw.http.http1.parser import parse_request
from fastgw.http.malformed import Malformed
from fastgw.http.path_normalization import has_other_readings, normalize, other_readings
from fastgw.pipeline.route_selection import choose
from fastgw.routing.table import Conditions, Router
from tests.support.memory import Plane
from tests.support.table import for_each

# --- what is read


@for_each(
    ("raw_path", "readings"),
    [
        (b"/a/b", []),
        (b"/a/../%62", []),
        (b"/a//b", [b"/a/b"]),
        (b"/a///b//", [b"/a/b/"]),
        (b"//a/b", [b"/b", b"/a/b"]),
        (b"//a", [b"/", b"/a"]),
        (b"/public/..//admin", [b"/", b"/admin"]),
        (b"/a//../b", [b"/b"]),  # where slashes are merged before dot segments are resolved
        (b"/a%2Fb", [b"/a/b"]),
        (b"/a%2fb", [b"/a/b"]),
        (b"/a/%2Fb", [b"/a//b", b"/a/b"]),
        (b"/a%2Fb/../c", [b"/a/c"]),
        (b"/a;v=1/b", [b"/a/b"]),
        (b"/a%3Bv/b", [b"/a/b", b"/a;v/b"]),
        (b"/a%3Ab", [b"/a:b"]),
        (b"/a%3ab/%63%2cd", [b"/a:b/c,d"]),
        (b"/%21%24%26%27%28%29%2A%2B%2C%3D%3A%40", [b"/!$&'()*+,=:@"]),
        (b"/%20%22%25%3C%3F%5B%7Ba%C3%A9", []),
        (b"/a:b@c", []),
        (b"/a%2Fb%3Ac", [b"/a/b%3Ac", b"/a%2Fb:c", b"/a/b:c"]),
        (b"/%3A%2e%2e/a", [b"/:../a"]),
        (b"/;x/b", [b"//b", b"/b"]),
        (b"/a;x%2Fb", [b"/a", b"/a;x/b", b"/a/b"]),
        (b"//a//../..//c%2Fd", None),
        (b"/CORP%5cuser", [b"/CORP/user"]),
        (b"/x%5Cy/../a", [b"/x/a"]),
        (b"/v1%252E2", [b"/v1.2"]),
        (b"/a%2525", [b"/a%25"]),
        (b"/100%25", []),
        (b"/%2561%25%36%32", [b"/ab"]),
        (b"/a%252Fb", [b"/a%2Fb", b"/a/b"]),
        (b"/a%25252Fb", [b"/a%252Fb", b"/a%2Fb", b"/a/b"]),
        (b"/a%255Cb", [b"/a%5Cb", b"/a/b"]),
        (b"/a%0Ab/c", [b"/ab/c", b"/a"]),
        (b"/a%09%250A%7Fb", None),
        (b"/a%25%0A2Fb", None),
    ],
)
def test_what_servers_make_of_a_path(raw_path: bytes, readings: list[bytes] | None) -> None:
    path = normalize(raw_path)
    found = other_readings(raw_path, path)
    assert path not in found
    assert has_other_readings(raw_path) or not found
    if readings is not None:
        assert sorted(found) == sorted(readings)
    assert all(found.values())  # each says how


def test_their_number_and_length_are_bounded() -> None:
    for piece in (b"//", b"/%2f", b"/;", b"//;a%2fb%3bc/./", b"/a/../", b"//a/%3B%2F;x/../."):
        raw_path = (b"/-" * 40 + piece * 4096)[:4096]
        raw_path = raw_path[: raw_path.rfind(b"/")] + b"/x//"
        raw_path = raw_path[-4096:] if raw_path[-4096:].startswith(b"/") else b"/" + raw_path[-4095:]
        assert len(other_readings(raw_path, normalize(raw_path))) < 40
    with pytest.raises(Malformed):
        other_readings(b"//" + b"a" * 4096, b"//" + b"a" * 4096)
    for piece in (b"%5C", b"%252F", b"%0A"):
        with pytest.raises(Malformed):
            other_readings(b"/" + piece * 1400, b"/" + piece * 1400)
    everything = b"/a" + b"//%3B;a/%5C%252F%0A%253B%250A%25255Ca//%3A" * 2
    with pytest.raises(Malformed):
        other_readings(everything, normalize(everything))
    escaped = b"/" + b"%3A" * 4096  # one reading, however long
    assert list(other_readings(escaped, escaped)) == [b"/" + b":" * 4096]


# --- what is refused

ADMIN = Conditions(paths=(parse_path("/admin/*"), parse_path("/users/{id}")))
NPM = Conditions(paths=(parse_path("/npm/{name}"),))
OPEN = Conditions()


def routes(*conditions: Conditions) -> list[tuple[Conditions, Route]]:
    chain = Chain(())
    return [(each, Route(f"r{place}", Action(), chain, ())) for place, each in enumerate(conditions)]


def asked(head: Any, refuses: bool = True) -> Exchange:
    listener = SimpleNamespace(refuses_ambiguous_paths=refuses)
    return Exchange(head, Nobody(), listener, Peer("127.0.0.1", 1, 80, False), Chain(()))


def head_of(path: bytes, method: bytes = b"GET", fields: bytes = b"") -> Any:
    return parse_request(b"%b %b HTTP/1.1\r\nHost: a.test\r\n%b\r\n" % (method, path, fields))


def chosen(router: Router[Route], head: Any, refuses: bool = True) -> str:
    """The name of the route, or of the fault."""
    exchange = asked(head, refuses)
    reply = choose(exchange, router)
    if reply is None:
        assert exchange.route is not None
        return exchange.route.name
    assert reply.fault is not None
    return reply.fault.label


TABLE = Router(routes(ADMIN, OPEN))


@for_each(
    "path",
    [
        b"//admin",
        b"///admin",
        b"/admin%2fsecret",
        b"/%2Fadmin",
        b"/%2fadmin%2f",
        b"/public/..//admin",
        b"/x//../admin",  # `/x/admin` as we read it
        b"//x/admin",  # the path of a URL whose host is x
        b"//x//admin",
        b"/users//7",
        b"//users/7",
        b"/users%2F7",
        b"/users%2F%2F7",
        b"/admin;x",
        b"/admin%3Bx/secret",
        b"/;a=b/admin",
        b"/users;v=1/7",
        b"http://a.test//admin",
        b"//" + b"a" * 5000,
    ],
)
def test_a_path_that_is_another_routes_to_some_server_is_refused(path: bytes) -> None:
    assert chosen(TABLE, head_of(path)) == "ambiguous_path"
    assert chosen(TABLE, head_of(path), refuses=False) == "r1"


@pytest.mark.parametrize(
    ("path", "route"),
    [
        (b"/files//a", "r1"),
        (b"/npm/@scope%2Fname", "r1"),
        (b"/a;v=1/b;c", "r1"),
        (b"/admin//a", "r0"),
        (b"/admin/a%2Fb;c//", "r0"),
        (b"/users/7;v=1", "r0"),
        (b"/x?a=//admin%2F;", "r1"),
        (b"/x/../admin/y", "r0"),
    ],
)
def test_what_all_servers_take_for_one_routes_path_passes(path: bytes, route: str) -> None:
    assert chosen(TABLE, head_of(path)) == route


def test_a_reading_that_is_no_routes_path_gets_around_nothing() -> None:
    """Names may have slashes: with `/npm/{name}` alone there is no other route whose filters could be avoided."""
    table = Router(routes(NPM))
    assert chosen(table, head_of(b"/npm/@scope%2Fname")) == "r0"
    assert chosen(table, head_of(b"//npm/a")) == "route_not_found"  # nor is it sent anywhere
    assert chosen(Router(routes(NPM, OPEN)), head_of(b"/npm/@scope%2Fname")) == "ambiguous_path"


NAMES = [b"/job/feature%252Fx", b"/v1%252E2", b"/CORP%5Cuser", b"/a%0Ab", b"/a%09b", b"/a%255Cb%252525"]
OTHERS = [
    *(b"/admin%5Cx", b"/admin%255cx", b"/admin%252Fx", b"/%252Fadmin", b"/%2561dmin", b"/admin%25252Fx", b"/%5Cadmin"),
    *(
        b"/admin%0Ax",
        b"/adm%0Ain/x",
        b"/admin%09",
        b"/admin%250Ax",
        b"/admin%253Bx",
        b"/users%252F7%25252Fx",
        b"/users%5C7",
    ),
    *(b"/admin%25%0A2Fx", b"/x%5Cy/../admin%7F", b"/%09/admin"),
]


def test_names_with_backslashes_control_characters_and_escaped_escapes_are_data() -> None:
    """They pass where all readings have one route, and where its targets get, and take for themselves, the client's
    bytes; never where they are those of another route.
    """
    literal = Router(routes(ADMIN, OPEN))
    match = literal.find(head_of_path(b"/"))
    assert match is not None
    match[0].chain.takes_literally = True
    for path in NAMES:
        assert chosen(TABLE, head_of(path)) == "r1", path
        assert chosen(TABLE, head_of(b"/admin" + path)) == "r0", path
    for path in OTHERS:
        assert chosen(TABLE, head_of(path)) == "ambiguous_path", path
        assert chosen(TABLE, head_of(path), refuses=False) == "r1", path
        assert chosen(literal, head_of(path)) == "r1", path
    for path in (b"//admin/%5Cx", b"/admin%2Fx%5C", b"/admin;%0A"):  # the other readings of raw paths count
        assert chosen(literal, head_of(path)) == "ambiguous_path", path


ACTIONS = Router(
    routes(
        Conditions(paths=(parse_path("/items/{id}:cancel"), parse_path("/jobs:purge")), methods=(b"POST",)),
        Conditions(paths=(parse_path("/items/{id}"),)),
        Conditions(paths=(parse_path("/users/@me"), parse_path("/points/{x},{y}"))),
        OPEN,
    )
)


@for_each(
    ("method", "path", "chosen_name"),
    [
        (b"POST", b"/items/7:cancel", "r0"),
        (b"POST", b"/items/7%3Acancel", "ambiguous_path"),
        (b"POST", b"/items/7%3acancel?a=b", "ambiguous_path"),
        (b"POST", b"/items/7%3A%63ancel", "ambiguous_path"),
        (b"POST", b"/items/a%3Ab:cancel", "r0"),
        (b"POST", b"/items%2F7%3Acancel", "ambiguous_path"),
        (b"GET", b"/items/7%3Acancel", "r1"),  # `cancel` is no route of this method
        (b"POST", b"/items/urn%3Aisbn%3A1", "r1"),
        (b"POST", b"/items/me%40example.com", "r1"),
        (b"POST", b"/jobs%3Apurge", "ambiguous_path"),
        (b"GET", b"/jobs%3Apurge", "r3"),
        (b"GET", b"/users/%40me", "ambiguous_path"),
        (b"GET", b"/points/1%2C2", "ambiguous_path"),
        (b"GET", b"/points/1%2C2,3", "r2"),
        (b"GET", b"/a%3Ab%2Cc", "r3"),
    ],
)
def test_an_escape_that_services_decode_leads_past_no_route(method: bytes, path: bytes, chosen_name: str) -> None:
    head = head_of(path, method, b"Content-Length: 0\r\n")
    assert chosen(ACTIONS, head) == chosen_name
    if chosen_name != "ambiguous_path":
        assert head.path == normalize(path)  # sent as written


def test_all_else_of_the_request_is_the_same() -> None:
    def guarded(**conditions: Any) -> Router[Route]:
        return Router(routes(Conditions(paths=(parse_path("/admin/*"),), **conditions), OPEN))

    of_posts, of_fields = guarded(methods=(b"POST",)), guarded(headers=((b"X-A", b"1"),))
    of_queries, of_a_host = guarded(query=((b"q", b"1"),)), guarded(hosts=(parse_host("a.test"),))
    assert chosen(of_posts, head_of(b"//admin")) == "r1"
    assert chosen(of_posts, head_of(b"//admin", b"POST", b"Content-Length: 0\r\n")) == "ambiguous_path"
    assert chosen(of_fields, head_of(b"//admin")) == "r1"
    assert chosen(of_fields, head_of(b"//admin", fields=b"X-A: 2, 1\r\n")) == "ambiguous_path"
    assert chosen(of_queries, head_of(b"//admin?q=2")) == "r1"
    assert chosen(of_queries, head_of(b"//admin?q=2&q=1")) == "ambiguous_path"
    assert chosen(of_a_host, head_of(b"//admin")) == "ambiguous_path"
    elsewhere = Router(routes(Conditions(paths=(parse_path("/admin/*"),), hosts=(parse_host("b.test"),)), OPEN))
    assert chosen(elsewhere, head_of(b"//admin")) == "r1"


# --- as connections see it

GUARDED = {
    "consumers": [{"name": "operator", "key_auth": [{"key": "for-operators-0123456789"}]}],
    "routes": [
        {"name": "admin", "paths": ["/admin/*"], "upstream": "u", "filters": {"key_auth": {}}},
        {"name": "open", "paths": ["/*"], "upstream": "u"},
    ],
}


def answered(plane: Plane, head: bytes) -> list[str]:
    """The faults of all requests, after this one; "" where one went on to the upstream and was answered."""
    client = plane.client()
    client.sends(head)
    if plane.pool.waiting:
        upstream = plane.connects()
        upstream.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    client.ends()
    return [record.fault for record in plane.records]


@for_each(
    ("target", "fault"),
    [
        (b"//admin", "ambiguous_path"),
        (b"/a//b", ""),
        (b"/a%2fb", ""),
        (b"/a;b", ""),
        (b"/admin/%2F", "credentials_missing"),
    ],
)
@for_each("filters", [{}, {"headers": {"request": {"set": {"X-A": "1"}}}}, {"request_id": {}}])
@for_each("body", [b"", b"Content-Length: 2\r\n\r\nok"])
def test_it_is_so_on_every_way(target: bytes, fault: str, filters: Any, body: bytes) -> None:
    """With filters and without, with a body and without."""
    plane = Plane({**GUARDED, "filters": filters})
    head = b"POST " + target + b" HTTP/1.1\r\nHost: a\r\n" + (body or b"\r\n")
    assert answered(plane, head) == [fault]
    [record] = plane.records
    assert record.route == {"": "open", "ambiguous_path": "", "credentials_missing": "admin"}[fault]
    if fault == "ambiguous_path":
        assert record.status == 400
        assert record.fault_detail == "with slashes merged it is a path of route admin"


def test_the_setting_is_the_listeners_and_follows_a_reload() -> None:
    lax = {**GUARDED, "listeners": {"main": {"address": "127.0.0.1:0", "ambiguous_paths": "allow"}}}
    plane = Plane(GUARDED)
    head = b"GET //admin HTTP/1.1\r\nHost: a\r\n\r\n"
    assert answered(plane, head) == ["ambiguous_path"]
    plane.adopts(lax)
    assert answered(plane, head)[1:] == [""]
    plane.adopts(GUARDED)
    assert answered(plane, head)[2:] == ["ambiguous_path"]


CORS = {"type": "cors", "origins": ["https://a.example"]}
PREFLIGHT = b"Origin: https://a.example\r\nAccess-Control-Request-Method: PUT\r\n"


@pytest.mark.parametrize("preflight", ["answer", "forward"])
@pytest.mark.parametrize(
    ("path", "fault"),
    [(b"//admin", "ambiguous_path"), (b"/admin%2Fa", "ambiguous_path"), (b"/a%2Fb", ""), (b"/a//b", "")],
)
def test_a_preflight_goes_by_the_path_of_what_it_is_about(path: bytes, fault: str, preflight: str) -> None:
    plane = Plane(
        {
            "consumers": GUARDED["consumers"],
            "routes": [
                {
                    "name": "admin",
                    "paths": ["/admin/*"],
                    "methods": ["PUT"],
                    "upstream": "u",
                    "filters": {"key_auth": {}},
                },
                {
                    "name": "open",
                    "paths": ["/*"],
                    "methods": ["GET", "PUT"],
                    "upstream": "u",
                    "filters": {"cors": {**CORS, "methods": ["PUT"], "preflight": preflight}},
                },
            ],
        }
    )
    assert answered(plane, b"OPTIONS " + path + b" HTTP/1.1\r\nHost: a\r\n" + PREFLIGHT + b"\r\n") == [fault]


# --- whatever the routes, the path and the server

PATTERNS = st.lists(
    st.sampled_from(["admin", "users", "a", "{x}", "a:a", "{x}:a", "@{x}"]), min_size=1, max_size=3
).flatmap(lambda parts: st.sampled_from(["", "/*", "/"]).map(lambda end: pattern_of(parts, end)))
PIECES = [
    "/",
    "/",
    "//",
    "%2F",
    "%2f",
    ";",
    ";x",
    "%3b",
    "%3B",
    "..",
    ".",
    "%2e%2E",
    "a",
    "admin",
    "users",
    "%61dmin",
    "x",
    ":a",
    "%3Aa",
    "%3aa",
    "%40",
    "%5C",
    "%255c",
    "%252F",
    "%25",
    "%2561",
    "%0A",
    "%250a",
]


def pattern_of(parts: list[str], end: str) -> str:
    if end == "/*":
        parts = [part for part in parts if "{x}" not in part] or ["a"]
    return "/" + "/".join(part.replace("x", f"x{place}") for place, part in enumerate(parts)) + end


def nginx(path: bytes, merges: bool) -> bytes:
    """As `ngx_http_parse_complex_uri` goes through it: decoded as it goes, a decoded slash is one."""
    kept: list[bytes] = []
    text = re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes.fromhex(found[1].decode()), path)
    if merges:
        text = re.sub(rb"/+", b"/", text)
    segments = text.split(b"/")[1:]
    for segment in segments:
        if segment == b"..":
            del kept[-1:]
        elif segment != b".":
            kept.append(segment)
    return b"/" + b"/".join(kept + [b""] * (segments[-1] in (b".", b"..")))


def server(
    path: bytes, authority: bool, cuts: bool, decodes: bool, merges: bool, decodes_late: bool, unescapes: bool
) -> bytes:
    """Some other server: what it does is in the order of its parameters, and dot segments are resolved at the end."""
    path = re.sub(rb"(?i)%2e", b".", re.sub(rb"%61", b"a", path))
    if authority:
        path = re.sub(rb"^//+[^/]*", b"", path) or b"/"
    if cuts:
        path = re.sub(rb"(?i)(;|%3b)[^/]*", b"", path) if decodes_late else re.sub(rb";[^/]*", b"", path)
    if decodes and not decodes_late:
        path = re.sub(rb"(?i)%2f", b"/", path)
    if merges:
        path = re.sub(rb"/+", b"/", path)
    if decodes and decodes_late:
        path = re.sub(rb"(?i)%2f", b"/", path)
    if unescapes:
        path = re.sub(rb"(?i)%3a", b":", path).replace(b"%40", b"@")
    return nginx(path.replace(b"%", b"%25"), merges=False).replace(b"%25", b"%")


def once_more(path: bytes, times: int, backslashes: bool, controls: str) -> bytes:
    """A server that decodes so many times more, and in between does this to control characters."""
    for left in range(times, -1, -1):
        if controls == "remove":
            path = re.sub(rb"(?i)%(?:[01].|7f)", b"", path)
        elif controls == "cut":
            path = re.split(rb"(?i)%(?:[01].|7f)", path)[0]
        if left:
            path = re.sub(rb"%(?![0-9a-fA-F]{2})", b"%25", path.replace(b"%25", b"%"))
            path = path.replace(b"%61", b"a")
    path = re.sub(rb"%..", lambda found: found[0].upper(), path)
    return path.replace(b"%5C", b"/") if backslashes else path


@settings(max_examples=600, deadline=None)
@given(
    st.lists(PATTERNS, min_size=1, max_size=5, unique=True),
    st.booleans(),
    st.lists(st.lists(st.sampled_from(PIECES), max_size=8), min_size=1, max_size=6),
)
@example(
    ["/admin/*"], True, [["/", "/", "admin"], ["/", "public", "/", "..", "//", "admin"], ["/", "admin", "%2f", "x"]]
)
@example(
    ["/users/{x0}", "/a/*"], True, [["/", "users", "//", "x"], ["/", "a", "%2F", "/", "..", "/", "users", "/", "x"]]
)
def test_whichever_way_it_is_read_it_stays_at_its_route(
    patterns: list[str], catch_all: bool, paths: list[list[str]]
) -> None:
    conditions = [Conditions(paths=(parse_path(pattern),)) for pattern in patterns]
    table, reference = (Router(routes(*conditions, *([OPEN] if catch_all else []))) for _ in range(2))
    reference.compiled = None
    for pieces in paths:
        raw_path = ("/" + "".join(pieces)).encode()
        try:
            head = head_of(raw_path)
        except Malformed:
            continue
        name = chosen(table, head)
        assert chosen(reference, head) == name
        if head.ordinary:
            assert other_readings(head.raw_path, head.path) == {}
        if name not in {f"r{place}" for place in range(len(patterns) + 1)}:
            assert name in {"ambiguous_path", "route_not_found"}
            continue
        for sent in (head.path, raw_path):
            readings = {nginx(sent, merges) for merges in (False, True)}
            texts = {once_more(sent, *does) for does in product((0, 1, 2), (False, True), ("keep", "remove", "cut"))}
            readings |= {server(text, *does) for text in texts for does in product((False, True), repeat=6)}
            for reading in readings:
                match = reference.find(head_of_path(reading))
                assert match is None or match[0].name == name, (raw_path, reading)


def head_of_path(path: bytes) -> Any:
    return SimpleNamespace(host=b"a.test", path=path, method=b"GET", query=None, values=lambda name: [])
