"""A disk that is full, files that cannot be read, a name that is gone: told clearly, and nobody else is hurt."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import fronting
from tests.e2e.programs import Nginx, run
from tests.support.forked import FASTGW, ran
from tests.support.gateway import Gateway, GatewayFailed, wait_until


def dropped(gateway: Gateway) -> int:
    metrics = httpx.get(f"http://{gateway.ready['status']}/metrics", trust_env=False).text.splitlines()
    return sum(int(float(line.split()[-1])) for line in metrics if line.startswith("fastgw_log_records_dropped_total"))


@pytest.mark.landing
@pytest.mark.parametrize("sink", ["{directory}/missing/access.log", "{directory}"])
def test_without_a_place_for_its_access_log_nothing_starts(nginx: Nginx, tmp_path: Path, sink: str) -> None:
    """What can be seen beforehand is told before anybody is served: exit 3, where and why."""
    config = {**fronting(main=nginx.url), "access_logs": [{"sink": sink.format(directory=tmp_path)}]}
    with pytest.raises(
        GatewayFailed, match=r"ended with 3 .*\n.*:[0-9]+:[0-9]+: access_logs\[0\]\.sink: .*; expected "
    ):
        Gateway(config, tmp_path)


def test_an_access_log_that_cannot_be_written(nginx: Nginx, tmp_path: Path) -> None:
    """All is served; the lines are counted as dropped, and it is said once per worker, not per line."""
    sink = "/dev/full"
    config = {**fronting(main=nginx.url), "status": {"address": "127.0.0.1:0"}, "access_logs": [{"sink": sink}]}
    with Gateway(config, tmp_path) as gateway:
        load = run("hey", "-n", "1000", "-c", "10", f"{gateway.url()}/empty.txt")
        assert "[200]\t1000 responses" in load
        wait_until(lambda: dropped(gateway) == 1000, "every line to be counted as dropped")
        complaints = [line for line in gateway.stderr.lines if sink.encode() in line]
        assert 1 <= len(complaints) <= 2, complaints


def test_one_full_log_leaves_the_other_whole(nginx: Nginx, tmp_path: Path) -> None:
    """Each log has its own trouble."""
    logs = [{"sink": "/dev/full"}, {"sink": str(tmp_path / "access.log"), "format": "combined"}]
    with Gateway({**fronting(main=nginx.url), "access_logs": logs}, tmp_path) as gateway:
        run("hey", "-n", "1000", "-c", "10", f"{gateway.url()}/empty.txt")
    assert len((tmp_path / "access.log").read_text().splitlines()) == 1000


CONFIG = 'version: 1\nlisteners: {main: {address: "127.0.0.1:0"}}\n'
MISSING = "upstreams: {u: {targets: [{url: 'https://a'}], tls: {ca: missing.pem}}}\n"
SENSELESS = MISSING.replace("missing", "senseless")


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("nowhere.yaml", None, "nowhere.yaml"),
        ("folder.yaml", ..., "folder.yaml"),
        ("latin.yaml", b"version: 1 # \xff\n", "latin.yaml"),
        ("nul.json", b"\x00", "nul.json"),
        ("missing.yaml", (CONFIG + MISSING).encode(), "missing.pem"),
        ("senseless.yaml", (CONFIG + SENSELESS).encode(), "senseless.yaml:3:58: upstreams.u.tls.ca: "),
        ("include.yaml", (CONFIG + "include: [gone.yaml]\n").encode(), "gone.yaml"),
    ],
    ids=["absent", "a folder", "not UTF-8", "NUL", "absent CA", "senseless CA", "absent include"],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, command: str, name: str, content: object, expected: str) -> None:
    """One line that names the file and why, exit code 1, and no traceback; before anything listens."""
    (tmp_path / "senseless.pem").write_text("no certificate")
    if content is ...:
        (tmp_path / name).mkdir()
    elif isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    ended = ran([FASTGW, command, name], cwd=tmp_path)
    told = ended.stdout + ended.stderr
    assert ended.returncode == 1, told
    assert expected in told
    assert "Traceback" not in told
    assert "a defect" not in told


def test_a_name_that_is_gone_hurts_its_own_upstream_only(nginx: Nginx, tmp_path: Path) -> None:
    """502 for the one, while the other is served; nobody waits for the lookup of another's name."""
    with Gateway(fronting(gone="http://gone.invalid", well=nginx.url), tmp_path) as gateway:
        with httpx.Client(trust_env=False) as client:
            for _ in range(20):
                assert client.get(f"{gateway.url('gone')}/").status_code == 502
                assert client.get(f"{gateway.url('well')}/empty.txt").status_code == 200
        assert gateway.wait_for_record(listener="gone")["fault"] == "dns_failed"


def test_a_name_that_cannot_be_looked_up_yet_does_not_stop_the_start(nginx: Nginx, tmp_path: Path) -> None:
    """As for a URL: its requests are answered 503 and all others are served; it is told, and looked up again. What was
    found stays when it cannot be looked up any more, over a reload too."""
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n")
    own_hosts = f'mount --bind {hosts} /etc/hosts && exec "$@"'
    targets = {"dns": "users.fastgw-test.invalid", "port": int(nginx.url.rpartition(":")[2])}
    config = {
        **fronting(main=nginx.url),
        "admin": {"address": "127.0.0.1:0"},
        "upstreams": {"users": {"targets": targets, "resolve": {"interval": "2s"}}},
    }
    config["routes"] = [{"name": "users", "paths": ["/empty.txt"], "upstream": "users"}, {"name": "up", "respond": {}}]
    with Gateway(config, tmp_path, launcher=["unshare", "--mount", "sh", "-c", own_hosts, "sh"]) as gateway:
        url = f"{gateway.url()}/empty.txt"

        def answered() -> int:
            return httpx.get(url, trust_env=False).status_code

        refused = httpx.get(url, trust_env=False)
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:fastgw:fault:no_healthy_target")
        assert httpx.get(f"{gateway.url()}/", trust_env=False).status_code == 200
        (told,) = [line for line in gateway.stderr.lines if b"users.fastgw-test.invalid cannot be resolved" in line]
        assert told.startswith(b"%b:" % str(tmp_path / "gateway.json").encode())
        assert told.endswith(b": requests are answered 503 until it can be\n")
        command = [FASTGW, "status", "--admin", gateway.ready["admin"]]
        assert "its targets cannot be resolved yet" in ran(command).stdout
        hosts.write_text("127.0.0.1 localhost users.fastgw-test.invalid\n")
        wait_until(lambda: answered() == 200, "it to be found", 15.0)
        hosts.write_text("127.0.0.1 localhost\n")
        gateway.stderr.wait_for(lambda line: b"the previous contents stay active" in line, 15.0)
        reload = [FASTGW, "reload", "--admin", gateway.ready["admin"]]
        assert ran(reload).returncode == 0
        assert answered() == 200
