"""credentials: what an API is shown in place of what the client shows, and who else gets to see it: nobody."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from fastgw.errors import Fault
from fastgw.explain import as_text, explain
from fastgw.filters.policies.credentials import Credentials
from fastgw.filters.policies.headers import Headers
from fastgw.filters.policies.request_parameters import RequestParameters
from fastgw.gateway.compiler import compile
from fastgw.gateway.tables import CompileError
from fastgw.http.fields import Fields
from fastgw.testing import ConfigError, Fetched, Ran, configured, run
from fastgw.upstream.client.http_client import FetchFailed
from tests.support.certificates import Certificates
from tests.support.generations import load_document
from tests.support.memory import SERVICE, Plane
from tests.support.table import for_each

SECRET = "planted-8f1c"
IDP, API = "https://idp.example/token", "https://api.example/csrf"
OAUTH2 = {"token_url": IDP, "client_id": "app", "client_secret": SECRET}
CSRF = {"token_url": API}


def request(*lines: str, target: str = "/a") -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: a", *lines, "", ""]).encode()


def token_of(token: str = "token-1", **more: Any) -> Fetched:
    said = {"access_token": token, "token_type": "Bearer", "expires_in": 3600, **more}
    return Fetched(200, Fields([]), json.dumps(said).encode())


def csrf_of(token: bytes = b"csrf-1", *cookies: bytes) -> Fetched:
    fields = [(b"X-CSRF-Token", token), *((b"Set-Cookie", cookie) for cookie in cookies)]
    return Fetched(200, Fields(fields), b"")


ANSWERS: dict[str, Any] = {IDP: token_of(), API: csrf_of()}


def sent(
    settings: dict[str, Any], *lines: str, answers: dict[str, Any] = ANSWERS, **more: Any
) -> list[tuple[str, str]]:
    """The fields that the API gets, but for those of every request."""
    ran = run(configured(Credentials, **settings), request(*lines), answers=answers, **more)
    assert ran.passed, ran.why
    return fields_of(ran)


def fields_of(ran: Ran) -> list[tuple[str, str]]:
    fields = [(name.decode(), value.decode()) for name, value in ran.sent_fields]
    return [
        field for field in fields if not field[0].startswith(("Host", "Via", "Forwarded", "X-Forwarded-", "X-Real-"))
    ]


# what is shown, in place of what the client shows


def test_basic_is_a_username_and_a_password_in_utf_8() -> None:
    """RFC 7617 section 2."""
    basic = {"username": "shop", "password": "pässwört: 50%"}
    ((name, value),) = sent({"basic": basic}, "Authorization: Basic b3duOm93bg==")
    scheme, _, credentials = value.partition(" ")
    assert (name, scheme) == ("Authorization", "Basic")
    assert b64decode(credentials, validate=True).decode() == "shop:pässwört: 50%"


def test_a_token_that_does_not_change() -> None:
    assert sent({"bearer": SECRET}, "authorization: Bearer own", "X-A: 1", "AUTHORIZATION: Basic own") == [
        ("X-A", "1"),
        ("Authorization", f"Bearer {SECRET}"),
    ]


def test_secrets_in_fields_take_the_place_of_the_clients_and_of_their_twins() -> None:
    """To CGI and its heirs `X_Api_Key` is the same field; `Authorization` is none of ours, and passes."""
    shown = sent(
        {"headers": {"X-Api-Key": SECRET, "X-Scope": ["a", "b"]}},
        *("x-api-key: own", "X_Api_Key: own", "X.Scope: own", "X-Scopes: 1", "Authorization: Bearer own"),
    )
    assert shown == [
        ("X-Scopes", "1"),
        ("Authorization", "Bearer own"),
        ("X-Api-Key", SECRET),
        ("X-Scope", "a"),
        ("X-Scope", "b"),
    ]


@pytest.mark.parametrize("more", [{}, {"headers": {"X-Key": SECRET}}, {"access_token_header": "X-Own"}])
def test_the_clients_authorization_can_be_kept_from_the_api(more: dict[str, Any]) -> None:
    """An API that is shown a client certificate is shown nothing of the client's."""
    shown = dict(sent({"hide_authorization": True, **more}, "Authorization: Bearer own", "X-A: 1"))
    assert shown.pop("X-A") == "1"
    assert shown == dict.fromkeys(more.get("headers", ()), SECRET)


