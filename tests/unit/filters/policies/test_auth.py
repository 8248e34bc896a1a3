"""auth: the first of several ways that accepts the client counts, and nothing of the others."""

import asyncio
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest

from fastgw import config
from fastgw.config.decoding.json_schema import schema
from fastgw.config.loading.writer import effective
from fastgw.config.settings.gateway import Config
from fastgw.exchange import Exchange
from fastgw.exchange.body_relay import whole_body
from fastgw.exchange.chain import Chain
from fastgw.exchange.shadow_exchange import Nobody
from fastgw.explain import as_text, explain
from fastgw.filters import TYPES
from fastgw.filters.api import Consumer, Env, Fault, FeedSource, Filter, Hooks, Outcome, Phase, Reply
from fastgw.filters.authentication.request_state import restore_attributes, state_of
from fastgw.forwarded_headers import Peer
from fastgw.gateway.compiler import compile as compile_tables
from fastgw.gateway.tables import CompileError
from fastgw.http.http1.parser import stand_in_head
from tests.support.generations import load_document, load_with_files
from tests.support.memory import SERVICE, Plane
from tests.support.table import for_each
from tests.unit.exchange.test_new_exchange import FIELDS, FLAGS

REQUEST = b"GET / HTTP/1.1\r\nHost: a.test\r\nX-Client: theirs\r\n"
FAULTS = {
    "missing": Fault.CREDENTIALS_MISSING,
    "bad": Fault.CREDENTIALS_INVALID,
    "away": Fault.AUTH_UNAVAILABLE,
    "scope": Fault.INSUFFICIENT_SCOPE,
    "unclear": Fault.BAD_REQUEST,
}


class Way(Filter, name="way", phase=Phase.AUTHENTICATE):
    """A way to be known that says what it is told to."""

    says: Literal[
        "pass", "missing", "bad", "away", "scope", "unclear", "login", "invite", "raise", "interrupt", "odd", "nonsense"
    ] = "pass"
    """What comes of it."""
    name: str = "w"
    """Whom it finds."""
    waits: bool = False
    """Whether it takes its time."""

    def feeds(self) -> Iterable[FeedSource]:
        return (FeedSource(key=self.name),)

    def build(self, env: Env) -> Hooks:
        name = self.name.encode()

        def request(exchange: Exchange) -> Outcome:
            exchange.consumer = Consumer(self.name)
            exchange.claims = {"sub": self.name}
            exchange.request_added += b"X-Added: %b\r\n" % name
            exchange.request_dropped |= {b"x-client"}
            exchange.headers.set(b"X-Who", name)
            met.append(f"request {env.instance}")
            return wait(exchange) if self.waits else decide(exchange)

        async def wait(exchange: Exchange) -> Reply | None:
            await asyncio.sleep(0)
            return decide(exchange)

        def decide(exchange: Exchange) -> Any:
            if self.says == "raise":
                raise RuntimeError("a defect")
            if self.says == "interrupt":
                raise KeyboardInterrupt
            if self.says == "nonsense":
                return Reply(200, fields=((b"X-Line", b"1\r\n"),))
            if self.says == "odd":
                return True
            if self.says == "login":
                return Reply(302, fields=((b"Location", b"https://idp.test/login"),))
            if self.says == "invite":
                return Reply(302, fields=((b"Location", b"https://idp.test/login"),), invites=True)
            fault = FAULTS.get(self.says)
            if fault is None:
                return None
            return exchange.refuse(fault, fields=((b"WWW-Authenticate", b"Way " + name),), why=f"{self.says} it is")

        def note(kind: str) -> Any:
            return lambda exchange: met.append(f"{kind} {self.name}")

        def request_body(exchange: Exchange, payload: bytes) -> None:
            met.append(f"body {self.name} {payload.decode()}")

        return Hooks(
            request=request,
            response=note("response"),
            request_body=request_body,
            finish=note("finish"),
            start=note("start"),
            stop=lambda: met.append(f"stop {self.name}"),
            explain=lambda exchange: f"found {self.name}",
        )


class Open(Filter, name="open", phase=Phase.AUTHENTICATE):
    """A way that asks nobody."""

    def build(self, env: Env) -> Hooks:
        return Hooks(response=lambda exchange: None)


