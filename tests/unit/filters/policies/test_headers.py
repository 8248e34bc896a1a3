"""headers: fields are removed, set and added, in this order, both ways."""

import json
from pathlib import Path

import pytest

from fastgw import config
from fastgw.config import ConfigError
from fastgw.config.loading.writer import effective
from fastgw.explain import explain
from fastgw.filters import TYPES
from fastgw.filters.api import Exchange, Phase
from fastgw.gateway.tables import CompileError
from tests.support.generations import load_document
from tests.support.memory import SERVICE, Plane, probe
from tests.support.table import for_each

HOST = b"Host: a.test\r\n"


def edited(edits: dict[str, object], fields: bytes, both: bool = True) -> tuple[list[bytes], list[bytes]]:
    """The field lines that upstream and client get, ours left out."""
    plane = Plane({"filters": {"headers": {"request": edits, "response": edits}}})
    client = plane.client()
    client.sends(b"GET / HTTP/1.1\r\n" + HOST + fields + b"\r\n")
    upstream = plane.connects()
    upstream.sends(b"HTTP/1.1 200 OK\r\n" + fields + b"Content-Length: 2\r\n\r\nok")
    assert client.received.endswith(b"\r\n\r\nok")
    return of_test(upstream.received), of_test(client.received)


def of_test(message: bytes) -> list[bytes]:
    lines = message.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    return [line for line in lines if line.lower().startswith((b"x-a", b"x_a", b"x-b", b"x-c"))]


@pytest.mark.parametrize(
    ("edits", "lines"),
    [
        ({"remove": ["x-a"]}, [b"x-b: 3"]),
        ({"set": {"X-A": "new"}}, [b"x-b: 3", b"X-A: new"]),
        ({"add": {"X-A": "new"}}, [b"X-A: 1", b"x-b: 3", b"x-a: 2", b"X-A: new"]),
        ({"remove": ["X-A", "X-B"], "set": {"X-B": "set"}, "add": {"X-B": "added"}}, [b"X-B: set", b"X-B: added"]),
        ({"set": {"X-C": ""}}, [b"X-A: 1", b"x-b: 3", b"x-a: 2", b"X-C: "]),
        ({"remove": ["X-C"]}, [b"X-A: 1", b"x-b: 3", b"x-a: 2"]),
        ({"set": {"X-A": "old", "X_A": "new"}}, [b"x-b: 3", b"X_A: new"]),
        ({"set": {"X-A": "{method}", "X_A": "{header.absent}"}}, [b"x-b: 3"]),
        ({"rename": {"X-A": "X-C"}}, [b"X-C: 1", b"x-b: 3", b"X-C: 2"]),
        ({"rename": {"X-A": "X-B", "X-B": "X-C"}}, [b"X-B: 1", b"X-B: 2", b"X-C: 3"]),
        ({"rename": {"X-C": "X-A"}, "add": {"X-A": "new"}}, [b"x-b: 3", b"X-A: new"]),
        ({"replace": {"X-A": "new", "X-C": "new"}}, [b"x-b: 3", b"X-A: new"]),
        ({"replace": {"X-A": "{header.absent}"}}, [b"x-b: 3"]),
        ({"set_if_absent": {"X-A": "new", "X-C": "{method}"}}, [b"X-A: 1", b"x-b: 3", b"x-a: 2", b"X-C: GET"]),
    ],
)
def test_both_ways(edits: dict[str, object], lines: list[bytes]) -> None:
    upstream, client = edited(edits, b"X-A: 1\r\nx-b: 3\r\nx-a: 2\r\n")
    assert sorted(upstream) == sorted(client) == sorted(lines)


@for_each(
    "edits, sent, lines",
    [
        ({"replace": {"X_A": "new"}}, b"X-A: 1", [b"X_A: new"]),
        ({"replace": {"X_A": "new"}}, b"x_a: 1", [b"X_A: new"]),
        ({"replace": {"X-A": "new"}}, b"X_A: 1", [b"X-A: new"]),
        ({"replace": {"X_A": "new"}}, b"XA: 1", []),
        ({"rename": {"X_A": "X-B"}}, b"X-A: 1", [b"X-B: 1"]),
        ({"rename": {"X-A": "X-B"}}, b"X-A: 1\r\nX_A: 2", [b"X-B: 1"]),
    ],
)
def test_a_header_by_its_name_in_other_punctuation(edits: dict[str, object], sent: bytes, lines: list[bytes]) -> None:
    """What a change removes it also replaces or renames."""
    assert edited(edits, sent + b"\r\n") == (lines, lines)