def test_a_fetched_token() -> None:
    asked: list[dict[str, list[str]]] = []

    def issue(url: Any, **question: Any) -> Fetched:
        asked.append(parse_qs(question["body"].decode()))
        return token_of()

    ran = run(configured(Credentials, oauth2=OAUTH2), request("Authorization: Bearer own"), answers={IDP: issue})
    assert fields_of(ran) == [("Authorization", "Bearer token-1")]
    assert ran.waited
    assert asked == [{"grant_type": ["client_credentials"]}]


def test_the_connection_of_a_client_cannot_name_ours_away() -> None:
    settings = {"headers": {"X-Api-Key": SECRET}}
    assert sent(settings, "Connection: X-Api-Key, Authorization", "X-Api-Key: own") == [("X-Api-Key", SECRET)]


# tokens against forged requests


@pytest.mark.parametrize(
    ("lines", "cookie"),
    [
        ((), "sid=7; b=8"),
        (("Cookie: theme=dark",), "theme=dark; sid=7; b=8"),
        (("Cookie: theme=dark; ;", "Cookie:"), "theme=dark; sid=7; b=8"),
        (("Cookie: sid=own; theme=dark; b=own",), "theme=dark; sid=7; b=8"),
        (("Cookie: sid=own",), "sid=7; b=8"),
        (
            ("Cookie: theme=dark; SID=other; sid = own;;", "X-A: 1", "cookie: lang=de"),
            "theme=dark; SID=other; lang=de; sid=7; b=8",
        ),
    ],
)
def test_the_apis_cookies_stand_beside_those_of_the_client_and_win(lines: tuple[str, ...], cookie: str) -> None:
    """RFC 6265: one line of pairs; names tell upper from lower case."""
    answers = {API: csrf_of(b"csrf-1", b"sid=7; Path=/; HttpOnly", b"b=8")}
    shown = sent({"csrf": CSRF}, "X-CSRF-Token: own", *lines, answers=answers)
    assert [value for name, value in shown if name.lower() == "cookie"] == [cookie]
    assert [value for name, value in shown if name.lower() == "x-csrf-token"] == ["csrf-1"]


def test_without_cookies_of_the_api_those_of_the_client_are_left_alone() -> None:
    shown = sent({"csrf": CSRF}, "Cookie: a=1", "cookie:  b=2")
    assert shown == [("Cookie", "a=1"), ("cookie", "b=2"), ("X-CSRF-Token", "csrf-1")]


@pytest.mark.parametrize(
    ("edits", "cookie"), [({"remove": ["Cookie"]}, "sid=7"), ({"set": {"Cookie": "a=1; sid=8"}}, "a=1; sid=7")]
)
def test_the_cookies_are_those_that_filters_have_left(edits: dict[str, Any], cookie: str) -> None:
    headers = configured(Headers, request=edits)
    answers = {API: csrf_of(b"csrf-1", b"sid=7")}
    ran = run([configured(Credentials, csrf=CSRF), headers], request("Cookie: session=own"), answers=answers)
    assert [value for name, value in fields_of(ran) if name == "Cookie"] == [cookie]


def test_both_are_had_with_the_same_credentials() -> None:
    seen: list[tuple[bytes, bytes]] = []

    def hand_out(url: Any, **question: Any) -> Fetched:
        seen.extend(question["fields"])
        return csrf_of()

    settings = {"oauth2": OAUTH2, "csrf": CSRF}
    shown = sent(settings, answers={IDP: token_of(), API: hand_out})
    assert shown == [("Authorization", "Bearer token-1"), ("X-CSRF-Token", "csrf-1")]
    assert (b"Authorization", b"Bearer token-1") in seen


def test_with_csrf_alone_what_the_client_shows_passes() -> None:
    assert sent({"csrf": CSRF}, "Authorization: Bearer own") == [
        ("Authorization", "Bearer own"),
        ("X-CSRF-Token", "csrf-1"),
    ]


# a token of the client's own