met: list[str] = []
ALL = {**TYPES, "way": Way, "open": Open}


class Plane_(Plane):
    def _load(self, settings: Mapping[str, Any]) -> Config:
        loaded = load_with_files({**SERVICE, **settings}, ALL)
        self.files = loaded.captured
        return loaded.config


def auth(*ways: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {"filters": {"auth": {"any_of": [{"way": way} for way in ways], **settings}}}


def asked(settings: dict[str, Any], request: bytes = REQUEST + b"\r\n") -> tuple[list[bytes], bytes, str]:
    """The head that the upstream gets, what the client gets if nothing goes there, and why, for the log."""
    met.clear()

    async def ask() -> tuple[list[bytes], bytes, str]:
        plane = Plane_(settings)
        client = plane.client()
        client.sends(request)
        for _ in range(20):
            await asyncio.sleep(0)
        if plane.pool.waiting:
            upstream = plane.connects()
            upstream.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            return upstream.received.split(b"\r\n"), b"", plane.records[0].fault_detail
        return [], client.received, plane.records[0].fault_detail

    return asyncio.run(ask())


def status(settings: dict[str, Any], request: bytes = REQUEST + b"\r\n") -> int:
    head, answer, _ = asked(settings, request)
    return 200 if head else int(answer.split(b" ")[1])


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("others", [["missing"], ["bad", "away"], ["scope", "login", "unclear"]])
def test_the_first_that_accepts_counts_and_nothing_of_the_others(waits: bool, others: list[str]) -> None:
    refusing = [{"says": each, "name": each, "waits": waits} for each in others]
    head, _, why = asked(auth(*refusing, {"name": "a", "waits": waits}, {"name": "b"}))
    assert [line for line in head if line.startswith((b"X-Added", b"X-Who", b"X-Client"))] == [
        b"X-Who: a",
        b"X-Added: a",
    ]
    assert why == ""
    assert not any(each.endswith(" b") for each in met)


def test_edits_of_filters_before_it_stay() -> None:
    settings = auth({"says": "bad"}, {"says": "bad"}, anonymous="x")
    before = {"filters": {"before": {"type": "auth", "any_of": [{"way": {"name": "first"}}]}, **settings["filters"]}}
    before["filters"]["auth"]["any_of"].append({"way": {"name": "second"}})
    head, _, _ = asked(before)
    assert [line for line in head if line.startswith((b"X-Added", b"X-Who"))] == [
        b"X-Who: second",
        b"X-Added: first",
        b"X-Added: second",
    ]


@for_each("waits", [False, True])
@for_each(
    ("says", "fault", "code"),
    [
        (["missing", "missing"], "credentials_missing", 401),
        (["missing", "bad"], "credentials_invalid", 401),
        (["bad", "missing"], "credentials_invalid", 401),
        (["away", "missing"], "auth_unavailable", 503),
        (["missing", "bad", "away"], "auth_unavailable", 503),
        (["missing", "scope"], "insufficient_scope", 403),
        (["bad", "scope"], "insufficient_scope", 403),
        (["missing", "unclear"], "bad_request", 400),
        (["login", "bad"], "credentials_invalid", 401),
        (["away", "login"], "auth_unavailable", 503),
    ],
)
def test_what_comes_of_it_when_none_accepts(says: list[str], fault: str, code: int, waits: bool) -> None:
    ways = [{"says": each, "name": f"w{number}", "waits": waits} for number, each in enumerate(says)]
    head, answer, why = asked(auth(*ways))
    assert head == []
    assert answer.startswith(b"HTTP/1.1 %d " % code)
    assert f"urn:fastgw:fault:{fault}".encode() in answer
    assert why == "; ".join(
        f"way{'' if not number else f'_{number + 1}'}: {302 if each == 'login' else f'{each} it is'}"
        for number, each in enumerate(says)
    )


def test_a_401_says_what_each_way_asks_for() -> None:
    ways = [{"says": "missing", "name": name} for name in ("a", "b", "a")]
    _, answer, _ = asked(auth(*ways))
    lines = answer.split(b"\r\n")
    assert [line for line in lines if line.startswith(b"WWW-Auth")] == [
        b"WWW-Authenticate: Way a",
        b"WWW-Authenticate: Way b",
    ]


@pytest.mark.parametrize("says", [["missing", "login"], ["login", "missing"], ["invite", "missing"]])
def test_who_shows_nothing_is_sent_to_log_in(says: list[str]) -> None:
    head, answer, _ = asked(auth(*[{"says": each} for each in says]))
    assert head == []
    assert b"\r\nLocation: https://idp.test/login\r\n" in answer


@for_each(
    ("says", "fields", "code"),
    [
        (["missing", "missing"], b"", 200),
        (["missing", "bad"], b"", 401),
        (["missing", "away"], b"", 503),
        (["missing", "scope"], b"", 403),
        (["missing", "login"], b"", 302),
        (["missing", "invite"], b"", 200),
        (["invite"], b"", 200),
        (["invite", "bad"], b"", 401),
        (["invite", "away"], b"", 503),
        (["invite"], b"Authorization: Other x\r\n", 401),
        (["missing"], b"Authorization: Other x\r\n", 401),
        (["missing"], b"authorization:\r\n", 401),
    ],
)
def test_anonymous_are_those_who_show_nothing(says: list[str], fields: bytes, code: int) -> None:
    settings = auth(*[{"says": each} for each in says], anonymous="guest")
    assert status(settings, REQUEST + fields + b"\r\n") == code


@pytest.mark.parametrize(("consumers", "groups"), [([], b""), ([{"name": "guest", "groups": ["public"]}], b"public")])
def test_who_anonymous_are(consumers: list[dict[str, Any]], groups: bytes) -> None:
    settings = auth({"says": "missing"}, anonymous="guest")
    sent = {"X-Name": "{consumer.name}", "X-Groups": "{consumer.groups}", "X-Sub": "{claims.sub}"}
    settings["filters"]["headers"] = {"request": {"set": sent}}
    head, _, why = asked({**settings, "consumers": consumers})
    told = [line for line in head if line.startswith((b"X-Name", b"X-Groups", b"X-Sub", b"X-Who", b"X-Added"))]
    assert told == [b"X-Name: guest", *([b"X-Groups: " + groups] if groups else [])]
    assert why == ""


def test_the_log_says_of_each_way_why_in_one_sentence() -> None:
    any_of = [{"key_auth": {}}, {"basic_auth": {}}]
    request = REQUEST + b"X-Api-Key: a\r\nX-Api-Key: b\r\n\r\n"
    _, _, why = asked({"filters": {"auth": {"any_of": any_of}}}, request)
    assert why == "key_auth: there is more than one API key; basic_auth: the password is missing"


@pytest.mark.parametrize("says", ["raise", "interrupt", "odd", "nonsense"])
@pytest.mark.parametrize("waits", [False, True])
def test_a_defect_is_no_pass(says: str, waits: bool) -> None:
    """Nor does the next way hide it."""
    assert status(auth({"says": says, "waits": waits}, {})) == 500


def test_steps_in_between_are_those_of_the_way_that_accepts() -> None:
    body = b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhi"
    asked(auth({"says": "bad", "name": "a"}, {"name": "b", "waits": True}, {"name": "c"}), body)
    assert met == ["request auth.way", "request auth.way_2", "body b hi", "response b", "finish b", "finish a"]


def test_where_none_accepts_all_that_were_tried_see_the_answer() -> None:
    asked(auth({"says": "bad", "name": "a"}, {"says": "missing", "name": "b"}))
    assert met == ["request auth.way", "request auth.way_2", "response b", "response a", "finish b", "finish a"]


def test_a_client_that_leaves_is_forgotten() -> None:
    met.clear()

    async def leave() -> None:
        plane = Plane_(auth({"says": "bad", "name": "a", "waits": True}, {"name": "b"}))
        client = plane.client()
        client.sends(REQUEST + b"\r\n")
        client.ends()
        for _ in range(5):
            plane.settle()
            await asyncio.sleep(0)
        plane.assert_quiet()
        step = plane.gateway.routes[0].rules[0][0].route.chain.request_steps[0]  # type: ignore[index]
        assert step.__self__._cases == {}  # type: ignore[attr-defined]

    asyncio.run(leave())
    assert met == ["request auth.way", "finish a"]


def test_ways_are_started_and_stopped_and_fed() -> None:
    met.clear()
    loaded = load_document({**SERVICE, **auth({"name": "a"}, {"name": "b"})}, ALL)
    (link,) = compile_tables(loaded, 1).live
    link.hooks.start(None)  # type: ignore[misc]
    link.hooks.stop()  # type: ignore[misc]
    assert met == ["start a", "start b", "stop b", "stop a"]
    assert [source.key for source in link.use.settings.feeds()] == ["a", "b"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (auth({"says": "missing"}, {"name": "b"}), "(way_2: found b)"),
        (auth({"says": "missing"}, anonymous="x"), "(not authenticated: passes as x)"),
        (
            auth({"says": "bad"}, {"says": "missing"}),
            "answers 401 (credentials_invalid: way: bad it is; way_2: missing it is)",
        ),
        (auth({"says": "bad"}, {"waits": True}), "would have to call"),
    ],
)
def test_explain_tells_which_way_and_why(settings: dict[str, Any], told: str) -> None:
    gateway = compile_tables(load_document({**SERVICE, **settings}, ALL), 1)
    assert told in as_text(explain(gateway, "GET", "http://a.test/"))


