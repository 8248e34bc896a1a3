"""cors: who may read is told on every answer; preflights are answered for the route that they are about."""

from pathlib import Path

import pytest

from fastgw import config
from fastgw.config.decoding.filter_levels import running
from fastgw.explain import as_text, explain
from fastgw.filters import TYPES
from fastgw.filters.api import Fault, Phase
from fastgw.gateway.compiler import compile as compile_tables
from tests.support.generations import load_document
from tests.support.memory import SERVICE, Plane, probe
from tests.support.table import for_each

APP = "https://app.example"
HOST = b"Host: a.test\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"


def origin(text: str) -> bytes:
    return f"Origin: {text}\r\n".encode()


def fields(answer: bytes) -> dict[str, list[str]]:
    """By lower-case name."""
    found: dict[str, list[str]] = {}
    for line in answer.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
        name, _, value = line.decode().partition(": ")
        found.setdefault(name.lower(), []).append(value)
    return found


def about(answer: bytes) -> dict[str, list[str]]:
    """What of it is the CORS protocol's."""
    return {name: value for name, value in fields(answer).items() if name.startswith(("access-control-", "vary"))}


def answered(settings: dict[str, object], request: bytes, response: bytes = b"") -> dict[str, list[str]]:
    """What a client gets with the answer of a service that says `response`."""
    plane = Plane({"filters": {"cors": settings}})
    client = plane.client()
    client.sends(b"GET / HTTP/1.1\r\n" + HOST + request + b"\r\n")
    plane.connects().sends(OK + response + b"\r\nok")
    assert client.received.endswith(b"\r\n\r\nok")
    return about(client.received)


def preflight(plane: Plane, asked: str = "PUT", path: str = "/", more: bytes = b"", of: str = APP) -> bytes:
    client = plane.client()
    head = f"OPTIONS {path} HTTP/1.1\r\nHost: a.test\r\nAccess-Control-Request-Method: {asked}\r\n".encode()
    client.sends(head + origin(of) + more + b"\r\n")
    return client.received


# --- answers ---


@for_each(
    ("origins", "asks", "allowed"),
    [
        ([APP], APP, True),
        ([APP], "https://app.example:443", False),  # no browser writes it
        (["https://app.example:443"], APP, True),
        (["HTTPS://App.Example"], APP, True),
        ([APP], "http://app.example", False),
        ([APP], "https://app.example.evil.test", False),
        ([APP], "https://evil.test/https://app.example", False),
        ([APP], "null", False),
        (["null"], "null", True),
        (["https://*.example"], "https://app.example", True),
        (["https://*.example"], "https://a.b.example", True),
        (["https://*.example"], "https://example", False),
        (["https://*.example"], "https://.example", False),
        (["https://*.example"], "https://evilexample", False),
        (["https://*.example"], "https://evil.test/.example", False),
        (["https://*.example"], "https://evil.test#.example", False),
        (["https://*.example"], "https://evil.test:80.example", False),
        (["https://*.example"], "https://user@a.example", False),
        (["https://*.example"], "https://a.example:8443", False),
        (["https://*.example:8443"], "https://a.example:8443", True),
        (["https://*.example"], "http://a.example", False),
        (["https://*.example"], "https://" + "a." * 150 + "example", False),
        (["http://127.0.0.1:3000", "http://[::1]:3000"], "http://[::1]:3000", True),
        (["capacitor://localhost"], "capacitor://localhost", True),
    ],
)
def test_an_origin_is_told_that_it_may_read_and_no_other(origins: list[str], asks: str, allowed: bool) -> None:
    got = answered({"origins": origins}, origin(asks))
    assert got == ({"access-control-allow-origin": [asks]} if allowed else {}) | {"vary": ["Origin"]}


def test_vary_is_there_also_when_nobody_asks() -> None:
    """Fetch standard, section 3.2.5: a cache would give the answer without the fields to those who need them."""
    assert answered({"origins": [APP]}, b"") == {"vary": ["Origin"]}


