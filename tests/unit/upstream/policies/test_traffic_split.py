"""A route divided among upstreams: by shares, the same client to the same one, canaries to where they belong."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fastgw.config import ConfigError, load
from fastgw.config.base.value_types import Trait
from fastgw.config.settings.gateway import Canary, Split
from fastgw.exchange import Chain, Exchange
from fastgw.exchange.shadow_exchange import Nobody
from fastgw.filters import TYPES
from fastgw.filters.api import Phase
from fastgw.forwarded_headers import Peer
from fastgw.http.http1.parser import parse_request
from fastgw.upstream.policies.traffic_split import Splitter
from tests.support.memory import Plane, probe

NAMES = ("old", "new")
PASSING = probe("passing", Phase.TRANSFORM, request=lambda exchange: None)


def asking(ip: str = "192.0.2.1", *fields: bytes) -> Exchange:
    head = parse_request(b"GET /a HTTP/1.1\r\nHost: a\r\n" + b"".join(f + b"\r\n" for f in fields) + b"\r\n", 99)
    nobody: Any = None
    return Exchange(head, Nobody(), nobody, Peer(ip, 1, 80, False), Chain(()))


def clients(count: int) -> list[Exchange]:
    return [asking(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}") for n in range(count)]


@pytest.mark.parametrize("shares", [(90, 10), (1, 1), (999, 1), (0, 5)])
@pytest.mark.parametrize("by", ["ip", "request"])
def test_shares_are_kept(shares: tuple[int, int], by: str) -> None:
    split = Splitter("user", NAMES, shares, Split(by=Trait(by)))
    count = 20_000
    taken = Counter(split(each) for each in clients(count))
    for index, share in enumerate(shares):
        part = share / sum(shares)
        assert abs(taken[index] - count * part) <= 5 * (count * part * (1 - part)) ** 0.5  # five sigma


def test_a_client_stays_where_it_is_and_a_share_that_grows_only_adds() -> None:
    asked = clients(5_000)
    steps = [
        {each.client_ip for each in asked if Splitter("user", NAMES, (100 - share, share), Split())(each) == 1}
        for share in (0, 1, 10, 50, 100)
    ]
    assert all(fewer < more for fewer, more in pairwise(steps))
    assert len(steps[-1]) == 5_000


def test_routes_are_divided_each_in_its_own_way() -> None:
    asked = clients(2_000)
    one, other = (Splitter(name, NAMES, (50, 50), Split()) for name in ("a", "b"))
    assert 800 < sum(one(each) == other(each) for each in asked) < 1_200


def test_an_ipv6_client_is_its_network() -> None:
    split = Splitter("user", NAMES, (50, 50), Split())
    assert len({split(asking(f"2001:db8::{n:x}")) for n in range(1, 200)}) == 1
    assert len({split(asking(f"2001:db8:0:{n:x}::1")) for n in range(1, 200)}) == 2


def test_by_a_cookie_or_a_field_and_without_it_by_address() -> None:
    by_cookie = Splitter("user", NAMES, (50, 50), Split(by=Trait("cookie", "who")))
    by_field = Splitter("user", NAMES, (50, 50), Split(by=Trait("header", "x-tenant")))
    for n in range(50):
        cookie, field = b"Cookie: a=1; who=u%d" % n, b"X-Tenant: u%d" % n
        assert len({by_cookie(asking(ip, cookie)) for ip in ("192.0.2.1", "192.0.2.99", "2001:db8::1")}) == 1
        assert by_cookie(asking("192.0.2.1", cookie)) == by_field(asking("192.0.2.7", field))
    without = Splitter("user", NAMES, (50, 50), Split())
    assert all(by_cookie(each) == without(each) for each in clients(200))
    doubtful = b"Cookie: who=u1; who=u2"
    assert by_cookie(asking("192.0.2.1", doubtful)) == without(asking("192.0.2.1"))


def test_canaries_go_where_they_belong() -> None:
    canaries = (
        Canary(upstream="new", headers={"X-Canary": "always"}),
        Canary(upstream="old", cookies={"canary": "never"}, headers={"X-Staff": "1"}),
    )
    split = Splitter("user", NAMES, (1, 0), Split(canaries=canaries))
    assert split(asking("192.0.2.1", b"x-canary: always")) == 1
    assert split(asking("192.0.2.1", b"X-Canary: never")) == 0
    for repeated in ([b"X-Canary: never", b"X-Canary: always"], [b"X-Canary: never, always"]):  # any value counts
        assert split(asking("192.0.2.1", *repeated)) == 1
    assert split.describe_split(asking("192.0.2.1", b"x-canary: always")) == "new, because it matches split.canaries[0]"


@pytest.mark.parametrize(
    ("sent", "meets"),
    [
        ([b"Cookie: canary=on", b"X-Staff: 1"], True),
        ([b"Cookie: a=b; canary=on; c=d", b"X-Staff: 1"], True),
        ([b"Cookie: canary=on"], False),  # all conditions, or none
        ([b"X-Staff: 1"], False),
        ([b"Cookie: canary=off", b"X-Staff: 1"], False),
        ([b"Cookie: canary=", b"X-Staff: 1"], False),
        ([b"Cookie: other=on", b"X-Staff: 1"], False),
        ([b"Cookie: canary=on", b"X-Staff: 2"], False),
        ([b"Cookie: canary=on; canary=x", b"X-Staff: 1"], True),  # any value counts
        ([b"Cookie: canary=x; canary=on", b"X-Staff: 1"], True),
        ([b"Cookie: canary=x", b"Cookie: canary=on", b"X-Staff: 1"], True),
    ],
)
def test_a_canary_takes_what_meets_all_of_its_conditions(sent: list[bytes], meets: bool) -> None:
    """All that does not is the other upstream's."""
    canary = Canary(upstream="new", cookies={"canary": "on"}, headers={"X-Staff": "1"})
    assert Splitter("user", NAMES, (1, 0), Split(canaries=(canary,)))(asking("192.0.2.1", *sent)) == meets


