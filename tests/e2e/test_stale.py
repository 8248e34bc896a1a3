"""A configuration file that is not what runs: `status`, the dashboard and a metric say so, and why."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.test_processes import samples
from tests.e2e.test_reload import Reloadable, saying
from tests.support.gateway import wait_until

SOON_S = 10.0
"""How long what is looked at twice a second may take to be told, on a machine that is busy."""


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Reloadable]:
    """With a secret in a file, which is taken anew without a reload."""
    (tmp_path / "secret").write_text("the-first-secret")
    key = {"name": "alice", "key_auth": [{"key": {"file": "secret"}}]}
    with Reloadable({"routes": saying("v1"), "consumers": [key], "filters": {}}, tmp_path) as gateway:
        yield gateway


def stale(gateway: Reloadable) -> dict[str, Any] | None:
    told = gateway.status()["stale"]
    seen = samples(gateway.ready["status"])["fastgw_config_stale"]
    return told if seen == (told is not None) else {"reason": f"the metric says {seen}", "why": str(told)}


def reason(gateway: Reloadable) -> str:
    return (stale(gateway) or {"reason": ""})["reason"]


def last_success(gateway: Reloadable) -> float:
    return samples(gateway.ready["status"])["fastgw_config_last_reload_success"]


def renew_secret(gateway: Reloadable, text: str) -> None:
    generation = gateway.status()["generation"]
    (gateway.file.parent / "secret").write_text(text)
    wait_until(lambda: gateway.status()["generation"] > generation, "the secret to be taken", SOON_S)


def test_after_a_refused_reload_it_is_told_until_one_is_taken(gateway: Reloadable) -> None:
    """Also when something else is renewed meanwhile: the file is still refused."""
    assert stale(gateway) is None
    gateway.change(routes=[{"name": "a", "upstream": "nobody"}])
    assert gateway.command("reload").returncode == 1
    told = stale(gateway)
    assert told is not None
    assert (told["reason"], 'unknown upstream "nobody"' in told["why"]) == ("refused", True)
    assert "the file on disk differs from the active configuration" in gateway.command("status").stdout
    assert last_success(gateway) == 0
    renew_secret(gateway, "the-second-secret")
    assert (reason(gateway), last_success(gateway)) == ("refused", 0)
    gateway.change(routes=saying("v2"))
    wait_until(lambda: reason(gateway) == "edited", "the correction to be seen", SOON_S)
    assert gateway.command("reload").returncode == 0
    assert (stale(gateway), last_success(gateway)) == (None, 1)
    assert "differs from the active" not in gateway.command("status").stdout


def test_what_another_file_was_refused_for_is_over_when_that_is_mended(gateway: Reloadable) -> None:
    """The configuration's own file has not changed: what it says is served again as soon as the secret can be."""
    (gateway.file.parent / "secret").write_text("\n")
    gateway.stderr.wait_for(lambda line: b"stay active" in line, SOON_S)
    renew_secret(gateway, "the-third-secret")
    wait_until(lambda: (stale(gateway), last_success(gateway)) == (None, 1), "all to be well", SOON_S)


def kept(gateway: Reloadable) -> list[tuple[str, int]]:
    """The other files that are not what runs. The metrics, and whether the last attempt is a success, say the same."""
    status, seen = gateway.status(), samples(gateway.ready["status"])
    told = [(Path(each["file"]).name, each["files"]) for each in status["kept_files"]]
    alarms = seen["fastgw_config_stale"], seen["fastgw_config_last_reload_success"], status["reloads"]["last_success"]
    return told if alarms == ((1, 0, False) if told else (0, 1, True)) else [(f"but the metrics say {alarms}", 0)]


def test_another_file_that_is_not_what_runs_is_told_as_the_main_file_is(gateway: Reloadable) -> None:
    """Whether all that has changed is wrong or a part of it, until it is mended; a restart would not begin."""
    assert kept(gateway) == []
    secret = gateway.file.parent / "secret"
    secret.write_text("\n")
    wait_until(lambda: kept(gateway) == [("secret", 1)], "the file to be told", SOON_S)
    (told,) = gateway.status()["kept_files"]
    assert (stale_alone(gateway), str(secret) in told["why"]) == (None, True)
    assert f"{secret} on disk differs from the active configuration since " in gateway.command("status").stdout
    before = gateway.control_pid
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: before not in gateway.child_pids, "the end of control", SOON_S)
    wait_until(lambda: gateway.command("status").returncode == 0, "another one to answer", SOON_S)
    wait_until(lambda: kept(gateway) == [("secret", 1)], "the file to be told again", SOON_S)
    gateway.change(routes=saying("v2"))
    assert "the previous contents stay active" in gateway.reload()  # which has gone well but for that
    assert kept(gateway) == [("secret", 1)]
    secret.write_text("the-first-secret")
    wait_until(lambda: kept(gateway) == [], "all to be well", SOON_S)
    assert "differs from the active" not in gateway.command("status").stdout


