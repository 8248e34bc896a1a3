"""explain takes the steps that a request takes, and shows no secret on the way."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fastgw import config
from fastgw.cli import app
from fastgw.errors import Fault
from fastgw.explain import Explanation, Step, as_text, explain
from fastgw.filters import TYPES
from fastgw.filters.api import Exchange, Filter, Phase, Reply, RequestHook
from fastgw.gateway.compiler import compile as compile_tables
from fastgw.gateway.tables import Gateway
from tests.support.certificates import Certificates
from tests.support.generations import load_document
from tests.support.memory import SERVICE, probe
from tests.support.table import for_each

SECRET = "s3cr3t"
NO_URL = 'is not a URL; expected one such as "http://api.example.com/users/7?debug=1"'


def gateway(folder: Path, **settings: object) -> Gateway:
    file = folder / "gateway.json"
    file.write_text(json.dumps({**SERVICE, **settings}))
    return compile_tables(config.load(str(file), TYPES).config, 1)


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "Proxy-Authorization",
        "Cookie",
        "X-Api-Key",
        "apikey",
        "X-Auth-Token",
        "X-Amz-Security-Token",
        "X-Vault-Token",
        "X-CSRF-Token",
        "X-Client-Secret",
        "X-Session-Id",
        "X-Hub-Signature-256",
        "X-Password",
        "Ocp-Apim-Subscription-Key",
    ],
)
@pytest.mark.parametrize("whose", ["client", "gateway"])
def test_fields_that_hold_secrets_are_not_shown(tmp_path: Path, name: str, whose: str) -> None:
    """Whether the client sends them or a filter adds them."""
    edit = {"headers": {"request": {"set": {name: SECRET}}}} if whose == "gateway" and "Proxy" not in name else {}
    sent = [f"{name}: {SECRET}"] if whose == "client" else []
    shown = as_text(explain(gateway(tmp_path, filters=edit), "GET", "http://a.test/", sent))
    assert SECRET not in shown
    assert "sends" in shown


@pytest.mark.parametrize("name", ["token", "code", "sig"])
def test_parameters_that_hold_secrets_are_not_shown(tmp_path: Path, name: str) -> None:
    """Those that are masked in any log, and those that the configuration names."""
    tables = gateway(tmp_path, access_logs=[{"sink": "stdout", "format": "json", "redact": ["sig"]}])
    fields = [f"Referer: http://a.test/?{name}={SECRET}"]
    shown = as_text(explain(tables, "GET", f"http://a.test/x?a=1&{name}={SECRET}&b=2", fields))
    assert SECRET not in shown
    assert "a=1" in shown
    assert "b=2" in shown


def test_ordinary_fields_are_shown(tmp_path: Path) -> None:
    shown = as_text(explain(gateway(tmp_path), "GET", "http://a.test/x?a=1", ["X-Tenant: t1", "Accept: text/html"]))
    assert "X-Tenant: t1" in shown
    assert "Accept: text/html" in shown
    assert "GET /x?a=1 HTTP/1.1" in shown


# --- what filters decide, and why ---


def told(*probes: type[Filter], shadow: bool = False, **settings: object) -> Explanation:
    """Of a request that meets these filters."""
    types = {**TYPES, **{each.type_name: each for each in probes}}
    uses = {each.type_name: {"shadow": shadow} for each in probes}
    document = {**SERVICE, "filters": uses, **settings}
    return explain(compile_tables(load_document(document, types), 1), "GET", "http://a.test/")


def steps(explanation: Explanation) -> list[str]:
    return [f"{step.filter} → {step.decision}" for step in (*explanation.early, *explanation.filters)]


async def later(exchange: Exchange) -> None:
    raise AssertionError("nothing is asked here")


def refuse(exchange: Exchange) -> Reply:
    return exchange.refuse(Fault.FORBIDDEN, why="alice is in no group of ops")


def broken(*_: object) -> Any:
    raise ZeroDivisionError("no")


@for_each(
    ("hooks", "decision"),
    [
        ({"request": lambda exchange: None}, "pass"),
        ({"request": lambda exchange: None, "explain": lambda exchange: "consumer alice"}, "pass (consumer alice)"),
        ({"request": lambda exchange: None, "explain": broken}, "pass (cannot say why: ZeroDivisionError)"),
        ({"request": refuse}, "answers 403 (forbidden: alice is in no group of ops)"),
        ({"request": lambda exchange: Reply(204)}, "answers 204"),
        ({"request": later}, "would have to call, which explain does not do"),
        (
            {"request": RequestHook(later, asks="http://authority.test"), "explain": broken},
            "would have to call http://authority.test, which explain does not do",
        ),
        ({"request": broken}, "answers 500 (internal: it raises ZeroDivisionError: no)"),
        (
            {"request": broken, "start": broken},
            "known to a running gateway only (ZeroDivisionError: no)",
        ),
        ({"request": lambda exchange: True}, "answers 500 (internal: it raises TypeError: a step of a filter returned"),
        ({"response": broken}, "runs on the response only"),
    ],
)
@for_each("shadow", [False, True])
@for_each("phase", [Phase.ADMIT, Phase.AUTHORIZE])
def test_every_decision_has_its_reason(phase: Phase, shadow: bool, hooks: dict[str, Any], decision: str) -> None:
    """A filter in shadow is told of in the same words, and its answer is not the gateway's."""
    explanation = told(probe("p", phase, **hooks), shadow=shadow)
    (said,) = steps(explanation)
    assert said.startswith(f"p → {'in shadow: ' if shadow else ''}{decision}")
    answers = decision.startswith("answers") and not shadow
    assert bool(explanation.status) == answers
    assert bool(explanation.sends) == (not answers)
    waits = decision.startswith(("would have", "known to"))
    assert explanation.provided == (("p",) if waits and not shadow else ())
    assert ("provided  p lets it pass" in as_text(explanation)) == (waits and not shadow)


