"""Logins at a real OpenID provider, by a browser without a screen: the way there and back, and what comes on it."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest

from fastgw.filters.policies.oidc.login_flow import MOST_ATTEMPT_BYTES, MOST_ATTEMPTS
from tests.e2e.programs import Uvicorn
from tests.support.gateway import Gateway, wait_until
from tests.support.provider import Provider
from tests.support.visitor import Answer, Visitor

SESSION_SECRET = "planted-secret-of-sessions-0123456789"
CLIENT_SECRET = "planted-secret-of-the-client"
SCRIPT = {"Accept": "application/json"}
LISTENERS = ("main", "passing", "secure", "other", "any", "open")
KEY = "planted-key-of-carol"


async def upstream(scope: Any, receive: Any, send: Any) -> None:
    """Tells what it got."""
    told = {
        "path": scope["raw_path"].decode(),
        "query": scope["query_string"].decode(),
        "fields": [(name.decode(), value.decode()) for name, value in scope["headers"]],
    }
    body = json.dumps(told).encode()
    fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    fields += [(b"cache-control", b"public, max-age=3600")]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": body})


class World(NamedTuple):
    provider: Provider
    gateway: Gateway
    secrets: Path
    """Files that the policy of the listener `other` has its secrets in: `first` and `former`."""

    def url(self, listener: str = "main") -> str:
        return self.gateway.url(listener)

    @property
    def host(self) -> str:
        return self.gateway.address()

    def logged_in(self, user: str = "ann", listener: str = "main") -> Visitor:
        visitor = Visitor()
        assert visitor.follow(self.url(listener), user).status == 200
        return visitor

    def begun(self, visitor: Visitor, path: str = "/") -> str:
        """A login that is complete but for the last step: the URL of the callback."""
        return visitor.follow(self.url() + path, "ann", until=self.url()).location


def login(client_id: str = "web", **more: Any) -> dict[str, Any]:
    return {"client_id": client_id, "client_secret": CLIENT_SECRET, "session": {"secret": SESSION_SECRET}, **more}


def configuration(provider: Provider, service: str, secrets: Path) -> dict[str, Any]:
    for name in ("first", "former"):
        (secrets / name).write_text(f"{SESSION_SECRET} {name}")
    session = {
        "secret": {"file": str(secrets / "first")},
        "former_secrets": [{"file": str(secrets / "former")}],
        "idle": None,
    }
    policies = {
        "main": login(),
        "passing": login(
            pass_access_token="X-Access-Token", scopes=["openid", "profile", "email", "read"], login="/in"
        ),
        "secure": login(),
        "other": login("another", session=session),
    }
    claims = {"sub": "X-User", "groups": "X-Groups", "absent": "X-Absent"}
    oidc = {
        name: {"issuer": provider.issuer, "login": each, "claims_to_headers": claims} for name, each in policies.items()
    }
    filters = {name: {"oidc": each} for name, each in oidc.items()}
    filters["any"] = {"auth": {"any_of": [{"key_auth": {}}, {"oidc": oidc["passing"]}]}}
    filters["open"] = {
        "auth": {"any_of": [{"oidc": oidc["passing"]}], "anonymous": "guest"},
        "headers": {"request": {"set": {"X-Who": "{consumer.name}"}}},
    }
    return {
        "workers": 2,
        "consumers": [{"name": "carol", "key_auth": [{"key": KEY}]}],
        "listeners": {
            name: {"address": "127.0.0.1:0", "trusted_proxies": ["127.0.0.1"] if name == "secure" else []}
            for name in LISTENERS
        },
        "routes": [
            {"name": name, "listeners": [name], "upstream": service, "filters": each} for name, each in filters.items()
        ],
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    lifetimes, secrets = {"AccessToken": 2}, tmp_path_factory.mktemp("secrets")
    with (
        Uvicorn(upstream) as service,
        Provider(tmp_path_factory.mktemp("provider"), lifetimes) as provider,
        Gateway(configuration(provider, service.url, secrets), tmp_path_factory.mktemp("gateway")) as gateway,
    ):
        for client_id in ("web", "another"):
            provider.add_client(
                client_id,
                client_secret=CLIENT_SECRET,
                grant_types=["authorization_code", "refresh_token"],
                redirect_uris=[
                    *(f"{gateway.url(name)}/oauth2/callback" for name in LISTENERS),
                    "https://app.test/oauth2/callback",
                ],
                post_logout_redirect_uris=[f"{gateway.url(name)}/" for name in LISTENERS],
            )
        yield World(provider, gateway, secrets)


def fields(answer: Answer, name: str) -> list[str]:
    """What the upstream got by this name."""
    return [value for known, value in answer.told["fields"] if known == name]


# the way there and back


def test_a_browser_logs_in_and_comes_back_to_where_it_wanted_to_go(world: World) -> None:
    visitor = Visitor()
    sent = visitor.ask(world.url() + "/a?b=c")
    assert sent.status == 302
    assert sent.fields["Cache-Control"] == "no-store"
    asked = {name: value for name, [value] in parse_qs(urlsplit(sent.location).query).items()}
    assert asked["code_challenge_method"] == "S256"
    assert asked["redirect_uri"] == world.url() + "/oauth2/callback"
    assert len(asked["state"]) == len(asked["nonce"]) == len(asked["code_challenge"]) == 43
    arrived = visitor.follow(world.url() + "/a?b=c", "ann")
    assert (arrived.status, arrived.told["path"], arrived.told["query"]) == (200, "/a", "b=c")
    assert arrived.url == world.url() + "/a?b=c"
    assert fields(arrived, "x-user") == ["ann"]
    assert len(visitor.cookies[world.host]) == 2  # the session, and the attempt that was given up


def test_the_upstream_sees_neither_the_session_nor_what_the_client_says_of_itself(world: World) -> None:
    visitor = world.logged_in()
    visitor.cookies[world.host] |= {"theme": "dark", "last": "one"}
    answer = visitor.ask(world.url(), X_User="root", X_Absent="here", **SCRIPT)
    assert fields(answer, "cookie") == ["theme=dark; last=one"]
    assert fields(answer, "x-user") == ["ann"]
    assert fields(answer, "x-absent") == []
    assert fields(visitor.ask(world.url(), X_User="root", X_user="root"), "x-user") == ["ann"]


def test_a_session_counts_on_every_worker(world: World) -> None:
    """Connections are spread over two workers, and nothing but the cookie is shared."""
    visitor = world.logged_in()
    assert {visitor.ask(world.url(), **SCRIPT).status for _ in range(20)} == {200}


def test_cookies_are_closed_to_scripts_and_to_other_sites(world: World) -> None:
    visitor = Visitor()
    answers = [visitor.ask(world.url()), visitor.ask(world.begun(visitor))]
    for answer in answers:
        for line in answer.cookies:
            assert line.endswith(("; Path=/; HttpOnly; SameSite=Lax", "; Max-Age=600", "; Max-Age=0"))
            assert "; Path=/; HttpOnly; SameSite=Lax" in line


def test_on_https_cookies_are_of_this_host_alone(world: World) -> None:
    """`__Host-`: no other host of the domain, and no plain http, can set or see it."""
    visitor, there = Visitor(), {"X_Forwarded_Proto": "https", "Host": "app.test"}
    sent = visitor.ask(world.url("secure"), **there)
    [line] = sent.cookies
    assert line.startswith("__Host-fastgw_oidc_")
    assert "; Path=/; HttpOnly; SameSite=Lax; Secure" in line
    assert "redirect_uri=https%3A%2F%2Fapp.test%2Foauth2%2Fcallback&" in sent.location
    back = urlsplit(visitor.follow(sent.location, "ann", until="https://app.test").location)
    arrived = visitor.ask(f"{world.url('secure')}{back.path}?{back.query}", **there)
    assert arrived.status == 303
    assert visitor.ask(world.url("secure"), **there, **SCRIPT).status == 200
    plain = {name.removeprefix("__Host-"): value for name, value in visitor.cookies[urlsplit(sent.url).netloc].items()}
    cookie = "; ".join(f"{name}={value}" for name, value in plain.items())
    assert visitor.ask(world.url("secure"), **there, **SCRIPT, Cookie=cookie).status == 401


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("GET", {"Accept": "*/*"}),
        ("GET", {"Accept": "application/json"}),
        ("GET", {"X_Requested_With": "XMLHttpRequest"}),
        ("GET", {"Sec_Fetch_Mode": "cors"}),
        ("POST", {}),
        ("PUT", {}),
        ("DELETE", {}),
    ],
)
def test_who_shows_no_page_is_told_to_log_in_and_sent_nowhere(world: World, method: str, more: dict[str, str]) -> None:
    answer = Visitor().ask(world.url(), method, **more)
    assert answer.status == 401
    assert answer.told["type"] == "urn:fastgw:fault:credentials_missing"
    assert re.fullmatch(
        r'Cookie realm="fastgw", cookie-name="fastgw_oidc_[0-9a-f]{8}"', answer.fields["WWW-Authenticate"]
    )
    assert answer.cookies == []


def test_a_browser_that_logs_out_has_to_log_in_again(world: World) -> None:
    visitor = world.logged_in()
    sent = visitor.ask(world.url() + "/oauth2/logout")
    assert sent.status == 303
    assert not any(name.startswith("fastgw_oidc_") for name in visitor.cookies[world.host])
    asked = visitor.ask(sent.location)
    token = re.search(r'name="xsrf" value="([^"]+)"', asked.body.decode())
    assert token is not None
    left = visitor.ask(world.provider.issuer + "/session/end/confirm", form={"xsrf": token[1], "logout": "yes"})
    assert left.location == world.url() + "/"
    again = visitor.follow(world.url())
    assert b'name="password"' in again.body  # the provider has forgotten the login as well


def test_a_link_to_log_in_returns_to_the_place_that_it_names(world: World) -> None:
    visitor = Visitor()
    arrived = visitor.follow(world.url("passing") + "/in?return_to=/deep%3Fa=b", "bob")
    assert arrived.url == world.url("passing") + "/deep?a=b"
    assert fields(arrived, "x-user") == ["bob"]


def test_tabs_that_log_in_at_the_same_time_do_not_disturb_each_other(world: World) -> None:
    visitor = Visitor()
    first, second = world.begun(visitor, "/one"), world.begun(visitor, "/two")
    assert visitor.follow(first).url == world.url() + "/one"
    assert visitor.follow(second).url == world.url() + "/two"


def test_a_login_is_one_of_several_ways_to_show_who_one_is(world: World) -> None:
    url = world.url("any")
    assert fields(Visitor().ask(url, X_Api_Key=KEY), "x-user") == []
    assert Visitor().ask(url, X_Api_Key=KEY).status == 200
    assert Visitor().ask(url).status == 302
    assert Visitor().ask(url, X_Api_Key="another").status == 401
    told = Visitor().ask(url, **SCRIPT).fields.get_all("WWW-Authenticate") or []
    assert [each.split()[0] for each in told] == ["ApiKey", "Cookie"]
    visitor = world.logged_in(listener="any")
    answer = visitor.ask(url, X_User="root", **SCRIPT)
    assert fields(answer, "x-user") == ["ann"]
    assert fields(answer, "cookie") == []
    token = fields(answer, "x-access-token")
    both = visitor.ask(url, X_Api_Key=KEY, X_User="root", **SCRIPT)
    assert [fields(both, name) for name in ("cookie", "x-user", "x-access-token")] == [[], [], []]
    wait_until(lambda: fields(visitor.ask(url, **SCRIPT), "x-access-token") != token, "a refresh")
    wait_until(lambda: visitor.ask(url, **SCRIPT).cookies == [], "the browser to have the cookie of now")


def test_who_may_be_anonymous_logs_in_by_a_link(world: World) -> None:
    """A page for everybody does not send anybody away; a session that is over does not make one anonymous."""
    visitor, url = Visitor(), world.url("open")
    assert fields(visitor.ask(url + "/page"), "x-who") == ["guest"]
    arrived = visitor.follow(url + "/in?return_to=/page", "ann")
    assert (arrived.url, fields(arrived, "x-who")) == (url + "/page", ["ann"])
    host = urlsplit(url).netloc
    name, value = session_of(visitor, host)
    visitor.cookies[host][name] = value[:-4]
    assert visitor.ask(url + "/page").location.startswith(world.provider.issuer)
    assert visitor.ask(url + "/page", **SCRIPT).status == 401


def test_sessions_live_through_a_change_of_secrets(world: World) -> None:
    """As long as the former secret is told; none of it needs a reload."""
    host, url = world.gateway.address("other"), world.url("other")
    visitor = world.logged_in(listener="other")
    name, before = session_of(visitor, host)
    cookie = f"{name}={before}"
    (world.secrets / "former").write_text((world.secrets / "first").read_text())
    (world.secrets / "first").write_text("another secret, of as many characters")

    def sealed_anew() -> bool:
        """Whether a new session is sealed with another key, which its first bytes name."""
        assert visitor.ask(url, Cookie=cookie, **SCRIPT).status == 200
        return session_of(world.logged_in(listener="other"), host)[1][:7] != before[:7]

    wait_until(sealed_anew, "the new secret to be in use")
    assert visitor.ask(url, Cookie=cookie, **SCRIPT).status == 200
    later = world.logged_in(listener="other")
    (world.secrets / "former").write_text("a third one, which has never sealed a session")
    wait_until(lambda: visitor.ask(url, Cookie=cookie, **SCRIPT).status == 401, "the old secret to be forgotten")
    assert later.ask(url, **SCRIPT).status == 200


def attempts(visitor: Visitor, host: str) -> dict[str, str]:
    return {name: value for name, value in visitor.cookies[host].items() if ".at." in name}


def test_each_of_many_tabs_completes_its_login(world: World) -> None:
    """As after a restart of the browser: all have begun before the first is completed."""
    visitor, paths = Visitor(), [f"/tab/{number}" for number in range(MOST_ATTEMPTS)]
    begun = [visitor.ask(world.url() + path).location for path in paths]
    arrived = [visitor.follow(each, "ann") for each in begun]
    assert [(each.status, each.told["path"]) for each in arrived] == [(200, path) for path in paths]
    assert not attempts(visitor, world.host)


def test_of_too_many_logins_the_oldest_makes_way(world: World) -> None:
    visitor = Visitor()
    visitor.ask(world.url() + "/0")
    first = attempts(visitor, world.host)
    for number in range(1, MOST_ATTEMPTS):
        visitor.ask(world.url() + f"/{number}")
    held = attempts(visitor, world.host)
    assert (len(held), held.items() & first.items()) == (MOST_ATTEMPTS, first.items())
    visitor.ask(world.url() + "/last")
    assert len(attempts(visitor, world.host)) == MOST_ATTEMPTS
    assert held.items() - attempts(visitor, world.host).items() == first.items()


def test_the_cookies_of_logins_have_a_size_that_they_keep_to(world: World) -> None:
    """Or the requests of a browser would be too large for the gateway: each has the URL that it returns to."""
    visitor = Visitor()
    for number in range(8):
        last = visitor.ask(f"{world.url()}/{number}?{'x' * 950}").location
        sizes = [len(name) + len(value) for name, value in attempts(visitor, world.host).items()]
        assert sum(sizes) <= MOST_ATTEMPT_BYTES
    assert 4 <= len(sizes) < 8
    assert visitor.follow(last, "ann").told["path"] == "/7"


# hostile


def refused(answer: Answer) -> None:
    """With a clear 400, and without a session."""
    assert answer.status == 400
    assert answer.told["type"] == "urn:fastgw:fault:bad_request"
    assert answer.told["detail"] == "This login is unknown or has expired. Please log in again."
    assert all("Max-Age=0" in line for line in answer.cookies)


def stayed(answer: Answer, world: World) -> None:
    """Redirected to the start page, with the session that was there."""
    assert (answer.status, answer.location, answer.cookies) == (303, world.url() + "/", [])
    assert answer.fields["Cache-Control"] == "no-store"


def test_a_callback_counts_only_for_the_browser_that_began(world: World) -> None:
    """Login CSRF: who is made to open the end of somebody else's login is not logged in as them."""
    attacker, victim = Visitor(), Visitor()
    callback = world.begun(attacker)
    refused(victim.ask(callback))
    victim.ask(world.url())  # with an attempt of its own
    refused(victim.ask(callback))
    victim = world.logged_in("bob")
    cookies = dict(victim.cookies[world.host])
    stayed(victim.ask(callback), world)
    assert victim.cookies[world.host] == cookies
    assert fields(victim.ask(world.url(), **SCRIPT), "x-user") == ["bob"]


