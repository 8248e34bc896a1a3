"""oidc without a provider: sessions that are there already, settings that make no sense, and what is told of it all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from fastgw.filters.api import Consumer, Phase
from fastgw.filters.authentication.jwks import Keyring
from fastgw.filters.policies.oidc import Oidc, login_flow
from fastgw.filters.policies.oidc.cookie_encryption import Seal
from fastgw.filters.policies.oidc.cookies import own_name
from fastgw.filters.policies.oidc.login_flow import KnownLogin
from fastgw.filters.policies.oidc.provider import Tokens
from fastgw.filters.policies.oidc.refresh_coordinator import RefreshAnswer, RefreshRequest, SessionPlace
from fastgw.filters.policies.oidc.session import LoginAttempt, LoginSession, SealedSession, meaning_of
from fastgw.filters.policies.oidc.settings import (
    Login,
    Sessions,
    parse_cookie,
    parse_issuer,
    parse_local,
    parse_origin,
    parse_place,
)
from fastgw.jose import read_keys
from fastgw.net.client_certificate import ClientCertificate
from tests.support.memory import Plane, Wire, probe
from tests.support.secrecy import explained, reported
from tests.support.table import for_each
from tests.support.tokens import b64, key_set, signer
from tests.unit.filters.policies.test_certificate_auth import certificate
from tests.unit.filters.policies.test_jwt import consumer_probe

ISSUER = "https://idp.example"
SECRET = "planted-secret-of-sessions-0123456789"
LOGIN: Mapping[str, Any] = {
    "client_id": "web",
    "client_secret": "planted-secret-of-web",
    "session": {"secret": SECRET, "cookie": "session"},
}
CONSUMERS = [{"name": "alice-of-ours", "groups": ["admin"], "jwt": [{"issuer": ISSUER, "subject": "alice"}]}]
RS = signer("RS256", "one")
ACCESS = "planted-access-token"
ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")
MEANING = meaning_of(ISSUER, "web", "session", ("openid",), {}, ALGORITHMS)


def plane_of(login: Mapping[str, Any] = {}, probes: Any = (), **more: Any) -> Plane:
    settings = {"issuer": ISSUER, "login": {**LOGIN, **login}, **more}
    route = {"name": "all", "upstream": "u", "filters": {"oidc": settings}}
    return Plane({"routes": [route], "consumers": CONSUMERS}, probes=probes)


def cookie(claims: Mapping[str, Any] = {}, name: str = "session", meaning: bytes = b"", **more: Any) -> str:
    now = time.time()
    session = LoginSession(
        **{
            "id_token": RS.token({"iss": ISSUER, "aud": "web", **claims}),
            "begun_date": now,
            "used_date": now,
            "access_token": ACCESS,
            **more,
        }
    )
    sealed = SealedSession([SECRET], meaning or MEANING).seal_session(session)
    return f"Cookie: {name}=1~{sealed.decode()}"


def passed(plane: Plane, *lines: str) -> tuple[str, str]:
    """The heads that the upstream and the client get."""
    client = plane.client()
    client.sends("\r\n".join(["GET / HTTP/1.1", "Host: a", *lines, "", ""]).encode("latin-1"))
    assert not client.received, client.received
    upstream = plane.connects()
    head = upstream.received.decode()
    upstream.sends(b"HTTP/1.1 204 No Content\r\nConnection: close\r\nCache-Control: public\r\n\r\n")
    answer = client.received.decode()
    assert answer.startswith("HTTP/1.1 204 ")
    return head, answer


def refused(plane: Plane, *lines: str, status: int = 401) -> str:
    client = plane.client()
    client.sends("\r\n".join(["GET / HTTP/1.1", "Host: a", *lines, "", ""]).encode("latin-1"))
    answer = client.received.decode()
    assert answer.startswith(f"HTTP/1.1 {status} "), answer
    plane.assert_quiet()
    return answer


def test_a_session_says_who_it_is() -> None:
    seen: list[Any] = []
    plane = plane_of(
        {"pass_access_token": "Authorization"},
        [consumer_probe(seen)],
        claims_to_headers={"sub": "X-User", "a.b": "X-B"},
    )
    head, answer = passed(
        plane, cookie({"a": {"b": [1, "c"]}}), "X-User: root", "X_User: root", "Authorization: Basic a"
    )
    assert seen[-1][0] == Consumer("alice-of-ours", frozenset({"admin"}))
    assert seen[-1][1]["sub"] == "alice"
    assert head.count("root") == 0
    assert "\r\nX-User: alice\r\n" in head
    assert "\r\nX-B: 1,c\r\n" in head
    assert f"\r\nAuthorization: Bearer {ACCESS}\r\n" in head
    assert "Basic" not in head
    assert "ookie" not in head
    assert "Set-Cookie" not in answer
    assert "Cache-Control: public" in answer
    passed(plane, cookie({"sub": "carol"}))
    assert seen[-1][0] == Consumer("carol")


OURS = ("session=1~x", "session.1=x", "__Host-session=1~x", " session =x", "=session=1~x", "session.at.ab=x; Path=/")
OTHERS = ("theme=dark; Path=/", "Session=x", "sessions=x", "x=session=1", "other", "=other")


def test_a_service_cannot_set_the_cookies_of_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would put a session of another user into the browser. Its own cookies pass, in order."""
    keys = read_keys(key_set(RS), symmetric=False)
    monkeypatch.setattr("fastgw.filters.policies.oidc.filter.Keyring", lambda *_: Keyring(keys))
    plane = plane_of(bearer={"audiences": ["api"]})
    lines = "".join(f"Set-Cookie: {each}\r\n" for pair in zip(OURS, OTHERS, strict=True) for each in pair)
    for shown in (cookie(), f"Authorization: Bearer {RS.token({'iss': ISSUER}).decode()}"):
        client = plane.client()
        client.sends("\r\n".join(["GET / HTTP/1.1", "Host: a", shown, "", ""]).encode())
        plane.connects().sends(f"HTTP/1.1 204 No Content\r\nConnection: close\r\n{lines}\r\n".encode())
        given = [line for line in client.received.decode().split("\r\n") if line.startswith("Set-Cookie")]
        assert given == [f"Set-Cookie: {each}" for each in OTHERS]


