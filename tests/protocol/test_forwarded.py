"""The forwarding family: `X-Forwarded-*`, `X-Real-IP` and `Forwarded`, under each policy and from each kind of peer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.lanes import VERSIONS, Kind, Lane, Lanes, running
from tests.support.origin import OK, Request

KINDS = {"default": Kind()} | {
    policy: Kind(route={"forwarded": policy}) for policy in ("append", "set", "strip", "pass")
}
KINDS |= {
    f"{policy}-told": Kind(route={"forwarded_header": True} | ({} if policy == "default" else {"forwarded": policy}))
    for policy in ("default", "append", "set")
}
WRITTEN = {"set": {"X-Forwarded-Prefix": "/shop", "X-Client-IP": "{client_ip}"}}
KINDS["prefixed"] = Kind(route={"filters": {"headers": {"request": WRITTEN}}})
CHOSEN = {
    "set": {"X-Forwarded-Proto": "https", "X_Forwarded_For": "1.2.3.4", "Forwarded": "for=1.2.3.4"},
    "remove": ["X-Real-IP", "X-Forwarded-Port"],
}
COMPUTED = {"request": CHOSEN | {"add": {"X-Id": "{client_ip}"}}}
CHOICES = {
    "chosen": {"headers": {"request": CHOSEN}},  # the same lines for all requests
    "computed": {"headers": COMPUTED},
    "edited": {"headers": COMPUTED, "later": {"type": "headers", "request": {"set": {"X-Later": "1"}}}},
    "twice": {"headers": {"request": {"set": {"X-Real-IP": "9.9.9.9"}}}, "later": {"type": "headers"} | COMPUTED},
}
for choice, filters in CHOICES.items():
    KINDS |= {
        choice: Kind(route={"filters": filters}),
        f"{choice}-pass": Kind(route={"forwarded": "pass"} | {"filters": filters}),
    }
KINDS["added"] = Kind(route={"filters": {"headers": {"request": {"add": {"X-Real-IP": "9.9.9.9"}}}}})
LISTENERS = {
    "main": {"address": "127.0.0.1:0"},
    "own": {
        "address": "127.0.0.1:0",
        "reserved_headers": ["X-Own-*", "x-secret"],
        "unreserved_headers": ["X-Own-Free"],
    },
    "overriding": {"address": "127.0.0.1:0", "unreserved_headers": ["x-http-method-override", "X-Forwarded-Uri"]},
    "behind": {"address": "127.0.0.1:0", "trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8"]},
}
FAMILY = [
    b"X-Forwarded-For",
    b"X-Forwarded-Proto",
    b"X-Forwarded-Host",
    b"X-Forwarded-Port",
    b"X-Forwarded-Prefix",
    b"X-Forwarded-Client-Cert",
    b"X-Real-IP",
    b"Forwarded",
]
SENT = (
    b"X-Forwarded-For: 203.0.113.7, 10.1.1.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example\r\n"
    b"X-Forwarded-Port: 443\r\nX-Forwarded-Prefix: /shop\r\nX-Forwarded-Client-Cert: Hash=ab\r\n"
    b"X-Real-IP: 203.0.113.7\r\n"
    b"Forwarded: for=203.0.113.7;proto=https;host=shop.example, for=10.1.1.1\r\n"
)


@pytest.fixture(scope="module", params=VERSIONS)
def lanes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lanes]:
    yield from running(
        Lanes(
            tmp_path_factory.mktemp("forwarded"),
            KINDS,
            count=12,
            settings={"listeners": LISTENERS},
            version=request.param,
        )
    )


def got_through(lanes: Lanes, policy: str, listener: str, fields: bytes = SENT) -> tuple[Lane, Request]:
    lane = lanes.take(policy)
    client = lane.client(listener)
    client.send(lane.get(fields=fields))
    request = lane.accept().answer(OK)
    assert client.read_response().status == 200
    lane.end()
    return lane, request


@pytest.mark.parametrize(("policy", "listener"), [("set", "main"), ("set", "behind"), ("default", "main")])
@pytest.mark.parametrize("fields", [SENT, b""], ids=["sent", "none"])
def test_set_says_only_what_the_gateway_sees(lanes: Lanes, policy: str, listener: str, fields: bytes) -> None:
    """RFC 7239 section 8.1: what the client claims about itself is replaced; the default for peers not trusted."""
    lane, request = got_through(lanes, f"{policy}-told", listener, fields)
    assert request.get(b"X-Forwarded-For") == b"127.0.0.1"
    assert request.get(b"X-Forwarded-Proto") == b"http"
    assert request.get(b"X-Forwarded-Host") == lane.host
    assert request.get(b"X-Forwarded-Port") == b"80"
    assert request.get(b"X-Real-IP") == b"127.0.0.1"
    assert forwarded_pairs(request)[-1] == {b"for": b"127.0.0.1", b"proto": b"http", b"host": lane.host}
    assert len(forwarded_pairs(request)) == 1
    assert b"X-Forwarded-Client-Cert" not in request


def forwarded_pairs(request: Request) -> list[dict[bytes, bytes]]:
    """The elements of `Forwarded` (RFC 7239 section 4), quotes and `by` taken off."""
    elements = b", ".join(request.get_all(b"Forwarded")).split(b", ")
    pairs = [dict(pair.strip().split(b"=", 1) for pair in element.split(b";")) for element in elements]
    return [{key.lower(): value.strip(b'"') for key, value in each.items() if key.lower() != b"by"} for each in pairs]


@pytest.mark.parametrize(("policy", "listener"), [("append", "behind"), ("default", "behind")])
def test_append_adds_the_peer_to_what_a_trusted_proxy_said(lanes: Lanes, policy: str, listener: str) -> None:
    """RFC 7239 section 4: each proxy adds itself at the end; the client is the rightmost address not trusted."""
    _, request = got_through(lanes, f"{policy}-told", listener)
    chain = b", ".join(request.get_all(b"X-Forwarded-For"))
    assert chain == b"203.0.113.7, 10.1.1.1, 127.0.0.1"
    assert request.get(b"X-Forwarded-Proto") == b"https"
    assert request.get(b"X-Forwarded-Host") == b"shop.example"
    assert request.get(b"X-Forwarded-Port") == b"443"
    assert request.get(b"X-Real-IP") == b"203.0.113.7"
    assert [element[b"for"] for element in forwarded_pairs(request)] == [b"203.0.113.7", b"10.1.1.1", b"127.0.0.1"]


def test_a_proxy_that_writes_only_forwarded_states_the_whole_origin(lanes: Lanes) -> None:
    """RFC 7239 section 5.3."""
    fields = b'Forwarded: for=203.0.113.7;proto=https;host="shop.example:8443"\r\n'
    _, request = got_through(lanes, "default-told", "behind", fields)
    told = [request.get(b"X-Forwarded-" + name) for name in (b"For", b"Proto", b"Host", b"Port")]
    assert told == [b"203.0.113.7, 127.0.0.1", b"https", b"shop.example:8443", b"8443"]
    assert forwarded_pairs(request)[-1] == {b"for": b"127.0.0.1", b"proto": b"https", b"host": b"shop.example:8443"}


def test_append_begins_the_family_where_the_proxy_said_nothing(lanes: Lanes) -> None:
    """RFC 7239 section 4: an absent field is begun with what the gateway sees."""
    lane, request = got_through(lanes, "default-told", "behind", b"")
    assert request.get(b"X-Forwarded-For") == b"127.0.0.1"
    assert request.get(b"X-Forwarded-Proto") == b"http"
    assert request.get(b"X-Forwarded-Host") == lane.host
    assert forwarded_pairs(request)[-1][b"for"] == b"127.0.0.1"


def test_a_client_behind_a_trusted_proxy_cannot_choose_its_address(lanes: Lanes) -> None:
    """RFC 7239 section 8.1: addresses are believed from the right, as far as they are trusted proxies'."""
    lane = lanes.take("default")
    client = lane.client("behind")
    client.send(lane.get(b"/who", b"X-Forwarded-For: 1.2.3.4, 203.0.113.9, 10.0.0.2\r\n"))
    request = lane.accept().answer(OK)
    client.read_response()
    assert request.get(b"X-Real-IP") == b"203.0.113.9"
    assert lanes.gateway.wait_for_record(host=lane.host.decode(), path="/who")["client"] == "203.0.113.9"
    lane.end()