def test_everything_that_a_filter_may_change_is_put_back() -> None:
    """Filters do not change the other attributes of an exchange while requests are authenticated."""
    exchange: Any = Exchange.__new__(Exchange)
    objects: dict[str, Any] = {
        "chain": Chain(()),
        "client": Nobody(),
        "peer": Peer("192.0.2.1", 1, 80, trusted=False),
        "request_body": whole_body(b"body", 4),
    }
    names = [name for name in FIELDS if name != "head"]
    before = {name: objects.get(name, False if name in FLAGS else f"{name} before") for name in names}
    changed = {name: None if name in objects else True if name in FLAGS else "changed" for name in names}
    for name, value in before.items():
        setattr(exchange, name, value)
    exchange.head = stand_in_head(b"GET")
    state = state_of(exchange)
    for name, value in changed.items():
        setattr(exchange, name, value)
    restore_attributes(exchange, state)
    restored = {name for name in before if getattr(exchange, name) != changed[name]}
    assert {name: getattr(exchange, name) for name in restored} == {name: before[name] for name in restored}
    assert set(FIELDS) - restored == {
        "answered_by",
        "begun_at",
        "cache_result",
        "cache_status",
        "chain",
        "client",
        "fault",
        "for_others",
        "grpc_status",
        "head",
        "id_shown",
        "limits",
        "listener",
        "peer",
        "renewed",
        "renewed_earlier",
        "request_body",
        "request_bytes",
        "reset_code",
        "response",
        "response_bytes",
        "response_sink",
        "retries",
        "route",
        "sent",
        "service",
        "shadowed",
        "shadows",
        "state",
        "subrequests",
        "taker",
        "target",
        "timeline",
        "trace",
        "tunnel",
        "upstream",
        "upstream_s",
    }