def test_a_callback_with_another_state_is_refused(world: World) -> None:
    visitor = Visitor()
    callback = world.begun(visitor)
    state = parse_qs(urlsplit(callback).query)["state"][0]
    for other in (state[:8] + "A" * 35, state[:-1], state + "A", "", state[::-1]):
        refused(visitor.ask(callback.replace(state, other)))
    refused(visitor.ask(callback.replace(f"state={state}", "")))
    refused(visitor.ask(f"{callback}&state={state}"))
    refused(visitor.ask(f"{callback}&code=another"))
    assert visitor.ask(callback).status == 303


def test_a_code_counts_once(world: World) -> None:
    """Also with the cookie of its attempt, put back: the provider takes a code once."""
    visitor = Visitor()
    callback = world.begun(visitor)
    kept = dict(visitor.cookies[world.host])
    assert visitor.ask(callback).status == 303
    stayed(visitor.ask(callback), world)  # as with the back button
    visitor.cookies[world.host] |= kept
    refused(visitor.ask(callback))
    visitor.cookies[world.host] = kept
    refused(visitor.ask(callback))


def test_a_code_of_another_login_is_refused(world: World) -> None:
    """PKCE: the provider gives tokens for a code to whom has begun this very login."""
    visitor = Visitor()
    first, second = world.begun(visitor), world.begun(visitor)
    codes = [parse_qs(urlsplit(each).query)["code"][0] for each in (first, second)]
    refused(visitor.ask(first.replace(codes[0], codes[1])))


