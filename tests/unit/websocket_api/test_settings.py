"""Settings of WebSocket APIs: what `check` refuses and notes, and what `explain` shows."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw.config import ConfigError
from fastgw.explain import as_text, explain
from fastgw.gateway.compiler import compile
from tests.support.generations import load_document, load_with_files

EVENTS = {"$connect": {"path": "/c"}, "send": {"path": "/s", "reply": True}}


def configuration(api: dict[str, Any], **upstream: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "upstreams": {"u": {"targets": ["http://127.0.0.1:9"], **upstream}},
        "routes": [{"name": "w", "paths": ["/w"], "websocket_api": {"upstream": "u", "routes": EVENTS, **api}}],
    }


@pytest.mark.parametrize(
    ("api", "wrong"),
    [
        ({"upstream": "v"}, 'websocket_api.upstream: unknown upstream "v"'),
        ({"routes": {"a": {"path": "/a", "upstream": "v"}}}, 'websocket_api.routes.a.upstream: unknown upstream "v"'),
        ({"routes": {"$other": {"path": "/a"}}}, "$other is no route key; expected $connect, $disconnect, $default"),
        ({"routes": {"$connect": {"path": "/a", "reply": True}}}, "`reply` has no effect on $connect"),
        ({"routes": {"a b": {"path": "/a"}}}, "websocket_api.routes"),
        ({"routes": {"a": {"path": "a"}}}, "websocket_api.routes.a.path"),
        ({"routes": {}}, "websocket_api.routes"),
        ({"select": "a..b"}, "websocket_api.select"),
        ({"message_bytes": "2MiB"}, "websocket_api.message_bytes"),
    ],
)
def test_what_is_refused(api: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_document(configuration(api))
    assert wrong in str(refused.value)


def test_targets_have_to_speak_http() -> None:
    with pytest.raises(ConfigError) as refused:
        load_document(configuration({}, targets=["tcp://127.0.0.1:9"]))
    assert "which take no requests" in str(refused.value)


def test_filters_of_the_upstream_and_missing_limits_are_noted() -> None:
    loaded = load_with_files(configuration({}, filters={"key_auth": {}}))
    notes = "\n".join(map(str, loaded.notes))
    assert "filters of this upstream do not run for events: key_auth; use them on the route" in notes
    assert "clients may send any number of messages" in notes


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        (
            {
                "Upgrade": "websocket",
                "Connection": "upgrade",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            },
            "events    $connect: POST /c to u\n          send: POST /s to u, with reply",
        ),
        ({}, "answers   400 bad_request"),
    ],
)
def test_explain_shows_the_requests(fields: dict[str, str], shown: str) -> None:
    gateway = compile(load_document(configuration({})), 1)
    assert shown in as_text(
        explain(gateway, "GET", "http://a/w", [f"{name}: {value}" for name, value in fields.items()])
    )
