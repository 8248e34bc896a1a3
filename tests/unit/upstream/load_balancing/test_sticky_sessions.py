"""The cookie by which a client stays with its target."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.config.settings import gateway as settings
from fastgw.forwarded_headers import Peer
from fastgw.upstream.load_balancing.round_robin import RoundRobin
from fastgw.upstream.load_balancing.sticky_sessions import Cookies, StickySessions
from fastgw.upstream.targets.target import Target
from tests.unit.upstream.load_balancing.test_balancers import asked, members

KEY = b"a key of some length"
GROUP = members(1, 1, 1)
TARGETS = [member.target for member in GROUP]
NOW = SimpleNamespace(date=1_800_000_000.0)


def cookies(key: bytes = KEY, upstream: str = "users", **more: Any) -> Cookies:
    return Cookies(settings.Sticky(cookie="lb", **more), upstream, key, lambda: NOW.date)


def value_of(line: bytes) -> str:
    return line.decode().removeprefix("Set-Cookie: lb=").partition(";")[0]


def sent(value: str) -> Any:
    return asked(fields=f"Cookie: lb={value}\r\n")


def sticky(made: Cookies, targets: list[Target] = TARGETS) -> StickySessions:
    return StickySessions(RoundRobin([member for member in GROUP if member.target in targets]), made, targets)


def test_each_cookie_leads_to_its_target():
    made = cookies()
    balance = sticky(made)
    for target in TARGETS:
        value = value_of(made.line(target, False))
        assert len(value) == 40
        assert {balance.pick(sent(value)) for _ in range(5)} == {target}


def test_without_one_a_request_goes_in_turn():
    balance = sticky(cookies())
    assert [balance.pick(asked()) for _ in range(3)] == TARGETS


def test_what_is_tried_again_goes_elsewhere():
    made = cookies()
    value = value_of(made.line(TARGETS[0], False))
    assert sticky(made).pick(sent(value), (TARGETS[0],)) in TARGETS[1:]


def test_one_whose_target_is_not_there_counts_no_more():
    made = cookies()
    value = value_of(made.line(TARGETS[0], False))
    left = sticky(made, TARGETS[1:])
    assert left.pick(sent(value)) in TARGETS[1:]


@pytest.mark.parametrize("other", [cookies(b"another key of a node"), cookies(upstream="orders")])
def test_others_keys_and_upstreams_mean_nothing_here(other: Cookies) -> None:
    balance = sticky(cookies())
    assert [balance.pick(sent(value_of(other.line(TARGETS[2], False)))) for _ in range(3)] == TARGETS


def test_nodes_with_the_same_key_agree():
    assert sticky(cookies()).pick(sent(value_of(cookies().line(TARGETS[1], False)))) is TARGETS[1]


def test_it_ends_when_it_is_due_and_not_when_the_client_says_so():
    made = cookies(ttl=60.0)
    line = made.line(TARGETS[0], False)
    assert b"; Max-Age=60" in line
    value = value_of(line)
    try:
        NOW.date += 59
        assert sticky(made).pick(sent(value)) is TARGETS[0]
        NOW.date += 2
        assert sticky(made).named(sent(value).head) is None
    finally:
        NOW.date = 1_800_000_000.0


@given(st.integers(0, 39), st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"))
def test_a_changed_character_makes_it_worthless(place: int, character: str) -> None:
    made = cookies()
    value = value_of(made.line(TARGETS[0], False))
    changed = value[:place] + character + value[place + 1 :]
    assert sticky(made).named(sent(changed).head) is (TARGETS[0] if changed == value else None)


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=";,"), max_size=60))
def test_nothing_that_is_made_up_leads_anywhere(value: str) -> None:
    assert sticky(cookies()).named(sent(value).head) is None


def test_two_that_differ_are_none():
    made = cookies()
    one, other = (value_of(made.line(target, False)) for target in TARGETS[:2])
    assert sticky(made).named(asked(fields=f"Cookie: lb={one}; lb={other}\r\n").head) is None


def test_it_tells_nothing_of_the_target():
    """Nor whether two upstreams share one: the digest is keyed by the upstream too."""
    assert cookies().name_of(TARGETS[0]) != cookies(upstream="orders").name_of(TARGETS[0])
    assert cookies().name_of(TARGETS[0]) != cookies(b"another key of a node").name_of(TARGETS[0])


@pytest.mark.parametrize(
    ("more", "https", "attributes"),
    [
        ({}, False, "; Path=/; HttpOnly; SameSite=Lax"),
        ({}, True, "; Path=/; HttpOnly; SameSite=Lax; Secure"),
        ({"secure": True}, False, "; Path=/; HttpOnly; SameSite=Lax; Secure"),
        ({"secure": False}, True, "; Path=/; HttpOnly; SameSite=Lax"),
        ({"path": "/shop", "same_site": "strict"}, False, "; Path=/shop; HttpOnly; SameSite=Strict"),
        ({"same_site": "none", "secure": True}, False, "; Path=/; HttpOnly; SameSite=None; Secure"),
        ({"ttl": 3600.0}, False, "; Path=/; HttpOnly; SameSite=Lax; Max-Age=3600"),
    ],
)
def test_its_attributes(more: dict[str, Any], https: bool, attributes: str) -> None:
    line = cookies(**more).line(TARGETS[0], https).decode()
    assert line.endswith("\r\n")
    assert line.removesuffix("\r\n")[len("Set-Cookie: lb=") + 40 :] == attributes


def test_none_is_set_where_the_client_has_it():
    made = cookies()
    value = value_of(made.line(TARGETS[0], False))
    peer = Peer("192.0.2.1", 1, 80, False)
    assert made.line_for(sent(value).head, peer, TARGETS[0]) == b""
    assert made.line_for(sent(value).head, peer, TARGETS[1]).startswith(b"Set-Cookie: lb=")
    assert made.line_for(asked().head, peer, TARGETS[0]).startswith(b"Set-Cookie: lb=")