def test_a_callback_of_another_issuer_is_refused(world: World) -> None:
    """RFC 9207: mix-up of two providers."""
    visitor = Visitor()
    callback = world.begun(visitor)
    assert "&iss=" in callback
    refused(visitor.ask(re.sub("&iss=[^&]*", "&iss=https%3A%2F%2Fevil.test", callback)))
    callback = world.begun(visitor)
    refused(visitor.ask(re.sub("&iss=[^&]*", "", callback)))


def test_what_the_provider_refuses_is_no_login(world: World) -> None:
    visitor = Visitor()
    state = parse_qs(urlsplit(visitor.ask(world.url()).location).query)["state"][0]
    issuer = world.provider.issuer.replace(":", "%3A").replace("/", "%2F")
    answer = visitor.ask(f"{world.url()}/oauth2/callback?error=access_denied&state={state}&iss={issuer}")
    assert answer.status == 403
    assert answer.told["detail"] == "The identity provider refused the login."
    assert visitor.cookies[world.host] == {}


def test_a_callback_is_no_form(world: World) -> None:
    answer = Visitor().ask(world.url() + "/oauth2/callback", form={"state": "a", "code": "b"})
    assert (answer.status, answer.fields["Allow"]) == (405, "GET")


def session_of(visitor: Visitor, host: str) -> tuple[str, str]:
    [(name, value)] = [pair for pair in visitor.cookies[host].items() if ".at." not in pair[0]]
    return name, value


