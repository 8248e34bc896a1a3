"""Whether a change is one of targets alone, which take the place of others in the active generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from fastgw.config import Loaded, load_text
from fastgw.config.kubernetes.provider import FILE
from fastgw.config.sources.virtual_files import cluster_name
from fastgw.filters import TYPES
from fastgw.gateway.compiler import compile
from fastgw.runtime.node.config_snapshot import ConfigSnapshot, accept
from fastgw.runtime.reload.target_changes import only_targets_differ
from fastgw.shm.slot_assignment import SlotTable
from tests.support.certificates import Certificates

KUBECONFIG = b"current-context: a\ncontexts: [{name: a, context: {}}]\n"
CERTIFICATE, KEY = (cluster_name("Secret", "shop", "web", each) for each in ("tls.crt", "tls.key"))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """Two certificates with their keys."""
    issuer = Certificates(tmp_path_factory.mktemp("certificates"))
    issued = [issuer.issue("one", "a.test"), issuer.issue("two", "a.test")]
    return [(Path(certificate).read_text(), Path(key).read_text()) for certificate, key in issued]


def read(certificate: tuple[str, str], *targets: str, path: str = "/*", port: int = 80, **more: Any) -> Loaded:
    """Read a cluster with listeners of TLS, TCP, TLS passthrough and UDP, a route, and three Services."""
    files = {CERTIFICATE: certificate[0], KEY: certificate[1]}
    tls = {"certificates": [{"certificate": CERTIFICATE, "key": KEY}]}
    listeners = {
        "a": {"address": f"127.0.0.9:{port}", "tls": tls},
        "b": {"address": "127.0.0.9:81", "protocol": "tcp", "upstream": "raw"},
        "c": {"address": "127.0.0.9:82", "protocol": "tls", "routes": [{"sni": ["c.test"], "upstream": "raw"}]},
        "d": {"address": "127.0.0.9:83", "protocol": "udp", "upstream": "datagrams"},
    }
    raw = {"targets": [{"url": each} for each in more.pop("raw", [RAW])]}
    datagrams = {"targets": [{"url": each, "weight": 7} for each in more.pop("datagrams", [DATAGRAMS])]}
    web = {"targets": [{"url": each} for each in targets], **more}
    routes = [{"name": "r", "listeners": ["a"], "paths": [path], "upstream": "web"}]
    pieces = [
        {"object": "Gateway/shop/web", "listeners": listeners, "files": files},
        {"object": "Service/shop/web", "upstreams": {"web": web, "raw": raw, "datagrams": datagrams}},
        {"object": "HTTPRoute/shop/r", "routes": routes},
    ]
    text = b"version: 1\nadmin: null\nstatus: null\nproviders: {kubernetes: {kubeconfig: kube}}\n"
    return load_text(text, "/etc/gw.yaml", TYPES, instead={"/etc/kube": KUBECONFIG, FILE: msgspec.json.encode(pieces)})


def snapshot(of: Loaded) -> ConfigSnapshot:
    return accept(of, generation=1, date=1.0, source="start", slot_table=SlotTable(), workers=2, base=None)


RAW, DATAGRAMS = "tcp://127.0.0.1:1", "udp://127.0.0.1:1"
ONE, TWO, SECURE = "http://127.0.0.1:1", "http://127.0.0.1:2", "https://127.0.0.1:2"


@pytest.mark.parametrize(
    ("targets", "more", "replaced"),
    [
        ([TWO], {}, True),
        ([ONE, TWO], {}, True),
        ([], {}, True),
        ([SECURE], {}, False),  # it needs a TLS context
        ([f"{TWO}/base"], {}, False),  # paths are rewritten for it
        ([ONE], {"raw": ["tcp://127.0.0.1:2", RAW]}, True),
        ([ONE], {"datagrams": ["udp://127.0.0.1:2"]}, True),
        ([ONE], {"raw": [], "datagrams": []}, True),
        ([TWO], {"path": "/a/*"}, False),
        ([TWO], {"port": 84}, False),
        ([TWO], {"timeouts": {"connect": "9s"}}, False),
    ],
)
def test_only_targets_that_are_reached_alike_are_replaced_in_place(
    certificates: list[tuple[str, str]], targets: list[str], more: dict[str, Any], replaced: bool
) -> None:
    before = read(certificates[0], ONE)
    now = read(certificates[0], *targets, **more)
    assert only_targets_differ(now, before.config, snapshot(before)) is replaced


@pytest.mark.parametrize(
    ("before", "now", "tls", "replaced"),
    [
        ([SECURE], [], {"tls": {"server_name": "a.test"}}, True),
        ([], [SECURE], {"tls": {"server_name": "a.test"}}, True),
        ([SECURE], [], {}, True),
        ([], [SECURE], {}, False),  # nothing told that targets will use TLS
    ],
)
def test_a_service_with_tls_may_lose_all_endpoints_and_get_others(
    certificates: list[tuple[str, str]], before: list[str], now: list[str], tls: dict[str, Any], replaced: bool
) -> None:
    active = read(certificates[0], *before, **tls)
    (compiled,) = (each for each in compile(active.config, 1, active.captured).upstreams.values() if each.name == "web")
    assert (compiled.identity is not None) is bool(before or tls)
    assert only_targets_differ(read(certificates[0], *now, **tls), active.config, snapshot(active)) is replaced


def test_a_certificate_that_was_replaced_at_the_same_time_needs_a_generation(
    certificates: list[tuple[str, str]],
) -> None:
    before = read(certificates[0], ONE)
    assert not only_targets_differ(read(certificates[1], TWO), before.config, snapshot(before))