def test_a_claim_that_cannot_stand_in_a_field_lets_nobody_in() -> None:
    plane = plane_of(claims_to_headers={"name": "X-Name"})
    passed(plane, cookie({"name": "Ann"}))
    for name in ("a\r\nX-Evil: 1", ["a,b"], "\0", " a"):
        refused(plane, cookie({"name": name}))


def test_an_integer_of_a_session_has_all_its_digits() -> None:
    head, _ = passed(plane_of(claims_to_headers={"n": "X-N"}), cookie({"n": 12345678901234567890123}))
    assert "X-N: 12345678901234567890123\r\n" in head


def test_a_session_has_a_lifetime_and_may_not_be_idle() -> None:
    plane = plane_of({"session": {**LOGIN["session"], "lifetime": "1h", "idle": "10m"}})
    now = time.time()
    passed(plane, cookie(begun_date=now - 3500))
    assert "lifetime" not in refused(plane, cookie(begun_date=now - 3601))
    passed(plane, cookie(used_date=now - 500))
    refused(plane, cookie(used_date=now - 601))


def test_the_cookie_of_a_session_that_is_used_is_written_anew_now_and_then() -> None:
    plane = plane_of()
    now = time.time()
    assert "Set-Cookie" not in passed(plane, cookie(used_date=now - 800))[1]
    _, answer = passed(plane, cookie(used_date=now - 1000))
    assert answer.count("\r\nSet-Cookie: session=1~") == 1
    assert "; Path=/; HttpOnly; SameSite=Lax\r\n" in answer
    assert answer.count("Cache-Control: no-store") == 1
    assert "public" not in answer


def test_an_access_token_that_cannot_be_refreshed_is_not_passed_on_for_ever() -> None:
    ended = {"got_date": time.time() - 60, "ends_date": time.time() - 1}
    refused(plane_of({"pass_access_token": "X-Token"}), cookie(**ended))
    passed(plane_of(), cookie(**ended))


def test_of_the_cookies_only_ours_is_taken_away() -> None:
    plane = plane_of()
    sealed = cookie()
    head, _ = passed(plane, f"{sealed}; sessions=1; session_=2; fastgw_oidc_00ff=3; a=4", "Cookie: session.at.x=5; b=6")
    assert "\r\nCookie: sessions=1; session_=2; a=4; b=6\r\n" in head
    assert head.count("ookie:") == 1


