"""Secrets of Vault and credentials of systemd, in a gateway that runs: read at its start, followed from then on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fastgw.config import ConfigError, load
from fastgw.filters import TYPES
from tests.e2e.admin_calls import is_served
from tests.e2e.test_reload import Reloadable
from tests.support.certificates import Certificates, server_tls
from tests.support.gateway import wait_until, write_config
from tests.support.vault import JWT, ROLE_ID, SECRET_ID, VaultServer

TAKEN_S = 10.0
ROUTE = {"name": "all", "respond": {"body": "ok"}, "filters": {"key_auth": {}}}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def vault(authority: Certificates) -> Iterator[VaultServer]:
    with VaultServer(server_tls(authority.issue("127.0.0.1", stem="vault"))) as server:
        server.secrets["secret/app"] = {"key": "first-key", "other": "other-key"}
        yield server


def by_approle(vault: VaultServer, authority: Certificates, **more: Any) -> dict[str, Any]:
    approle = {"role_id": ROLE_ID, "secret_id": SECRET_ID}
    said = {"address": vault.origin, "tls": {"ca": authority.ca}, "interval": "500ms", "auth": {"approle": approle}}
    return {**said, **more}


def consumer(*subjects: str) -> list[dict[str, Any]]:
    keys = [{"key": {"vault": subject}} for subject in subjects]
    return [{"name": "alice", "key_auth": keys}]


def config(settings: dict[str, Any], *subjects: str) -> dict[str, Any]:
    return {"vault": settings, "routes": [ROUTE], "consumers": consumer(*(subjects or ("secret/app#key",)))}


def check(said: dict[str, Any], folder: Path) -> str:
    """Return the problems of a configuration; "": it is valid."""
    file = write_config({"version": 1, "listeners": {"main": {"address": "127.0.0.1:0"}}, **said}, folder)
    try:
        load(str(file), TYPES)
    except ConfigError as error:
        return str(error)
    return ""


def is_let_in(gateway: Reloadable, key: str) -> bool:
    return httpx.get(f"http://{gateway.address()}/", headers={"X-API-Key": key}).status_code == 200


def feed(gateway: Reloadable) -> dict[str, Any]:
    (found,) = [each for each in gateway.status()["feeds"] if each["feed"].startswith("vault:")]
    return dict(found)


@pytest.mark.landing
def test_a_secret_follows_vault_and_stays_while_vault_is_unreachable(
    vault: VaultServer, authority: Certificates, tmp_path: Path
) -> None:
    with Reloadable(config(by_approle(vault, authority)), tmp_path) as gateway:
        assert is_let_in(gateway, "first-key")
        assert vault.revoked == ["hvs.approle.0"], "the login of the start is revoked"
        vault.secrets["secret/app"] = {"key": "second-key"}
        wait_until(lambda: is_let_in(gateway, "second-key"), "the new version", TAKEN_S)
        assert not is_let_in(gateway, "first-key")
        for wrong in ("down", "deleted", "nonsense"):
            vault.down = wrong == "down"
            vault.secrets["secret/app"] = None if wrong == "deleted" else {"key": "second-key"}
            vault.broken = b'{"data": {"data": {"key": "planted' if wrong == "nonsense" else None
            wait_until(lambda: bool(feed(gateway)["problem"]), f"{wrong} to be reported", TAKEN_S)
            assert is_let_in(gateway, "second-key"), wrong
            vault.down, vault.broken, vault.secrets["secret/app"] = False, None, {"key": "second-key"}
            wait_until(lambda: not feed(gateway)["problem"], "it to be over", 2 * TAKEN_S)
        vault.tokens.clear()  # all were revoked by an operator
        vault.secrets["secret/app"] = {"key": "third-key"}
        wait_until(lambda: is_let_in(gateway, "third-key"), "another login", TAKEN_S)
        said = gateway.stderr.text()
        assert "key-" not in said
        assert "planted" not in said
        assert SECRET_ID not in said
        assert vault.namespaces == {None}


def test_a_rotated_secret_outlives_control_while_vault_is_unreachable(
    vault: VaultServer, authority: Certificates, tmp_path: Path
) -> None:
    """A key that was revoked by its rotation is not accepted again, also after a reload."""
    with Reloadable(config(by_approle(vault, authority)), tmp_path) as gateway:
        vault.secrets["secret/app"] = {"key": "second-key"}
        wait_until(lambda: is_let_in(gateway, "second-key"), "the new version", TAKEN_S)
        vault.down = True
        before = gateway.control_pid
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: before not in gateway.child_pids and is_served(gateway), "another control", TAKEN_S)
        assert gateway.reload().startswith("reloaded: ")
        assert is_let_in(gateway, "second-key")
        assert not is_let_in(gateway, "first-key")


def test_a_secret_that_is_named_again_is_fetched_again(
    vault: VaultServer, authority: Certificates, tmp_path: Path
) -> None:
    """While no configuration named it nobody followed it: what was read before may have been revoked since."""
    with Reloadable(config(by_approle(vault, authority)), tmp_path) as gateway:
        named = gateway.config["consumers"]
        gateway.change(consumers=[{"name": "bob", "key_auth": [{"key": "key-of-bob-123456"}]}])
        gateway.reload()
        vault.down, vault.secrets["secret/app"] = True, {"key": "second-key"}
        gateway.change(consumers=named)
        refused = gateway.command("reload")
        assert refused.returncode != 0
        assert "secret/app" in refused.stderr
        assert not is_let_in(gateway, "first-key")
        vault.down = False
        gateway.reload()
        assert is_let_in(gateway, "second-key")


def test_a_token_is_renewed_before_it_ends_and_replaced_at_its_longest_lifetime(
    authority: Certificates, tmp_path: Path
) -> None:
    """The tokens last 8 s, and 10 s with renewals: after one renewal there has to be another login."""
    with VaultServer(server_tls(authority.issue("127.0.0.1", stem="short")), ttl=8, max_ttl=10) as vault:
        vault.secrets["secret/app"] = {"key": "first-key"}
        with Reloadable(config(by_approle(vault, authority)), tmp_path) as gateway:
            wait_until(lambda: len(vault.logins) >= 3, "the third login, after that of the start", 30.0)
            assert vault.renewed.count("hvs.approle.1") == 1
            assert not feed(gateway)["problem"], "there was never a read without a valid token"
            assert "permission denied" not in gateway.stderr.text()


def test_kubernetes_accounts_and_token_files_authenticate(
    vault: VaultServer, authority: Certificates, tmp_path: Path
) -> None:
    (tmp_path / "jwt").write_text(f"{JWT}\n")
    (tmp_path / "token").write_text("hvs.agent\n")
    vault.issue("hvs.agent")
    account = by_approle(vault, authority, auth={"kubernetes": {"role": "gateway", "token_file": "jwt"}})
    assert check(config(account), tmp_path) == ""
    assert vault.logins == ["kubernetes"]
    token = by_approle(vault, authority, auth={"token": {"file": "token"}}, mount="secret", namespace="team/a")
    assert check(config(token, "app#key"), tmp_path) == ""
    assert vault.logins == ["kubernetes"]
    assert "hvs.agent" in vault.tokens, "a token that others have issued is not revoked"
    assert vault.namespaces == {None, "team/a"}
    assert vault.reads == ["secret/app"] * 2


REFUSED = [
    ({"auth": {"approle": {"role_id": ROLE_ID, "secret_id": "wrong"}}}, "secret/app#key", "invalid role or secret ID"),
    ({"auth": {"kubernetes": {"role": "gateway", "token_file": "none"}}}, "secret/app#key", "cannot be read"),
    ({"auth": {"token": "hvs.unknown"}}, "secret/app#key", "the token is not accepted: Vault says 403"),
    ({}, "secret/none#key", "secret/none: Vault says 404: there is no such secret"),
    ({}, "secret/app#none", "secret/app has no text under the key none"),
    ({}, "secret/app#number", "secret/app has no text under the key number"),
    ({}, "secret/../sys#key", "not a secret of Vault; expected a path and a key"),
    ({}, "secret/app", "not a secret of Vault; expected a path and a key"),
    ({"tls": {}}, "secret/app#key", "certificate verify failed"),
    ({"address": "http://127.0.0.1:1"}, "secret/app#key", "http://127.0.0.1:1: "),
    ({"auth": {}}, "secret/app#key", "Vault is not configured; expected a valid `vault`"),
]


@pytest.mark.parametrize(("settings", "subject", "wrong"), REFUSED)
def test_check_says_which_secret_cannot_be_read_and_why(
    settings: dict[str, Any], subject: str, wrong: str, vault: VaultServer, authority: Certificates, tmp_path: Path
) -> None:
    vault.secrets["secret/app"] = {"key": "first-key", "number": 4711}
    said = check(config(by_approle(vault, authority, **settings), subject), tmp_path)
    assert "consumers[0].key_auth[0].key.vault" in said
    assert wrong in said
    assert "first-key" not in said
    assert SECRET_ID not in said


@pytest.mark.landing
def test_without_settings_of_vault_its_secrets_are_refused(tmp_path: Path) -> None:
    said = check({"routes": [ROUTE], "consumers": consumer("secret/app#key")}, tmp_path)
    assert "Vault is not configured; expected a valid `vault` at the top level" in said


@pytest.mark.landing
def test_a_credential_of_systemd_is_read_and_followed(tmp_path: Path) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "api-key").write_text("first-key\n")
    said = {"routes": [ROUTE], "consumers": [{"name": "alice", "key_auth": [{"key": {"credential": "api-key"}}]}]}
    environment = {"CREDENTIALS_DIRECTORY": str(folder)}
    with Reloadable(said, tmp_path, environment=environment) as gateway:
        assert is_let_in(gateway, "first-key")
        written = folder / "new"
        written.write_text("second-key\n")
        os.replace(written, folder / "api-key")
        wait_until(lambda: is_let_in(gateway, "second-key"), "the new credential", TAKEN_S)


@pytest.mark.parametrize(
    ("name", "directory", "wrong"),
    [
        ("api-key", "", "the environment variable CREDENTIALS_DIRECTORY is not set"),
        ("../shadow", "FOLDER", '"../shadow" is not the name of a credential'),
        ("none", "FOLDER", "none cannot be read: No such file or directory"),
    ],
)
def test_a_credential_that_is_not_there_is_named(
    name: str, directory: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", directory.replace("FOLDER", str(tmp_path)))
    said = {"routes": [ROUTE], "consumers": [{"name": "alice", "key_auth": [{"key": {"credential": name}}]}]}
    assert f"consumers[0].key_auth[0].key.credential: {wrong}".replace(
        "none cannot", f"{tmp_path}/none cannot"
    ) in check(said, tmp_path)


@pytest.mark.parametrize("may_look_up", [True, False])
def test_a_forbidden_path_does_not_cost_another_login(
    may_look_up: bool, vault: VaultServer, authority: Certificates, tmp_path: Path
) -> None:
    """A login again and again leaves tokens behind until Vault refuses all logins. Where the policy denies
    `lookup-self` as well, one login shows that a new token is of no use.
    """
    vault.secrets["secret/other"] = {"key": "third-key"}
    with Reloadable(config(by_approle(vault, authority), "secret/app#key", "secret/other#key"), tmp_path) as gateway:
        wait_until(lambda: len(vault.logins) == 2, "the login of the control process", TAKEN_S)
        vault.forbidden.add("secret/other")
        if not may_look_up:
            vault.forbidden.add("auth/token/lookup-self")
        refused = "/v1/secret/data/other"
        wait_until(lambda: vault.refused.count(refused) >= 5, "some reads", TAKEN_S)
        assert len(vault.logins) == (2 if may_look_up else 3)
        assert len(vault.tokens) == 1, "replaced tokens were revoked"
        assert "secret/other: Vault says 403" in feed(gateway)["problem"]
        vault.secrets["secret/app"] = {"key": "second-key"}
        wait_until(lambda: is_let_in(gateway, "second-key"), "the other secret", TAKEN_S)
        vault.tokens.clear()
        vault.secrets["secret/app"] = {"key": "fourth-key"}
        wait_until(lambda: is_let_in(gateway, "fourth-key"), "another login after a revocation", TAKEN_S)


def test_a_reload_and_a_stop_revoke_the_token(vault: VaultServer, authority: Certificates, tmp_path: Path) -> None:
    vault.secrets["secret/other"] = {"key": "third-key"}
    with Reloadable(config(by_approle(vault, authority)), tmp_path) as gateway:
        wait_until(lambda: len(vault.logins) == 2, "the login of the control process", TAKEN_S)
        gateway.change(consumers=consumer("secret/app#key", "secret/other#key"))
        gateway.reload()
        wait_until(lambda: "hvs.approle.1" in vault.revoked, "the token of the previous follower", TAKEN_S)
        wait_until(lambda: len(vault.tokens) == 1, "one token that is in use", TAKEN_S)
    assert not vault.tokens


def test_a_silent_vault_does_not_get_control_killed_at_the_stop(
    vault: VaultServer, authority: Certificates, tmp_path: Path
) -> None:
    with Reloadable(config(by_approle(vault, authority, interval="1h")), tmp_path) as gateway:
        wait_until(lambda: len(vault.reads) == 2, "the read of the control process", TAKEN_S)
        with vault.lock:
            gateway.signal(signal.SIGTERM)
            assert gateway.wait(TAKEN_S) == 0
        assert "did not stop in time" not in gateway.stderr.text()


def test_one_path_with_an_invalid_answer_does_not_hold_up_the_others(
    vault: VaultServer, authority: Certificates, tmp_path: Path
) -> None:
    vault.secrets["secret/zebra"] = {"key": "third-key"}
    with Reloadable(config(by_approle(vault, authority), "secret/app#key", "secret/zebra#key"), tmp_path) as gateway:
        vault.broken_paths["secret/app"] = b"<html>planted</html>"
        vault.secrets["secret/zebra"] = {"key": "fourth-key"}
        wait_until(lambda: is_let_in(gateway, "fourth-key"), "the other secret", TAKEN_S)
        wait_until(lambda: bool(feed(gateway)["problem"]), "the problem", TAKEN_S)
        assert feed(gateway)["problem"] == "secret/app: an invalid answer"
        assert is_let_in(gateway, "first-key")
        vault.broken_paths.clear()
        wait_until(lambda: not feed(gateway)["problem"], "it to be over", TAKEN_S)
        assert "planted" not in gateway.stderr.text()


def test_a_sealed_vault_is_asked_again_soon_whatever_the_interval_and_its_refusals_are_no_success(
    vault: VaultServer, authority: Certificates, tmp_path: Path
) -> None:
    with Reloadable(config(by_approle(vault, authority, interval="3s")), tmp_path) as gateway:
        wait_until(lambda: len(vault.logins) == 2, "the login of the control process", TAKEN_S)
        vault.down = True
        wait_until(lambda: bool(feed(gateway)["problem"]), "it to be reported", TAKEN_S)
        last, asked = feed(gateway)["last_success_date"], vault.asked
        wait_until(lambda: vault.asked >= asked + 2, "other attempts", TAKEN_S)
        assert feed(gateway)["last_success_date"] == last
        assert "Vault is sealed" in feed(gateway)["problem"]


def test_a_sealed_vault_is_asked_again_after_the_interval_at_the_latest(
    vault: VaultServer, authority: Certificates, tmp_path: Path
) -> None:
    with Reloadable(config(by_approle(vault, authority, interval="50ms")), tmp_path) as gateway:
        vault.down = True
        wait_until(lambda: bool(feed(gateway)["problem"]), "it to be reported", TAKEN_S)
        asked = vault.asked
        wait_until(lambda: vault.asked >= asked + 20, "more attempts than longer and longer delays allow", TAKEN_S)
