"""What sslyze, which looks for weak TLS, finds at a listener as it comes: nothing."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Certificates
from tests.support.gateway import FASTGW, Gateway

SSLYZE = Path(FASTGW).parent.parent / "sslyze" / "bin" / "sslyze"
"""In an environment of its own, for it wants older libraries than fastgw: `make test` makes it."""


def scanned(directory: Path, min_version: str, profile: str) -> tuple[str, dict[str, Any]]:
    """What it says of a gateway, in words, and in its own structure."""
    if not SSLYZE.exists():
        pytest.fail(f"sslyze is not installed: make {SSLYZE.relative_to(Path.cwd())}")
    authority = Certificates(directory)
    certificate, key = authority.issue("localhost")
    tls = {"certificates": [{"certificate": certificate, "key": key}], "min_version": min_version}
    listeners = {"main": {"address": "127.0.0.1:0", "tls": tls}}
    found = directory / "found.json"
    with Gateway({"listeners": listeners, "routes": [{"name": "all", "respond": {}}]}, directory) as gateway:
        trusting = ["--certinfo_ca_file", authority.ca]
        asked = [SSLYZE, *trusting, "--mozilla_config", profile, "--json_out", found]
        place = f"localhost:{gateway.port()}"
        told = subprocess.run([*asked, place], capture_output=True, text=True, check=False, timeout=60)
    (result,) = json.loads(found.read_text())["server_scan_results"]
    return told.stdout, {name: each["result"] for name, each in result["scan_result"].items() if each}


def suites(found: dict[str, Any], version: str) -> set[str]:
    return {each["cipher_suite"]["name"] for each in found[f"{version}_cipher_suites"]["accepted_cipher_suites"]}


def test_a_listener_as_it_comes_is_what_mozilla_recommends(tmp_path: Path) -> None:
    """The profile `intermediate`, and none of the known weaknesses."""
    told, found = scanned(tmp_path, "1.2", "intermediate")
    assert "OK - Compliant" in told, told[-1000:]
    assert not any(suites(found, version) for version in ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"))
    assert all("_ECDHE_" in suite and ("_GCM_" in suite or "CHACHA20" in suite) for suite in suites(found, "tls_1_2"))
    assert suites(found, "tls_1_3")
    assert not found["heartbleed"]["is_vulnerable_to_heartbleed"]
    assert not found["openssl_ccs_injection"]["is_vulnerable_to_ccs_injection"]
    assert not found["session_renegotiation"]["is_vulnerable_to_client_renegotiation_dos"]
    assert not found["tls_compression"]["supports_compression"]


def test_with_tls_1_3_alone_it_is_modern(tmp_path: Path) -> None:
    told, _ = scanned(tmp_path, "1.3", "modern")
    assert "OK - Compliant" in told, told[-1000:]