@pytest.mark.parametrize(
    ("edits", "lines"),
    [
        ({"set": {"X-A": "ours"}}, [b"X-A: ours"]),
        ({"add": {"X-A": "ours"}}, [b"X-A: ours"]),
        ({"set": {"X-B": "ours"}}, [b"X-B: ours"]),
    ],
)
def test_connection_takes_away_nothing_that_is_ours(edits: dict[str, object], lines: list[bytes]) -> None:
    """The sender names fields of its own: what the gateway says behind it goes on."""
    assert edited(edits, b"Connection: X-A, X-B\r\nX-A: theirs\r\n") == (lines, lines)


@for_each(
    ("edits", "lines"),
    [
        ({"remove": ["X-A-B"]}, []),
        ({"remove": ["x-a_b"]}, []),
        ({"rename": {"X-C": "X-A-B"}}, []),
        ({"rename": {"Accept": "x-a_b"}}, []),
        ({"set": {"X-A-B": "ours"}}, [b"X-A-B: ours"]),
        ({"set": {"X-A_B": "ours"}}, [b"X-A_B: ours"]),
    ],
)
@for_each("name", [b"X-A-B", b"X-A_B", b"x-a_b", b"X.A-B", b"x+a|b"])
def test_another_sign_is_no_way_round(edits: dict[str, object], lines: list[bytes], name: bytes) -> None:
    """To CGI and its heirs `X_User` is `X-User`; to some of them `X.User` is, too."""
    assert edited(edits, name + b": theirs\r\n") == (lines, lines)


