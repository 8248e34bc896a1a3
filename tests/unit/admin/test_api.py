"""What the admin API tells, and what it takes: over a real connection, from a node that is made up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future

import msgspec
import pytest

from fastgw.admin import api
from fastgw.admin.node_interface import Consumers, Effective, Live, Routes, Status, Upstreams
from fastgw.admin.operation import Operation
from fastgw.config.settings.gateway import DEFAULT_ADMIN
from tests.support.admin import (
    BUSY,
    CONSUMER,
    EFFECTIVE,
    FAILED,
    MADE,
    REJECTED,
    RELOADED,
    FakeNode,
    Served,
    served,
)
from tests.support.gateway import wait_until

NODE = FakeNode()
TELLS = [
    ("/status", Status, NODE.status()),
    ("/live", Live, NODE.live()),
    ("/routes", Routes, Routes(NODE.routes())),
    ("/upstreams", Upstreams, Upstreams(NODE.upstreams())),
    ("/consumers", Consumers, Consumers([CONSUMER])),
    ("/config", Effective, EFFECTIVE),
]
SHOWN = f"Authorization: Bearer {MADE}"
YAML = "Content-Type: application/yaml"
JSON = "Content-Type: application/json"


@pytest.fixture(scope="module")
def shared() -> Iterator[Served]:
    with served() as here:
        yield here


@pytest.fixture
def here(shared: Served) -> Served:
    shared.node.__init__()  # type: ignore[misc]  # as good as new
    return shared


@pytest.mark.parametrize(("path", "kind", "expected"), TELLS, ids=lambda each: each if isinstance(each, str) else "")
def test_what_the_node_says_is_told_as_json(here, path, kind, expected):
    status, head, body = here.ask(f"GET {path}")
    assert status == 200
    assert "content-type: application/json\r\n" in head.lower() + "\r\n"
    assert json.loads(body) == json.loads(msgspec.json.encode(expected))
    assert msgspec.json.decode(body, type=kind)


def test_metrics_are_given_as_the_accept_field_asks(here):
    status, head, body = here.ask("GET /metrics", "Accept: application/openmetrics-text")
    assert (status, body) == (200, b"# asked for application/openmetrics-text\n")
    assert "content-type: text/plain; version=0.0.4; charset=utf-8" in head.lower()


@pytest.mark.parametrize(
    ("request_line", "fields", "was", "wanted"),
    [
        ("POST /config", (), "and there is none", "application/yaml, application/json or application/toml"),
        (
            "POST /config",
            ("Content-Type: text/x",),
            'not "text/x"',
            "application/yaml, application/json or application/toml",
        ),
        ("PUT /upstreams/u/targets", (), "and there is none", "application/yaml or application/json"),
        ("POST /rollback", ("Content-Type: text/x; charset=a",), 'not "text/x; charset=a"', "application/json"),
        ("POST /revocations", (), "and there is none", "application/json"),
        ("POST /quotas/reset", (), "and there is none", "application/json"),
        ("POST /explain", (), "and there is none", "application/json"),
    ],
)
def test_what_the_content_type_must_be_what_it_was_and_how_to_say_it(here, request_line, fields, was, wanted):
    status, _, body = here.ask(request_line, *fields, body=b"{}")
    first = wanted.partition(" ")[0].rstrip(",")
    said = f"The Content-Type must be {wanted}, {was}; with curl: -H 'Content-Type: {first}'."
    assert (status, json.loads(body)["detail"]) == (415, said)


def test_the_page_may_run_only_what_it_holds(here):
    status, head, body = here.ask("GET /")
    assert status == 200
    assert b"<!doctype html>" in body[:20].lower()
    assert "default-src 'none'" in head
    assert "script-src 'sha256-" in head
    assert "unsafe" not in head


@pytest.mark.parametrize("path", ["/", "/status", "/nowhere", "/reload"])
def test_every_answer_is_kept_by_nobody_and_taken_for_nothing_else(here, path):
    head = here.ask(f"GET {path}")[1].lower()
    for field in (
        "cache-control: no-store",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "date: ",
    ):
        assert field in head
    assert "content-security-policy: default-src 'none'" in head
    assert "access-control" not in head
    assert "server:" not in head


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [(RELOADED, 200), (REJECTED, 422), (BUSY, 409), (FAILED, 503)],
    ids=lambda each: str(each)[:9],
)
def test_what_became_of_a_change_is_told_whatever_it_was(here, outcome, expected):
    here.node.outcome = outcome
    for request, fields, body in (
        ("POST /reload", (), b""),
        ("POST /config", (YAML,), b"version: 1"),
        ("POST /rollback", (JSON,), b"{}"),
    ):
        status, head, answer = here.ask(request, *fields, body=body)
        assert status == expected
        assert "application/json" in head
        assert answer == msgspec.json.encode(outcome)


@pytest.mark.parametrize(
    ("kind", "suffix"), [("yaml", ".yaml"), ("json", ".json"), ("toml; charset=utf-8", ".toml"), ("YAML", ".yaml")]
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_configuration_is_taken_in_any_of_its_formats(here, kind, suffix, dry_run):
    query = f"?dry_run={str(dry_run).lower()}"
    assert here.ask(f"POST /config{query}", f"Content-Type: application/{kind}", body=b"text")[0] == 200
    assert here.node.told == [(b"text", suffix, dry_run)]


@pytest.mark.parametrize(("kind", "suffix"), [(YAML, ".yaml"), (JSON, ".json")])
def test_targets_are_put_by_the_name_of_their_upstream(here, kind, suffix):
    assert here.ask("PUT /upstreams/my.users%20/targets", kind, body=b"[]")[0] == 200
    assert here.node.told == [("my.users ", b"[]", suffix)]


@pytest.mark.parametrize("written", ["egress%2Fshop%2Ftargets", "egress/shop/targets"])
def test_an_upstream_of_the_egress_role_is_named_too(here, written):
    assert here.ask(f"PUT /upstreams/{written}/targets", JSON, body=b"[]")[0] == 200
    assert here.node.told == [("egress/shop/targets", b"[]", ".json")]
    asked = f"POST /upstreams/{written}/targets/127.0.0.1:1/drain"
    assert json.loads(here.ask(asked)[2])["detail"] == "Unknown target; /upstreams lists all targets."


def test_what_is_revoked_is_named_in_one_way(here):
    issuer = "https://idp.example"
    for body, kind in (
        ({"issuer": issuer, "jti": "1"}, ("jti", issuer, "", "1")),
        ({"issuer": issuer, "subject": "ann", "expires": 4e9}, ("subject", issuer, "ann", "")),
        ({"token": "planted-token"}, ("token", "", "", "")),
    ):
        status, _, answer = here.ask("POST /revocations", JSON, body=json.dumps(body).encode())
        assert (status, json.loads(answer)["reach"]) == (200, "away")
        assert b"planted" not in answer
        assert here.node.told[-1] == ("revoke", 1, *kind)
    told = json.loads(here.ask("GET /revocations")[2])
    assert (told["count"], told["most"], told["reach"], told["recent"][0]["jti"]) == (1, 100_000, "shared", "1")


def test_a_rollback_names_a_generation_or_none(here):
    for body in (b'{"generation": 7}', b'{"generation": null}', b"{}"):
        assert here.ask("POST /rollback", JSON, body=body)[0] == 200
    assert here.ask("POST /rollback")[0] == 200
    assert here.node.told == [("rollback", 7), ("rollback", None), ("rollback", None), ("rollback", None)]


def test_draining_begins_at_once(here):
    status, _, body = here.ask("POST /drain")
    assert (status, json.loads(body)) == (202, {"state": "draining"})
    assert here.node.told == ["drain"]


WRONG = [
    ("GET /nowhere", (), b"", 404),
    ("GET /status/", (), b"", 404),
    ("GET //status", (), b"", 404),
    ("GET /../status", (), b"", 404),
    ("GET /STATUS", (), b"", 404),
    ("GET /status%00", (), b"", 404),
    ("GET http://127.0.0.1/status", (), b"", 404),
    ("POST /status", (), b"", 405),
    ("GET /reload", (), b"", 405),
    ("HEAD /reload", (), b"", 405),
    ("HEAD /recordings/1", (), b"", 405),
    ("OPTIONS /config", (), b"", 405),
    ("DELETE /config", (), b"", 405),
    ("POST /config?dry_run=yes", (YAML,), b"x", 400),
    ("POST /config?dryrun=true", (YAML,), b"x", 400),
    ("POST /config?dry_run=true&dry_run=true", (YAML,), b"x", 400),
    ("POST /rollback?generation=1", (), b"", 400),
    ("POST /drain?dry_run=true", (), b"", 400),
    ("HEAD /status?x", (), b"", 400),
    ("POST /config", (), b"x", 415),
    ("POST /config", ("Content-Type: text/plain",), b"x", 415),
    ("POST /config", ("Content-Type: application/x-www-form-urlencoded",), b"x", 415),
    ("POST /reload", (), b"x", 415),
    ("PUT /upstreams/users/targets", (), b"[]", 415),
    ("PUT /upstreams/users/targets", ("Content-Type: application/toml",), b"x = 1", 415),
    ("POST /drain", (JSON,), b"{}", 415),
    ("POST /rollback", ("Content-Type: text/plain",), b"{}", 415),
    ("POST /rollback", (JSON,), b'{"generation": "two"}', 400),
    ("POST /rollback", (JSON,), b'{"generations": 2}', 400),
    ("POST /rollback", (JSON,), b"{", 400),
    ("POST /rollback", (JSON,), b'{"\xff": 1}', 400),
    ("POST /quotas/reset", (JSON,), b'{"\xed\xa0\x80": 1}', 400),
    ("POST /revocations", (), b'{"token": "a"}', 415),
    ("POST /revocations", (JSON,), b"", 400),
    ("POST /revocations", (JSON,), b"{}", 400),
    ("POST /revocations", (JSON,), b'{"token": "a", "issuer": "b"}', 400),
    ("POST /revocations", (JSON,), b'{"tokens": "a"}', 400),
    ("POST /revocations", (JSON,), b'{"token": "a", "expires": "soon"}', 400),
    ("POST /revocations", (JSON,), b'{"token": "a", "expires": 7}', 400),
    ("POST /revocations?all=true", (JSON,), b'{"token": "a"}', 400),
]


@pytest.mark.parametrize(("request_line", "fields", "body", "expected"), WRONG)
def test_what_is_wrong_is_told_as_a_problem_and_nothing_is_done(here, request_line, fields, body, expected):
    status, head, answer = here.ask(request_line, *fields, body=body)
    assert status == expected
    assert "application/problem+json" in head
    if not request_line.startswith("HEAD"):
        problem = json.loads(answer)
        assert (problem["status"], problem["type"]) == (expected, "about:blank")
        assert problem["title"]
    assert here.node.told == []


def test_a_parameter_that_nobody_reads_is_named_with_those_that_are_known(here):
    for query, told in (
        ("dryrun=true", 'Unknown query parameter "dryrun"; known here: dry_run.'),
        ("dry_run=false&dry_run=true", 'Duplicate query parameter "dry_run"; known here: dry_run.'),
    ):
        assert json.loads(here.ask(f"POST /config?{query}", YAML, body=b"x")[2])["detail"] == told
    told = json.loads(here.ask("POST /rollback?generation=1")[2])["detail"]
    assert told == 'Unknown query parameter "generation"; known here: none.'


@pytest.mark.parametrize(
    ("request_line", "methods"),
    [("DELETE /config", {"get", "head", "post"}), ("HEAD /recordings/1", {"get", "delete"})],
)
def test_a_method_that_is_not_there_is_told_which_are(here, request_line, methods):
    """A GET of records takes them away, which a HEAD must not (RFC 9110 section 9.2.1)."""
    allowed = [line for line in here.ask(request_line)[1].lower().splitlines() if line.startswith("allow:")]
    assert {each.strip() for each in allowed[0].removeprefix("allow:").split(",")} == methods


def test_head_tells_what_get_would_without_its_body(here):
    status, head, body = here.ask("HEAD /status")
    assert (status, body) == (200, b"")
    assert f"content-length: {len(here.ask('GET /status')[2])}" in head.lower()


def test_a_defect_is_one_line_in_the_log_and_no_traceback_for_the_client(here, caplog):
    here.node.broken = ZeroDivisionError("/secret/path")
    status, head, body = here.ask("GET /status")
    assert status == 500
    assert "application/problem+json" in head
    assert b"secret" not in body
    assert b"Error" not in body.replace(b"Internal Server Error", b"")
    (line,) = [record.message for record in caplog.records if record.name == "fastgw"]
    assert line.startswith("admin: a defect: ZeroDivisionError: /secret/path (")
    assert here.ask("GET /live")[0] == 200


def test_a_body_that_is_too_long_is_refused_before_it_has_come(here):
    with here.connect() as connection:
        length = DEFAULT_ADMIN.document_bytes + 1
        head = f"POST /config HTTP/1.1\r\nHost: localhost\r\n{SHOWN}\r\n{YAML}\r\nContent-Length: {length}\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
    assert here.node.told == []


def test_a_body_of_unknown_length_is_cut_off_where_it_gets_too_long(here):
    most = DEFAULT_ADMIN.document_bytes
    with here.connect() as connection:
        head = f"POST /config HTTP/1.1\r\nHost: localhost\r\n{SHOWN}\r\n{YAML}\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode() + b"%x\r\n" % most + b"x" * most + b"\r\n1\r\ny\r\n")
        answer = b""
        while not answer.endswith(b"}") and (more := connection.recv(65536)):
            answer += more
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"The request body is limited to 1048576 bytes: admin.document_bytes." in answer
    assert here.node.told == []


def test_a_body_that_does_not_come_is_not_waited_for(here, monkeypatch):
    monkeypatch.setattr(api, "BODY_TIMEOUT", 0.05)
    with here.connect() as connection:
        head = f"POST /config HTTP/1.1\r\nHost: localhost\r\n{SHOWN}\r\n{YAML}\r\nContent-Length: 10\r\n\r\nversion"
        connection.sendall(head.encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")
    assert here.node.told == []


def test_a_client_that_leaves_amid_its_body_has_done_nothing(here, caplog):
    with here.connect() as connection:
        head = f"POST /config HTTP/1.1\r\nHost: localhost\r\n{SHOWN}\r\n{YAML}\r\nContent-Length: 10\r\n\r\nversion"
        connection.sendall(head.encode())
    assert here.ask("GET /status")[0] == 200
    assert here.node.told == []
    assert not caplog.records


def test_a_change_goes_on_when_its_client_has_left(here):
    here.node.hold = Future()
    with here.connect() as connection:
        connection.sendall(f"POST /reload HTTP/1.1\r\nHost: localhost\r\n{SHOWN}\r\n\r\n".encode())
        wait_until(lambda: here.node.asked == 1, "the change to begin")
    assert here.ask("GET /status")[0] == 200
    here.node.hold.set_result(None)

    wait_until(lambda: here.node.told == ["reload"], "the change to be done")


def test_every_operation_has_a_path_and_a_method_of_its_own():
    assert all(isinstance(each, Operation) for each in api.OPERATIONS)
    assert len({(each.method, each.path) for each in api.OPERATIONS}) == len(api.OPERATIONS)


def test_what_is_not_there_is_told_for_what_it_is(here):
    for request, detail in (
        ("POST /upstreams/nowhere/targets/127.0.0.1:1/drain", "Unknown target; /upstreams lists all targets."),
        ("GET /nowhere", "Unknown path; /openapi.json lists all paths."),
    ):
        status, _, body = here.ask(request)
        assert (status, json.loads(body)["detail"]) == (404, detail)
