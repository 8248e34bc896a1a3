"""Files that change on the disk of a running gateway, which nobody asks to reload."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.admin_calls import JSON, admin
from tests.e2e.test_processes import samples
from tests.e2e.test_reload import ANYWHERE, Reloadable, saying
from tests.support.certificates import Certificates, server_tls
from tests.support.gateway import Gateway, wait_until
from tests.support.origin import Origin

ASKED_ANEW_S = 5.0
"""How long it may take until a change is taken, on a machine that is busy; otherwise it is below 2 s."""


def route(name: str, text: str) -> dict[str, Any]:
    return {"name": name, "paths": [f"/{name}"], "respond": {"body": text}}


def complaints(gateway: Gateway) -> list[bytes]:
    return [line for line in gateway.stderr.lines if b"not reloaded" in line]


# --- the configuration's own, with --watch ---


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Reloadable]:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.json").write_text(json.dumps({"routes": [route("a", "a1")]}))
    config = {"include": ["conf.d/*.json"], "routes": saying("v1", "/main")}
    with Reloadable(config, tmp_path, arguments=["--watch"]) as gateway:
        yield gateway


def comes(gateway: Reloadable, path: str, text: bytes) -> None:
    wait_until(lambda: gateway.answer(path) == (200, text), f"{path} to say {text!r}", ASKED_ANEW_S)


@pytest.mark.landing
def test_a_change_of_the_file_of_an_include_and_of_what_there_is_to_include_is_taken(watched: Reloadable) -> None:
    folder = watched.file.parent / "conf.d"
    watched.change(routes=saying("v2", "/main"))
    comes(watched, "/main", b"v2")
    (folder / "a.json").write_text(json.dumps({"routes": [route("a", "a2")]}))
    comes(watched, "/a", b"a2")
    (folder / "b.json").write_text(json.dumps({"routes": [route("b", "b1")]}))
    comes(watched, "/b", b"b1")
    (folder / "b.json").unlink()
    wait_until(lambda: watched.answer("/b")[0] == 404, "the include to be gone", ASKED_ANEW_S)
    assert not complaints(watched)
    assert watched.status()["reloads"]["last"][0]["source"] == "file"


def test_what_is_wrong_is_told_once_and_changes_nothing(watched: Reloadable) -> None:
    watched.write("{")
    watched.stderr.wait_for(lambda line: b"generation 1 stays" in line)
    looks = watched.file.parent / "conf.d" / "a.json"
    looks.write_text(json.dumps({"routes": [route("a", "a2")]}))  # another change, which is looked at as well
    wait_until(lambda: len(complaints(watched)) == 2, "the second attempt", ASKED_ANEW_S)
    assert watched.answer("/main") == (200, b"v1")
    watched.change()
    comes(watched, "/a", b"a2")
    assert len(complaints(watched)) == 2
    wait_until(lambda: samples(watched.ready["status"])["fastgw_config_last_reload_success"] == 1, "it to be told")


def test_what_was_posted_stays_until_the_files_change(watched: Reloadable) -> None:
    posted = {**watched.config, "routes": saying("posted", "/main")}
    httpx.post(f"http://{watched.ready['admin']}/config", json=posted, headers=watched.shown).raise_for_status()
    os.kill(watched.control_pid, signal.SIGKILL)
    wait_until(lambda: watched.command("status").returncode == 0, "another control process", ASKED_ANEW_S)
    assert watched.answer("/main") == (200, b"posted")
    watched.change(routes=saying("v3", "/main"))
    comes(watched, "/main", b"v3")


def test_without_the_option_nothing_is_taken(tmp_path: Path) -> None:
    """The certificates' watch, which always goes on, shows that enough time has passed."""
    authority = Certificates(tmp_path)
    certificate, key = authority.issue("client")
    upstream = {"targets": [{"url": "https://127.0.0.1:9"}], "tls": {"certificate": certificate, "key": key}}
    with Reloadable({"routes": saying("v1"), "upstreams": {"u": upstream}}, tmp_path) as gateway:
        gateway.change(routes=saying("v2"))
        for generation in (b"generation 2", b"generation 3"):
            authority.issue("client")
            gateway.stderr.wait_for(lambda line, told=generation: told in line, ASKED_ANEW_S)
        assert gateway.answer() == (200, b"v1")


# --- those that it names ---


def test_a_renewed_client_certificate_is_shown_without_a_reload(tmp_path: Path) -> None:
    """As renewal tools do it: the key first, then the certificate. In between they do not belong together."""
    folder = tmp_path / "renewed"
    folder.mkdir()
    authority = Certificates(tmp_path)
    old, new = authority.issue("old"), authority.issue("new")
    certificate, key = folder / "client.pem", folder / "client.key"
    shutil.copy(old[0], certificate)
    shutil.copy(old[1], key)
    tls = {"ca": authority.ca, "certificate": str(certificate), "key": str(key)}
    with Origin(tls=server_tls(authority.issue("127.0.0.1"), clients=authority.ca)).serve() as origin:
        upstream = {"targets": [{"url": origin.url}], "tls": tls}
        config = {"upstreams": {"u": upstream}, "routes": [{"name": "all", "upstream": "u"}]}
        with Reloadable({**config, "listeners": {"main": ANYWHERE}}, tmp_path) as gateway:
            assert (gateway.answer()[0], shown(origin)) == (200, "old")
            shutil.copy(new[1], key)
            gateway.stderr.wait_for(lambda line: b"does not match the certificate" in line, ASKED_ANEW_S)
            assert (gateway.answer()[0], shown(origin)) == (200, "old")
            shutil.copy(new[0], certificate)
            gateway.stderr.wait_for(lambda line: b"reloaded: generation 2" in line, ASKED_ANEW_S)
            assert (gateway.answer()[0], shown(origin)) == (200, "new")
            assert not complaints(gateway), "nothing was to be rejected"


def shown(origin: Origin) -> str:
    """Whose certificate the last connection showed."""
    names: str = origin.connections[-1].sock.getpeercert()["subjectAltName"][0][1]  # type: ignore[attr-defined]
    return names


@pytest.mark.parametrize(
    ("count", "wrong"), [(30_000, b"expected at most 5000 elements"), (300_000, b"longer than 1 MiB")]
)
def test_a_list_of_very_many_targets_is_refused_and_the_last_one_stays(
    tmp_path: Path, count: int, wrong: bytes
) -> None:
    """Workers that set up such a list are silent for longer than the supervisor waits."""
    urls = [f"http://10.0.0.1:{80 + at}" for at in range(count)]
    file = tmp_path / "targets.yaml"
    with Origin().serve() as origin:
        file.write_text(f"- {origin.url}\n")
        config = {"upstreams": {"u": {"targets": {"file": "targets.yaml"}}}, "routes": [{"name": "u", "upstream": "u"}]}
        with Reloadable(config, tmp_path) as gateway:
            file.with_suffix(".new").write_text("".join(f"- {url}\n" for url in urls))
            os.replace(file.with_suffix(".new"), file)
            gateway.stderr.wait_for(lambda line: b"targets.yaml" in line and wrong in line)
            told = admin(gateway, "PUT /upstreams/u/targets", json.dumps(urls[:5001]), JSON)
            assert (told.status, told.json["problems"][0]["expected"]) == (422, "at most 5000 elements")
            assert gateway.answer()[0] == 200
            assert gateway.generations() == [1, 1]
            assert "hangs" not in gateway.stderr.text()