@pytest.mark.parametrize(
    ("fields", "client_ip"),
    [
        (b"Forwarded: for=203.0.113.9;proto=https, for=10.0.0.2\r\n", "203.0.113.9"),
        (b'Forwarded: for="[2001:db8::9]:4711"\r\n', "2001:db8::9"),
        (b"X-Forwarded-For: [2001:db8::9]:4711\r\n", "2001:db8::9"),
        (b"X-Forwarded-For: 203.0.113.9:4711\r\n", "203.0.113.9"),
        (b"X-Forwarded-For: 203.0.113.9, unknown, 10.0.0.2\r\n", "10.0.0.2"),
        (b"X-Forwarded-For: 10.0.0.1, 10.0.0.2\r\n", "10.0.0.1"),
    ],
)
def test_the_client_is_read_from_any_form(lanes: Lanes, fields: bytes, client_ip: str) -> None:
    """RFC 7239 section 6: nodes have ports and brackets, or no address at all; nothing left of such a one counts."""
    lane = lanes.take("default")
    client = lane.client("behind")
    client.send(lane.get(fields=fields))
    assert lane.accept().answer(OK).get(b"X-Real-IP") == client_ip.encode()
    client.read_response()
    lane.end()


def test_lines_of_one_list_are_one_list(lanes: Lanes) -> None:
    """RFC 9110 section 5.3: a list may come in several lines, and their order counts."""
    _, request = got_through(
        lanes, "default", "behind", b"X-Forwarded-For: 203.0.113.7\r\nx-forwarded-for: 10.1.1.1\r\n"
    )
    assert b", ".join(request.get_all(b"X-Forwarded-For")) == b"203.0.113.7, 10.1.1.1, 127.0.0.1"