def test_a_cookie_that_was_changed_is_none(world: World) -> None:
    visitor = world.logged_in()
    name, value = session_of(visitor, world.host)
    changed = [
        value[:9] + ("A" if value[9] != "A" else "B") + value[10:],
        value[:-4],
        value + "AAAA",
        "1~",
        "",
        "9~a",
        value[2:],
    ]
    for each in changed:
        assert visitor.ask(world.url(), Cookie=f"{name}={each}", **SCRIPT).status == 401
    assert visitor.ask(world.url(), Cookie=f"{name}={value}", **SCRIPT).status == 200


def test_a_cookie_that_is_there_twice_is_none(world: World) -> None:
    ann, bob = world.logged_in("ann"), world.logged_in("bob")
    name, value = session_of(ann, world.host)
    _, other = session_of(bob, world.host)
    for cookie in (f"{name}={value}; {name}={other}", f"{name}={value}; a=b; {name}={value}"):
        answer = ann.ask(world.url(), Cookie=cookie)
        assert (answer.status, answer.told["type"]) == (401, "urn:fastgw:fault:credentials_invalid")


def test_a_session_of_another_policy_counts_for_nothing(world: World) -> None:
    """Even where both have one secret."""
    visitor = world.logged_in()
    name, value = session_of(visitor, world.host)
    other, _ = session_of(world.logged_in(listener="other"), world.gateway.address("other"))
    assert name != other
    assert Visitor().ask(world.url("other"), Cookie=f"{other}={value}", **SCRIPT).status == 401
    assert Visitor().ask(world.url("other"), Cookie=f"{name}={value}", **SCRIPT).status == 401


