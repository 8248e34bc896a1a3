"""Lines of chosen fields, and the requests that a log has."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import orjson
import pytest

from fastgw.config.settings.gateway import AccessLog
from fastgw.config.settings.log_lines import LogCondition
from fastgw.exchange import Response
from fastgw.exchange.reply import UNKNOWN
from fastgw.http.fields import Fields
from fastgw.http.http1.parser import parse_request
from fastgw.http.messages import AS_DECLARED
from fastgw.observe.access_log import line_formats
from fastgw.observe.access_log.formats import json_line
from fastgw.observe.access_log.line_formats import ECS_FIELDS, FORMATS, format_of, w3c_directives
from fastgw.observe.access_log.log_fields import FIELDS, check_field
from fastgw.observe.access_log.record import TCP
from fastgw.observe.access_log.secret_names import masker
from fastgw.observe.access_log.sink import Sink
from fastgw.observe.selection import selection_of
from tests.support.table import for_each
from tests.unit.observe.access_log.test_formats import PROXIED, REFUSED, changed

FULL = changed(
    PROXIED, cache="hit", grpc_status="OK", trace_id=b"t" * 32, span_id=b"s" * 16, shadowed="a", subrequests="b"
)


def answered(
    fields: dict[bytes, bytes] | None = None, added: bytes = b"", dropped: frozenset[bytes] = frozenset()
) -> Response:
    return Response(200, None, added, dropped, fields=Fields((fields or {}).items()))


@dataclass
class Ended:
    head: Any
    response: Any = field(default_factory=answered)


def of_request(fields: bytes, response: Response | None = None) -> Any:
    head = parse_request(b"GET / HTTP/1.1\r\nHost: a.test\r\n" + fields + b"\r\n")
    return changed(PROXIED, exchange=Ended(head, response or answered()))


def shown(record: Any, *fields: str, format: str = "json", redact: tuple[str, ...] = ()) -> Any:
    return orjson.loads(format_of(format, fields, redact)(record, masker(redact)))


@pytest.mark.parametrize("record", [FULL, REFUSED, changed(REFUSED, version=TCP)])
def test_a_chosen_field_is_what_the_whole_line_has(record):
    whole = orjson.loads(json_line(record, masker(())))
    chosen = shown(record, *FIELDS)
    assert [*chosen] == [*FIELDS]
    assert {name: value for name, value in chosen.items() if name in whole} == whole
    assert not any(value for name, value in chosen.items() if name not in whole)


@for_each("name", [name for name in FIELDS if name not in ("time", "websocket")])
def test_the_schema_of_elastic_names_a_field_as_the_whole_line_does(name):
    whole = orjson.loads(FORMATS["ecs"](FULL, masker(())))
    chosen = shown(FULL, name, format="ecs")
    assert {each: whole.get(each) for each in chosen} == chosen
    assert (ECS_FIELDS.get(name) or f"fastgw.{name}") in chosen or name in ("fault", "fault_detail")


def test_templates_join_values_and_keep_the_type_of_one():
    record = changed(PROXIED, route="", query=b"token=planted")
    line = shown(record, "who={consumer}@{client}", "code={status}", "no={route}{{x}}", "to={host}{path}?{query}")
    assert line == {
        "who": "alice@example@192.0.2.7",
        "code": 201,
        "no": "{x}",
        "to": "api.example.com/users/7?token=***",
    }


@pytest.mark.parametrize(
    "text",
    ["stats", "=x", "a b={status}", "a={nothing}", "a={status", "a=}", "header.", "header.a b", "x=" + "y" * 300],
)
def test_what_is_no_field_is_refused(text):
    with pytest.raises(ValueError, match=r"field|name|brace|template"):
        check_field(text)


class TestHeaders:
    def test_values_are_those_that_the_client_sent_and_the_response_has(self):
        response = answered({b"content-type": b"text/plain"}, b"X-Added: by-a-filter\r\n")
        record = of_request(b"X-Tenant: a\r\nx-tenant: b\r\n", response)
        names = ("header.X-Tenant", "response_header.Content-Type", "response_header.x-added", "header.X-None")
        assert [*shown(record, *names).values()] == ["a, b", "text/plain", "by-a-filter", None]

    def test_those_that_filters_leave_out_are_not_shown(self):
        received = {b"x-a": b"theirs", b"x_b": b"theirs", b"x-c": b"theirs"}
        record = of_request(b"", answered(received, b"X-A: ours\r\n", dropped=frozenset((b"x-a", b"x-b"))))
        names = ("response_header.X-A", "response_header.X_B", "response_header.X-C")
        assert [*shown(record, *names).values()] == ["ours", None, "theirs"]

    @pytest.mark.parametrize(("length", "value"), [(AS_DECLARED, "9"), (4, "4"), (UNKNOWN, None)])
    def test_the_length_is_that_of_the_body_that_is_sent(self, length, value):
        response = answered({b"content-length": b"9"})
        response.body_length = length
        assert shown(of_request(b"", response), "response_header.Content-Length").popitem()[1] == value
        sent = [] if value is None else [(b"content-length", value.encode())]
        assert response.sent_fields() == sent  # those of a tap

    @pytest.mark.parametrize("name", ["Authorization", "Cookie", "X-Api-Key", "x-amz-security-token", "X-Mine"])
    def test_credentials_are_masked(self, name):
        record = of_request(f"{name}: planted\r\n".encode())
        assert shown(record, f"header.{name}", redact=("x-mine",)) == {f"header.{name}": "***"}
        assert shown(of_request(b""), f"header.{name}", redact=("x-mine",)) == {f"header.{name}": None}
        assert shown(record, f"a=<{{header.{name}}}>", redact=("x-mine",)) == {"a": "<***>"}
        response = answered({name.lower().encode(): b"planted"})
        assert shown(of_request(b"", response), f"response_header.{name}", redact=("x-mine",)).popitem()[1] == "***"

    def test_urls_in_values_are_masked(self):
        record = of_request(b"", answered({b"location": b"/cb?code=planted&x=1"}))
        assert shown(record, "response_header.location").popitem()[1] == "/cb?code=***&x=1"

    def test_a_connection_has_none(self):
        assert shown(changed(PROXIED, version=TCP, exchange=SimpleNamespace()), "header.a").popitem()[1] is None


@pytest.mark.parametrize("format", ["json", "ecs", "gelf", "w3c"])
def test_the_longest_fields_fit_a_line(format):
    fields = (*(f"f{number:02}={{path}}" for number in range(40)), "status")
    line = format_of(format, fields, ())(changed(PROXIED, path=b"/\x01\xff" * 5000), masker(()))
    assert len(line) <= 4096
    assert line.count(b"\n") == 1
    assert b"201" in line


def test_gelf_has_its_members_and_chosen_ones(monkeypatch):
    monkeypatch.setattr(line_formats, "source_name", lambda: "node-1")
    line = shown(changed(PROXIED, status=503), "time", "route", "id={request_id}", "header.x", format="gelf")
    assert line == {
        "version": "1.1",
        "host": "node-1",
        "short_message": "POST /users/7 HTTP/1.1 503",
        "timestamp": 1767225599.123,
        "level": 3,
        "_route": "user",
        "_id_": "01JD4Z",
    }


class TestW3c:
    def test_the_directive_names_the_columns(self):
        fields = ("time", "status", "header.X-Tenant", "response_header.Server", "note={route} {host}")
        assert w3c_directives(fields).splitlines()[-1] == (
            b"#Fields: date time sc-status cs(X-Tenant) sc(Server) x-note"
        )
        line = format_of("w3c", fields, ())(of_request(b"X-Tenant: a\tb\r\n"), masker(()))
        assert line == b"2025-12-31 23:59:59.123 201 a+b - user+api.example.com\n"

    def test_each_file_begins_with_it(self, tmp_path):
        sink = Sink(str(tmp_path / "log"), b"#Fields: a\n")
        sink.write(b"1\n")
        (tmp_path / "log").rename(tmp_path / "old")
        sink.expire()
        sink.write(b"2\n")
        sink.close()
        assert (tmp_path / "old").read_bytes() == b"#Fields: a\n1\n"
        assert (tmp_path / "log").read_bytes() == b"#Fields: a\n2\n"


def selected(record: Any = PROXIED, **settings: Any) -> bool:
    test = selection_of(AccessLog(**settings))
    assert test is not None
    return test(record)


class TestSelection:
    def test_without_settings_a_log_has_all(self):
        assert selection_of(AccessLog()) is None

    @pytest.mark.parametrize(
        ("condition", "is_met"),
        [
            ({}, True),
            ({"status": 2}, True),
            ({"status": (404, 201)}, True),
            ({"status": 5}, False),
            ({"method": "POST", "route": ("user", "other")}, True),
            ({"method": "GET", "route": "user"}, False),
            ({"listener": "public", "consumer": "alice@example"}, True),
            ({"listener": "local"}, False),
            ({"fault": True}, False),
            ({"fault": False}, True),
            ({"slower_than": 0.01}, True),
            ({"slower_than": 0.02}, False),
        ],
    )
    def test_all_of_a_condition_has_to_hold(self, condition, is_met):
        assert selected(only=LogCondition(**condition)) is is_met

    def test_always_comes_before_the_rest(self):
        settings = {"sample": 0.0, "only": LogCondition(route="other"), "always": LogCondition(status=5)}
        assert not selected(**settings)
        assert selected(changed(PROXIED, status=502), **settings)

    def test_a_share_is_of_the_log_or_of_the_route(self):
        test = selection_of(AccessLog(sample=0.25, sample_routes={"user": 0.0, "other": 1.0}))
        assert test is not None
        counted = Counter(
            route for route in ("user", "other", "third") for _ in range(4000) if test(changed(PROXIED, route=route))
        )
        assert (counted["user"], counted["other"]) == (0, 4000)
        assert 700 < counted["third"] < 1300  # 27 deviations of 11


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"format": "combined", "fields": ("status",)}, "fixed fields"),
        ({"fields": ("status", "status={route}")}, "twice"),
        ({"always": LogCondition(status=5)}, "neither"),
    ],
)
def test_settings_that_contradict_are_refused(settings, wrong):
    with pytest.raises(ValueError, match=re.escape(wrong)):
        AccessLog(**settings)


def test_the_file_is_read_as_it_is_written(tmp_path: Path):
    from fastgw.config import load
    from fastgw.filters import TYPES

    (tmp_path / "gw.yaml").write_text(
        "version: 1\nlisteners: {main: {address: '127.0.0.1:0'}}\nroutes: [{name: a, paths: ['/*'], respond: {}}]\n"
        "access_logs: [{fields: [status, 'x={header.A}'], only: {status: 404, route: a}, sample: 0.1,\n"
        "  sample_routes: {a: 1, b: 0.5}, always: {status: [5xx, 429], slower_than: 1s}}]\n"
    )
    loaded = load(str(tmp_path / "gw.yaml"), TYPES)
    (log,) = loaded.config.access_logs
    assert log.fields == ("status", "x={header.A}")
    assert (log.only.status, log.always.status) == (404, (5, 429))
    encoded = msgspec.json.encode(log.always.status)
    assert msgspec.json.decode(encoded, type=tuple[int, ...]) == log.always.status
    assert any("no route with the name" in str(note) and "b" in str(note) for note in loaded.notes)
    assert msgspec.structs.replace(log) == log
