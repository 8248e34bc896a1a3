"""ip: the most specific network decides; what is denied gets no further."""

from ipaddress import IPv4Address, IPv4Network, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from fastgw.filters.policies.ip import Ip
from fastgw.filters.policies.ip.address_check import REMEMBERED, address_check
from fastgw.testing import configured, run
from tests.support import mmdb
from tests.support.memory import SERVICE, Plane
from tests.support.table import for_each

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n"


def verdict(ip: str, allow: list[str], deny: list[str], unix: bool | None = None) -> bool:
    return address_check(map(ip_network, allow), map(ip_network, deny), unix)(ip)[0]


@for_each(
    ("ip", "allow", "deny", "passes"),
    [
        ("192.0.2.1", [], [], True),
        ("192.0.2.1", ["192.0.2.0/24"], [], True),
        ("192.0.3.1", ["192.0.2.0/24"], [], False),
        ("192.0.2.1", [], ["192.0.2.0/24"], False),
        ("192.0.3.1", [], ["192.0.2.0/24"], True),
        ("10.1.2.3", ["10.1.2.3"], ["10.0.0.0/8"], True),
        ("10.1.2.4", ["10.1.2.3"], ["10.0.0.0/8"], False),
        ("10.1.2.4", ["10.1.0.0/16"], ["10.0.0.0/8", "10.1.2.0/24"], False),
        ("10.1.3.4", ["10.1.0.0/16"], ["10.0.0.0/8", "10.1.2.0/24"], True),
        ("10.1.2.3", ["10.0.0.0/8"], ["10.0.0.0/8"], False),  # a tie
        ("10.1.2.3", ["10.1.2.3"], ["0.0.0.0/0"], True),
        ("2001:db8::1", ["2001:db8::/32"], ["::/0"], True),
        ("2001:db9::1", ["2001:db8::/32"], ["::/0"], False),
        ("2001:db8::1", [], ["0.0.0.0/0"], True),
        ("192.0.2.1", [], ["::/0"], True),  # IPv4 is no part of IPv6
        ("::ffff:192.0.2.1", ["192.0.2.0/24"], ["::/0"], True),
        ("::ffff:192.0.2.1", [], ["192.0.2.1"], False),
        ("192.0.2.1", [], ["::ffff:192.0.2.0/120"], False),
        ("192.0.2.1", [], ["::ffff:0:0/96"], False),
        ("::1", [], ["::ffff:0:0/96"], True),
        ("fe80::1%eth0", ["fe80::/10"], [], True),
    ],
)
def test_the_most_specific_network_decides(ip: str, allow: list[str], deny: list[str], passes: bool) -> None:
    assert verdict(ip, allow, deny) is passes


NETWORKS = some.builds(
    lambda number, length: IPv4Network((number >> 32 - length << 32 - length, length)),
    some.integers(0, 15).map(lambda number: number << 28 | number),
    some.integers(0, 32),
)


@given(allow=some.lists(NETWORKS), deny=some.lists(NETWORKS), number=some.integers(0, 15), low=some.integers(0, 3))
def test_it_is_as_if_all_networks_were_looked_at(
    allow: list[IPv4Network], deny: list[IPv4Network], number: int, low: int
) -> None:
    address = IPv4Address((number << 28 | number) ^ low)
    allowed, denied = (max((each.prefixlen for each in of if address in each), default=-1) for of in (allow, deny))
    expected = allowed > denied if allowed + denied > -2 else not allow
    assert address_check(allow, deny)(str(address))[0] is expected


@pytest.mark.parametrize(
    ("allow", "unix", "passes"),
    [([], None, True), (["127.0.0.1"], None, False), (["127.0.0.1"], True, True), ([], False, False)],
)
def test_a_unix_socket_is_in_no_network(allow: list[str], unix: bool | None, passes: bool) -> None:
    assert verdict("unix:", allow, [], unix) is passes


def test_thousands_of_networks_are_told_apart_and_not_all_addresses_are_remembered() -> None:
    networks = [f"10.{number >> 8}.{number & 255}.0/24" for number in range(5000)]
    judge = address_check([], map(ip_network, networks))
    assert [judge(f"10.{number >> 8}.{number & 255}.9")[0] for number in range(4990, 5010)] == [False] * 10 + [
        True
    ] * 10
    for number in range(REMEMBERED + 100):
        judge(f"11.0.{number >> 8}.{number & 255}")
    assert judge.cache_info().currsize == REMEMBERED  # type: ignore[attr-defined]


def test_what_is_denied_is_answered_and_goes_no_further() -> None:
    plane = Plane({"filters": {"ip": {"allow": ["192.0.2.0/24"], "deny": ["192.0.2.7"]}}})
    denied = plane.client("192.0.2.7")
    denied.sends(GET + b"\r\n")
    assert denied.received.startswith(b"HTTP/1.1 403 ")
    assert b"urn:fastgw:fault:client_address_denied" in denied.received
    assert b"192.0.2" not in denied.received
    assert [record.fault for record in plane.records] == ["client_address_denied"]
    plane.assert_quiet()
    plane.client("192.0.2.8").sends(GET + b"\r\n")
    assert len(plane.pool.waiting) == 1