WAYS: dict[str, dict[str, Any]] = {
    "basic": {"basic": {"username": "shop", "password": SECRET}},
    "bearer": {"bearer": SECRET},
    "headers": {"headers": {"X-Api-Key": SECRET}},
    "oauth2": {"oauth2": OAUTH2},
    "csrf": {"csrf": CSRF},
    "nothing": {},
}


@for_each("way", WAYS)
@for_each("shown", ["Bearer own.of~the+client/==", "Basic b3duOm93bg==", "own", "a, b  c"])
def test_credentials_of_the_clients_own_replace_the_gateways_as_they_are(way: str, shown: str) -> None:
    """But for the token against forged requests, which goes with them."""

    def ask(url: Any, **question: Any) -> Fetched:
        raise AssertionError("a token is fetched that nobody needs")

    settings = {**WAYS[way], "access_token_header": "Access-Token"}
    ran = run(
        configured(Credentials, **settings),
        request(f"access-token: {shown}", "Authorization: Basic eA==", "X-CSRF-Token: a", "X-A: 1"),
        answers={IDP: ask, API: csrf_of()},
    )
    csrf = "csrf-1" if way == "csrf" else "a"
    expected = [("X-A", "1"), ("Authorization", shown), ("X-CSRF-Token", csrf)]
    assert sorted(fields_of(ran)) == sorted(expected)
    assert ran.waited is (way == "csrf")


def test_the_token_against_forged_requests_is_had_with_the_gateways_own_credentials() -> None:
    seen: list[tuple[bytes, bytes]] = []

    def hand_out(url: Any, **question: Any) -> Fetched:
        seen.extend(question["fields"])
        return csrf_of(b"csrf-1", b"sid=7")

    settings = {"oauth2": OAUTH2, "csrf": CSRF, "access_token_header": "Access-Token"}
    shown = sent(settings, "Access-Token: Bearer own", "Cookie: a=1", answers={IDP: token_of(), API: hand_out})
    assert shown == [("Authorization", "Bearer own"), ("X-CSRF-Token", "csrf-1"), ("Cookie", "a=1; sid=7")]
    assert (b"Authorization", b"Bearer token-1") in seen


@pytest.mark.parametrize("way", WAYS)
def test_an_empty_one_is_none(way: str) -> None:
    settings = {**WAYS[way], "access_token_header": "Access-Token"}
    assert sent(settings, "Access-Token: ", "X-A: 1") == sent(settings, "X-A: 1")


@pytest.mark.parametrize("way", WAYS)
def test_without_one_the_gateways_is_shown(way: str) -> None:
    settings = {**WAYS[way], "access_token_header": "Access-Token"}
    assert sent(settings, "X-A: 1") == sent(WAYS[way], "X-A: 1") if WAYS[way] else [("X-A", "1")]


@pytest.mark.parametrize("values", ["ab", ["", "b"], ["a", ""]])
def test_two_are_refused(values: Sequence[str]) -> None:
    lines = [f"Access-Token: {value}" for value in values]
    ran = run(configured(Credentials, oauth2=OAUTH2, access_token_header="Access-Token"), request(*lines))
    assert (ran.status, ran.passed, ran.fault) == (400, False, Fault.BAD_REQUEST.label)


# beside other filters


def test_what_other_filters_have_written_there_is_replaced() -> None:
    headers = configured(Headers, request={"set": {"Authorization": "Bearer of-headers", "X-B": "2"}})
    ran = run([configured(Credentials, bearer=SECRET), headers], request("Authorization: Bearer own"))
    assert fields_of(ran) == [("X-B", "2"), ("Authorization", f"Bearer {SECRET}")]


def test_parameters_do_not_take_their_place() -> None:
    parameters = configured(RequestParameters, headers={"authorization": "Bearer of-parameters", "X-Tenant": "t1"})
    ran = run([configured(Credentials, bearer=SECRET), parameters], request())
    assert fields_of(ran) == [("Authorization", f"Bearer {SECRET}"), ("X-Tenant", "t1")]