# --- how it is written ---


def problems(tmp_path: Path, any_of: Any, **settings: Any) -> list[str]:
    file = tmp_path / "gw.yaml"
    document = json.dumps({"any_of": any_of, **settings})
    listeners = 'listeners: {main: {address: "127.0.0.1:0"}}'
    file.write_text(f"version: 1\n{listeners}\nfilters:\n  auth: {document}\n")
    with pytest.raises(config.ConfigError) as caught:
        config.load(str(file), ALL)
    return [str(problem).replace(f"{tmp_path}/", "") for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("any_of", "problem"),
    [
        ([], "gw.yaml:4:20: filters.auth.any_of: an empty list; expected at least one"),
        (
            [{}],
            "gw.yaml:4:21: filters.auth.any_of[0]: an object with 0 keys; expected an object with one key, a filter",
        ),
        (["way"], 'gw.yaml:4:21: filters.auth.any_of[0]: "way"; expected an object with one key'),
        ([{"way": {}, "open": {}}], "gw.yaml:4:21: filters.auth.any_of[0]: an object with 2 keys; expected "),
        ([{"wy": {}}], 'gw.yaml:4:22: filters.auth.any_of[0].wy: unknown filter type "wy"; did you mean "way"?'),
        ([{"way": {"says": "x"}}], "gw.yaml:4:38: filters.auth.any_of[0].way.says: "),
        ([{"way": {"sys": "x"}}], 'gw.yaml:4:30: filters.auth.any_of[0].way.sys: unknown key; did you mean "says"?'),
        ([{"way": {"enforced": True}}], "gw.yaml:4:30: filters.auth.any_of[0].way.enforced: unknown key"),
        ([{"way": None}], "gw.yaml:4:29: filters.auth.any_of[0].way: null; expected "),
        ([{"ip": {}}], 'gw.yaml:4:22: filters.auth.any_of[0].ip: "ip" is not allowed here; expected one of '),
        ([{"auth": {"any_of": [{"way": {}}]}}], "gw.yaml:4:9: filters.auth: `auth` within `auth` is not"),
    ],
)
def test_wrong_settings(tmp_path: Path, any_of: Any, problem: str) -> None:
    (told,) = problems(tmp_path, any_of)
    assert told.startswith(problem)