@pytest.mark.parametrize("name", ["session", None])
@pytest.mark.parametrize("ways", [["key_auth", "oidc"], ["oidc", "key_auth"]])
@pytest.mark.parametrize("line", ["X-Api-Key: k1", "X-Other: 1"])
def test_who_comes_in_another_way_sends_no_cookie_of_ours_to_the_upstream(
    name: str | None, ways: list[str], line: str
) -> None:
    """Nor that of an attempt to log in, by which somebody else might go on with it."""
    oidc = {"issuer": ISSUER, "login": {**LOGIN, "session": {"secret": SECRET, **({"cookie": name} if name else {})}}}
    any_of = [{way: oidc if way == "oidc" else {}} for way in ways]
    route = {"name": "all", "upstream": "u", "filters": {"auth": {"any_of": any_of, "anonymous": "guest"}}}
    plane = Plane({"routes": [route], "consumers": [{"name": "alice", "key_auth": [{"key": "k1"}]}]})
    own = name or own_name(_with(None, {}))
    for attempt in (f"{own}.at.Ab_-1234", f"__Host-{own}.at.x", f"{own}.at.x.1"):
        head, _ = passed(plane, line, f"Cookie: {attempt}=5; b=6; {own}s=7", f"Cookie: {attempt}=7")
        assert f"\r\nCookie: b=6; {own}s=7\r\n" in head
        assert head.count("ookie:") == 1


MEANINGS: Mapping[str, Mapping[str, Any]] = {
    "issuer": {"issuer": "https://other.example"},
    "client": {"client_id": "other"},
    "cookie": {"cookie": "other"},
    "scopes": {"scopes": ("openid", "email")},
    "parameters": {"parameters": {"acr_values": "mfa"}},
    "algorithms": {"algorithms": ("RS256",)},
}


@pytest.mark.parametrize("name", MEANINGS)
def test_what_one_policy_accepted_never_satisfies_another(name: str) -> None:
    """One secret may serve several policies: a login without a second factor opens nothing that asks for one."""
    own: dict[str, Any] = {
        "issuer": ISSUER,
        "client_id": "web",
        "cookie": "session",
        "scopes": ("openid",),
        "parameters": {},
        "algorithms": ALGORITHMS,
    }
    passed(plane_of(), cookie(meaning=meaning_of(**own)))
    refused(plane_of(), cookie(meaning=meaning_of(**{**own, **MEANINGS[name]})))


def test_a_policy_that_asks_for_more_takes_no_session_of_one_that_asks_for_less() -> None:
    more = {"parameters": {"acr_values": "mfa"}, "session": {"secret": SECRET, "cookie": "mfa"}}
    refused(plane_of(more), cookie(name="mfa"))
    refused(plane_of({**more, "session": LOGIN["session"]}), cookie())
    passed(plane_of(more), cookie(name="mfa", meaning=_with(cookie="mfa", parameters={"acr_values": "mfa"})))


def _with(cookie: str | None, parameters: Mapping[str, str]) -> bytes:
    return meaning_of(ISSUER, "web", cookie, ("openid",), parameters, ALGORITHMS)


def test_a_change_of_what_only_bounds_or_uses_a_session_ends_none() -> None:
    session = {**LOGIN["session"], "lifetime": "1h", "idle": "10m"}
    more = {"session": session, "scopes": ["openid"], "callback": "/back", "logout": None, "timeout": "1m"}
    plane = plane_of(more, algorithms=list(reversed(ALGORITHMS)), claims_to_headers={"sub": "X-Else"})
    passed(plane, cookie())


def test_where_the_cookie_has_no_name_that_of_each_policy_is_its_own() -> None:
    """Or on one host each login would end that of the other policy."""
    bare = {"session": {"secret": SECRET}}
    names = {own_name(_with(None, parameters)) for parameters in ({}, {"acr_values": "mfa"})}
    assert len(names) == 2
    for name in names:
        asks_mfa = name == own_name(_with(None, {"acr_values": "mfa"}))
        parameters = {"acr_values": "mfa"} if asks_mfa else {}
        sent = cookie(name=name, meaning=_with(None, parameters))
        passed(plane_of({**bare, "parameters": parameters}), sent)
        refused(plane_of({**bare, "parameters": {**parameters, "prompt": "login"}}), sent)