@pytest.mark.parametrize("hidden", [True, False])
def test_a_key_for_the_gateway_and_a_token_for_the_api(hidden: bool) -> None:
    key_auth = {"key_names": ["Authorization"], "hide_credentials": hidden}
    consumers = [{"name": "alice", "key_auth": [{"key": "key-of-alice"}]}]
    filters = {"key_auth": key_auth, "credentials": {"bearer": SECRET}}
    plane = Plane({"routes": [{"name": "all", "upstream": "u", "filters": filters}], "consumers": consumers})
    client = plane.client()
    client.sends(request("Authorization: key-of-alice"))
    received = plane.connects().received
    assert received.count(b"Authorization: ") == 1
    assert f"\r\nAuthorization: Bearer {SECRET}\r\n".encode() in received
    assert b"key-of-alice" not in received


def test_a_head_that_nobody_has_changed_keeps_its_bytes() -> None:
    ran = run(configured(Credentials, bearer=SECRET), request("X-a:1", "x-B:   2  ", "Authorization:own", "X-C:3"))
    assert b"\r\nX-a:1\r\nx-B:   2  \r\nX-C:3\r\n" in ran.sent
    assert b"own" not in ran.sent


# what cannot be had


@for_each(
    ("answer", "fault"),
    [
        (FetchFailed(Fault.CONNECT_REFUSED, "refused"), Fault.TOKEN_UNAVAILABLE),
        (FetchFailed(Fault.UPSTREAM_TIMEOUT, "late"), Fault.TOKEN_TIMEOUT),
        (Fetched(500, Fields([]), SECRET.encode()), Fault.TOKEN_UNAVAILABLE),
        (
            Fetched(401, Fields([]), b'{"error": "invalid_client", "error_description": "planted-8f1c"}'),
            Fault.TOKEN_REFUSED,
        ),
        (Fetched(200, Fields([]), b"planted-8f1c"), Fault.TOKEN_UNAVAILABLE),
        (FetchFailed(Fault.UPSTREAM_MALFORMED, "malformed"), Fault.TOKEN_UNAVAILABLE),
    ],
)
@for_each("asked", [IDP, API])
def test_without_a_token_nothing_is_sent(asked: str, answer: Any, fault: Fault) -> None:
    settings = configured(Credentials, oauth2=OAUTH2, csrf=CSRF)
    ran = run(settings, request(), answers={**ANSWERS, asked: answer})
    assert (ran.passed, ran.fault) == (False, fault.label)
    assert ran.status == fault.status
    assert (b"Retry-After" in ran.fields) is (fault is Fault.TOKEN_UNAVAILABLE)
    assert SECRET.encode() not in ran.received
    assert SECRET not in f"{ran.why} {ran.exchange!r}"


# for people


def explained(tmp_path: Path, settings: dict[str, Any], *fields: str) -> str:
    configuration = load_document({**SERVICE, "filters": {"credentials": settings}})
    return as_text(explain(compile(configuration, 1), "GET", "http://a/x", fields))


@pytest.mark.parametrize("way", ["basic", "bearer", "headers"])
def test_explain_shows_that_it_is_there(tmp_path: Path, way: str) -> None:
    told = explained(tmp_path, WAYS[way], "Authorization: Bearer own-secret")
    name = "X-Api-Key" if way == "headers" else "Authorization"
    assert f"credentials → would send {name}: ***" in told
    assert told.count(f"{name}: ***") == 2  # and in what is sent
    assert SECRET not in told
    assert "own-secret" not in told


def test_explain_fetches_nothing_and_says_whom_it_would_ask(tmp_path: Path) -> None:
    settings = {"oauth2": {**OAUTH2, "token_url": f"{IDP}?key={SECRET}"}, "csrf": CSRF}
    told = explained(tmp_path, settings)
    whom = f"{IDP} to get a token and {API} to get a CSRF token"
    assert f"credentials → would have to call {whom}, which explain does not do" in told
    assert "provided  credentials lets it pass" in told
    assert "Authorization: *** · X-CSRF-Token: ***" in told
    assert SECRET not in told


def test_explain_shows_the_clients_own(tmp_path: Path) -> None:
    told = explained(tmp_path, {"oauth2": OAUTH2, "access_token_header": "X-Mine"}, "X-Mine: own-secret")
    assert "would send no X-Mine; Authorization: ***" in told
    assert "own-secret" not in told