@for_each(
    "edits, wrong",
    [
        ({"rename": {"X-A": "X-B"}, "set": {"x_b": "1"}}, "`X-B` is changed twice, by `set` and `rename`"),
        ({"rename": {"X-A": "X-C", "X-B": "X-C"}}, "`X-C` is changed twice, by `rename` and `rename`"),
        ({"remove": ["X-A"], "replace": {"X-A": "1"}}, "`X-A` is changed twice, by `remove` and `replace`"),
        ({"replace": {"X-A": "1"}, "set_if_absent": {"X-A": "1"}}, "by `replace` and `set_if_absent`"),
        ({"rename": {"X-Real-IP": "X-A"}}, "`X-Real-IP` is written by the gateway when it forwards"),
        ({"set_if_absent": {"X-Forwarded-For": "1"}}, "is written by the gateway when it forwards"),
        ({"rename": {"X-A": "Connection"}}, "`Connection` is a connection header"),
        ({"rename": {"Host": "X-A"}}, "`Host` cannot be changed by a filter"),
    ],
)
def test_changes_that_cannot_be_meant(edits: dict[str, object], wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        load_document({**SERVICE, "filters": {"headers": {"request": edits}}}, TYPES)


def test_a_header_may_be_renamed_to_one_of_forwarding() -> None:
    """A header that is renamed to one of `X-Forwarded-*` is sent in place of the gateway's own."""
    edits = {"rename": {"X-A": "X-Forwarded-Host"}}
    plane = Plane({"filters": {"headers": {"request": edits}}})
    client = plane.client()
    client.sends(b"GET / HTTP/1.1\r\n" + HOST + b"X-A: b.test\r\nX-Forwarded-Host: theirs\r\n\r\n")
    sent = plane.connects().received
    assert sent.count(b"X-Forwarded-Host") == 1
    assert b"\r\nX-Forwarded-Host: b.test\r\n" in sent


@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize(
    ("edits", "lines"),
    [
        ({"set": {"X-A-B": "ours"}}, [b"X-A-B: ours", b"X-C: filter"]),
        ({"remove": ["x-a-b"], "add": {"X-B": "added"}}, [b"X-B: added", b"X-C: filter"]),
        ({"add": {"X-A-B": "added"}}, [b"X-A-B: filter", b"X-A-B: added", b"X-C: filter"]),
        ({"set": {"X-C": "ours"}}, [b"X-A-B: filter", b"X-C: ours"]),
        ({"rename": {"X-A-B": "X-C"}}, [b"X-C: filter"]),
        ({"rename": {"X-A-B": "X-B"}}, [b"X-B: filter", b"X-C: filter"]),
        ({"replace": {"X-A-B": "ours", "X-B": "ours"}}, [b"X-A-B: ours", b"X-C: filter"]),
        ({"set_if_absent": {"X-A-B": "ours", "X-B": "ours"}}, [b"X-A-B: filter", b"X-B: ours", b"X-C: filter"]),
    ],
)
def test_what_filters_before_have_said_is_edited_too(looks: bool, edits: dict[str, object], lines: list[bytes]) -> None:
    """Whether a filter behind looks at the fields, so that they have to be parsed, or none does."""
    met: list[object] = []

    def say(exchange: Exchange) -> None:
        exchange.request_dropped |= {b"x-a_b"}
        exchange.request_added += b"X-A-B: filter\r\nX-C: filter\r\n"

    def look(exchange: Exchange) -> None:
        met.append(exchange.headers.get(b"X-A-B"))

    probes = [probe("says", Phase.AUTHENTICATE, request=say)]
    if looks:
        probes.append(probe("looks", Phase.CREDENTIALS, request=look))
    plane = Plane({"filters": {"headers": {"request": edits}}}, probes=probes)
    client = plane.client()
    client.sends(b"GET / HTTP/1.1\r\n" + HOST + b"x_a_b: theirs\r\nX-A-B: theirs\r\n\r\n")
    assert sorted(of_test(plane.connects().received)) == sorted(lines)
    assert len(met) == looks


def test_answers_of_the_gateways_own_are_edited_too() -> None:
    """`response`: whoever made it. Its filter's request step need not exist for that."""
    plane = Plane({"filters": {"headers": {"response": {"set": {"X-A": "1"}, "remove": ["Proxy-Status"]}}}})
    client = plane.client()
    client.sends(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    plane.cannot_connect()
    plane.passes(1.0)
    plane.cannot_connect()
    assert client.received.startswith(b"HTTP/1.1 502 ")
    assert b"\r\nX-A: 1\r\n" in client.received
    assert b"Proxy-Status" not in client.received


def test_a_shared_answer_is_not_changed_for_good() -> None:
    """A route's own answer is made once for all requests: edits belong to one."""
    plane = Plane(
        {
            "routes": [{"name": "own", "respond": {"body": "own"}}],
            "filters": {"headers": {"response": {"add": {"X-A": "1"}}}},
        }
    )
    client = plane.client()
    for _ in range(3):
        client.sends(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    answers = client.received.split(b"HTTP/1.1 200 OK")[1:]
    assert [answer.count(b"X-A: 1") for answer in answers] == [1, 1, 1]


@pytest.mark.parametrize("name", ["Connection", "content-length", "Transfer-Encoding", "Upgrade", "TE"])
@pytest.mark.parametrize("edit", ["remove", "set", "add"])
def test_framing_and_hop_by_hop_fields_are_out_of_reach(tmp_path: Path, name: str, edit: str) -> None:
    """They are the connection's: refused when the configuration is read."""
    value = [name] if edit == "remove" else {name: "1"}
    file = tmp_path / "gateway.json"
    file.write_text(json.dumps({**SERVICE, "filters": {"headers": {"request": {edit: value}}}}))
    with pytest.raises(config.ConfigError, match="is a connection header, which is set by the gateway"):
        config.load(str(file), TYPES)


@pytest.mark.parametrize("name", ["Host", "host"])
def test_the_host_has_a_setting_of_its_own(tmp_path: Path, name: str) -> None:
    file = tmp_path / "gateway.json"
    file.write_text(json.dumps({**SERVICE, "filters": {"headers": {"request": {"set": {name: "{host}"}}}}}))
    with pytest.raises(config.ConfigError, match="expected `host_header` of the upstream or route"):
        config.load(str(file), TYPES)


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\x00b"])
def test_no_value_ends_its_line(tmp_path: Path, value: str) -> None:
    file = tmp_path / "gateway.json"
    file.write_text(json.dumps({**SERVICE, "filters": {"headers": {"response": {"set": {"X-A": value}}}}}))
    with pytest.raises(config.ConfigError):
        config.load(str(file), TYPES)


SECRET = "planted-8f1c"


def test_a_value_that_nobody_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text(f"{SECRET}-in-a-file\n")
    monkeypatch.setenv("BACKEND_KEY", SECRET)
    edits = {"set": {"X-Backend": {"env": "BACKEND_KEY"}}, "add": {"X-More": {"file": str(tmp_path / "key")}}}
    plane = Plane({"filters": {"headers": {"request": edits}}})
    client = plane.client()
    client.sends(b"GET / HTTP/1.1\r\n" + HOST + b"X-Backend: of the client\r\n\r\n")
    upstream = plane.connects()
    assert f"\r\nX-Backend: {SECRET}\r\n".encode() in upstream.received
    assert f"\r\nX-More: {SECRET}-in-a-file\r\n".encode() in upstream.received
    assert b"of the client" not in upstream.received
    warned = explain(plane.gateway, "GET", "http://a.test/")
    assert "X-Backend: ***" in warned.sends
    assert SECRET not in f"{warned} {effective(plane.config)}"
    (tmp_path / "key").write_text(f"{SECRET}\nX-Role: admin\n")
    with pytest.raises(CompileError, match="the secret for X-More is not a single line"):
        Plane({"filters": {"headers": {"request": edits}}})


@pytest.mark.parametrize("name", ["X-Backend-Key", "X-Functions-Key", "x_api_key", "Private-Token", "X-Secret-Of-Us"])
def test_values_under_names_of_secrets_are_not_shown(name: str) -> None:
    plane = Plane({"filters": {"headers": {"request": {"set": {name: SECRET}}}}})
    assert SECRET not in f"{effective(plane.config)} {explain(plane.gateway, 'GET', 'http://a.test/')}"


def test_a_text_is_a_template_and_never_a_secret() -> None:
    with pytest.raises(ConfigError, match=r"request\.set\.X-A: .*brace"):
        load_document({**SERVICE, "filters": {"headers": {"request": {"set": {"X-A": "{"}}}}}, TYPES)
    with pytest.raises(ConfigError, match=r"request\.set\.X-A\.env: the environment variable NOT_THERE is not set"):
        load_document({**SERVICE, "filters": {"headers": {"request": {"set": {"X-A": {"env": "NOT_THERE"}}}}}}, TYPES)


def of_map(table: dict[str, object], *lines: str, side: str = "request") -> list[bytes]:
    settings = {"maps": {"m": table}, side: {"set": {"X-A": "<{map.m}>"}}}
    plane = Plane({"filters": {"headers": settings}})
    client = plane.client()
    client.sends("\r\n".join(["GET /?q=1 HTTP/1.1", "Host: a.test", *lines, "", ""]).encode())
    upstream = plane.connects()
    upstream.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    return of_test(upstream.received if side == "request" else client.received)


PLANS = {"source": "{header.X-Plan}", "values": {"gold": "1", "~^silver": "2", "": "none"}, "default": "3"}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["X-Plan: gold"], b"X-A: <1>"),
        (["X-Plan: silver-2"], b"X-A: <2>"),
        (["X-Plan: iron"], b"X-A: <3>"),
        ([], b"X-A: <none>"),
        (["X-Plan: gold", "X-Plan: iron"], b"X-A: <none>"),
    ],
)
def test_a_map_gives_a_value_for_another(lines: list[str], expected: bytes) -> None:
    assert of_map(PLANS, *lines) == [expected]
    assert of_map(PLANS, *lines, side="response") == [expected]


def test_a_map_without_a_result_leaves_the_header_out() -> None:
    assert of_map({"source": "{query.q}", "values": {"2": "two"}}, "X-A: theirs") == []


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"request": {"set": {"X-A": "{map.n}"}}}, 'unknown map "n"'),
        ({"maps": {"m": {"source": "{map.m}", "values": {"a": "b"}}}}, "another map"),
        ({"maps": {"m": {"source": "{path}", "values": {"~(": "b"}}}}, "RE2"),
        ({"maps": {"m": {"source": "{nothing}", "values": {"a": "b"}}}}, "unknown variable {nothing}"),
    ],
)
def test_maps_that_cannot_be_meant(settings: dict[str, object], wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        load_document({**SERVICE, "filters": {"headers": settings}})