def test_what_a_filter_in_shadow_changes_is_not_sent() -> None:
    explanation = told(
        probe("p", Phase.ADMIT, request=lambda exchange: exchange.headers.set(b"X-Tenant", b"t")), shadow=True
    )
    assert steps(explanation) == ["p → in shadow: would send X-Tenant: t"]
    assert not any("X-Tenant" in line for line in explanation.sends)


def test_what_filters_behind_one_that_waits_decide_is_told() -> None:
    explanation = told(probe("asks", Phase.AUTHENTICATE, request=later), probe("p", Phase.AUTHORIZE, request=refuse))
    assert [step.waits for step in explanation.filters] == [True, False]
    assert (explanation.status, explanation.provided) == (403, ("asks",))


def test_every_filter_says_what_it_came_from() -> None:
    passing = [probe(name, Phase.TRANSFORM, request=lambda exchange: None) for name in "abcde"]
    settings = {
        "filters": {"a": {}, "e": {}},
        "listeners": {"main": {"address": "127.0.0.1:0", "filters": {"b": {}}}},
        "upstreams": {"u": {"targets": [{"url": "http://127.0.0.1:9"}], "filters": {"c": {}}}},
        "filter_sets": {"s": {"d": {}, "e": {}}},
        "routes": [{"name": "all", "upstream": "u", "use": ["s"], "filters": {"f": {"type": "a"}}}],
    }
    explanation = told(*passing, **settings)
    levels = {step.filter: step.level for step in explanation.filters}
    assert levels == {
        "a": "gateway",
        "b": "listener",
        "c": "upstream u",
        "d": "filter set s",
        "e": "filter set s",
        "f (a)": "route",
    }
    assert "c → pass   [upstream u]" in as_text(explanation)


# --- who the client is, when somebody else would have to say so ---

ASKING = {"jwt": {"algorithms": ["RS256"], "jwks_uri": "https://idp.test/keys"}}
TOKEN = "Authorization: Bearer eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIiwiZXhwIjo0MTAyNDQ0ODAwfQ.c2ln"
DEPENDS = "depends on the consumer that jwt authenticates"


def reported(*probes: type[Filter], filters: dict[str, Any], **settings: object) -> Explanation:
    types = {**TYPES, **{each.type_name: each for each in probes}}
    document = {**SERVICE, "filters": filters, **settings}
    return explain(compile_tables(load_document(document, types), 1), "GET", "http://a.test/", [TOKEN])