def test_an_access_token_that_is_bound_to_a_certificate_is_good_on_its_connections_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = read_keys(key_set(RS), symmetric=False)
    monkeypatch.setattr("fastgw.filters.policies.oidc.filter.Keyring", lambda *_: Keyring(keys))
    shown: list[ClientCertificate | None] = []
    tls = probe("tls", Phase.OBSERVE, request=lambda exchange: setattr(exchange.peer, "certificate", shown[-1]))
    settings = {"issuer": ISSUER, "bearer": {"audiences": ["api"]}}
    plane = Plane({"routes": [{"name": "r", "upstream": "u", "filters": {"oidc": settings}}]}, probes=[tls])
    bonds = {"x5t#S256": b64(b"\xab" * 32).decode()}, {"jkt": b64(b"\xab" * 32).decode()}
    own, other = (f"Authorization: Bearer {RS.token({'iss': ISSUER, 'cnf': bond}).decode()}" for bond in bonds)
    for each, good in [(None, 0), (certificate(fingerprint="ab" * 32), 1), (certificate(), 0), (None, 0)]:
        shown.append(each)
        if good:
            passed(plane, own)
        else:
            refused(plane, own)
        refused(plane, other)


def test_the_state_of_a_callback_is_masked_in_the_logs() -> None:
    plane = plane_of()
    client = plane.client()
    client.sends(b"GET /?state=planted-state&code=planted-code HTTP/1.1\r\nHost: a.test\r\n\r\n")
    assert client.received.startswith(b"HTTP/1.1 401 ")
    told = reported(plane.records, plane.gateway)
    assert "state=***" in told
    assert "planted" not in told


def test_a_session_that_is_there_twice_is_none() -> None:
    """Also in fields of their own, and also where both are good."""
    plane = plane_of()
    first, second = cookie(), cookie({"sub": "bob"})
    for lines in ((first, second), (first, first), (f"{first}; {second.removeprefix('Cookie: ')}",)):
        assert "credentials_invalid" in refused(plane, *lines)
    passed(plane, first, "Cookie: a=b")


@pytest.mark.parametrize("sealed", ["", "1~", "1~" + "A" * 20_000, "5~" + "A" * 3000, "\xff" * 50, '"1~AAAA"'])
def test_what_is_no_session_is_refused(sealed: str) -> None:
    assert "credentials_invalid" in refused(plane_of(), f"Cookie: session={sealed}")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"login": None}, "expected `bearer` or `login`"),
        ({"claims_to_headers": {"sub": "Host"}}, "`Host` cannot be set by a filter; expected another header"),
        ({"claims_to_headers": {"sub": "Cookie"}}, "`Cookie` cannot be set by a filter; expected another header"),
        (
            {"claims_to_headers": {"sub": "content_length"}},
            ("`content_length` cannot be set by a filter; expected another header"),
        ),
        ({"claims_to_headers": {"sub": "X-User", "name": "x_user"}}, "two values are sent in `x_user`"),
        ({"claims_to_headers": {"sub": "X_Real_IP"}}, "`X_Real_IP` cannot be set by a filter; expected another header"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any], told: str) -> None:
    login = Login(client_id="web", client_auth="none", session=Sessions(secret=None))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=told):
        Oidc(**{"issuer": ISSUER, "login": login, **wrong})


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"scopes": ("email",)}, "the scope `openid` is missing"),
        ({"parameters": {"state": "a"}}, "`state` is set by the gateway"),
        ({"client_auth": "basic"}, "`client_auth: basic` needs a `client_secret`"),
        ({"client_auth": "private_key_jwt"}, "needs a `client_key`"),
        ({"client_key": "/a"}, "cannot be used with a `client_key`"),
        ({"callback": "/a", "logout": "/a"}, "the same path"),
        ({"pass_access_token": "Host"}, "`Host` cannot carry a token; expected another header"),
    ],
)
def test_logins_that_make_no_sense_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Login(**{"client_id": "web", "client_auth": "none", "session": None, **wrong})