@pytest.mark.parametrize("request_fields", [b"", origin(APP), origin("null")])
def test_everybody_is_told_the_same(request_fields: bytes) -> None:
    got = answered({"origins": ["*"], "expose": ["X-Total", "Link"]}, request_fields)
    assert got == {"access-control-allow-origin": ["*"], "access-control-expose-headers": ["X-Total, Link"]}


def test_credentials_and_what_may_be_read() -> None:
    got = answered({"origins": [APP], "credentials": True, "expose": ["X-Total"]}, origin(APP))
    assert got == {
        "access-control-allow-origin": [APP],
        "access-control-allow-credentials": ["true"],
        "access-control-expose-headers": ["X-Total"],
        "vary": ["Origin"],
    }


def test_any_origin_with_credentials_is_repeated_where_that_is_asked_for() -> None:
    settings = {"origins": ["*"], "methods": ["*"], "headers": ["*"], "credentials": True, "reflect": True}
    got = answered(settings, origin(APP))
    assert got == {
        "access-control-allow-origin": [APP],
        "access-control-allow-credentials": ["true"],
        "vary": ["Origin"],
    }
    got = answered({**settings, "origins": [APP]}, origin("https://evil.test"))
    assert got == {"vary": ["Origin"]}


@pytest.mark.parametrize("asks", [APP, "https://evil.test"])
def test_what_the_service_says_does_not_count(asks: str) -> None:
    own = b"access-control-allow-origin: *\r\nAccess-Control-Allow-Credentials: true\r\nAccess-Control-Max-Age: 9\r\n"
    got = answered({"origins": [APP]}, origin(asks), own + b"Vary: Accept\r\n")
    assert "access-control-allow-credentials" not in got
    assert "access-control-max-age" not in got
    assert got.get("access-control-allow-origin", []) == ([APP] if asks == APP else [])
    assert got["vary"] == ["Accept", "Origin"]


@pytest.mark.parametrize(
    ("settings", "request_line", "status"),
    [
        ({"routes": []}, b"GET /none HTTP/1.1\r\n", 404),
        ({"routes": [{"name": "r", "upstream": "u", "methods": ["GET"]}]}, b"POST / HTTP/1.1\r\n", 405),
        ({}, b"GET /%00 HTTP/1.1\r\n", 400),
        ({}, b"GET / HTTP/9.9\r\n", 505),
    ],
)
def test_refusals_of_the_gateway_can_be_read(settings: dict[str, object], request_line: bytes, status: int) -> None:
    plane = Plane({**settings, "filters": {"cors": {"origins": [APP]}}})
    client = plane.client()
    client.sends(request_line + HOST + origin(APP) + b"\r\n")
    assert client.received.startswith(b"HTTP/1.1 %d " % status)
    assert about(client.received)["access-control-allow-origin"] == [APP]


@pytest.mark.parametrize("fault", [Fault.CREDENTIALS_MISSING, Fault.FORBIDDEN, Fault.TOO_MANY_CONNECTIONS])
@pytest.mark.parametrize("phase", [Phase.OBSERVE, Phase.AUTHENTICATE])
def test_refusals_of_filters_can_be_read(fault: Fault, phase: Phase) -> None:
    """Whether they come before this one or after."""
    refusing = probe("refusing", phase, request=lambda exchange: exchange.refuse(fault))
    plane = Plane({"filters": {"cors": {"origins": [APP]}}}, probes=[refusing])
    client = plane.client()
    client.sends(b"GET / HTTP/1.1\r\n" + HOST + origin(APP) + b"\r\n")
    assert client.received.startswith(b"HTTP/1.1 %d " % fault.status)
    assert about(client.received)["access-control-allow-origin"] == [APP]


def test_a_failing_service_can_be_told_of() -> None:
    plane = Plane({"filters": {"cors": {"origins": [APP]}}})
    client = plane.client()
    client.sends(b"POST / HTTP/1.1\r\n" + HOST + origin(APP) + b"\r\n")
    plane.cannot_connect()
    plane.passes(1.0)  # until it is tried again
    plane.cannot_connect()
    assert client.received.startswith(b"HTTP/1.1 502 ")
    assert about(client.received)["access-control-allow-origin"] == [APP]