@pytest.mark.parametrize(
    "condition",
    [
        {},
        {"groups": {"any": ["ops"]}},
        {"groups": {"none": ["ops"]}},
        {"any_of": [{"scopes": {"all": ["read"]}}, {"claims": {"a.b": {"any": [1]}}}]},
        {"none_of": [{"consumers": {"any": ["alice"]}}]},
    ],
)
def test_what_depends_on_who_it_is_is_not_decided(condition: dict[str, Any]) -> None:
    explanation = reported(filters={**ASKING, "authorize": condition})
    assert [step.decision for step in explanation.filters][1:] == [DEPENDS]
    assert explanation.filters[1].depends_on == "jwt"
    assert (explanation.status, explanation.fault, explanation.provided) == (0, "", ("jwt", "authorize"))
    assert explanation.sends
    assert "provided  jwt, authorize let it pass" in as_text(explanation)


def test_values_that_are_not_known_are_shown_by_their_names() -> None:
    values = {"X-Who": "{consumer.name}", "X-In": "{consumer.groups}", "X-City": "{claims.address.city}", "X-B": "b"}
    explanation = reported(filters={**ASKING, "headers": {"request": {"set": values}}})
    assert {f"{name}: {value}" for name, value in values.items()} <= set(explanation.sends)
    assert explanation.filters[1].decision.endswith(f"X-B: b ({DEPENDS})")


def test_a_header_that_two_filters_send_is_shown_once() -> None:
    """The line of the first filter is removed by the second one, which sends the same."""
    change = {"type": "transform", "response": {"json": {"deny": ["a"]}}}
    headers = {"request": {"set": {"X-Method": "{method}"}}}
    found = explain(
        compile_tables(
            load_document({**SERVICE, "filters": {"t1": change, "headers": headers, "t2": change}}, TYPES), 1
        ),
        "GET",
        "http://a.test/",
    )
    shown = [step.decision for step in found.filters]
    assert [("Accept-Encoding" in each, "X-Method: GET" in each) for each in shown].count((True, False)) == 1
    assert sum("X-Method: GET" in each for each in shown) == 1
    assert found.sends.count("Accept-Encoding: identity") == 1


def test_what_is_known_all_the_same_is_decided() -> None:
    """A filter that does not look at the client; and one that looks where another filter has said who it is."""
    plain = reported(filters={**ASKING, "headers": {"request": {"set": {"X-B": "b"}}}})
    assert plain.filters[1] == Step("headers", "would send X-B: b", "gateway")
    types = {**ASKING, "key_auth": {}, "authorize": {"groups": {"any": ["ops"]}}}
    document = {**SERVICE, "filters": types, "consumers": [{"name": "alice", "key_auth": [{"key": "k" * 32}]}]}
    sent = [TOKEN, f"X-Api-Key: {'k' * 32}"]
    known = explain(compile_tables(load_document(document, TYPES), 1), "GET", "http://a.test/", sent)
    assert known.filters[2].decision == "answers 403 (forbidden: the groups: there are none; one of ops is required)"
    assert known.status == 403


def test_a_filter_of_ones_own_may_raise_or_answer_by_who_it_is() -> None:
    def needs(exchange: Exchange) -> Reply | None:
        return exchange.refuse(Fault.FORBIDDEN) if exchange.claims["sub"] != "bob" else None

    def unpacks(exchange: Exchange) -> None:
        assert exchange.consumer is not None
        int(exchange.consumer.name)

    explanation = reported(
        probe("needs", Phase.VALIDATE, request=needs),
        probe("unpacks", Phase.VALIDATE, request=unpacks),
        filters={**ASKING, "needs": {}, "unpacks": {}},
    )
    assert [step.decision for step in explanation.filters][1:] == [DEPENDS, DEPENDS]
    assert explanation.sends