@for_each(
    ("parse", "text"),
    [
        *((parse_local, text) for text in ("", "a", "//a", "/a/../b", "/a?b", "/%61", "/a b", "/ä", "/.", "/a//../b")),
        *((parse_cookie, text) for text in ("", "__Host-a", "__Secure-a", "a.b", "a b", "a=b", "a;b", "ä", "a" * 65)),
        *(
            (parse_issuer, text)
            for text in ("", "idp.example", "http://idp.example", "https://idp.example?a", "https://")
        ),
        *((parse_place, text) for text in ("", "a", "//a", "http://a.example/", "javascript:1")),
        *((parse_origin, text) for text in ("", "a.example", "https://a.example/", "ftp://a.example", "https://a b")),
    ],
)
def test_values_that_could_mean_something_else_are_refused(parse: Callable[[str], str], text: str) -> None:
    with pytest.raises(ValueError, match=r" is n|a URL with a query"):
        parse(text)


@pytest.mark.parametrize("parse", [parse_issuer, parse_place, parse_origin])
def test_a_url_with_a_password_is_refused_and_not_shown(parse: Callable[[str], str]) -> None:
    for url in ("https://me:planted@idp.example", "http://planted@idp.example/a?b#c"):
        with pytest.raises(ValueError, match=r"^a URL that contains a user or password$"):
            parse(url)


def test_the_query_of_an_issuer_is_refused_and_not_shown() -> None:
    for url in ("https://idp.example?key=planted", "https://idp.example#planted"):
        with pytest.raises(ValueError, match=r"^a URL with a query or fragment$"):
            parse_issuer(url)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_local, "/oauth2/callback"),
        (parse_local, "/"),
        (parse_cookie, "session"),
        (parse_issuer, "https://idp.example/realms/a/"),
        (parse_issuer, "http://127.0.0.1:8080"),
        (parse_place, "/bye?a=b"),
        (parse_place, "https://www.example/"),
        (parse_origin, "https://app.example:8443"),
    ],
)
def test_others_stay_as_they_are(parse: Callable[[str], str], text: str) -> None:
    assert parse(text) == text


def test_explain_tells_who_passes_and_whom_it_would_ask() -> None:
    plane = plane_of({"pass_access_token": "X-Handed-On"})
    told = explained(plane.gateway, "http://a.test/", cookie())
    assert "oidc → would send X-Handed-On: ***; no Cookie (a session of alice-of-ours)" in told
    assert "oidc → would have to call https://idp.example" in explained(
        plane.gateway, "http://a.test/", "Accept: text/html"
    )
    assert "oidc → answers 401" in explained(plane.gateway, "http://a.test/")


def test_what_holds_secrets_does_not_show_them() -> None:
    held = [
        LoginSession(b"a.planted.c", 1.0, 2.0, "planted", "planted"),
        LoginAttempt("planted", "planted", "planted", b"/planted", "planted", 1.0),
        Tokens("planted", "planted", "planted", 60.0),
        SessionPlace("name", "planted"),
        RefreshRequest("planted", b"planted", "https://idp.example/token", [(b"A", b"planted")], b"planted"),
        RefreshAnswer(200, b"planted"),
        Seal(["planted" * 5], b"a", b"planted"),
        SealedSession(["planted" * 5], b"planted"),
    ]
    assert "planted" not in f"{held!r}"


def test_nothing_secret_is_told() -> None:
    plane = plane_of({"pass_access_token": "X-Handed-On"})
    shown = cookie()
    sealed = shown.partition("~")[2]
    told = explained(plane.gateway, "http://a.test/", shown)
    passed(plane, shown)
    refused(plane, shown[:-4])
    told += reported(plane.records, plane.gateway)
    told += repr(plane.gateway.config.routes) + repr(plane.gateway)
    for secret in (SECRET, LOGIN["client_secret"], ACCESS, sealed, sealed[:60]):
        assert secret not in told


CALLBACK = "/oauth2/callback?code=planted-code&state=planted-state"


def test_a_callback_without_its_login_is_redirected_where_a_session_is_valid_and_refused_elsewhere() -> None:
    """As with the back button of a browser, which has no use for an error."""
    plane, now = plane_of(), time.time()
    answer = logged_out(plane, cookie(), target=CALLBACK)
    assert answer.startswith("HTTP/1.1 303 ")
    assert "\r\nLocation: /\r\n" in answer
    assert "Set-Cookie" not in answer
    revoked = cookie({"sub": "bob"})
    logged_out(plane, revoked, *OWN_PAGES[0])
    twice = cookie().removeprefix("Cookie: ")
    for line in (
        "Accept: text/html",
        revoked,
        cookie(begun_date=now - 9 * 3600),
        cookie(used_date=now - 3601),
        cookie(meaning=_with("other", {})),
        f"Cookie: {twice}; {twice}",
    ):
        answer = logged_out(plane, line, target=CALLBACK)
        assert answer.startswith("HTTP/1.1 400 "), line
        assert "This login is unknown or has expired" in answer
    assert "planted" not in reported(plane.records, plane.gateway)