# --- preflights ---

FULL = {"origins": [APP], "methods": ["GET", "PUT"], "headers": ["X-A"], "max_age": "10m", "credentials": True}
VARY = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"


def test_a_preflight_is_answered() -> None:
    plane = Plane({"filters": {"cors": FULL}})
    answer = preflight(plane, more=b"Access-Control-Request-Headers: x-a\r\n")
    assert answer.startswith(b"HTTP/1.1 204 ")
    assert about(answer) == {
        "access-control-allow-origin": [APP],
        "access-control-allow-credentials": ["true"],
        "access-control-allow-methods": ["GET, PUT"],
        "access-control-allow-headers": ["X-A"],
        "access-control-max-age": ["600"],
        "vary": [VARY],
    }
    plane.assert_quiet()
    assert [(record.route, record.status) for record in plane.records] == [("all", 204)]


def test_a_preflight_of_a_foreign_origin_is_told_nothing() -> None:
    plane = Plane({"filters": {"cors": FULL}})
    answer = preflight(plane, of="https://evil.test")
    assert answer.startswith(b"HTTP/1.1 204 ")
    assert about(answer) == {"vary": [VARY]}
    plane.assert_quiet()


def test_a_preflight_where_everybody_may() -> None:
    plane = Plane({"filters": {"cors": {"origins": ["*"], "methods": ["*"], "headers": ["*", "Authorization"]}}})
    assert about(preflight(plane)) == {
        "access-control-allow-origin": ["*"],
        "access-control-allow-methods": ["*"],
        "access-control-allow-headers": ["*, Authorization"],
        "vary": ["Access-Control-Request-Method, Access-Control-Request-Headers"],
    }


@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize("asked", [b"", b"Access-Control-Request-Private-Network: true\r\n"])
def test_private_networks(allowed: bool, asked: bytes) -> None:
    plane = Plane({"filters": {"cors": {"origins": [APP], "private_network": allowed}}})
    got = about(preflight(plane, more=asked))
    assert ("access-control-allow-private-network" in got) is (allowed and bool(asked))
    assert ("Private-Network" in got["vary"][0]) is allowed


@pytest.mark.parametrize("lacking", [b"Origin", b"Access-Control-Request-Method"])
def test_options_alone_is_a_request_like_others(lacking: bytes) -> None:
    plane = Plane({"filters": {"cors": FULL}})
    lines = [b"Origin: https://app.example", b"Access-Control-Request-Method: PUT"]
    kept = b"".join(line + b"\r\n" for line in lines if not line.startswith(lacking))
    plane.client().sends(b"OPTIONS / HTTP/1.1\r\n" + HOST + kept + b"\r\n")
    assert len(plane.pool.waiting) == 1


def test_a_preflight_is_for_the_service_where_it_is_told_so() -> None:
    plane = Plane(
        {
            "routes": [{"name": "put", "methods": ["PUT"], "upstream": "u"}],
            "filters": {"cors": {**FULL, "preflight": "forward"}},
        }
    )
    client = plane.client()
    client.sends(b"OPTIONS / HTTP/1.1\r\n" + HOST + origin(APP) + b"Access-Control-Request-Method: PUT\r\n\r\n")
    upstream = plane.connects()
    assert upstream.received.startswith(b"OPTIONS / ")
    upstream.sends(b"HTTP/1.1 204 No Content\r\nAccess-Control-Allow-Origin: https://of.service\r\n\r\n")
    assert about(client.received) == {"access-control-allow-origin": ["https://of.service"]}


ROUTES = [
    {"name": "any", "upstream": "u"},
    {"name": "get", "paths": ["/x/{id}"], "methods": ["GET"], "upstream": "u", "filters": {"cors": {"origins": ["*"]}}},
    {"name": "put", "paths": ["/x/{id}"], "methods": ["PUT"], "upstream": "u", "filters": {"cors": FULL}},
    {"name": "own", "paths": ["/own"], "methods": ["PUT", "OPTIONS"], "upstream": "u"},
    {"name": "own too", "paths": ["/own/x"], "methods": ["PUT"], "upstream": "u", "filters": {"cors": FULL}},
    {"name": "options", "paths": ["/own/x"], "methods": ["OPTIONS"], "upstream": "u"},
]