def test_an_attempt_is_no_session_and_a_session_no_attempt(world: World) -> None:
    visitor = Visitor()
    visitor.ask(world.url())
    [(name, value)] = visitor.cookies[world.host].items()
    assert visitor.ask(world.url(), Cookie=f"{name.partition('.')[0]}={value}", **SCRIPT).status == 401
    session, sealed = session_of(world.logged_in(), world.host)
    callback = world.begun(visitor)
    state = parse_qs(urlsplit(callback).query)["state"][0]
    refused(visitor.ask(callback, Cookie=f"{session}.at.{state[:8]}={sealed}"))


@pytest.mark.parametrize(
    "path", ["//evil.test/", "//evil.test/%2e%2e", "/\\evil.test", "/%09/evil.test", "/in/../..//evil.test"]
)
def test_nobody_is_sent_to_another_site(world: World, path: str) -> None:
    visitor = Visitor()
    first = visitor.ask(world.url() + path)
    if first.status != 302:
        assert first.status == 400  # such a path is none
        return
    callback = visitor.follow(first.location, "ann", until=world.url()).location
    assert urlsplit(visitor.ask(callback).location).netloc == world.host


@pytest.mark.parametrize(
    "place",
    ["//evil.test", "https://evil.test/", "/%5Cevil.test", "%2F%2Fevil.test", "/%0d%0aA:%20b", "javascript:alert(1)"],
)
def test_a_link_to_log_in_returns_to_no_other_site(world: World, place: str) -> None:
    visitor = Visitor()
    sent = visitor.ask(f"{world.url('passing')}/in?return_to={place}")
    callback = visitor.follow(sent.location, "ann", until=world.url("passing")).location
    assert visitor.ask(callback).fields["Location"] == "/"


