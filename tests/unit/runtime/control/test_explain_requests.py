"""POST /explain of the admin API: what is taken and told, and what control finds out on its own tables."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from typer.testing import CliRunner

from fastgw import config
from fastgw.admin.node_interface import Explained, RequestToExplain
from fastgw.cli import app
from fastgw.consumers.index import index_of
from fastgw.filters import TYPES
from fastgw.filters.api import Env, Exchange, Filter, Hooks, Phase
from fastgw.gateway.compiler import compile as compile_tables
from fastgw.gateway.tables import Gateway
from fastgw.runtime.control import explain_requests as explaining
from fastgw.runtime.control.explain_requests import Explaining
from fastgw.runtime.node.config_snapshot import accept
from fastgw.runtime.reload.proposer import Proposer
from tests.support.admin import MADE, served
from tests.support.certificates import Certificates
from tests.support.peer import DEADLINE

JSON = "Content-Type: application/json"
ASKED = b'{"method": "GET", "url": "http://a.test/users/7?token=s3cr3t", "headers": ["X-Tenant: t1"]}'
SECRET = "s3cr3t-key"


# --- the operation ---


def test_what_is_asked_reaches_the_node_and_is_told() -> None:
    with served() as here:
        status, _, body = here.ask("POST /explain", JSON, body=ASKED)
        assert status == 200
        assert json.loads(body) == {
            "generation": 1,
            "explanation": {"listener": "main", "route": "user"},
            "text": "listener  main\nroute     user",
        }
        wanted = RequestToExplain("GET", "http://a.test/users/7?token=s3cr3t", ["X-Tenant: t1"])
        assert here.node.told == [wanted]


@pytest.mark.parametrize(
    ("body", "kind", "status", "why"),
    [
        (ASKED, "text/plain", 415, "application/json"),
        (b"", "application/json", 400, "Invalid request to explain"),
        (b'{"method": "GET"}', "application/json", 400, "missing required field `url`"),
        (b'{"method": "GET", "url": "http://a/", "body": "x"}', "application/json", 400, "unknown field `body`"),
        (b'{"method": "GET", "url": "http://a/", "headers": {"a": "b"}}', "application/json", 400, "$.headers"),
        (b'{"method": "GET", "url": "http://a/", "headers": "a: b"}', "application/json", 400, "$.headers"),
        (b'{"method": "GET", "url": "\xff"}', "application/json", 400, "Invalid request to explain"),
        (b"[" * 100_000, "application/json", 400, "Invalid request to explain"),
    ],
)
def test_what_is_no_request_is_refused(body: bytes, kind: str, status: int, why: str) -> None:
    with served() as here:
        told = here.ask("POST /explain", f"Content-Type: {kind}", body=body)
        assert told[0] == status
        assert why in json.loads(told[2])["detail"]
        assert len(told[2]) < 1000
        assert here.node.told == []


def test_a_body_that_is_too_long_is_refused_before_it_has_come() -> None:
    with served() as here:
        status, _, told = here.ask("POST /explain", JSON, "Content-Length: 131073")
        assert (status, json.loads(told)["detail"]) == (413, "The request body is limited to 131072 bytes.")


def test_only_who_may_change_something_may_ask() -> None:
    """A page of another origin cannot; the cookie alone is not enough."""
    with served() as here:
        here.token = ""
        assert here.ask("POST /explain", JSON, body=ASKED)[0] == 401
        shown = f"Authorization: Bearer {MADE}"
        assert here.ask("POST /explain", JSON, shown, "Origin: http://evil.example", body=ASKED)[0] == 403
        _, head, told = here.ask("POST /session", shown)
        cookie = next(line for line in head.split("\r\n") if line.lower().startswith("set-cookie:"))
        cookie = "Cookie:" + cookie.partition(":")[2].partition(";")[0]
        assert here.ask("POST /explain", JSON, cookie, body=ASKED)[0] == 403
        assert here.node.told == []
        csrf = f"X-CSRF-Token: {json.loads(told)['csrf']}"
        assert here.ask("POST /explain", JSON, cookie, csrf, body=ASKED)[0] == 200
        assert here.ask("GET /explain", shown)[0] == 405


@pytest.mark.parametrize(("error", "status"), [(ValueError("no listener"), 400), (TimeoutError(), 503)])
def test_what_cannot_be_explained_is_told(error: Exception, status: int) -> None:
    with served() as here:
        here.node.broken = error
        told = here.ask("POST /explain", JSON, body=ASKED)
        assert told[0] == status
        assert "no listener" in json.loads(told[2])["detail"] or status == 503


# --- what control finds out ---


class InForce:
    """What is in force, without a supervisor."""

    def __init__(self, folder: Path, types: Mapping[str, type] = TYPES, **settings: Any) -> None:
        self._types = types
        self._file = folder / "gateway.json"
        self.tables: Gateway | None = None
        self.take(**settings)

    def take(self, **settings: Any) -> None:
        """As a reload does: compiled beside what there was."""
        document = {"version": 1, "listeners": {"main": {"address": "127.0.0.1:0"}}, **settings}
        self._file.write_text(json.dumps(document))
        loaded = config.load(str(self._file), self._types)
        index = index_of(loaded.config.consumers, loaded.captured)
        self.tables = compile_tables(loaded.config, 2, loaded.captured, index, self.tables)
        self.current = accept(
            loaded,
            generation=self.current.generation + 1 if hasattr(self, "current") else 1,
            date=1.0,
            source="start",
            slot_table=self.tables.slot_table,
            workers=2,
            base=None,
            index=index,
        )
        self.config = self.current.config()

    def remember_tables(self, tables: Gateway, of: object) -> None:
        if of is self.current:
            self.tables = tables

    def ask(self, method: str, url: str, *headers: str, **more: Any) -> Explained:
        return asyncio.run(self.explaining().explain(RequestToExplain(method, url, headers, **more)))

    def explaining(self) -> Explaining:
        return Explaining(cast(Proposer, self))

    def by_command(self, method: str, url: str, *headers: str) -> tuple[Any, str]:
        """What `fastgw explain` says of the file: its JSON, and its text."""
        options = [each for header in headers for each in ("-H", header)]
        told = []
        for kind in ("json", "text"):
            ran = CliRunner().invoke(app, ["explain", str(self._file), method, url, *options, "--format", kind])
            assert ran.exit_code == 0, ran.output
            told.append(ran.stdout)
        return json.loads(told[0]), told[1]


def routes(*names: str, **more: Any) -> list[dict[str, Any]]:
    return [{"name": name, "paths": [f"/{name}/*"], "respond": {"body": name}, **more} for name in names]


def consumer(name: str) -> dict[str, Any]:
    return {"name": name, "key_auth": [{"key_sha256": sha256(SECRET.encode()).hexdigest()}]}


KEYED = {
    "consumers": [consumer("alice")],
    "filters": {"key_auth": {}},
    "upstreams": {"users": {"targets": [{"url": "http://127.0.0.1:9"}]}},
    "routes": [{"name": "users", "paths": ["/users/*"], "upstream": "users"}],
}


def as_json(explained: Explained) -> Any:
    return json.loads(msgspec.json.encode(explained.explanation))


@pytest.mark.parametrize("made_here", [True, False], ids=["tables", "no tables"])
@pytest.mark.parametrize(
    ("method", "url", "headers"),
    [
        ("GET", "http://a.test/users/7?token=s3cr3t-parameter", (f"X-API-Key: {SECRET}", "Cookie: s3cr3t-cookie=1")),
        ("GET", "http://a.test/users/7", ("X-API-Key: wrong-s3cr3t",)),
        ("GET", "http://a.test/nowhere", (f"X-API-Key: {SECRET}",)),
        ("GE T", "http://a.test/users/7", ()),
        ("GET", "http://a.test/users/7", ("X: 1", "Content-Length: 3", "Content-Length: 4")),
    ],
)
def test_it_says_what_the_command_says(
    tmp_path: Path, method: str, url: str, headers: tuple[str, ...], made_here: bool
) -> None:
    """The same JSON and the same text, whether control has the tables or has to make them; and no secret."""
    here = InForce(tmp_path, **KEYED)
    if not made_here:
        here.tables = None
    told = here.ask(method, url, *headers)
    explanation, text = here.by_command(method, url, *headers)
    assert as_json(told) == explanation
    assert told.text + "\n" == text
    assert told.generation == 1
    assert "s3cr3t" not in told.text + json.dumps(explanation)
    assert here.tables is not None


def test_it_is_of_the_configuration_in_force_and_of_its_consumers(tmp_path: Path) -> None:
    """After a reload, though nobody in control has adopted the new tables."""
    here = InForce(tmp_path, **KEYED)
    assert "consumer alice" in here.ask("GET", "http://a.test/users/1", f"X-API-Key: {SECRET}").text
    here.take(**{**KEYED, "consumers": [consumer("bob")], "routes": routes("users", "new")})
    told = here.ask("GET", "http://a.test/new/1", f"X-API-Key: {SECRET}")
    assert told.generation == 2
    assert told.explanation.route == "new"
    assert "consumer bob" in told.text


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (RequestToExplain("GET", "/users"), "is not a URL"),
        (RequestToExplain("GET", "http://a.test:99999/"), "expected a number from 0 to 65535"),
        (RequestToExplain("GET", "http://a.test/", ("no colon",)), "has no colon"),
        (RequestToExplain("GET", "http://a.test/", (), "nobody"), "IPv4 or IPv6"),
        (RequestToExplain("GET", "http://a.test/", (), "::1", "other"), "expected one of: main"),
        (
            RequestToExplain("GET", "http://a.test/", (), "::1", None, "/proc/self/environ"),
            "it contains no certificate",
        ),
        (RequestToExplain("GET", "http://a.test/\ud800"), "is not UTF-8"),
    ],
)
def test_what_cannot_be_right_is_told(tmp_path: Path, request_: RequestToExplain, why: str) -> None:
    here = InForce(tmp_path, routes=routes("a"))
    with pytest.raises(ValueError, match=why):
        asyncio.run(here.explaining().explain(request_))


def test_a_certificate_is_shown_as_text(tmp_path: Path) -> None:
    authority = Certificates(tmp_path)
    certificate, key = authority.issue("a.test")
    alice, _ = authority.issue("alice", subject="alice")
    tls = {"certificates": [{"certificate": certificate, "key": key}]}
    tls["client_auth"] = {"ca": authority.ca, "mode": "required"}  # type: ignore[assignment]
    here = InForce(tmp_path, listeners={"main": {"address": "127.0.0.1:0", "tls": tls}}, routes=routes("a"))
    assert "requires a client certificate" in here.ask("GET", "https://a.test/a/").text
    shown = Path(alice).read_text()
    assert here.ask("GET", "https://a.test/a/", certificate=shown).explanation.status == 200


class Broken(Filter, name="broken", phase=Phase.ADMIT):
    """Raises on the response."""

    def build(self, env: Env) -> Hooks:
        def response(exchange: Exchange) -> None:
            raise ZeroDivisionError("as it is")

        return Hooks(response=response)


def test_nothing_that_a_filter_raises_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is in the explanation; the log is about requests that there are."""
    here = InForce(tmp_path, {**TYPES, "broken": Broken}, filters={"broken": {}}, routes=routes("a"))
    assert here.ask("GET", "http://a.test/a/").explanation.fault == "internal"
    assert caplog.records == []


def test_one_is_explained_at_a_time_and_nobody_waits_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that never returns holds up those that ask, and neither control's loop nor what is asked of it then."""
    monkeypatch.setattr(explaining, "WITHIN_S", 0.05)
    here, held, inside = InForce(tmp_path, routes=routes("a")), threading.Event(), []
    compute = explaining.explain

    def slow(*asked: Any) -> Any:
        inside.append(len(inside))
        assert held.wait(DEADLINE)
        return compute(*asked)

    monkeypatch.setattr(explaining, "explain", slow)

    async def run() -> None:
        asked, request = here.explaining(), RequestToExplain("GET", "http://a.test/a/")
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asked.explain(request)
        assert inside == [0]
        held.set()
        monkeypatch.setattr(explaining, "WITHIN_S", DEADLINE)
        told = await asyncio.gather(*(asked.explain(request) for _ in range(5)))
        assert {each.explanation.route for each in told} == {"a"}

    asyncio.run(run())
