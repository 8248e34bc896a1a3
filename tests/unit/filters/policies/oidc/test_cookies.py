"""What a browser keeps for `oidc`: sealed texts, cookies that are split, places that it may be sent back to."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.filters.policies.oidc.cookie_encryption import Seal
from fastgw.filters.policies.oidc.cookies import LONGEST, MOST_PIECES, AmbiguousCookie, Jar, clear, set_cookies
from fastgw.filters.policies.oidc.session import LoginAttempt, LoginSession, SealedSession
from fastgw.filters.policies.oidc.urls import LONGEST_RETURN, is_safe, local, parameters_of, with_query
from tests.support.table import for_each

SECRET, OLD = "s" * 32, "o" * 32
SET = re.compile(rb"([^=]+)=([^;]*)(; .*)?")


def sealed(secrets: list[str] | None = None, purpose: bytes = b"session", policy: bytes = b"p") -> Seal:
    return Seal(secrets or [SECRET], purpose, policy)


def test_what_is_sealed_opens_again_and_shows_nothing() -> None:
    seal = sealed()
    text = seal.seal(b"a secret text")
    assert seal.open(text) == b"a secret text"
    assert b"secret" not in text
    assert seal.seal(b"a secret text") != text


@pytest.mark.parametrize(
    "other", [sealed(purpose=b"attempt"), sealed(policy=b"q"), sealed([OLD])], ids=["purpose", "policy", "secret"]
)
def test_what_was_sealed_for_another_purpose_policy_or_secret_does_not_open(other: Seal) -> None:
    assert other.open(sealed().seal(b"text")) is None


def test_a_former_secret_still_opens_and_the_first_one_seals() -> None:
    both = sealed([SECRET, OLD])
    assert both.open(sealed([OLD]).seal(b"text")) == b"text"
    assert sealed([SECRET]).open(both.seal(b"text")) == b"text"


def test_no_bit_of_a_sealed_text_can_be_changed() -> None:
    seal = sealed()
    text = seal.seal(b"text")
    for at in range(len(text)):
        for other in b"Aa0-_~ ":
            if text[at] != other:
                assert seal.open(text[:at] + bytes([other]) + text[at + 1 :]) is None
    for cut in range(len(text)):
        assert seal.open(text[:cut]) is None


@given(st.binary(max_size=200))
def test_anything_else_does_not_open(text: bytes) -> None:
    assert sealed().open(text) is None


def test_a_short_secret_is_refused_and_not_shown() -> None:
    with pytest.raises(ValueError, match="31 characters; expected at least 32") as raised:
        sealed(["x" * 31])
    assert "xxx" not in str(raised.value)


def test_an_attempt_is_no_session() -> None:
    """Either is a key to its own door only."""
    both = SealedSession([SECRET], b"p")
    attempt = LoginAttempt.new_attempt(b"/", "https://app.test/callback")
    assert both.attempt(both.seal_attempt(attempt)) == attempt
    assert both.session(both.seal_attempt(attempt)) is None
    session = LoginSession(b"a.b.c", 1.0, 2.0)
    assert both.session(both.seal_session(session)) == session
    assert both.attempt(both.seal_session(session)) is None


def test_pkce_is_as_in_the_example_of_rfc_7636() -> None:
    attempt = LoginAttempt("", "", "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", b"/", "", 0.0)
    assert attempt.challenge == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


def test_a_session_is_refreshed_before_its_access_token_ends() -> None:
    assert LoginSession(b"", 0.0, 0.0, "a", "r", 1000.0, 1100.0).due_date == 1080.0
    assert LoginSession(b"", 0.0, 0.0, "a", "r", 1000.0, 4600.0).due_date == 4540.0
    assert LoginSession(b"", 0.0, 0.0, "a", "", 1000.0, 1100.0).due_date == 0.0
    assert LoginSession(b"", 0.0, 0.0, "a", "r", 1000.0, 0.0).due_date == 0.0


# cookies

is_ours = re.compile(rb"s(\..*)?").fullmatch


def kept(lines: list[bytes], there: dict[bytes, bytes] | None = None) -> dict[bytes, bytes]:
    """What a browser has after these lines."""
    has = dict(there or {})
    for line in lines:
        match = SET.fullmatch(line)
        assert match is not None
        name, value, attributes = match.groups()
        assert len(name + value) <= 4000
        if b"Max-Age=0" in attributes:
            has.pop(name, None)
        else:
            has[name] = value
    return has


def sent(has: dict[bytes, bytes]) -> list[bytes]:
    return [b"; ".join(b"%b=%b" % pair for pair in has.items())]


@given(st.integers(1, LONGEST), st.integers(1, LONGEST))
def test_a_value_comes_back_whole_also_after_a_longer_one(first: int, second: int) -> None:
    has = kept(set_cookies(b"s", b"a" * first, b"; Path=/", {}))
    assert Jar(sent(has), is_ours).value(b"s") == b"a" * first
    has = kept(set_cookies(b"s", b"b" * second, b"; Path=/", Jar(sent(has), is_ours).ours), has)
    assert Jar(sent(has), is_ours).value(b"s") == b"b" * second
    assert len(has) == -(-second // 3600)
    assert kept(clear(b"s", b"; Path=/", has), has) == {}


def test_a_value_that_is_too_long_is_not_set() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        set_cookies(b"s", b"a" * (LONGEST + 1), b"", {})


def test_the_upstream_gets_the_other_cookies_as_they_are() -> None:
    jar = Jar([b"a=1; s=1~x;  b=2;c", b's.1=y; d="q=1"'], is_ours)
    assert jar.others == b'a=1; b=2; c; d="q=1"'
    assert jar.ours == {b"s": b"1~x", b"s.1": b"y"}


@pytest.mark.parametrize(
    "line", [b"s=1~a; s=1~b", b"s=2~a; s.1=b; s.1=b", b"s=1~a; other=1; s=1~a"], ids=["two", "piece", "alike"]
)
def test_a_cookie_that_is_there_twice_is_not_read(line: bytes) -> None:
    with pytest.raises(AmbiguousCookie):
        Jar([line], is_ours).value(b"s")


@for_each(
    "line",
    [
        b"",
        b"s",
        b"s=",
        b"s=a",
        b"s=0~a",
        b"s=9~a",
        b"s=%d~a" % (MOST_PIECES + 1),
        b"s=2~a",
        b"s=-1~a",
        b"s=12~a",
        b"s= 1~a",
    ],
)
def test_what_is_not_whole_is_nothing(line: bytes) -> None:
    assert Jar([line], is_ours).value(b"s") is None


@given(st.lists(st.binary(max_size=60) | st.sampled_from([b"s=1~a", b"s=2~a;s.1=b", b"; ;s", b"=;=s=1~"]), max_size=5))
def test_cookies_of_any_form_are_read_or_not_and_none_of_ours_goes_on(lines: list[bytes]) -> None:
    jar = Jar(lines, is_ours)
    with contextlib.suppress(AmbiguousCookie):
        jar.value(b"s")
    assert Jar([jar.others], is_ours).ours == {}
    assert Jar([jar.others], is_ours).others == jar.others


# where a browser is sent


@for_each(
    "place",
    [
        b"//evil.test",
        b"//evil.test/a",
        b"/\\evil.test",
        b"/\t/evil.test",
        b"/a\r\nSet-Cookie: a=b",
        b"https://evil.test/",
        b"javascript:alert(1)",
        b"evil.test",
        b"",
        b"\\/evil.test",
        b" /a",
        b"/a b",
        b"/\xc3\xa4",
        b"/" + b"a" * LONGEST_RETURN,
    ],
)
def test_nobody_is_sent_to_another_origin(place: bytes) -> None:
    assert local(place) == b"/"


@pytest.mark.parametrize(
    "place", [b"/", b"/a", b"/a//b", b"/a?b=c&d=//evil.test", b"/%2F/evil.test", b"/?u=https://e.test"]
)
def test_a_path_of_the_same_origin_is_returned_to(place: bytes) -> None:
    assert local(place) == place


@pytest.mark.parametrize("url", ["https://i.test/a?b=c", "http://127.0.0.1:80/", "http://[::1]/", "http://localhost/a"])
def test_https_and_this_machine_are_safe(url: str) -> None:
    assert is_safe(url)


@for_each(
    "url",
    [
        "http://i.test/",
        "http://127.0.0.1.evil.test/",
        "http://localhost@evil.test/",
        "https://u:p@i.test/",
        "https:///a",
        "https://i.test/#a",
        "https://i.test/\r\nA: b",
        "ftp://i.test/",
        "javascript:alert(1)",
        "https://[::1",
        "",
    ],
)
def test_everything_else_is_not(url: str) -> None:
    assert not is_safe(url)


def test_parameters_stand_behind_those_that_a_url_has() -> None:
    assert with_query("https://i.test/a", {"b": "c d"}) == "https://i.test/a?b=c+d"
    assert with_query("https://i.test/a?x=y", {"b": "ä&"}) == "https://i.test/a?x=y&b=%C3%A4%26"


def test_parameters_that_are_repeated_or_cannot_be_read_are_none() -> None:
    assert parameters_of(b"code=a&state=b&x=1&x=2", ("code", "state")) == {"code": "a", "state": "b"}
    assert parameters_of(None, ("code",)) == {}
    for query in (b"code=a&code=b", b"code=%ff", b"code=\xff", b"a=1&" * 51 + b"code=1"):
        assert parameters_of(query, ("code",)) is None