@pytest.mark.parametrize(
    ("path", "asked", "route", "of"),
    [
        ("/x/7", "GET", "get", "*"),
        ("/x/7", "HEAD", "get", "*"),
        ("/x/7", "PUT", "put", APP),
        ("/x/7", "DELETE", "any", None),
        ("/x/7", "GET, PUT", "any", None),
        ("/y", "PUT", "any", None),
        ("/own", "PUT", "own", None),
        ("/own/x", "PUT", "options", None),
    ],
)
def test_a_preflight_is_for_the_route_that_it_is_about(path: str, asked: str, route: str, of: str | None) -> None:
    """Also where another route would take OPTIONS with everything else; not where one names it."""
    plane = Plane({"routes": ROUTES})
    answer = preflight(plane, asked, path)
    if of is None:
        upstream = plane.connects()
        upstream.sends(OK + b"\r\nok")
    else:
        assert answer.startswith(b"HTTP/1.1 204 ")
        assert about(answer)["access-control-allow-origin"] == [of]
    assert [record.route for record in plane.records] == [route]
    plane.assert_quiet()


@pytest.mark.parametrize("preflights", ["answer", "forward"])
@pytest.mark.parametrize("methods", [["GET", "PUT"], ["GET", "PUT", "OPTIONS"], ["OPTIONS"]])
def test_the_route_that_has_options_among_its_methods_says_who_answers_a_preflight(
    methods: list[str], preflights: str
) -> None:
    """The method selects the route and its settings; `preflight` says whether its service is asked."""
    plane = Plane(
        {
            "routes": [
                {
                    "name": "r",
                    "paths": ["/o"],
                    "methods": methods,
                    "upstream": "u",
                    "filters": {"cors": {**FULL, "preflight": preflights}},
                },
                {"name": "any", "upstream": "u", "filters": {"cors": {"origins": ["https://other.example"]}}},
            ]
        }
    )
    answer = preflight(plane, path="/o")
    if preflights == "answer":
        assert answer.startswith(b"HTTP/1.1 204 ")
        assert about(answer)["access-control-allow-methods"] == ["GET, PUT"]
    else:
        assert plane.connects().received.startswith(b"OPTIONS /o ")
        assert answer == b""


@for_each("more", [{}, {"preflight": "forward"}])
@for_each(
    "origins",
    [
        {"origins": [APP, "https://other.example"]},
        {"origins": ["https://*.example"], "credentials": True},
        {"origins": ["*"], "reflect": True, "credentials": True},
    ],
)
@for_each("of", [[APP, "https://other.example"], [APP, APP], [APP, ""]])
def test_a_request_with_several_origins_has_none(
    origins: dict[str, object], more: dict[str, object], of: list[str]
) -> None:
    """RFC 6454 section 7.3: a client sends one. Another program may read another of them than the gateway."""
    settings = {**origins, **more}
    several = b"".join(map(origin, of))
    assert answered(settings, several).keys() <= {"vary"}
    client = Plane({"filters": {"cors": settings}}).client()
    client.sends(b"OPTIONS / HTTP/1.1\r\n" + HOST + several + b"Access-Control-Request-Method: PUT\r\n\r\n")
    assert client.received.startswith(b"HTTP/1.1 204 ")
    assert not [name for name in about(client.received) if name.endswith(("-origin", "-credentials"))]


def test_a_request_with_several_origins_has_the_headers_that_every_origin_gets() -> None:
    """They are the same whichever of them another program reads."""
    several = origin(APP) + origin("https://other.example")
    settings = {"origins": ["*"]}
    assert answered(settings, several)["access-control-allow-origin"] == ["*"]
    client = Plane({"filters": {"cors": settings}}).client()
    client.sends(b"OPTIONS / HTTP/1.1\r\n" + HOST + several + b"Access-Control-Request-Method: PUT\r\n\r\n")
    assert client.received.startswith(b"HTTP/1.1 204 ")
    assert about(client.received)["access-control-allow-origin"] == ["*"]


