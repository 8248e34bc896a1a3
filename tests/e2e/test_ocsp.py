"""OCSP stapling by a running gateway: the responder is OpenSSL's, and so are the clients."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.e2e.admin_calls import admin
from tests.support.forked import FASTGW, ran
from tests.support.gateway import Gateway, wait_until
from tests.support.ocsp import OcspAuthority, Responder, Stapled, ask_stapled

DEADLINE = 90.0
FIRST, SECOND = "first.test", "second.test"
VERSIONS = ("-tls1_2", "-tls1_3")


class Service:
    """A gateway with two certificates for SNI, and the responder of their authority."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.state = folder, folder / "state"
        self.state.mkdir()
        (folder / "ca").mkdir()
        monkeypatch.setenv("STATE_DIRECTORY", str(self.state))
        self.authority = OcspAuthority(folder / "ca")
        self.responder = Responder(folder / "ca")
        self.authority.responder = self.responder.url
        self.files = {name: self.authority.issue(name) for name in (FIRST, SECOND)}
        self.restart_responder()
        self.gateway = Gateway(self.configured(), folder)

    def configured(self) -> dict[str, Any]:
        pairs = [{"certificate": certificate, "key": key} for certificate, key in self.files.values()]
        return {
            "workers": 2,
            "admin": {"address": f"unix:{self.folder}/admin"},
            "listeners": {"main": {"address": "127.0.0.1:0", "tls": {"certificates": pairs, "ocsp_stapling": True}}},
            "routes": [{"name": "all", "respond": {"body": "served"}}],
        }

    def restart_responder(self) -> None:
        """It reads its index when it starts."""
        port = self.responder.port
        self.responder.stop()
        self.responder = Responder(self.folder / "ca", port)

    def stop(self) -> None:
        self.gateway.stop()
        self.responder.stop()

    def ask(self, name: str, *options: str) -> Stapled:
        return ask_stapled(self.gateway.address("main"), name, *options)

    def serial(self, name: str) -> int:
        content = Path(self.files[name][0]).read_bytes()
        return x509.load_pem_x509_certificate(content).serial_number

    def is_stapled(self, name: str) -> bool:
        serial = self.serial(name)
        return self.ask(name)[:3] == ("good", serial, serial)

    def wait_stapled(self, name: str) -> None:
        wait_until(lambda: self.is_stapled(name), f"a response for {name}", DEADLINE)

    def info(self, name: str) -> dict[str, Any]:
        found = admin(self.gateway, "GET /status").json["ocsp"]
        return next(each for each in found if each["certificate"] == self.files[name][0])


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    made = Service(tmp_path, monkeypatch)
    yield made
    made.stop()


def test_responses_are_stapled_renewed_with_certificates_and_survive_restarts_and_the_responder(
    service: Service,
) -> None:
    for name in (FIRST, SECOND):
        service.wait_stapled(name)
        for version in VERSIONS:
            serial = service.serial(name)
            assert service.ask(name, version) == ("good", serial, serial, False)
    info = service.info(FIRST)
    assert (info["responder"], info["revoked"], info["problem"]) == (service.responder.url, False, "")
    metrics = admin(service.gateway, "GET /metrics").body.decode()
    label = f'{{certificate="{service.files[FIRST][0]}"}}'
    assert f"fastgw_ocsp_response_expiry_timestamp_seconds{label} {info['expires_date']:.0f}" in metrics
    assert f"fastgw_ocsp_certificate_revoked{label} 0" in metrics

    # a renewed certificate gets its own
    before = service.serial(FIRST)
    service.files[FIRST] = service.authority.issue(FIRST)
    service.restart_responder()
    assert service.serial(FIRST) != before
    service.wait_stapled(FIRST)
    assert service.is_stapled(SECOND)

    # kept while the responder is unreachable: by another control process, and from the first handshake of another start
    service.responder.stop()
    kept = service.state / "ocsp"
    wait_until(lambda: len([*kept.glob("*.ocsp")]) == 3, "three stored responses", DEADLINE)
    assert {stat.S_IMODE(each.stat().st_mode) for each in kept.glob("*.ocsp")} == {0o600}
    control = service.gateway.control_pid
    os.kill(control, signal.SIGKILL)
    assert service.is_stapled(FIRST)
    service.gateway.stop()
    service.gateway = Gateway(service.configured(), service.folder)
    assert service.is_stapled(FIRST)
    assert service.is_stapled(SECOND)

    # what is stored is verified again, and what cannot be used is not stapled: a response for another certificate
    service.gateway.stop()
    files = [*kept.glob("*.ocsp")]
    contents = [each.read_bytes() for each in files]
    for each, content in zip(files, [*contents[1:], contents[0]], strict=True):
        each.write_bytes(content)
    service.authority.revoke(service.files[SECOND][0])
    service.responder = Responder(service.folder / "ca", service.responder.port)
    service.gateway = Gateway(service.configured(), service.folder)
    service.wait_stapled(FIRST)

    # a revoked certificate is reported, and nothing is stapled to it
    service.gateway.stderr.wait_for(lambda line: b"is revoked" in line and service.files[SECOND][0].encode() in line)
    assert service.ask(SECOND) == ("", 0, service.serial(SECOND), False)
    info = service.info(SECOND)
    assert (info["revoked"], info["expires_date"], info["problem"]) == (True, None, "the certificate is revoked")
    assert b"fastgw_ocsp_certificate_revoked{certificate=" in admin(service.gateway, "GET /metrics").body


@pytest.mark.landing
def test_check_tells_which_certificates_get_no_response(tmp_path: Path) -> None:
    authority = OcspAuthority(tmp_path)
    given = {
        "must.test": authority.issue("must.test", must_staple=True),
        "lone.test": authority.issue("lone.test", chain=False),
        "silent.test": authority.issue("silent.test", responder=False, must_staple=True),
    }
    pairs = [{"certificate": certificate, "key": key} for certificate, key in given.values()]
    listeners = {
        name: {"address": "127.0.0.1:0", "tls": {"certificates": pairs, "ocsp_stapling": is_stapled}}
        for name, is_stapled in (("with", True), ("without", False))
    }
    file = tmp_path / "gateway.json"
    file.write_text(json.dumps({"version": 1, "listeners": listeners}))
    notes = json.loads(ran([FASTGW, "check", file, "--format", "json"]).stdout)["notes"]
    must = "clients reject the certificate without an OCSP response (must-staple)"
    at = "listeners.{}.tls.certificates[{}].certificate"
    assert {each["path"]: each["wrong"] for each in notes if "OCSP" in each["wrong"]} == {
        at.format("with", 1): "no OCSP response can be stapled: its issuer's certificate is not in the file, after it",
        at.format("with", 2): "no OCSP response can be stapled: it names no OCSP responder that is reached by http;"
        f" {must}",
        at.format("without", 0): f"{must}; set `ocsp_stapling: true`",
        at.format("without", 2): f"{must}; set `ocsp_stapling: true`",
    }