@pytest.mark.parametrize("way", ["bearer", "oauth2"])
def test_in_shadow_nothing_is_shown_and_nothing_fetched(way: str) -> None:
    def ask(url: Any, **question: Any) -> Fetched:
        raise AssertionError("fetched")

    filters = {"credentials": configured(Credentials, **WAYS[way])}
    ran = run(filters, request("Authorization: Bearer own"), shadow=True, answers={IDP: ask})
    assert fields_of(ran) == [("Authorization", "Bearer own")]
    assert ran.shadowed == "credentials: change request Authorization"
    assert not ran.waited


# settings


@for_each(
    ("settings", "wrong"),
    [
        ({}, "no credentials; expected `basic`, `bearer`, `headers`, `oauth2` or `csrf`"),
        ({"bearer": "a", "oauth2": OAUTH2}, "`bearer`, `oauth2` together; expected one of them"),
        ({"headers": {"Host": "a"}}, "`Host` is a connection header, which is set by the gateway"),
        (
            {"headers": {"Cookie": "a=1"}, "csrf": CSRF},
            ("`csrf` sets X-CSRF-Token and Cookie; expected `headers` without them"),
        ),
        (
            {"bearer": "a", "access_token_header": "authorization"},
            ("`authorization` is set by this filter; expected another header"),
        ),
        (
            {"headers": {"X_Key": "a"}, "access_token_header": "X-Key"},
            ("`X-Key` is set by this filter; expected another header"),
        ),
        ({"oauth2": {**OAUTH2, "token_url": "http://idp/", "tls": {"verify": False}}}, "the URL is not https"),
        ({"csrf": {"token_url": "http://api/", "tls": {"verify": False}}}, "the URL is not https"),
        ({"oauth2": {"token_url": IDP, "client_id": "app"}}, "no `client_secret`"),
        ({"oauth2": {**OAUTH2, "client_auth": "none"}}, "`client_secret` has no effect with `client_auth: "),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        configured(Credentials, **settings)


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        (lambda secret: {"bearer": secret}, "the `bearer` token has an invalid character"),
        (lambda secret: {"headers": {"X-Api-Key": secret}}, "the secret for X-Api-Key is not a single line"),
        (lambda secret: {"basic": {"username": "shop", "password": secret}}, "a control character"),
        (lambda secret: {"basic": {"username": {"env": "WITH_COLON"}, "password": "a"}}, "has a colon"),
        (lambda secret: {"oauth2": {**OAUTH2, "client_secret": {"env": "NOT_THERE"}}}, "NOT_THERE is not set"),
        (lambda secret: {"csrf": CSRF, "bearer": {"env": "NOT_THERE"}}, "NOT_THERE is not set"),
    ],
)
def test_a_secret_that_cannot_be_shown_is_refused_when_the_file_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Callable[[Any], dict[str, Any]], wrong: str
) -> None:
    """And nothing of it is told."""
    (tmp_path / "secret").write_text(f"{SECRET}\nX-Role: admin\n")
    monkeypatch.setenv("WITH_COLON", f"{SECRET}:b")
    filters = {"credentials": settings({"file": str(tmp_path / "secret")})}
    with pytest.raises((CompileError, ConfigError), match=wrong) as caught:
        compile(load_document({**SERVICE, "filters": filters}), 1)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        lambda tls: {"oauth2": {**OAUTH2, "token_url": "https://idp/", "tls": tls}},
        lambda tls: {"bearer": "t", "csrf": {"token_url": "https://api/", "tls": tls}},
    ],
    ids=["oauth2", "csrf"],
)
def test_a_key_of_another_certificate_is_told_when_the_file_is_checked(
    tmp_path: Path, settings: Callable[[Any], dict[str, Any]]
) -> None:
    ours = Certificates(tmp_path)
    tls = {"certificate": ours.issue("one")[0], "key": ours.issue("two")[1]}
    document = load_document({**SERVICE, "filters": {"credentials": settings(tls)}})
    with pytest.raises(CompileError, match=r"two\.key: the private key does not match the certificate"):
        compile(document, 1)