def test_a_way_that_asks_nobody_is_none() -> None:
    loaded = load_document({**SERVICE, "filters": {"auth": {"any_of": [{"open": {}}]}}}, ALL)
    with pytest.raises(CompileError, match="`open` does not authenticate: it has no request step"):
        compile_tables(loaded, 1)


def test_it_is_written_as_it_is_read() -> None:
    loaded = load_document({**SERVICE, **auth({"says": "bad"}, {"name": "b"})}, ALL)
    said = effective(loaded)
    assert said["filters"]["auth"]["any_of"] == [
        {"way": {"says": "bad", "name": "w", "waits": False}},
        {"way": {"says": "pass", "name": "b", "waits": False}},
    ]
    assert load_document({**SERVICE, "filters": said["filters"]}, ALL).filters == loaded.filters


def test_the_schema_knows_what_may_stand_there() -> None:
    drawn = schema(ALL)["$defs"]["filter auth"]["properties"]["any_of"]
    assert {"way", "open"} <= drawn["items"]["properties"].keys()
    assert "ip" not in drawn["items"]["properties"]
    assert (drawn["minItems"], drawn["items"]["maxProperties"]) == (1, 1)


@pytest.mark.parametrize("waits", [False, True])
def test_in_shadow_it_lets_everybody_in_and_keeps_nothing(waits: bool) -> None:
    met.clear()

    async def ask() -> None:
        plane = Plane_(auth({"says": "bad", "waits": waits}, {"says": "missing", "waits": waits}, shadow=True))
        client = plane.client()
        client.sends(REQUEST + b"\r\n")
        for _ in range(20):
            await asyncio.sleep(0)
        upstream = plane.connects()
        upstream.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert b"X-Client: theirs" in upstream.received
        assert b"X-Who" not in upstream.received
        assert "credentials_invalid" in plane.records[0].shadowed
        rule = plane.gateway.routes[0].rules[0]
        assert rule is not None
        (link,) = rule[0].route.chain.links
        assert link.own.finish.__self__._cases == {}  # type: ignore[union-attr]

    asyncio.run(ask())


@pytest.mark.parametrize("line", ["X-User: admin", "x_user: admin"])
@pytest.mark.parametrize("head", ["GET / HTTP/1.0\r\n", "GET / HTTP/1.1\r\nHost: a\r\n"])
def test_what_a_way_writes_stays_removed_though_it_was_all_that_the_client_sent(head: str, line: str) -> None:
    jwt = {"algorithms": ["HS256"], "secret": "x" * 32, "claims_to_headers": {"sub": "X-User"}}
    route = {"name": "all", "upstream": "u", "filters": {"auth": {"anonymous": "guest", "any_of": [{"jwt": jwt}]}}}
    plane = Plane({"routes": [route]})
    plane.client().sends(f"{head}{line}\r\n\r\n".encode())
    sent = plane.connects().received
    assert sent.startswith(b"GET / HTTP/1.1\r\n")
    assert b"user" not in sent.lower()