def test_a_filter_in_shadow_depends_on_who_it_is_too() -> None:
    use = {"shadow": True, "groups": {"any": ["ops"]}}
    explanation = reported(filters={**ASKING, "authorize": use, "headers": {"request": {"set": {"X-B": "b"}}}})
    assert [step.decision for step in explanation.filters][1:] == [f"in shadow: {DEPENDS}", "would send X-B: b"]
    assert explanation.provided == ("jwt",)
    quiet = reported(filters={"jwt": {**ASKING["jwt"], "shadow": True}, "authorize": {}})
    assert quiet.status == 401  # what is in shadow says who nobody is


def test_an_answer_of_the_gateway_itself_holds_provided_that_it_passes() -> None:
    explanation = reported(
        filters={**ASKING, "authorize": {}, "headers": {"response": {"set": {"X-Who": "{consumer.name}"}}}},
        routes=[{"name": "all", "respond": {"body": "x"}}],
    )
    assert (explanation.status, explanation.provided) == (200, ("jwt", "authorize"))
    assert "X-Who: {consumer.name}" in explanation.fields


def test_what_browsers_may_do_with_credentials_is_no_secret() -> None:
    cors = {"origins": ["https://app.test"], "credentials": True}
    plane = compile_tables(load_document({**SERVICE, "filters": {"cors": cors}, "routes": []}, TYPES), 1)
    explanation = explain(plane, "GET", "http://a.test/", ["Origin: https://app.test"])
    assert "Access-Control-Allow-Credentials: true" in explanation.fields


WITH_CERTIFICATES = """\
version: 1
listeners:
  main:
    address: "127.0.0.1:8443"
    tls: {certificates: [{certificate: %s, key: %s}], client_auth: {mode: %s, ca: %s}}
  plain: {address: "127.0.0.1:8080"}
consumers:
  - {name: alice, groups: [staff], certificates: [{subject: "CN=alice"}]}
routes:
  - {name: all, respond: {}, filters: {certificate_auth: {}, authorize: {groups: {any: [staff]}}}}
"""


@pytest.mark.parametrize("mode", ["optional", "required"])
def test_a_client_that_shows_a_certificate(tmp_path: Path, mode: str) -> None:
    authority = Certificates(tmp_path)
    certificate, key = authority.issue("a.test")
    alice, _ = authority.issue("alice", subject="alice")
    file = tmp_path / "gw.yaml"
    file.write_text(WITH_CERTIFICATES % (certificate, key, mode, authority.ca))

    def said(*options: str, url: str = "https://a.test:8443/") -> str:
        ended = CliRunner().invoke(app, ["explain", str(file), "GET", url, *options])
        return f"{ended.exit_code} {ended.output}"

    assert "certificate_auth → pass (consumer alice)" in said("--certificate", alice)
    assert "\nanswers   200" in said("--certificate", alice)
    alone = "TLS handshake fails: this listener requires a client certificate (--certificate FILE)"
    assert (alone in said()) is (mode == "required")
    assert ("answers 401" in said()) is (mode == "optional")
    assert said("--certificate", key) == f"1 fastgw: {key}: it contains no certificate; expected a PEM file\n"
    assert said("--certificate", "/nowhere") == "1 fastgw: /nowhere: No such file or directory\n"
    asked = said("--certificate", alice, url="http://a.test:8080/")
    assert asked == "1 fastgw: listener plain does not request client certificates\n"
    unencrypted = said(url="http://a.test:8443/")
    assert "answers   400 tls_required (this listener uses TLS; expected https:// in the URL)" in unencrypted
    assert "route" not in unencrypted


def test_an_https_url_of_a_listener_in_clear_text_is_not_served(tmp_path: Path) -> None:
    """Unless TLS ends in front of the gateway: on a port that no listener has, or as `listener` says."""
    tables = gateway(tmp_path, listeners={"public": {"address": "127.0.0.1:8080"}})
    refused = explain(tables, "GET", "HTTPS://a.test:8080/")
    assert "TLS handshake fails: this listener is in clear text" in refused.detail
    assert "--listener public" in refused.detail
    assert (refused.status, refused.route) == (0, "")
    for url, listener in (("http://a.test:8080/", None), ("https://a.test/", None), ("https://a.test:8080/", "public")):
        assert "handshake" not in as_text(explain(tables, "GET", url, listener=listener))