@pytest.mark.parametrize(("peer", "passes"), [("10.0.0.1", False), ("198.51.100.1", True)])
def test_a_trusted_proxy_tells_the_address(peer: str, passes: bool) -> None:
    """And nobody else: what an outsider writes there does not count."""
    plane = Plane(
        {
            "listeners": {"main": {"address": "127.0.0.1:0", "trusted_proxies": ["10.0.0.0/8"]}},
            "filters": {"ip": {"deny": ["192.0.2.1"]}},
        }
    )
    plane.client(peer).sends(GET + b"X-Forwarded-For: 192.0.2.1\r\n\r\n")
    assert bool(plane.pool.waiting) is passes


def test_a_route_may_have_one_of_its_own() -> None:
    plane = Plane({"routes": [{"name": "inner", "upstream": "u", "filters": {"ip": {"allow": ["10.0.0.0/8"]}}}]})
    outside = plane.client("192.0.2.1")
    outside.sends(GET + b"\r\n")
    assert outside.received.startswith(b"HTTP/1.1 403 ")
    plane.client("10.0.0.1").sends(GET + b"\r\n")
    assert len(plane.pool.waiting) == 1


def test_equal_lists_are_held_once() -> None:
    """10,000 routes that use one filter set have one table between them."""
    allow = {"ip": {"allow": ["10.0.0.0/8"]}}
    routes = [{"name": name, "paths": [f"/{name}"], "upstream": "u", "filters": allow} for name in "abc"]
    plane = Plane({**SERVICE, "routes": routes})
    chains = [compiled.rules[0][0].route.chain for compiled in plane.gateway.routes if compiled.rules[0]]
    assert len({chain.links[0].keeps[0] for chain in chains}) == 1


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("geoip") / "countries.mmdb"
    records = {
        "192.0.2.0/24": mmdb.country("DE"),
        "198.51.100.0/24": {"registered_country": {"iso_code": "FR"}},
        "203.0.113.0/24": {"country": "US"},
        "2001:db8::/32": mmdb.country("DE"),
    }
    mmdb.write(file, records)
    return file


@pytest.mark.parametrize(
    ("settings", "passing"),
    [
        ({"countries": {"allow": ["DE"]}}, {"de", "de6", "mapped de"}),
        ({"countries": {"allow": ["DE", "FR"]}}, {"de", "de6", "mapped de", "fr"}),
        ({"countries": {"deny": ["DE"]}}, {"fr", "us", "unknown"}),
        (
            {"countries": {"allow": ["DE"]}, "allow": ["203.0.113.7", "10.0.0.0/8"]},
            {"de", "de6", "mapped de", "us", "unknown"},
        ),
        ({"countries": {"deny": ["DE"]}, "allow": ["192.0.2.7"]}, {"de", "mapped de"}),
        ({"countries": {"allow": ["DE"]}, "deny": ["192.0.2.0/24"]}, {"de6"}),
        ({"countries": {"header": "X-Country"}}, {"de", "de6", "mapped de", "fr", "us", "unknown"}),
    ],
)
def test_a_country_decides_on_addresses_in_no_network(
    database: Path, settings: dict[str, Any], passing: set[str]
) -> None:
    clients = {
        "de": "192.0.2.7",
        "de6": "2001:db8::1",
        "mapped de": "::ffff:192.0.2.7",
        "fr": "198.51.100.7",
        "us": "203.0.113.7",
        "unknown": "10.0.0.1",
    }
    ip = {**settings, "countries": {"database": str(database), **settings["countries"]}}
    plane = Plane({"filters": {"ip": ip}})
    passed = set()
    for name, address in clients.items():
        before = len(plane.pool.waiting)
        plane.client(address).sends(GET + b"\r\n")
        if len(plane.pool.waiting) > before:
            passed.add(name)
    assert passed == passing


@pytest.mark.parametrize(("client", "sent"), [("192.0.2.7", b"X-Country: DE\r\n"), ("10.0.0.1", b"")])
def test_the_upstream_gets_the_country_and_not_the_one_of_the_client(database: Path, client: str, sent: bytes) -> None:
    settings = configured(Ip, countries={"database": str(database), "header": "X-Country"})
    forwarded = run(settings, GET + b"x-country: XX\r\nX_Country: XX\r\n\r\n", client_ip=client).sent
    assert forwarded.count(b"X-Country: ") == bool(sent)
    assert sent in forwarded
    assert b"XX" not in forwarded


@for_each("name", ["Host", "Content-Length", "Transfer-Encoding", "X-Forwarded-For", "Cookie"])
def test_the_country_takes_the_place_of_no_other_header(database: Path, name: str) -> None:
    """A second `Host` or framing would make the request of a client another one for the upstream."""
    with pytest.raises(Exception, match=f"`{name}` cannot be set"):
        configured(Ip, countries={"database": str(database), "header": name})


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read: No such file"),
        (b"", "not a database"),
        (b"not a database", "not a database"),
        (
            mmdb.database({"192.0.2.0/24": {"autonomous_system_number": 64496}}, "GeoLite2-ASN"),
            "'GeoLite2-ASN', without countries",
        ),
    ],
)
def test_a_database_without_countries_is_refused(tmp_path: Path, content: bytes | None, why: str) -> None:
    file = tmp_path / "countries.mmdb"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Exception, match=why):
        Plane({"filters": {"ip": {"countries": {"database": str(file), "allow": ["DE"]}}}})
