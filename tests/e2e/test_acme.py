"""Certificates by ACME: issued by a strict issuer that connects to the gateway, renewed while it serves, and kept
whatever happens to the issuer, the disk or the gateway.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.e2e.admin_calls import admin
from tests.support.acme_issuer import AcmeIssuer, b64, renewal_id
from tests.support.gateway import Gateway, name_of, wait_until
from tests.support.secured import Secured

DEADLINE = 90.0
HOOK = """#!/bin/sh
case $2 in
present) echo "$3 $4" >> "$1" ;;
cleanup) : > "$1" ;;
esac
"""


def other_control(gateway: Gateway, pid: int) -> bool:
    """Whether another control process answers."""
    pids = [each for each in gateway.child_pids if name_of(each) == "fastgw control"]
    return bool(pids) and pid not in pids and b"acme" in _status(gateway)


def _status(gateway: Gateway) -> bytes:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return admin(gateway, "GET /status").body
    return b""


class Service:
    """A gateway with certificates by ACME."""

    def __init__(self, folder: Path, issuer: AcmeIssuer, *certificates: dict[str, Any], **acme: Any) -> None:
        self.folder, self.issuer = folder, issuer
        hook = folder / "hook"
        hook.write_text(HOOK)
        hook.chmod(0o700)
        self.storage = folder / "store"
        self.config: dict[str, Any] = {
            "workers": 2,
            "timeouts": {"keepalive": "10m"},
            "acme": {
                "email": "ops@example.test",
                "directory": issuer.directory,
                "ca": issuer.ca,
                "storage": str(self.storage),
                "agree": True,
                "dns_hook": {"command": [str(hook), str(issuer.records)]},
                **acme,
            },
            "admin": {"address": f"unix:{folder}/admin"},
            "listeners": {
                "main": {
                    "address": "127.0.0.1:0",
                    "tls": {"certificates": [{"acme": each} for each in certificates]},
                },
                "plain": {
                    "address": "127.0.0.1:0",
                    "filters": {"ip": {"allow": ["192.0.2.1"]}},
                },
            },
            "routes": [{"name": "all", "respond": {"body": "served"}}],
        }
        self.tls = ssl.create_default_context(cafile=issuer.ca)
        self.start()

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.gateway.stop()

    def start(self) -> None:
        self.issuer.located.clear()
        self.gateway = Gateway(self.config, self.folder)
        self.issuer.tls, self.issuer.http = self.gateway.port("main"), self.gateway.port("plain")
        self.issuer.located.set()

    def serial(self, name: str) -> int:
        """Serial number of the verified certificate for this name; 0: there is none."""
        try:
            with Secured(self.gateway.address(), self.tls, name) as client:
                assert client.ask().body == b"served"
                return client.serial
        except ssl.SSLCertVerificationError:
            return 0

    def wait_for(self, name: str, other_than: int = 0) -> int:
        wait_until(lambda: self.serial(name) not in (0, other_than), f"a certificate for {name}", DEADLINE)
        return self.serial(name)

    def info(self, name: str) -> dict[str, Any]:
        status: dict[str, Any] = admin(self.gateway, "GET /status").json
        return next(each for each in status["acme"] if name in each["names"])

    def file(self, name: str) -> Path:
        return Path(self.info(name)["certificate"])

    def renew(self, name: str) -> None:
        """Ask the issuer for the renewal date now: control has just begun."""
        file = self.file(name).with_suffix(".json")
        state = json.loads(file.read_text())
        before = self.gateway.control_pid
        self.gateway.stderr.wait_for(lambda line: b"was issued" in line)
        os.kill(before, signal.SIGSTOP)  # it must not write the file meanwhile
        file.write_text(json.dumps({**state, "ask_date": 0, "retry_date": 0}))
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: other_control(self.gateway, before), "another control process", DEADLINE)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("acme")
    with AcmeIssuer(folder) as issuer:
        issuer.behaviour.bad_nonces = 1
        certificates = [
            {"domains": ["alpn.test", "www.alpn.test"]},
            {"domains": ["http.test"], "challenge": "http-01", "key": "rsa"},
            {"domains": ["*.dns.test", "dns.test"], "challenge": "dns-01"},
        ]
        made = Service(folder, issuer, *certificates)
        with made.gateway:
            yield made


@pytest.mark.landing
@pytest.mark.parametrize("name", ["alpn.test", "www.alpn.test", "http.test", "a.dns.test", "dns.test"])
def test_certificates_are_issued_whatever_the_challenge(service: Service, name: str) -> None:
    service.wait_for(name)
    assert service.issuer.problems == []


@pytest.mark.landing
def test_curl_verifies_the_certificate(service: Service) -> None:
    service.wait_for("alpn.test")
    port = service.issuer.tls
    command = ["curl", "-sS", "--cacert", service.issuer.ca, "--resolve", f"alpn.test:{port}:127.0.0.1"]
    ended = subprocess.run([*command, f"https://alpn.test:{port}/"], capture_output=True, timeout=DEADLINE, check=True)
    assert ended.stdout == b"served"


@pytest.mark.landing
def test_status_and_metrics_say_what_is_issued_and_when_it_is_renewed(service: Service) -> None:
    serial = service.wait_for("http.test")
    wait_until(lambda: service.info("http.test")["renews_date"] is not None, "the renewal date", DEADLINE)
    info = service.info("http.test")
    assert (info["issued"], info["problem"], info["failures"]) == (True, "", 0)
    assert (info["challenge"], info["issuer"]) == ("http-01", service.issuer.directory)
    assert info["expires_date"] > info["renews_date"] > info["attempt_date"]
    shown = admin(service.gateway, "GET /status").json["certificates"]
    assert [int(each["serial"], 16) for each in shown if each["names"] == ["http.test"]] == [serial]
    text = admin(service.gateway, "GET /metrics").body.decode()
    assert f'fastgw_acme_certificate_issued{{certificate="{info["certificate"]}"}} 1' in text
    assert 'fastgw_acme_attempts_total{result="ok"}' in text


@pytest.mark.landing
def test_stored_files_are_private(service: Service) -> None:
    service.wait_for("alpn.test")
    found = [each for each in service.storage.rglob("*") if each.is_file()]
    assert {stat.S_IMODE(each.stat().st_mode) for each in found} == {0o600}
    assert {stat.S_IMODE(each.stat().st_mode) for each in (service.storage, service.file("alpn.test").parent)} == {
        0o700
    }


@pytest.mark.landing
def test_requests_for_other_tokens_meet_the_filters(service: Service) -> None:
    with service.gateway.connect("plain") as client:
        assert (
            client.exchange(b"GET /.well-known/acme-challenge/none HTTP/1.1\r\nHost: http.test\r\n\r\n").status == 403
        )


@pytest.mark.parametrize("ends", [-3600, -1800])
def test_a_renewal_window_that_does_not_end_after_it_starts_is_no_answer(ends: int, service: Service) -> None:
    """RFC 9773 section 4.2."""
    before = service.wait_for("alpn.test")
    wait_until(lambda: service.info("alpn.test")["renews_date"] is not None, "the renewal date", DEADLINE)
    service.issuer.behaviour.window = (-1800, ends)
    asked, renews = len(service.issuer.asked_renewals), service.info("alpn.test")["renews_date"]
    service.renew("alpn.test")
    wait_until(lambda: len(service.issuer.asked_renewals) > asked, "the question", DEADLINE)
    state = service.file("alpn.test").with_suffix(".json")
    wait_until(lambda: json.loads(state.read_text())["ask_date"] > 0, "its answer", DEADLINE)
    service.issuer.behaviour.window = None
    assert service.info("alpn.test")["renews_date"] == renews
    assert service.wait_for("alpn.test") == before


@pytest.mark.landing
def test_a_renewal_that_the_issuer_suggests_is_in_force_without_a_reload(service: Service) -> None:
    before = service.wait_for("alpn.test")
    old = service.file("alpn.test").read_bytes()
    service.issuer.behaviour.window = (-3600, -1800)
    with Secured(service.gateway.address(), service.tls, "alpn.test") as open_before:
        assert open_before.ask().body == b"served"
        service.renew("alpn.test")
        after = service.wait_for("alpn.test", other_than=before)
        service.issuer.behaviour.window = None
        assert open_before.ask().body == b"served"
    assert after != before
    wait_until(lambda: service.info("alpn.test")["renews_date"] is not None, "the state", DEADLINE)
    orders = [each for each in service.issuer.behaviour.orders if each.names[0] == "alpn.test"]
    assert orders[-1].replaces == renewal_id(old)
    assert len(service.issuer.accounts) == 1


def test_a_second_early_renewal_in_a_row_is_delayed_and_logged(tmp_path: Path) -> None:
    with AcmeIssuer(tmp_path) as issuer:
        issuer.behaviour.window = (-3600, -1800)
        with Service(tmp_path, issuer, {"domains": ["a.test"]}) as service:
            first = service.wait_for("a.test")
            service.renew("a.test")
            second = service.wait_for("a.test", other_than=first)
            service.renew("a.test")
            line = service.gateway.stderr.wait_for(lambda line: b"demands to renew" in line)
            assert issuer.directory.encode() in line
            info = service.info("a.test")
            assert info["renews_date"] == pytest.approx(info["attempt_date"] + 3600)
            assert info["next_attempt_date"] == info["renews_date"]
            assert service.serial("a.test") == second
            assert len(issuer.behaviour.orders) == 2


def test_a_rate_limited_issuer_is_asked_again_only_after_its_delay(service: Service) -> None:
    before = service.wait_for("http.test")
    service.issuer.behaviour.rate_limited = 7200
    service.issuer.behaviour.window = (-3600, -1800)
    service.renew("http.test")
    wait_until(lambda: service.info("http.test")["failures"] == 1, "the refusal", DEADLINE)
    info = service.info("http.test")
    assert "rateLimited: too many certificates" in info["problem"]
    assert info["next_attempt_date"] - info["attempt_date"] >= 7200
    asked = service.issuer.requests.count("/new-order")
    pid = service.gateway.control_pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: other_control(service.gateway, pid), "another control process", DEADLINE)
    wait_until(lambda: service.info("http.test")["failures"] == 1, "its schedule", DEADLINE)
    assert service.issuer.requests.count("/new-order") == asked
    assert service.serial("http.test") == before
    service.issuer.behaviour.rate_limited, service.issuer.behaviour.window = 0, None


def test_other_issuers_are_asked_when_one_is_unreachable(tmp_path: Path) -> None:
    with AcmeIssuer(tmp_path) as issuer:
        issuer.behaviour.binding = ("the key id", b"the secret of the binding")
        key = tmp_path / "binding"
        key.write_text(b64(b"the secret of the binding"))
        account = {"key_id": "the key id", "key": {"file": str(key)}}
        good = {"directory": issuer.directory, "ca": issuer.ca, "external_account": account}
        deaf = socket.socket()  # it does not listen
        deaf.bind(("127.0.0.1", 0))
        away = f"https://127.0.0.1:{deaf.getsockname()[1]}/directory"
        with deaf, Service(tmp_path, issuer, {"domains": ["a.test"]}, directory=away, fallback=[good]) as made:
            gateway = made.gateway
            made.wait_for("a.test")
            line = gateway.stderr.wait_for(lambda line: b"was issued" in line)
            assert f"by {issuer.directory}; others have failed: {away}: unreachable".encode() in line
            assert issuer.problems == []


def test_a_gateway_that_is_killed_while_it_obtains_a_certificate_begins_again(tmp_path: Path) -> None:
    with AcmeIssuer(tmp_path) as issuer:
        issuer.hold_finalize.clear()
        made = Service(tmp_path, issuer, {"domains": ["a.test"]})
        wait_until(lambda: any(each.startswith("/finalize/") for each in issuer.requests), "an order", DEADLINE)
        # Until then clients get a placeholder, and `status` says so.
        assert not made.info("a.test")["issued"]
        assert "placeholder" in admin(made.gateway, "GET /status").json["certificates"][0]["problem"]
        unverified = ssl.create_default_context()
        unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
        with Secured(made.gateway.address(), unverified, "a.test") as client:
            shown = client.sock.getpeercert(binary_form=True)
            assert shown is not None
            assert "no certificate yet" in x509.load_der_x509_certificate(shown).issuer.rfc4514_string()
        made.gateway.kill()
        issuer.hold_finalize.set()
        made.start()
        with made.gateway:
            made.wait_for("a.test")
            wait_until(lambda: not [*made.storage.rglob("*.new")], "no file that is half written", DEADLINE)
        assert len(issuer.accounts) == 1


@pytest.mark.parametrize("step", ["/new-account", "/new-order", "/challenge/", "/finalize/", "/certificate/"])
def test_control_that_is_killed_at_any_step_obtains_the_certificate_with_one_more_order(
    step: str, tmp_path: Path
) -> None:
    with AcmeIssuer(tmp_path) as issuer:
        issuer.behaviour.held_step = step
        made = Service(tmp_path, issuer, {"domains": ["a.test"]})
        with made.gateway as gateway:
            assert issuer.is_held.wait(DEADLINE)
            killed = gateway.control_pid
            os.kill(killed, signal.SIGKILL)
            wait_until(lambda: not name_of(killed), "its end", DEADLINE)  # and that of its child, which asks the issuer
            issuer.behaviour.held_step = ""
            issuer.resumed.set()
            made.wait_for("a.test")
            # The account is the same, and an order that was lost is not repeated more than once.
            assert len(issuer.accounts) == 1
            assert len(issuer.behaviour.orders) == (1 if step == "/new-account" else 2)
            wait_until(lambda: not [*made.storage.rglob("*.new")], "no file that is half written", DEADLINE)
            found = [each for each in made.storage.rglob("*") if each.is_file() and each.suffix != ".new"]
            assert {stat.S_IMODE(each.stat().st_mode) for each in found} == {0o600}


def test_attempts_that_are_killed_again_and_again_are_delayed(tmp_path: Path) -> None:
    """Each may cost an order, of which issuers accept few."""
    with AcmeIssuer(tmp_path) as issuer:
        issuer.behaviour.held_step = "/finalize/"
        made = Service(tmp_path, issuer, {"domains": ["a.test"]})
        for _ in range(2):
            assert issuer.is_held.wait(DEADLINE)
            made.gateway.kill()
            issuer.is_held.clear()
            issuer.resumed.set()
            issuer.resumed.clear()
            made.start()
        with made.gateway:
            wait_until(lambda: "interrupted" in made.info("a.test")["problem"], "the delay", DEADLINE)
            stored = json.loads(made.file("a.test").with_suffix(".json").read_text())
            assert made.info("a.test")["next_attempt_date"] == stored["retry_date"]
            assert len(issuer.behaviour.orders) == 2


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("names", b"lacks names: a.test"),
        ("key", b"the issuer has sent an unusable certificate"),
        ("dates", b"and the clock of this machine says"),
    ],
)
def test_a_wrong_certificate_is_not_used(wrong: str, why: bytes, tmp_path: Path) -> None:
    """Of other names, for another key, or expired."""
    with AcmeIssuer(tmp_path) as issuer:
        issuer.behaviour.wrong = wrong
        made = Service(tmp_path, issuer, {"domains": ["a.test"]})
        with made.gateway as gateway:
            gateway.stderr.wait_for(lambda line: why in line, DEADLINE)
            assert made.serial("a.test") == 0
            wait_until(lambda: made.info("a.test")["failures"] == 1, "the failure", DEADLINE)
            info = made.info("a.test")
            assert info["next_attempt_date"] - info["attempt_date"] >= 60