def test_a_field_without_a_colon_is_no_request(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^\"X-Api-Key\" has no colon; expected a header such as \"X-Tenant: t1\"$"):
        explain(gateway(tmp_path), "GET", "http://a.test/", ["X-Api-Key=secret"])


@pytest.mark.parametrize(
    ("url", "fields", "client", "error"),
    [
        ("http://a.test/", [], "1.2.3", '"1.2.3" is not the address of a client; expected an IPv4 or IPv6 address'),
        ("http://a:99999/", [], "::1", '"http://a:99999/" has an invalid port; expected a number from 0 to 65535'),
        ("http://[::1/", [], "::1", f'"http://[::1/" {NO_URL}'),
        ("http://[zz]/", [], "::1", f'"http://[zz]/" {NO_URL}'),
        ("http://a.test:b/", [], "::1", '"http://a.test:b/" has an invalid port; expected a number from 0 to 65535'),
        (
            "http://a.test/\udcff",
            [],
            "::1",
            '"http://a.test/\\udcff" is not UTF-8; expected UTF-8, other bytes of a URL as %FF, for example',
        ),
        (
            "http://a.test/",
            ["X-Key: secret\udcff"],
            "::1",
            'header "X-Key" is not UTF-8; expected UTF-8, other bytes of a URL as %FF, for example',
        ),
        (
            "http://a.test/",
            ["X-Key=secret\udcff"],
            "::1",
            'header "X-Key" is not UTF-8; expected UTF-8, other bytes of a URL as %FF, for example',
        ),
    ],
    ids=["client", "port", "no_end_of_address", "no_address", "no_number", "url", "header", "header_without_colon"],
)
def test_an_invalid_argument_is_named(tmp_path: Path, url: str, fields: list[str], client: str, error: str) -> None:
    with pytest.raises(ValueError, match=r"\S") as caught:
        explain(gateway(tmp_path), "GET", url, fields, client)
    assert str(caught.value) == error


@pytest.mark.parametrize(
    ("method", "url", "field", "which"),
    [
        ("GET / HTTP/1.1\r\nA: b", "http://a.test/x", "X: a", "the method"),
        ("GET\n", "http://a.test/x", "X: a", "the method"),
        ("GET", "http://a.test/x HTTP/1.1\r\nA: b", "X: a", "the URL"),
        ("GET", "http://a.test\n/x", "X: a", "the URL"),
        ("GET", "http://a.test/x", "X: secret\r\nY: b", 'header "X"'),
        ("GET", "http://a.test/x", "X: secret\rY: b", 'header "X"'),
        ("GET", "http://a.test/x", "X\nY: b", 'header "X"'),
    ],
)
def test_a_line_break_adds_no_header(tmp_path: Path, method: str, url: str, field: str, which: str) -> None:
    with pytest.raises(ValueError, match=r"\S") as caught:
        explain(gateway(tmp_path), method, url, [field])
    assert str(caught.value) == f"{which} contains a line break; expected it in one line"


def test_the_line_break_at_the_end_of_a_header_is_that_of_its_file(tmp_path: Path) -> None:
    assert "X: a" in as_text(explain(balanced(tmp_path), "GET", "http://a.test/", ["X: a\r\n"]))


# --- which target, and why ---


def balanced(folder: Path, **balancing: object) -> Gateway:
    upstream = {"targets": [{"url": f"http://127.0.0.1:{port}"} for port in (1, 2, 3)], "load_balancing": balancing}
    return gateway(folder, upstreams={"u": upstream}, routes=[{"name": "r", "paths": ["/*"], "upstream": "u"}])


