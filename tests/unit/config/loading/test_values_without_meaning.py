"""Variables where no request has a value, and ports that do not exist, are errors at their place."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from fastgw.config import ConfigError, load
from fastgw.filters import TYPES
from tests.support.table import for_each

TARGETS = {"targets": [{"url": "https://127.0.0.1:9"}]}


def upstream(**settings: Any) -> dict[str, Any]:
    return {"upstreams": {"u": {**TARGETS, **settings}}}


def active(**settings: Any) -> dict[str, Any]:
    return upstream(health_checks={"active": settings})


def of_route(**settings: Any) -> dict[str, Any]:
    return {"routes": [{"name": "a", **settings}]}


def sink(**settings: Any) -> dict[str, Any]:
    return {"access_logs": [{"sink": settings}]}


def with_map(source: str, *routes: dict[str, Any]) -> dict[str, Any]:
    named = [{"name": f"r{number}", **route} for number, route in enumerate(routes)]
    return {"maps": {"m": {"source": source, "values": {"a": "b"}}}, "routes": named}


def problems(document: dict[str, Any]) -> list[str]:
    """Return the paths of the problems."""
    whole = {"version": 1, "listeners": {"main": {"address": "127.0.0.1:0"}}, "admin": None, "status": None}
    whole["routes"] = [{"name": "a", "respond": {}}]
    with TemporaryDirectory() as folder:
        file = Path(folder, "gateway.json")
        file.write_text(json.dumps(whole | document))
        try:
            load(str(file), TYPES)
        except ConfigError as error:
            return [each.path for each in error.problems]
    return []


USES_MAP = {"paths": ["/b"], "respond": {"body": "{map.m}"}}


@for_each(
    ("document", "at"),
    [
        (upstream(tls={"server_name": "{host}"}), "upstreams.u.tls.server_name"),
        (upstream(host_header="{host}"), "upstreams.u.host_header"),
        (active(path="/{id}"), "upstreams.u.health_checks.active.path"),
        (active(headers={"X-A": "{client_ip}"}), "upstreams.u.health_checks.active.headers.X-A"),
        ({"maps": {"m": {"source": "{host}", "values": {"a": "{p}"}}}}, "maps.m.values.a"),
        ({"maps": {"m": {"source": "{host}", "values": {"a": "b"}, "default": "{path}"}}}, "maps.m.default"),
        (with_map("{p}", USES_MAP), "maps.m.source"),
        (with_map("{p}", {"paths": ["/{p}"], "respond": {}}, USES_MAP), "routes[1].respond.body"),
        (
            with_map("{p}", {"paths": ["/{p}"], "respond": {}}, {"paths": ["/b"], "redirect": {"to": "/{map.m}"}}),
            "routes[1].redirect.to",
        ),
        (
            with_map(
                "{p}",
                {"paths": ["/{p}"], "respond": {}},
                {"respond": {}, "filters": {"headers": {"response": {"set": {"X-A": "{map.m}"}}}}},
            ),
            "routes[1].filters.headers.response.set.X-A",
        ),
    ],
)
def test_a_variable_that_has_no_value_there(document: dict[str, Any], at: str) -> None:
    assert problems(document) == [at]


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_a_port_that_does_not_exist(port: str) -> None:
    rows = {
        "upstreams.u.host_header": upstream(host_header=f"x:{port}"),
        "upstreams.u.health_checks.active.host": active(host=f"[::1]:{port}"),
        "routes[0].upstream": of_route(upstream=f"http://x:{port}"),
        "routes[0].redirect.to": of_route(redirect={"to": f"https://x:{port}/y"}),
        "routes[0].filters.cors.origins[0]": of_route(
            respond={}, filters={"cors": {"origins": [f"https://x.test:{port}"]}}
        ),
        "access_logs[0].sink.syslog.address": sink(syslog={"address": f"udp://x:{port}"}),
        "access_logs[0].sink.kafka.brokers[0]": sink(kafka={"brokers": [f"x:{port}"], "topic": "t"}),
        "telemetry.metrics.statsd.address": {"telemetry": {"metrics": {"statsd": {"address": f"x:{port}"}}}},
        "state.url": {"state": {"url": f"redis://x:{port}"}},
    }
    assert {at: problems(document) for at, document in rows.items()} == {at: [at] for at in rows}


def test_those_that_have_one_are_valid() -> None:
    assert problems(with_map("{p}", {"paths": ["/{p}"], "respond": {"body": "{map.m}"}})) == []
    for host in ("preserve", "a.test", "a.test:65535", "[::1]", "[::1]:1", "127.0.0.1:80"):
        assert problems(upstream(host_header=host)) == []
    assert problems(of_route(redirect={"to": "https://[::1]:65535/x"})) == []