def logged_out(plane: Plane, *lines: str, target: str = "/oauth2/logout") -> str:
    """The answer to who asks to be logged out."""
    client = plane.client()
    client.sends("\r\n".join([f"GET {target} HTTP/1.1", "Host: a", *lines, "", ""]).encode("latin-1"))
    plane.assert_quiet()
    return client.received.decode()


OWN_PAGES = (
    ["Sec-Fetch-Site: same-origin"],
    ["Sec-Fetch-Site: none"],
    ["Sec-Fetch-Site: same-origin", "Referer: https://elsewhere.example/"],
    ["Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"],
    ["Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: cors", "Sec-Fetch-Dest: empty"],
    ["Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: same-origin", "Sec-Fetch-Dest: empty"],
    ["Origin: http://a"],
    ["Origin: http://a:80", "Referer: http://b/"],
    ["Referer: http://a/page?x=1"],
)
STRANGERS = (
    ["Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: no-cors"],
    ["Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image"],
    ["Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: empty"],
    ["Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: cors", "Sec-Fetch-Dest: script"],
    ["Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe"],
    ["Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document", "Sec-Purpose: prefetch"],
    ["Sec-Fetch-Site: none", "Sec-Purpose: prefetch;prerender"],
    ["Referer: http://a/page", "Sec-Fetch-Mode: no-cors"],
    ["Sec-Fetch-Site: cross-site"],
    ["Sec-Fetch-Site: same-site"],
    ["Sec-Fetch-Site: cross-site", "Origin: http://a", "Referer: http://a/"],
    ["Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: cross-site"],
    ["Origin: http://b"],
    ["Origin: null"],
    ["Origin: https://a"],
    ["Origin: http://a.b"],
    ["Origin: http://a@b"],
    ["Origin: http://a:81"],
    ["Origin: http://a:x"],
    ["Origin: http://a", "Origin: http://b"],
    ["Referer: http://b/http://a/"],
    ["Origin: http://b", "Referer: http://a/"],
    [],
)


@pytest.mark.parametrize("lines", OWN_PAGES)
def test_who_comes_from_a_page_of_the_same_origin_is_logged_out(lines: list[str]) -> None:
    plane, session = plane_of(), cookie()
    answer = logged_out(plane, session, *lines)
    assert answer.startswith("HTTP/1.1 303 ")
    assert "\r\nSet-Cookie: session=; " in answer
    refused(plane, session)