@pytest.mark.parametrize(
    ("balancing", "fields", "told"),
    [
        ({}, [], "round_robin, 1 of 3"),
        ({"algorithm": "least_connections"}, [], "least_connections, 1 of 3"),
        ({"algorithm": "ip_hash"}, [], "ip_hash on ip 192.0.2.1, 1 of 3"),
        ({"algorithm": "consistent_hash"}, [], "consistent_hash on ip 192.0.2.1, 1 of 3"),
        ({"hash_on": "header:X-User"}, ["X-User: 7"], "consistent_hash on header x-user: 7, 1 of 3"),
        ({"hash_on": "header:X-User"}, [], "consistent_hash on header:x-user, which is missing: round robin, 1 of 3"),
        ({"hash_on": "header:X-Api-Key"}, [f"X-Api-Key: {SECRET}"], "consistent_hash on header x-api-key: ***, 1 of 3"),
        ({"hash_on": "cookie:sid"}, [f"Cookie: sid={SECRET}"], "consistent_hash on cookie:sid ***, 1 of 3"),
        ({"sticky": {"cookie": "lb"}}, [], "round_robin, sets the cookie lb, 1 of 3"),
        (
            {"sticky": {"cookie": "lb"}},
            [f"Cookie: lb={SECRET}"],
            "round_robin, sets the cookie lb, unless its cookie is valid there, 1 of 3",
        ),
    ],
)
def test_it_tells_what_picks_the_target(
    tmp_path: Path, balancing: dict[str, object], fields: list[str], told: str
) -> None:
    if "hash_on" in balancing:
        balancing = {"algorithm": "consistent_hash", **balancing}
    explanation = explain(balanced(tmp_path, **balancing), "GET", "http://a.test/", fields, "192.0.2.1")
    assert f"({told}; upstream u)" in as_text(explanation)
    assert SECRET not in as_text(explanation)


def test_it_tells_that_a_cookie_names_the_target(tmp_path: Path) -> None:
    tables = balanced(tmp_path, sticky={"cookie": "lb", "key": SECRET * 3})
    upstream = tables.upstreams["u"]
    assert upstream.cookies is not None
    for target in upstream.targets:
        value = upstream.cookies.line(target, False).decode().partition(": ")[2].partition(";")[0]
        explanation = explain(tables, "GET", "http://a.test/", [f"Cookie: {value}"])
        assert explanation.target == f"http://{target.label}"
        assert explanation.picked_by == "cookie lb"


@pytest.mark.parametrize("shadow", [False, True])
def test_what_filters_make_of_a_reply_is_what_is_told(shadow: bool) -> None:
    def reply(exchange: Exchange, reply: Reply) -> Reply:
        return Reply(418, b"", ((b"X-Said", b"otherwise"),), reply.fault)

    def response(exchange: Exchange) -> None:
        assert exchange.response is not None
        exchange.response.status += 1

    explanation = told(probe("p", Phase.ADMIT, request=refuse, reply=reply, response=response), shadow=shadow)
    if shadow:
        assert explanation.sends
    else:
        assert (explanation.status, explanation.fault, explanation.fields) == (419, "forbidden", ("X-Said: otherwise",))


def test_a_renewal_is_nothing_that_is_told() -> None:
    explanation = told(probe("p", Phase.CREDENTIALS, renew=broken))
    assert steps(explanation) == ["p → runs on the response only"]
    assert explanation.sends


@pytest.mark.parametrize(
    ("own", "early", "later", "sent"),
    [
        ({}, "would send X-Request-Id: mine", [], ["X-Request-Id: mine"]),
        ({"request_id": "off"}, "the route has none", [], ["X-Request-Id: mine"]),
        (
            {"request_id": {"header": "X-Mark"}},
            "the route has its own",
            ["would send X-Mark: mine"],
            ["X-Mark: mine"],
        ),
    ],
)
def test_of_several_ids_the_one_that_is_sent_is_told(
    tmp_path: Path, own: dict[str, Any], early: str, later: list[str], sent: list[str]
) -> None:
    routes = [{"name": "a", "upstream": "u", "filters": own}]
    settings = {
        "upstreams": {"u": {"targets": ["http://127.0.0.1:9"]}},
        "routes": routes,
        "filters": {"request_id": {}},
    }
    name = "X-Mark" if later else "X-Request-Id"
    explanation = explain(gateway(tmp_path, **settings), "GET", "http://a/", [f"{name}: mine"])
    assert [step.decision for step in explanation.early] == [early]
    assert [step.decision for step in explanation.filters] == later
    assert [line for line in explanation.sends if line.startswith(("X-Request-Id", "X-Mark"))] == sent


