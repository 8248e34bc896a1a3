"""Versions, cipher suites and groups of listeners and upstreams, as clients and servers of OpenSSL negotiate them."""

from __future__ import annotations

import re
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fastgw.config import ConfigError, load_text
from fastgw.filters import TYPES
from tests.support.certificates import Certificates, server_tls
from tests.support.gateway import Gateway
from tests.support.origin import Origin

ANYWHERE = {"address": "127.0.0.1:0"}
AES256, CHACHA = "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"
LISTENERS: dict[str, dict[str, Any]] = {
    "usual": {},
    "modern": {"profile": "modern"},
    "old": {"profile": "old"},
    "later": {"profile": "old", "min_version": "1.1"},
    "capped": {"max_version": "1.2"},
    "ordered": {"ciphers": [CHACHA, AES256], "max_version": "1.2"},
    "groups": {"groups": ["P-384", "P-256"]},
}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def gateway(authority: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    certificate, key = authority.issue("localhost")
    pair = {"certificates": [{"certificate": certificate, "key": key}]}
    listeners = {name: {**ANYWHERE, "tls": {**pair, **tls}} for name, tls in LISTENERS.items()}
    config = {"workers": 1, "listeners": listeners, "routes": [{"name": "all", "respond": {"body": "ok"}}]}
    with Gateway(config, tmp_path_factory.mktemp("profiles")) as gateway:
        yield gateway


def negotiated(gateway: Gateway, listener: str, *options: str) -> tuple[str, str, str]:
    """Return the version, suite and group that `openssl s_client` negotiates; empty: the handshake fails."""
    place = gateway.address(listener)
    command = ["openssl", "s_client", "-connect", place, "-servername", "localhost", *options]
    said = subprocess.run(command, input="", capture_output=True, text=True, check=False, timeout=30).stdout
    version = re.search(r"New, (?:SSLv3|TLSv[0-9.]+), Cipher is (\S+)", said)
    if version is None or version[1] == "(NONE)":
        return "", "", ""
    spoken = re.search(r"^    Protocol  : (\S+)", said, re.MULTILINE)
    group = re.search(
        r"^(?:(?:Server|Peer) Temp Key: (?:ECDH, )?|Negotiated TLS1.3 group: )([\w-]+)", said, re.MULTILINE
    )
    protocol = "TLSv1.3" if version[1].startswith("TLS_") else spoken[1] if spoken else ""
    return protocol, version[1], group[1] if group else ""


OLD = ("-cipher", "DEFAULT:@SECLEVEL=0")


@pytest.mark.parametrize(
    ("listener", "versions"),
    [
        ("usual", {"1.2", "1.3"}),
        ("modern", {"1.3"}),
        ("old", {"1.0", "1.1", "1.2", "1.3"}),
        ("later", {"1.1", "1.2", "1.3"}),
        ("capped", {"1.2"}),
    ],
)
def test_a_listener_speaks_the_versions_of_its_profile_and_settings(
    gateway: Gateway, listener: str, versions: set[str]
) -> None:
    flags = {"1.0": "-tls1", "1.1": "-tls1_1", "1.2": "-tls1_2", "1.3": "-tls1_3"}
    spoken = {name for name, flag in flags.items() if negotiated(gateway, listener, flag, *OLD)[0]}
    assert spoken == versions


def test_the_order_of_ciphers_is_that_of_the_settings_else_that_of_the_client(gateway: Gateway) -> None:
    offered = ("-tls1_2", "-cipher", f"{AES256}:{CHACHA}:ECDHE-ECDSA-AES128-GCM-SHA256")
    assert negotiated(gateway, "ordered", *offered)[1] == CHACHA
    assert negotiated(gateway, "usual", *offered)[1] == AES256
    assert negotiated(gateway, "ordered", "-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256") == ("", "", "")
    assert negotiated(gateway, "usual", "-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256") == ("", "", "")
    assert negotiated(gateway, "old", "-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256")[1]


def test_groups_are_those_of_the_settings(gateway: Gateway) -> None:
    assert negotiated(gateway, "groups", "-groups", "X25519:P-384:P-256")[0] == "TLSv1.3"
    assert negotiated(gateway, "groups", "-groups", "X25519") == ("", "", "")
    assert negotiated(gateway, "usual", "-groups", "X25519")[2] == "X25519"
    assert negotiated(gateway, "usual", "-groups", "P-521") == ("", "", "")


def test_an_upstream_with_an_old_version_needs_the_setting(authority: Certificates, tmp_path: Path) -> None:
    context = server_tls(authority.issue("localhost", stem="old", rsa=True))
    with pytest.warns(DeprecationWarning, match="TLSv1 is deprecated"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with Origin(tls=context) as origin:
        origin.serve()
        url = f"https://localhost:{origin.port}"
        old = {"ca": authority.ca, "min_version": "1.0"}
        suite = {**old, "ciphers": ["ECDHE-RSA-AES256-SHA"]}
        upstreams = {
            "usual": {"targets": [url], "tls": {"ca": authority.ca}},
            "old": {"targets": [url], "tls": old},
            "suite": {"targets": [url], "tls": suite},
        }
        routes = [{"name": name, "paths": [f"/{name}"], "upstream": name} for name in upstreams]
        config = {"listeners": {"main": ANYWHERE}, "upstreams": upstreams, "routes": routes}
        with Gateway(config, tmp_path) as gateway:
            base = f"http://{gateway.address()}"
            statuses = {name: httpx.get(f"{base}/{name}").status_code for name in ("old", "suite", "usual")}
    assert statuses == {"old": 200, "suite": 200, "usual": 502}


@pytest.mark.parametrize(
    ("tls", "wrong"),
    [
        ("ciphers: [ALL]", "'ALL' is not a cipher suite of TLS 1.2 or earlier"),
        ("ciphers: [TLS_AES_128_GCM_SHA256]", "is not a cipher suite of TLS 1.2 or earlier"),
        (
            "profile: modern, max_version: '1.2'",
            "tls.max_version: the minimum version is 1.3",
        ),
        ("profile: strong", '"strong"; expected "modern", "intermediate" or "old"'),
        ("groups: [X448]", '"X448"'),
    ],
)
def test_check_refuses_what_no_client_could_use(tls: str, wrong: str, authority: Certificates) -> None:
    certificate, key = authority.issue("localhost", stem="checked")
    pair = f"certificates: [{{certificate: {certificate}, key: {key}}}]"
    text = (
        "version: 1\nroutes: [{name: all, respond: {body: ok}}]\n"
        f"listeners: {{main: {{address: '127.0.0.1:0', tls: {{{pair}, {tls}}}}}}}\n"
    )
    with pytest.raises(ConfigError) as raised:
        load_text(text.encode(), "gateway.yaml", TYPES)
    assert wrong in str(raised.value)
