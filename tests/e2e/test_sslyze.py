"""What sslyze, which looks for weak TLS, finds at a listener as it comes: nothing."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Certificates
from tests.support.forked import FASTGW
from tests.support.gateway import Gateway

SSLYZE = Path(FASTGW).parent.parent / "sslyze" / "bin" / "sslyze"
"""In an environment of its own, for it wants older libraries than fastgw: `make test` makes it."""


def scanned(directory: Path, judged_by: str, **settings: Any) -> tuple[str, dict[str, Any]]:
    """What it says of a gateway, in words, and in its own structure."""
    if not SSLYZE.exists():
        pytest.fail(f"sslyze is not installed: make {SSLYZE.relative_to(Path.cwd())}")
    authority = Certificates(directory)
    certificate, key = authority.issue("localhost", rsa=judged_by == "old")  # Mozilla wants RSA in `old`
    tls = {"certificates": [{"certificate": certificate, "key": key}], **settings}
    listeners = {"main": {"address": "127.0.0.1:0", "tls": tls}}
    found = directory / "found.json"
    with Gateway({"listeners": listeners, "routes": [{"name": "all", "respond": {}}]}, directory) as gateway:
        trusting = ["--certinfo_ca_file", authority.ca]
        asked = [SSLYZE, *trusting, "--mozilla_config", judged_by, "--json_out", found]
        place = f"localhost:{gateway.port()}"
        told = subprocess.run([*asked, place], capture_output=True, text=True, check=False, timeout=120)
    (result,) = json.loads(found.read_text())["server_scan_results"]
    return told.stdout, {name: each["result"] for name, each in result["scan_result"].items() if each}


def suites(found: dict[str, Any], version: str) -> set[str]:
    return {each["cipher_suite"]["name"] for each in found[f"{version}_cipher_suites"]["accepted_cipher_suites"]}


def test_a_listener_as_it_comes_is_what_mozilla_recommends(tmp_path: Path) -> None:
    """The profile `intermediate`, and none of the known weaknesses."""
    told, found = scanned(tmp_path, "intermediate")
    assert "OK - Compliant" in told, told[-1000:]
    assert not any(suites(found, version) for version in ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"))
    assert all("_ECDHE_" in suite and ("_GCM_" in suite or "CHACHA20" in suite) for suite in suites(found, "tls_1_2"))
    assert suites(found, "tls_1_3")
    assert not found["heartbleed"]["is_vulnerable_to_heartbleed"]
    assert not found["openssl_ccs_injection"]["is_vulnerable_to_ccs_injection"]
    assert not found["session_renegotiation"]["is_vulnerable_to_client_renegotiation_dos"]
    assert not found["tls_compression"]["supports_compression"]


@pytest.mark.parametrize("settings", [{"min_version": "1.3"}, {"profile": "modern"}])
def test_with_tls_1_3_alone_it_is_modern(settings: dict[str, str], tmp_path: Path) -> None:
    told, _ = scanned(tmp_path, "modern", **settings)
    assert "OK - Compliant" in told, told[-1000:]


def test_the_old_profile_speaks_to_old_clients_and_to_no_older_ones(tmp_path: Path) -> None:
    told, found = scanned(tmp_path, "old", profile="old")
    judged = told[told.index("COMPLIANCE AGAINST TLS CONFIGURATION") :]
    rejected = [line.split(":")[0].strip(" *") for line in judged.splitlines() if line.strip().startswith("*")]
    assert rejected == ["certificate_signatures"], "the CA of the tests signs with ECDSA"
    assert all(suites(found, version) for version in ("tls_1_0", "tls_1_1", "tls_1_2", "tls_1_3"))
    assert not any(suites(found, version) for version in ("ssl_2_0", "ssl_3_0"))