@pytest.mark.parametrize(
    ("sent", "meets"), [([b"Cookie: canary=on"], True), ([b"Cookie: canary=off"], False), ([], False)]
)
def test_a_canary_may_have_conditions_for_cookies_alone(sent: list[bytes], meets: bool) -> None:
    canary = Canary(upstream="new", cookies={"canary": "on"})
    assert Splitter("user", NAMES, (1, 0), Split(canaries=(canary,)))(asking("192.0.2.1", *sent)) == meets


OWN = {"type": "headers", "request": {"set": {"X-A": "1"}}}
TO_EACH = {"canaries": [{"upstream": "u", "headers": {"x-to": "u"}}, {"upstream": "v", "headers": {"x-to": "v"}}]}


def settings(shares: dict[str, int]) -> dict[str, Any]:
    return {
        "upstreams": {
            "u": {"targets": [{"url": "http://127.0.0.1:9"}]},
            "v": {"targets": [{"url": "http://127.0.0.2:9"}], "filters": {"passing": {}}},
        },
        "routes": [{"name": "all", "upstream": shares, "split": TO_EACH, "filters": {"own": OWN}}],
        "filters": {"passing": None},
    }


def test_the_part_that_takes_a_request_has_its_own_upstream_and_filters() -> None:
    plane = Plane({**settings({"u": 1, "v": 1})}, probes=[PASSING])
    for name, target in ((b"u", "127.0.0.1:9"), (b"v", "127.0.0.2:9")):
        client = plane.client()
        client.sends(b"GET /first HTTP/1.1\r\nHost: a\r\nX-To: " + name + b"\r\n\r\n")
        upstream = plane.connects()
        assert upstream.target == target
        upstream.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        client.sends(b"GET /second HTTP/1.1\r\nHost: a\r\nX-To: " + name + b"\r\n\r\n")
        upstream.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert client.received.count(b"HTTP/1.1 200 OK") == 2
        assert [record.upstream for record in plane.records[-2:]] == [name.decode()] * 2
    plane.assert_quiet()


def test_shares_change_and_what_stands_on_the_route_goes_on() -> None:
    plane = Plane(settings({"u": 1, "v": 1}), probes=[PASSING])
    before = plane.gateway.routes[0]
    plane.adopts(settings({"u": 1, "v": 3}))
    after = plane.gateway.routes[0]
    assert after.upstreams == before.upstreams
    one, other = ((compiled.rules[0] or ())[0].route for compiled in (before, after))
    assert one is not other
    assert list(one.links) == list(other.links)
    plane.adopts(settings({"u": 1, "v": 3}))
    assert plane.gateway.routes[0] is after


WRONG = """\
version: 1
listeners: {main: {address: "127.0.0.1:0"}}
upstreams:
  users: {targets: [{url: "http://127.0.0.1:9"}]}
  users_v2: {targets: [{url: "http://127.0.0.1:9"}]}
routes:
  - {name: a, upstream: {users: 1, user_v2: 1}}
  - {name: b, upstream: {users: 0, users_v2: 0}}
  - {name: c, upstream: users, split: {by: ip}}
  - {name: d, upstream: {users: 1, users_v2: 1}, split: {by: path, canaries: [{upstream: users}]}}
  - {name: e, upstream: {users: 1}, split: {canaries: [{upstream: users_v2, headers: {a: b}}]}}
  - {name: f, upstream: {users: many}}
  - {name: g, upstream: {}}
"""


def test_what_cannot_be_divided_is_told(tmp_path: Path) -> None:
    (tmp_path / "gw.yaml").write_text(WRONG)
    with pytest.raises(ConfigError) as raised:
        load(str(tmp_path / "gw.yaml"), TYPES)
    assert [str(each).partition("gw.yaml:")[2] for each in raised.value.problems] == [
        '7:36: routes[0].upstream.user_v2: unknown upstream "user_v2"; did you mean "users_v2"?',
        "8:15: routes[1].upstream: all shares are 0; expected at least one share above 0",
        (
            "9:32: routes[2].split: the route has only one upstream: there is no traffic to split; expected "
            "several upstreams with shares"
        ),
        '10:62: routes[3].split.by: "path" is not a valid key; expected ip, header:NAME, cookie:NAME or request',
        "10:79: routes[3].split.canaries[0]: no condition; expected `headers` or `cookies`",
        '11:67: routes[4].split.canaries[0].upstream: "users_v2" is not one of the route\'s upstreams; '
        'did you mean "users"?',
        '12:33: routes[5].upstream.users: "many"; expected a whole number from 0 to 1000000',
        "13:25: routes[6].upstream: an empty object; expected at least one, such as {users: 90, users_v2: 10}",
    ]