@pytest.mark.parametrize(
    ("target", "session"),
    [("/oauth2/logout", {}), ("/", {"refresh_token": "planted", "got_date": 1.0, "ends_date": 2.0})],
    ids=["logout", "refresh"],
)
def test_in_shadow_no_session_is_ended_or_refreshed(target: str, session: dict[str, Any]) -> None:
    """A refresh token can be redeemed only once, and a logout ends all copies of a session."""
    oidc = {"issuer": ISSUER, "login": LOGIN}
    routes = [
        {"name": "shadow", "hosts": ["b"], "upstream": "u", "filters": {"oidc": {**oidc, "shadow": True}}},
        {"name": "real", "upstream": "u", "filters": {"oidc": oidc}},
    ]
    plane, shown = Plane({"routes": routes, "consumers": CONSUMERS}), cookie(**session)
    client = plane.client()
    client.sends(f"GET {target} HTTP/1.1\r\nHost: b\r\nSec-Fetch-Site: none\r\n{shown}\r\n\r\n".encode())
    plane.connects().sends(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
    assert client.received.startswith(b"HTTP/1.1 204 ")
    (record,) = plane.records
    assert ("answer 303" in record.shadowed) is (target != "/")
    assert "unknown" not in record.shadowed, "it waits for the provider"
    if not session:
        passed(plane, shown)


@for_each("lines", STRANGERS)
def test_nobody_elses_page_logs_a_user_out_but_the_user_may_after_all(lines: list[str]) -> None:
    """Cookies of `SameSite=Lax` come with whatever a stranger's page leads to, so the user is asked."""
    plane, session = plane_of(), cookie()
    answer = logged_out(plane, session, *lines)
    assert answer.startswith("HTTP/1.1 403 ")
    assert "Set-Cookie" not in answer
    assert "frame-ancestors 'none'" in answer
    passed(plane, session)
    token = answer.partition('name="token" value="')[2].partition('"')[0]
    assert logged_out(plane, session, *lines, target=f"/oauth2/logout?token={token}").startswith("HTTP/1.1 303 ")
    refused(plane, session)


def test_a_token_to_log_out_is_good_for_its_session_alone() -> None:
    plane, mine, other = plane_of(), cookie(), cookie({"sub": "bob"})
    token = logged_out(plane, mine).partition('name="token" value="')[2].partition('"')[0]
    for target in (f"?token={token}", "?token=", "?token=x", f"?token={token}&token={token}"):
        assert logged_out(plane, other, target="/oauth2/logout" + target).startswith("HTTP/1.1 403 ")
    passed(plane, other)


def test_a_strangers_page_takes_no_cookie_from_who_is_logging_in() -> None:
    """Nor does it end the session of another host that the gateway is called by."""
    plane = plane_of()
    answer = logged_out(plane, "Cookie: session.x=1", "Sec-Fetch-Site: cross-site")
    assert answer.startswith("HTTP/1.1 303 ")
    assert "Set-Cookie" not in answer
    plane = plane_of({"public_url": "https://app.example"})
    session = cookie(name="__Host-session")
    assert logged_out(plane, session, "Origin: http://a").startswith("HTTP/1.1 403 ")
    assert logged_out(plane, session, "Origin: https://app.example").startswith("HTTP/1.1 303 ")


def test_a_firewall_lets_the_provider_name_itself_in_its_callback() -> None:
    """The firewall takes the URL of a private host for an attack anywhere else, and any other URL there."""
    issuer = "https://10.0.0.5/realms/x"
    route = {"name": "all", "upstream": "u", "filters": {"oidc": {"issuer": issuer, "login": LOGIN}}}
    plane = Plane({"routes": [route], "filters": {"waf": {}}})
    path, own = "/oauth2/callback", "iss=https%3A%2F%2F10.0.0.5%2Frealms%2Fx"
    for target, status in (
        (f"{path}?code=a&state=b&{own}", 400),  # no login of this browser
        (f"{path}?{own}&error=access_denied", 400),
        (f"{path}?code=a&state=b&{own}x", 403),
        (f"{path}?code=a&state=b&{own}&iss=https://10.0.0.6/", 403),
        (f"{path}?{own}&code=1'+or+1=1--", 403),
        (f"{path}?{own.replace('iss', 'url')}", 403),
        (f"/elsewhere?{own}", 403),
    ):
        client = plane.client()
        client.sends(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert client.received.startswith(b"HTTP/1.1 %d " % status), (target, client.received)
        assert (b"waf_blocked" in client.received) is (status == 403)


class SlowStore:
    """A store whose Redis does not answer."""

    def __init__(self) -> None:
        self.stored: list[asyncio.Future[bytes]] = []

    def open(self) -> None: ...
    def close(self) -> None: ...

    async def store(self, *_: Any) -> bytes:
        self.stored.append(asyncio.get_running_loop().create_future())
        return await self.stored[-1]


def test_a_refreshed_session_is_stored_by_one_request_however_long_that_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others pass meanwhile. The next one stores it if the client of the first has gone."""
    store, begin = SlowStore(), KnownLogin.__init__

    def begin_unstored(known: KnownLogin) -> None:
        begin(known)
        known.is_unstored = True

    monkeypatch.setattr(Oidc, "_store", lambda *_: store)
    monkeypatch.setattr(KnownLogin, "__init__", begin_unstored)
    monkeypatch.setattr(login_flow, "LONGEST", 0)  # of a cookie
    monkeypatch.setattr(login_flow, "AGAIN_S", 0.0)
    plane, line = plane_of(), cookie()

    def waits() -> Wire:
        client = plane.client()
        client.sends(f"GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n".encode())
        plane.settle()
        assert not client.received
        return client

    first = waits()
    passed(plane, line)
    assert len(store.stored) == 1
    first.resets()
    plane.settle()
    second = waits()
    assert len(store.stored) == 2
    passed(plane, line)
    assert len(store.stored) == 2
    second.resets()
    plane.settle()