def test_a_preflight_meets_none_of_the_routes_other_filters() -> None:
    """It has no credentials (Fetch standard, section 4.8): who asks for them would refuse every page."""
    met: list[str] = []

    def hooks(name: str) -> dict[str, object]:
        return {
            kind: lambda exchange, told=f"{name} {kind}": met.append(told)  # type: ignore[misc]
            for kind in ("request", "response", "finish")
        }

    probes = [probe("early", Phase.LIMIT_CLIENT, **hooks("early")), probe("late", Phase.AUTHENTICATE, **hooks("late"))]
    plane = Plane({"routes": [{"name": "r", "upstream": "u", "filters": {"cors": FULL}}]}, probes=probes)
    assert preflight(plane).startswith(b"HTTP/1.1 204 ")
    assert met == ["early request", "early response", "early finish"]


def forwarding(filters: dict[str, object], **more: object) -> Plane:
    cors = {"cors": {**FULL, "preflight": "forward"}}
    return Plane({"routes": [{"name": "r", "upstream": "u", "filters": {**cors, **filters}, **more}]})


JWT = {"algorithms": ["HS256"], "secret": "0123456789abcdef0123456789abcdef", "claims_to_headers": {"sub": "X-User"}}
KEY = {"key_auth": {"key_in": ["query"], "key_names": ["key"]}}


@pytest.mark.parametrize(
    "filters",
    [
        {"jwt": JWT, **KEY},
        {"auth": {"any_of": [{"jwt": JWT}, KEY]}},
        {"jwt": JWT, **KEY, "authorize": {"groups": {"any": ["staff"]}}},
    ],
    ids=lambda filters: " ".join(filters),
)
def test_a_preflight_for_the_service_passes_those_who_ask_for_credentials_and_shows_nobody(
    filters: dict[str, object],
) -> None:
    """Browsers send none. What a client says of itself all the same, the service would believe: it does not see it."""
    plane = forwarding(filters)
    said = b"X-User: root\r\nx_user: root\r\nAuthorization: Bearer a\r\nCookie: session=1\r\nX-Kept: yes\r\n"
    preflight(plane, path="/x?key=planted&a=b", more=said)
    received = plane.connects().received
    assert received.startswith(b"OPTIONS /x?a=b HTTP/1.1\r\n")
    sent = fields(received)
    assert sent["x-kept"] == ["yes"]
    assert not sent.keys() & {"x-user", "x_user", "authorization", "cookie"}
    assert {"origin", "access-control-request-method"} <= sent.keys()


@pytest.mark.parametrize("filters", [{}, {"jwt": JWT}], ids=["open", "jwt"])
@pytest.mark.parametrize(
    "told",
    [
        origin("https://evil.example"),
        origin("null"),
        origin(f"{APP}.evil.example"),
        origin(APP) + origin("https://evil.example"),
        origin("https://evil.example") + origin(APP),
    ],
)
def test_a_preflight_of_an_origin_that_is_not_allowed_reaches_no_service(
    told: bytes, filters: dict[str, object]
) -> None:
    """The service might give leave to anybody, and it would be past those who ask for credentials."""
    plane = forwarding(filters)
    client = plane.client()
    client.sends(b"OPTIONS / HTTP/1.1\r\n" + HOST + told + b"Access-Control-Request-Method: PUT\r\n\r\n")
    plane.assert_quiet()
    assert client.received.startswith(b"HTTP/1.1 204 ")
    assert about(client.received).keys() <= {"vary"}


@pytest.mark.parametrize("lacking", [b"Origin", b"Access-Control-Request-Method"])
def test_what_is_no_preflight_passes_nobody(lacking: bytes) -> None:
    plane = forwarding({"jwt": JWT})
    lines = [origin(APP), b"Access-Control-Request-Method: PUT\r\n"]
    client = plane.client()
    kept = b"".join(line for line in lines if not line.startswith(lacking))
    client.sends(b"OPTIONS / HTTP/1.1\r\n" + HOST + kept + b"\r\n")
    assert client.received.startswith(b"HTTP/1.1 401 ")