@pytest.mark.parametrize("listener", ["main", "behind"])
def test_strip_tells_nothing(lanes: Lanes, listener: str) -> None:
    """The contract's `forwarded: strip`: the whole family goes, and none of it is added."""
    _, request = got_through(lanes, "strip", listener)
    assert not [name for name in FAMILY if name in request]


@pytest.mark.parametrize("listener", ["main", "behind"])
def test_pass_changes_nothing(lanes: Lanes, listener: str) -> None:
    """The contract's `forwarded: pass`: the whole family goes on as it came, and none of it is added."""
    _, request = got_through(lanes, "pass", listener)
    sent = [(name.lower(), value) for name, _, value in (line.partition(b": ") for line in SENT.split(b"\r\n")[:-1])]
    family = {name.lower() for name in FAMILY}
    assert [(name.lower(), value) for name, value in request.head.lines if name.lower() in family] == sent
    _, request = got_through(lanes, "pass", listener, b"")
    assert not [name for name in FAMILY if name in request]


def test_append_without_trust_is_still_append(lanes: Lanes) -> None:
    """The contract's `forwarded: append`, where a route says so: the chain grows whoever began it."""
    _, request = got_through(lanes, "append", "main")
    assert b", ".join(request.get_all(b"X-Forwarded-For")).endswith(b"127.0.0.1")


RESERVED = (
    b"Proxy: http://evil.example\r\nX-Original-URL: /admin\r\nX_Rewrite_Url: /admin\r\nX-Forwarded-Base: /evil\r\n"
    b"True-Client-IP: 6.6.6.6\r\nCF-Connecting-IP: 6.6.6.6\r\nX-Client-IP: 6.6.6.6\r\nX-Cluster-Client-IP: 6.6.6.6\r\n"
    b"SSL-Client-Verify: SUCCESS\r\nSSL_CLIENT_S_DN: CN=root\r\nX-SSL-Client-Cert: evil\r\nX-ARR-ClientCert: evil\r\n"
    b"X-Forwarded-SSL: on\r\nX-Forwarded-User: root\r\nX_Forwarded_Scheme: https\r\nFront-End-Https: on\r\n"
    b"X-Url-Scheme: https\r\nX-Original-Host: evil.test\r\nX_Forwarded_Uri: /open\r\nX-Forwarded-Method: GET\r\n"
    b"X-Original-Uri: /open\r\nX.Original.Method: GET\r\nX-Forwarded-Path: /a\r\nX-Forwarded-Url: /a\r\n"
    b"X-Forwarded-Context: /a\r\nX-Replaced-Path: /a\r\nX-Script-Name: /a\r\nX-Envoy-Original-Path: /a\r\n"
    b"X-Envoy-External-Address: 6.6.6.6\r\nX-HTTP-Method-Override: DELETE\r\nRemote-User: root\r\nREMOTE_USER: root\r\n"
    b"X-Remote-User: root\r\nX-Auth-Request-Email: root\r\nX-Forwarded-Roles: root\r\nX-Forwarded-Id-Token: a\r\n"
    b"WL-Proxy-Client-IP: 6.6.6.6\r\nX-Azure-ClientIP: 6.6.6.6\r\n"
)
RESERVED_NAMES = [line.partition(b":")[0] for line in RESERVED.splitlines()]


