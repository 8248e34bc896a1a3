"""Who may use the admin API of a gateway that runs, where it listens, and what becomes of it when that changes."""

from __future__ import annotations

import contextlib
import os
import signal
import ssl
from pathlib import Path

import pytest

from tests.e2e.admin_calls import (
    JSON,
    TIMEOUT,
    Calling,
    Told,
    admin,
    is_served,
    read_generation,
    status_of,
    tell,
)
from tests.e2e.test_processes import ask, samples
from tests.e2e.test_reload import ANYWHERE, Reloadable, gateway_saying, saying
from tests.support.certificates import Certificates
from tests.support.client import connect
from tests.support.gateway import wait_until
from tests.support.peer import DEADLINE

# --- who is let in ---


def test_a_token_of_the_environment(tmp_path: Path) -> None:
    config = {"admin": {**ANYWHERE, "token": {"env": "ADMIN"}}, "routes": saying("v1")}
    with Reloadable(config, tmp_path, environment={"ADMIN": "sesame"}) as gateway:
        assert admin(gateway, "GET /status").status == 401
        assert admin(gateway, "GET /status", token="simsim").status == 401
        assert admin(gateway, "GET /status", token="sesame").status == 200


@pytest.mark.landing
def test_a_token_in_a_file_is_the_new_one_as_soon_as_the_file_is(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    config = {"admin": {**ANYWHERE, "token": {"file": str(token)}}, "routes": saying("v1")}
    with Reloadable(config, tmp_path) as gateway:
        for name in ("first", "second", "third"):
            token.with_suffix(".new").write_text(f"{name}\n")
            os.replace(token.with_suffix(".new"), token)
            for other in ("first", "second", "third"):
                assert admin(gateway, "GET /status", token=other).status == (200 if other == name else 401)
        token.unlink()
        assert admin(gateway, "GET /status", token="third").status == 503
        token.write_text("fourth")
        assert admin(gateway, "GET /status", token="fourth").status == 200  # before or after a reload of the file


@pytest.mark.parametrize("bound", ["unix", "[::1]:0", "localhost:0"])
def test_other_addresses_of_this_machine(tmp_path: Path, bound: str) -> None:
    address = f"unix:{tmp_path}/admin.sock" if bound == "unix" else bound
    with gateway_saying("v1", tmp_path, admin={"address": address}) as gateway:
        assert gateway.status()["generation"] == 1
        if bound == "unix":
            assert not (tmp_path / "admin.sock").stat().st_mode & 0o007
        gateway.change(routes=saying("v2"))
        gateway.reload()
        assert gateway.answer() == (200, b"v2")


@pytest.fixture
def authority(tmp_path: Path) -> Certificates:
    folder = tmp_path / "certificates"
    folder.mkdir()
    return Certificates(folder)


def trusting(authority: Certificates, shown: tuple[str, str] | None = None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=authority.ca)
    if shown is not None:
        made.load_cert_chain(*shown)
    return made


@pytest.mark.landing
@pytest.mark.parametrize("mode", ["required", "optional"])
def test_client_certificates(tmp_path: Path, authority: Certificates, mode: str) -> None:
    certificate, key = authority.issue("127.0.0.1")
    client_auth = {"mode": mode, "ca": authority.ca}
    tls = {"certificates": [{"certificate": certificate, "key": key}], "client_auth": client_auth}
    config = {"admin": {**ANYWHERE, "tls": tls, "token": "sesame"}, "routes": saying("v1")}
    with Reloadable(config, tmp_path) as gateway:
        certified = trusting(authority, authority.issue("operator.example"))
        assert admin(gateway, "GET /status", tls=certified).status == 200
        if mode == "required":
            with pytest.raises((ssl.SSLError, ConnectionError)):
                admin(gateway, "GET /status", tls=trusting(authority))
        else:
            assert admin(gateway, "GET /status", tls=trusting(authority)).status == 401
            assert admin(gateway, "GET /status", tls=trusting(authority), token="sesame").status == 200


def test_certificates_that_are_replaced_on_disk_are_shown_without_a_reload(
    tmp_path: Path, authority: Certificates
) -> None:
    """The key first, then the certificate, as renewal tools do."""
    issued = authority.issue("127.0.0.1")
    certificate, key = tmp_path / "own.pem", tmp_path / "own.key"

    def install(pair: tuple[str, str]) -> None:
        for source, place in zip(reversed(pair), (key, certificate), strict=True):
            place.with_suffix(".new").write_bytes(Path(source).read_bytes())
            os.replace(place.with_suffix(".new"), place)

    def serial() -> str:
        with connect(str(gateway.ready["admin"])) as plain, tls.wrap_socket(plain, server_hostname="127.0.0.1") as made:
            return str((made.getpeercert() or {})["serialNumber"])

    install(issued)
    tls = trusting(authority)
    admin_tls = {"certificates": [{"certificate": str(certificate), "key": str(key)}]}
    config = {"admin": {**ANYWHERE, "tls": admin_tls}, "routes": saying("v1")}
    with Reloadable(config, tmp_path) as gateway:
        before, control = serial(), gateway.control_pid
        with contextlib.closing(Calling(str(gateway.ready["admin"]), tls)) as kept:
            kept.request("GET", "/status", headers=gateway.shown)
            assert Told(kept.getresponse()).status == 200
            install(authority.issue("127.0.0.1"))
            wait_until(lambda: serial() != before, "the new certificate", 3 * DEADLINE)
        status = admin(gateway, "GET /status", tls=tls).json
        assert status["reloads"]["last"][0]["source"] == "file"
        assert gateway.control_pid == control
        after, generation = serial(), status["generation"]
        os.utime(certificate)  # touched, but the same
        gateway.change(routes=saying("v2"))
        assert admin(gateway, "POST /reload", tls=tls).json["generation"] == generation + 1
        assert admin(gateway, "POST /rollback", f'{{"generation": {generation}}}', JSON, tls=tls).status == 200
        assert gateway.answer() == (200, b"v1")
        assert serial() == after  # the one of the first generation may have expired by now


# --- its own settings change ---


def test_the_call_that_moves_the_admin_listener_is_answered_by_it(tmp_path: Path) -> None:
    moved, token = tmp_path / "admin.sock", tmp_path / "token"
    token.write_text("sesame")
    with gateway_saying("v1", tmp_path) as gateway:
        first = str(gateway.ready["admin"])
        gateway.change(admin={"address": f"unix:{moved}"}, routes=saying("v2"))
        told = admin(gateway, "POST /reload")
        assert (told.status, told.json["summary"]) == (200, "reloaded: generation 2 on 2/2 workers")
        gateway.ready["admin"] = f"unix:{moved}"
        wait_until(lambda: is_served(gateway), "the new address")
        with pytest.raises(OSError, match="refused"):
            tell(first, "GET /status")

        gateway.change(admin={"address": f"unix:{moved}", "token": {"file": str(token)}})
        assert admin(gateway, "POST /reload").status == 200
        wait_until(lambda: status_of(gateway) == 401, "the token to be asked for")
        assert admin(gateway, "GET /status", token="sesame").json["generation"] == 3

        gateway.change(admin=None, routes=saying("v3"))
        assert admin(gateway, "POST /reload", token="sesame").status == 200
        wait_until(lambda: not moved.exists(), "the listener to go")
        assert gateway.answer() == (200, b"v3")
        gateway.change(admin={"address": f"unix:{moved}"})
        gateway.signal(signal.SIGHUP)
        wait_until(lambda: moved.exists() and status_of(gateway) == 200, "the listener to come", TIMEOUT)
        assert read_generation(gateway) == 5


def test_the_status_listener_moves_goes_and_comes(tmp_path: Path) -> None:
    place = tmp_path / "status.sock"

    def alive() -> bool:
        with contextlib.suppress(OSError):
            return ask(f"unix:{place}", "/livez").status == 200
        return False

    with gateway_saying("v1", tmp_path) as gateway:
        gateway.change(status={"address": f"unix:{place}"})
        gateway.reload()
        wait_until(alive, "the new address")
        assert samples(f"unix:{place}")['fastgw_reloads_total{result="ok"}'] == 1
        wait_until(lambda: is_served(gateway), "control")
        gateway.change(status=None)
        gateway.reload()
        wait_until(lambda: not place.exists(), "the listener to go")
        wait_until(lambda: is_served(gateway), "control")
        gateway.change(status={"address": f"unix:{place}"})
        gateway.reload()
        wait_until(alive, "the listener to come")