@pytest.mark.parametrize(
    ("method", "url", "sent", "step", "sends"),
    [
        ("POST", "/a.B/C", ["Content-Type: application/grpc-web-text"], "gRPC-Web in text form", "application/grpc"),
        ("GET", "/a.B/C?connect=v1&encoding=json&message=%7B%7D", [], "by GET", "application/grpc+json"),
        ("POST", "/a.B/C", ["Content-Type: application/grpc"], "not a call of gRPC-Web", "application/grpc"),
    ],
)
def test_what_is_sent_is_the_call_that_a_filter_makes(
    tmp_path: Path, method: str, url: str, sent: list[str], step: str, sends: str
) -> None:
    filters = {"grpc_web": {}, "connect_rpc": {"get": ["C"]}}
    shown = as_text(explain(gateway(tmp_path, filters=filters), method, f"http://a.test{url}", sent))
    assert step in shown
    (line,) = [line for line in shown.splitlines() if line.startswith("sends")]
    assert "POST /a.B/C HTTP/1.1" in line
    assert f"Content-Type: {sends} ·" in line


def test_what_is_sent_over_http2_is_shown_in_its_form(tmp_path: Path) -> None:
    upstreams = {"u": {"targets": ["https://127.0.0.1:9"], "protocol": "http2"}}
    asked = ["X-A: b", "Connection: close", "Authorization: Bearer abc"]
    sends = explain(gateway(tmp_path, upstreams=upstreams), "GET", "http://a.test/x?token=abc", asked).sends
    assert sends[:5] == (":method: GET", ":scheme: https", ":path: /x?token=***", ":authority: a.test", "x-a: b")
    assert "authorization: ***" in sends
    assert all(line.partition(":")[0].islower() for line in sends[4:])
    assert not [line for line in sends if line.startswith(("connection", "host"))]


def test_a_call_that_is_refused_is_shown_as_refused(tmp_path: Path) -> None:
    url = "http://a.test/a.B/C?connect=v1&encoding=json&message=%7B%7D"
    shown = as_text(explain(gateway(tmp_path, filters={"connect_rpc": {}}), "GET", url, []))
    assert "answers   405" in shown


def test_an_answer_in_place_of_a_forwarded_request_is_shown_with_its_reason(tmp_path: Path) -> None:
    route = {"name": "all", "paths": ["/*"], "upstream": "http://127.0.0.1:9000", "rewrite": "/x/{header.X-T}"}
    shown = as_text(explain(gateway(tmp_path, routes=[route]), "GET", "http://a.test/"))
    assert "\nanswers   400 bad_request (rewrite: {header.X-T} has no value)" in shown
    assert "\nsends" not in shown


@pytest.mark.parametrize("filters", [{}, {"cache": {}}], ids=["alone", "cache"])
@pytest.mark.parametrize(
    ("rewrite", "shown"),
    [
        ("/{map.release}{path}", "GET /v2/x HTTP/1.1"),
        ("/of/{route}", "GET /of/all HTTP/1.1"),
        ("/x/{header.X-T}", "answers   400 bad_request (rewrite: {header.X-T} has no value)"),
    ],
)
def test_a_path_with_values_of_the_request_is_shown(
    tmp_path: Path, rewrite: str, shown: str, filters: dict[str, Any]
) -> None:
    maps = {"release": {"source": "{cookie.release}", "values": {"beta": "v2"}, "default": "v1"}}
    route = {"name": "all", "paths": ["/*"], "upstream": "http://127.0.0.1:9000", "rewrite": rewrite}
    asked = gateway(tmp_path, routes=[{**route, "filters": filters}], maps=maps)
    assert shown in as_text(explain(asked, "GET", "http://a.test/x", ["Cookie: release=beta"]))


def test_without_listeners_it_says_where_those_of_a_cluster_are_known(tmp_path: Path) -> None:
    (tmp_path / "kube").write_text("current-context: a\ncontexts: [{name: a, context: {}}]\n")
    file = tmp_path / "gw.yaml"
    file.write_text("version: 1\nproviders: {kubernetes: {kubeconfig: kube}}\n")
    ended = CliRunner().invoke(app, ["explain", str(file), "GET", "http://a.test/"])
    assert ended.exit_code == 1
    assert "those of `providers.kubernetes` are known to a running gateway only" in ended.output