@pytest.mark.parametrize("policy", ["default", "append", "set", "strip", "pass"])
def test_what_only_proxies_may_send_is_dropped_from_any_other_client(lanes: Lanes, policy: str) -> None:
    """Whatever becomes of the forwarding family: httpoxy, rewritten URLs, addresses and certificates of clients."""
    _, request = got_through(lanes, policy, "main", RESERVED + b"X-Original: 1\r\n")
    assert not [name for name in RESERVED_NAMES if name in request]
    assert request.get(b"X-Original") == b"1"


def test_a_trusted_proxy_may_send_it(lanes: Lanes) -> None:
    _, request = got_through(lanes, "default", "behind", RESERVED)
    assert [request.get(name) for name in RESERVED_NAMES] == [
        line.partition(b": ")[2] for line in RESERVED.splitlines()
    ]


def test_what_is_reserved_is_settable(lanes: Lanes) -> None:
    _, request = got_through(lanes, "default", "own", b"X-Own-Role: root\r\nProxy: 1\r\nX_Secret: 1\r\nX-Own: 1\r\n")
    assert (request.get(b"X-Own-Role"), request.get(b"X_Secret")) == (None, None)
    assert (request.get(b"Proxy"), request.get(b"X-Own")) == (b"1", b"1")


def test_a_reserved_header_passes_where_it_is_unreserved(lanes: Lanes) -> None:
    _, request = got_through(lanes, "default", "own", b"X-Own-Role: root\r\nX-Own-Free: 1\r\n")
    assert (request.get(b"X-Own-Role"), request.get(b"X-Own-Free")) == (None, b"1")
    _, request = got_through(lanes, "default", "overriding", RESERVED)
    assert [name for name in RESERVED_NAMES if name in request] == [b"X_Forwarded_Uri", b"X-HTTP-Method-Override"]


def test_what_a_filter_writes_under_such_a_name_is_sent(lanes: Lanes) -> None:
    _, request = got_through(lanes, "prefixed", "main", RESERVED)
    assert request.get_all(b"X-Forwarded-Prefix") == [b"/shop"]
    assert request.get_all(b"X-Client-IP") == [b"127.0.0.1"]
    assert b"True-Client-IP" not in request


@pytest.mark.parametrize("policy", ["", "-pass"])
@pytest.mark.parametrize("listener", ["main", "behind"])
@pytest.mark.parametrize("fields", [SENT, b""], ids=["sent", "none"])
@pytest.mark.parametrize("choice", CHOICES)
def test_what_the_operator_sets_or_removes_by_name_replaces_the_gateways_own(
    lanes: Lanes, choice: str, fields: bytes, listener: str, policy: str
) -> None:
    """Two lines that contradict each other let each reader believe another one."""
    lane, request = got_through(lanes, choice + policy, listener, fields)
    assert request.get_all(b"X-Forwarded-Proto") == [b"https"]
    assert (request.get_all(b"X_Forwarded_For"), request.get_all(b"X-Forwarded-For")) == ([b"1.2.3.4"], [])
    assert request.get_all(b"Forwarded") == [b"for=1.2.3.4"]
    assert (request.get_all(b"X-Real-IP"), request.get_all(b"X-Forwarded-Port")) == ([], [])
    if not policy:  # the others are the gateway's, and never those of an untrusted client
        trusted = bool(fields) and listener == "behind"
        assert request.get(b"X-Forwarded-Host") == (b"shop.example" if trusted else lane.host)
        assert (b"X-Forwarded-Client-Cert" in request) == trusted


@pytest.mark.parametrize("fields", [SENT, b""], ids=["sent", "none"])
def test_what_the_operator_adds_stands_beside_the_gateways_own(lanes: Lanes, fields: bytes) -> None:
    _, request = got_through(lanes, "added", "main", fields)
    assert request.get_all(b"X-Real-IP") == [b"127.0.0.1", b"9.9.9.9"]