def test_files_that_are_wrong_together_are_told_together(tmp_path: Path) -> None:
    """More of them than are tried one by one."""
    names = [f"secret-{number}" for number in range(12)]
    for name in names:
        (tmp_path / name).write_text(f"good-{name}")
    consumers = [{"name": name, "key_auth": [{"key": {"file": name}}]} for name in names]
    with Reloadable({"routes": saying("v1"), "consumers": consumers, "filters": {}}, tmp_path) as gateway:
        for name in names:
            (tmp_path / name).write_text("\n")
        wait_until(lambda: sum(count for _, count in kept(gateway)) == len(names), "the files to be told", SOON_S)
        before = gateway.status()["reloads"]["failed"]
        (tmp_path / names[0]).write_text("\n\n")  # as one that is just being written
        wait_until(lambda: gateway.status()["reloads"]["failed"] > before, "another attempt", SOON_S)
        for name in names:
            (tmp_path / name).write_text(f"good-{name}")
        wait_until(lambda: kept(gateway) == [], "all to be well", SOON_S)


def stale_alone(gateway: Reloadable) -> dict[str, Any] | None:
    """Of the configuration's own files."""
    told: dict[str, Any] | None = gateway.status()["stale"]
    return told


def test_after_a_rollback_the_mistake_in_the_file_is_still_told(gateway: Reloadable) -> None:
    """Also by another control process, and after something else was renewed. It is over when the file is mended."""
    gateway.change(routes=saying("v2"))
    gateway.reload()
    gateway.change(routes=[{"name": "a", "upstream": "nobody"}])
    assert gateway.command("reload").returncode == 1
    httpx.post(f"http://{gateway.ready['admin']}/rollback", headers=gateway.shown).raise_for_status()

    def assert_told() -> None:
        told = stale(gateway)
        assert told is not None
        assert told["reason"] == "rollback"
        assert told["why"].startswith(
            "the active configuration is a rollback; the contents of the files were rejected: "
        )
        assert 'unknown upstream "nobody"' in told["why"]

    assert_told()
    renew_secret(gateway, "the-second-secret")
    assert_told()
    before = gateway.control_pid
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: before not in gateway.child_pids, "the end of control", SOON_S)
    wait_until(lambda: gateway.command("status").returncode == 0, "another one to answer", SOON_S)
    wait_until(lambda: reason(gateway) == "rollback", "the file to be looked at", SOON_S)
    assert_told()
    gateway.change(routes=saying("v3"))
    wait_until(lambda: reason(gateway) == "edited", "the correction to be seen", SOON_S)
    assert gateway.command("reload").returncode == 0
    assert stale(gateway) is None


@pytest.mark.landing
def test_a_file_that_is_changed_and_not_reloaded_is_told_and_one_that_is_put_back_is_not(gateway: Reloadable) -> None:
    before = gateway.file.read_text()
    gateway.change(routes=saying("v2"))
    wait_until(lambda: reason(gateway) == "edited", "the change to be seen", SOON_S)
    assert last_success(gateway) == 1
    gateway.file.write_text(before)
    wait_until(lambda: stale(gateway) is None, "the file to be what runs", SOON_S)


def test_what_came_over_the_api_or_was_gone_back_to_is_not_what_the_file_says(gateway: Reloadable) -> None:
    posted = {**gateway.config, "routes": saying("posted")}
    httpx.post(f"http://{gateway.ready['admin']}/config", json=posted, headers=gateway.shown).raise_for_status()
    assert reason(gateway) == "api"
    gateway.change(routes=saying("v2"))
    wait_until(lambda: reason(gateway) == "edited", "the change to be seen", SOON_S)
    assert gateway.command("reload").returncode == 0
    assert stale(gateway) is None
    httpx.post(f"http://{gateway.ready['admin']}/rollback", headers=gateway.shown).raise_for_status()
    assert reason(gateway) == "rollback"


def test_another_control_process_tells_the_same(gateway: Reloadable) -> None:
    gateway.write("{")
    assert gateway.command("reload").returncode == 1
    before = gateway.control_pid
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: before not in gateway.child_pids, "the end of control", SOON_S)
    wait_until(lambda: gateway.command("status").returncode == 0, "another one to answer", SOON_S)
    wait_until(lambda: reason(gateway) == "refused", "the file to be looked at", SOON_S)
    assert last_success(gateway) == 0


@pytest.mark.parametrize("who", ["control", "supervisor", "worker"])
def test_what_is_refused_for_want_of_descriptors_is_tried_again(gateway: Reloadable, who: str) -> None:
    """And told; nobody has to ask again. Here the new listener, the file and the document each need some."""
    assert stale(gateway) is None  # all of control serves
    pid = {"control": gateway.control_pid, "supervisor": gateway.process.pid, "worker": gateway.worker_pids[0]}[who]
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    gateway.change(routes=saying("v2"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))  # what is open stays so; a closed one is not reused
    try:
        os.kill(gateway.process.pid, signal.SIGHUP)
        told = gateway.stderr.wait_for(lambda line: b"not reloaded" in line, SOON_S)
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    assert b"files" in told
    wait_until(lambda: gateway.answer() == (200, b"v2"), "it to be tried again", SOON_S)
    wait_until(lambda: (stale(gateway), last_success(gateway)) == (None, 1), "it to be told", SOON_S)


def test_what_is_wrong_is_not_tried_again(gateway: Reloadable) -> None:
    gateway.write("{")
    ended = gateway.command("reload", "--format", "json")
    assert json.loads(ended.stdout)["reason"] == "rejected"
    renew_secret(gateway, "another-secret")  # which takes longer than the first wait
    renew_secret(gateway, "yet-another-secret")
    assert sum(b"not reloaded" in line for line in gateway.stderr.lines) == 1