def test_a_preflight_for_the_service_passes_no_other_filters() -> None:
    """Who may not come from where they come does not come so either."""
    assert preflight(forwarding({"ip": {"deny": ["127.0.0.0/8"]}, "jwt": JWT})).startswith(b"HTTP/1.1 403 ")
    plane = forwarding({"headers": {"request": {"set": {"X-Tenant": "ours"}}}, "jwt": JWT})
    preflight(plane, more=b"X-Tenant: theirs\r\n")
    assert fields(plane.connects().received)["x-tenant"] == ["ours"]


def test_what_the_gateway_itself_answers_is_shown_to_nobody_by_a_preflight() -> None:
    plane = Plane(
        {
            "routes": [
                {
                    "name": "r",
                    "respond": {"body": "planted"},
                    "filters": {"cors": {**FULL, "preflight": "forward"}, "jwt": JWT},
                }
            ]
        }
    )
    assert preflight(plane).startswith(b"HTTP/1.1 401 ")


def test_explain_tells_what_of_a_preflight_reaches_the_service() -> None:
    settings = {
        "routes": [{"name": "r", "upstream": "u", "filters": {"cors": {**FULL, "preflight": "forward"}, "jwt": JWT}}]
    }
    gateway = compile_tables(load_document({**SERVICE, **settings}, TYPES), 1)
    asked = [f"Origin: {APP}", "Access-Control-Request-Method: PUT", "X-User: root"]
    told = explain(gateway, "OPTIONS", "http://a.test/", asked)
    assert (told.route, told.upstream) == ("r", "u")
    assert "jwt" not in as_text(told)
    assert "X-User" not in "".join(told.sends)


# --- levels ---


@pytest.mark.parametrize(
    ("path", "of"), [("/inner", "https://inner.example"), ("/none", None), ("/other", APP), ("/missing", APP)]
)
def test_a_route_may_replace_and_remove_it(path: str, of: str | None) -> None:
    """Though it stands before routing: on the way back the route is known."""
    plane = Plane(
        {
            "filters": {"cors": {"origins": [APP]}},
            "routes": [
                {"name": "i", "paths": ["/inner"], "upstream": "u", "filters": {"cors": {"origins": [of or "null"]}}},
                {"name": "n", "paths": ["/none"], "upstream": "u", "filters": {"cors": None}},
                {"name": "o", "paths": ["/other"], "upstream": "u"},
            ],
        }
    )
    expected = [] if of is None else [of]
    if of is None:
        preflight(plane, path=path)
        plane.connects().sends(OK + b"\r\nok")
    else:
        assert about(preflight(plane, path=path, of=of)).get("access-control-allow-origin", []) == expected
    client = plane.client()
    client.sends(f"GET {path} HTTP/1.1\r\nHost: a.test\r\n".encode() + origin(of or APP) + b"\r\n")
    if plane.pool.waiting:
        plane.cannot_connect()
        plane.passes(1.0)  # until it is tried again
        plane.cannot_connect()
    elif path != "/missing":
        next(iter(plane.pool.open)).transport.sends(OK + b"\r\nok")  # type: ignore[attr-defined]
    assert about(client.received).get("access-control-allow-origin", []) == expected


def test_what_runs_is_told_as_it_is_done() -> None:
    """`levels.running` is what people are told: the replaced one is not among it."""
    routes = [
        {
            "name": "own",
            "paths": ["/own"],
            "upstream": "u",
            "filters": {"cors": {"origins": ["*"]}, "size": {"body": 1}},
        },
        {"name": "none", "paths": ["/none"], "upstream": "u", "filters": {"cors": None}},
        {"name": "same", "upstream": "u"},
    ]
    loaded = load_document({**SERVICE, "filters": {"cors": FULL, "ip": {"deny": ["192.0.2.1"]}}, "routes": routes})
    gateway = compile_tables(loaded, 1)
    told = {route.name: [use.name for use in running(loaded, "main", route)] for route in loaded.routes}
    assert told == {"own": ["ip", "cors", "size"], "none": ["ip"], "same": ["ip", "cors"]}
    for name, compiled in gateway.routes_by_name.items():
        rule = compiled.rules[0]
        assert rule is not None
        assert [link.use.name for link in rule[0].route.chain.links] == told[name]