def test_more_cookies_than_a_session_has_are_not_read(world: World) -> None:
    name, value = session_of(world.logged_in(), world.host)
    pieces = "; ".join(f"{name}.{place}={'A' * 3600}" for place in range(1, 7))
    answer = Visitor().ask(world.url(), Cookie=f"{name}=9~{value[2:]}; {pieces}", **SCRIPT)
    assert answer.status == 401
    answer = Visitor().ask(world.url(), Cookie=f"{name}=5~{value[2:]}; {pieces}", **SCRIPT)
    assert answer.status == 401


# as time goes by


def test_an_access_token_is_refreshed_once_and_reaches_the_upstream(world: World) -> None:
    """The provider ends what a refresh token is used twice for; eight requests at a time are one refresh."""
    visitor = world.logged_in(listener="passing")
    first = visitor.ask(world.url("passing"), **SCRIPT)
    [token] = fields(first, "x-access-token")
    assert world.provider.introspect(token)["active"]
    seen = {token}

    def all_at_once() -> bool:
        """Whether eight requests with one cookie have brought another token."""
        cookie = "; ".join(
            f"{name}={value}" for name, value in visitor.cookies[world.gateway.address("passing")].items()
        )
        answers: list[Answer] = []

        def ask() -> None:
            answers.append(Visitor().ask(world.url("passing"), Cookie=cookie, **SCRIPT))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [answer.status for answer in answers] == [200] * 8
        seen.update(value for answer in answers for value in fields(answer, "x-access-token"))
        return len(seen) > 1

    wait_until(all_at_once, "a refresh")
    answer = visitor.ask(world.url("passing"), **SCRIPT)
    assert answer.cookies
    assert answer.fields["Cache-Control"] == "no-store"  # the upstream's let others have it
    [renewed] = fields(answer, "x-access-token")
    assert world.provider.introspect(renewed)["active"]
    os.kill(world.gateway.control_pid, signal.SIGKILL)  # in which refresh tokens are redeemed
    seen = {renewed}
    wait_until(all_at_once, "a refresh by its successor")


