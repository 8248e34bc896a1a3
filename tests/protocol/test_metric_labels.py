"""Labels of counters: requests and refusals by consumer and upstream, exact over workers and bounded."""

from __future__ import annotations

import re
import urllib.request
from collections import Counter
from pathlib import Path

from tests.support.gateway import Gateway, wait_until
from tests.support.origin import Origin
from tests.support.peer import DEADLINE

KEYS = {"alice": "planted-key-of-alice", "bob": "planted-key-of-bob", "carol": "planted-key-of-carol"}

SENT = ("alice", "alice", "alice", "alice", "bob", "bob", "bob", "", "own")


def test_requests_and_refusals_are_counted_by_consumer(tmp_path: Path) -> None:
    """Each request once, by the labels that are asked for; the other counters keep theirs."""
    with Origin() as made:
        origin = made.serve()
        settings = {
            "workers": 2,
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "status": {"address": "127.0.0.1:0"},
            "consumers": [{"name": name, "key_auth": [{"key": key}]} for name, key in KEYS.items()],
            "upstreams": {"users": {"targets": [{"url": origin.url}]}},
            "telemetry": {"metrics": {"requests": {"labels": ["upstream", "consumer", "fault", "host"]}}},
            "routes": [
                {"name": "own", "paths": ["/own"], "respond": {}},
                {"name": "named", "hosts": ["*.Named.test"], "respond": {}},
                {
                    "name": "users",
                    "upstream": "users",
                    "filters": {"key_auth": {}, "rate_limit": {"limit": 2, "window": "1h", "key": "consumer"}},
                },
            ],
        }
        with Gateway(settings, tmp_path) as gateway:
            for name in SENT:
                path = b"/own" if name == "own" else b"/"
                key = f"X-API-Key: {KEYS[name]}\r\n".encode() if name in KEYS else b""
                with gateway.connect() as client:  # any worker takes it
                    client.exchange(b"GET %b HTTP/1.1\r\nHost: a.test\r\n%b\r\n" % (path, key))
            for host in (b"One.named.test:80", b"two.named.test.", b"named.test"):
                with gateway.connect() as client:
                    client.exchange(b"GET /own HTTP/1.1\r\nHost: %b\r\n\r\n" % host)
            wait_until(lambda: gateway.sum_of("fastgw_requests_total") >= len(SENT) + 3, "all requests to be counted")
            with urllib.request.urlopen(f"http://{gateway.ready['status']}/metrics", timeout=DEADLINE) as answer:
                text = answer.read().decode()
    assert counts(text, "fastgw_requests_total", "consumer", "fault", "route", "status", "upstream") == {
        ("alice", "_none", "users", "200", "users"): 2,
        ("alice", "rate_limited", "users", "429", "_none"): 2,
        ("bob", "_none", "users", "200", "users"): 2,
        ("bob", "rate_limited", "users", "429", "_none"): 1,
        ("_none", "credentials_missing", "users", "401", "_none"): 1,
        ("_none", "_none", "own", "200", "_none"): 2,
        ("_none", "_none", "named", "200", "_none"): 2,
    }
    assert counts(text, "fastgw_requests_total", "host", "route") == {
        ("_other", "users"): 8,
        ("_other", "own"): 2,
        ("*.named.test", "named"): 2,
    }
    assert counts(text, "fastgw_filter_refusals_total", "consumer", "filter") == {
        ("alice", "rate_limit"): 2,
        ("bob", "rate_limit"): 1,
    }


def counts(text: str, name: str, *labels: str) -> dict[tuple[str, ...], int]:
    """Return the samples of a counter that are not 0, summed by these labels."""
    found: Counter[tuple[str, ...]] = Counter()
    for told, value in re.findall(rf"^{name}\{{(.*)}} (\S+)$", text, re.MULTILINE):
        of = dict(re.findall(r'(\w+)="([^"]*)"', told))
        found[tuple(of[label] for label in labels)] += int(float(value))
    return {key: value for key, value in found.items() if value}