def test_an_enforced_one_stays(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match="a route cannot replace it"):
        load_document(
            {
                **SERVICE,
                "filters": {"cors": {**FULL, "enforced": True}},
                "routes": [{"name": "r", "upstream": "u", "filters": {"cors": {"origins": ["*"]}}}],
            }
        )


def test_two_are_not_added_up() -> None:
    """Of those under different names the nearest counts."""
    own = {"inner": {"type": "cors", "origins": ["https://inner.example"]}}
    plane = Plane(
        {"filters": {"cors": FULL}, "routes": [{"name": "r", "upstream": "u", "filters": own}]},
    )
    assert about(preflight(plane, of="https://inner.example"))["access-control-allow-origin"] == [
        "https://inner.example"
    ]
    assert "access-control-allow-origin" not in about(preflight(plane))


# --- settings, explain ---


@for_each(
    ("settings", "told"),
    [
        ({}, "missing"),
        ({"origins": []}, "empty"),
        ({"origins": ["*"], "credentials": True}, "`origins` has"),
        ({"origins": [APP], "methods": ["*"], "credentials": True}, "`methods` has"),
        ({"origins": [APP], "headers": ["*"], "credentials": True}, "`headers` has"),
        ({"origins": [APP], "expose": ["*"], "credentials": True}, "`expose` has"),
        ({"origins": [APP], "reflect": True}, "`reflect` has no effect"),
        ({"origins": ["*", APP]}, "and others"),
        ({"origins": ["https://app.example/"]}, "ends with a slash, which is not allowed in an origin; expected"),
        ({"origins": ["app.example"]}, "is not an origin"),
        ({"origins": ["https://a*.example"]}, "is not an origin"),
        ({"origins": ["https://*"]}, "is not an origin"),
        ({"origins": ["https://a.*.example"]}, "is not an origin"),
        ({"origins": [APP], "methods": ["get"]}, "upper case"),
        ({"origins": [APP], "headers": ["a b"]}, "is not a token"),
        ({"origins": [APP], "headers": ["a\r\nb"]}, "is not a token"),
    ],
)
def test_wrong_settings(settings: dict[str, object], told: str) -> None:
    with pytest.raises(config.ConfigError) as caught:
        load_document({**SERVICE, "filters": {"cors": settings}})
    assert told in str(caught.value.problems[0])


def test_explain_shows_whose_preflight_it_is(tmp_path: Path) -> None:
    gateway = compile_tables(load_document({**SERVICE, "routes": ROUTES}, TYPES), 1)
    asked = [f"Origin: {APP}", "Access-Control-Request-Method: PUT"]
    told = explain(gateway, "OPTIONS", "http://a.test/x/7", asked)
    assert (told.route, told.status, told.upstream) == ("put", 204, "")
    assert "cors → answers 204, as to a preflight" in as_text(told)
    assert f"Access-Control-Allow-Origin: {APP}" in told.fields
    assert explain(gateway, "OPTIONS", "http://a.test/x/7", asked[:1]).route == "any"


def test_explain_shows_who_answers_where_there_is_no_route() -> None:
    gateway = compile_tables(load_document({**SERVICE, "filters": {"cors": FULL}, "routes": []}, TYPES), 1)
    told = explain(gateway, "OPTIONS", "http://a.test/", [f"Origin: {APP}", "Access-Control-Request-Method: PUT"])
    assert (told.route, told.status) == ("", 204)
    assert "cors → answers 204, as to a preflight" in as_text(told)
    assert explain(gateway, "GET", "http://a.test/", [f"Origin: {APP}"]).status == 404