def test_keys_that_the_provider_has_changed_are_taken_at_once(world: World) -> None:
    world.logged_in()
    world.provider.rotate_keys(keep_old=False)
    world.logged_in()
    world.provider.rotate_keys(keep_old=True)
    world.logged_in()


def test_while_the_provider_is_away_sessions_go_on_and_logins_are_told(world: World) -> None:
    visitor, leaving = world.logged_in(listener="passing"), Visitor()
    callback = leaving.follow(world.url(), "ann", until=world.url()).location
    world.provider.stop()
    try:
        wait_until(lambda: Visitor().ask(world.url()).status == 503, "the gateway to notice")
        answer = Visitor().ask(world.url())
        assert answer.told["type"] == "urn:fastgw:fault:auth_unavailable"
        assert answer.told["detail"].startswith("Login is temporarily unavailable")
        assert answer.fields["Retry-After"] == "1"
        assert leaving.ask(callback).status == 503
        got = fields(visitor.ask(world.url("passing"), **SCRIPT), "x-access-token")
        assert len(got) == 1
    finally:
        world.provider.start()
    assert leaving.ask(callback).status == 303  # the page was loaded again
    assert visitor.ask(world.url("passing"), **SCRIPT).status == 200
    wait_until(lambda: Visitor().follow(world.url(), "ann").status == 200, "logins to be possible again")
    about = f"oidc: logins at {world.provider.issuer}: ".encode()
    world.gateway.stderr.wait_for(lambda line: about + b"fetched again" in line)
    told = [line for line in world.gateway.stderr.lines if about in line]
    assert 2 <= len(told) <= 4  # not each time that it is asked


def test_nothing_secret_is_in_the_log(world: World) -> None:
    visitor = Visitor()
    callback = world.begun(visitor)
    code = parse_qs(urlsplit(callback).query)["code"][0]
    visitor.ask(callback)
    _, sealed = session_of(visitor, world.host)
    visitor.ask(world.url() + "/end-of-the-secrets")
    assert world.gateway.wait_for_record(path="/end-of-the-secrets")["consumer"] == "ann"
    told = world.gateway.stdout.text() + world.gateway.stderr.text()
    for secret in (SESSION_SECRET, CLIENT_SECRET, code, sealed, sealed[2:100]):
        assert secret not in told
