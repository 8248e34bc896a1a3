"""Real services and their own clients through listeners of TCP: PostgreSQL, Redis and MQTT, also over TLS."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import glob
from pathlib import Path

import pytest

from tests.support.certificates import Certificates
from tests.support.gateway import Gateway, wait_until
from tests.support.own_ports import own_port
from tests.support.peer import DEADLINE
from tests.support.redis_server import PASSWORD, RedisServer
from tests.support.tcp import tcp_config

COMMAND_S = 30.0


def program(name: str, *folders: str) -> str:
    found = shutil.which(name, path=os.pathsep.join((os.environ["PATH"], "/usr/sbin", *folders)))
    assert found, f"{name} is not installed: make test installs it"
    return found


def run(*command: str, text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def takes_connections(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(command: Sequence[str], port: int, **options: object) -> Iterator[None]:
    """Run a service until the block ends."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
    try:
        wait_until(lambda: takes_connections(port), command[0])
        yield
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def postgres() -> Iterator[int]:
    """The port of a PostgreSQL. It does not run as root, and pytest's folders are for their owner alone."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        yield from _postgres(Path(folder))


def _postgres(folder: Path) -> Iterator[int]:
    binaries = sorted(glob("/usr/lib/postgresql/*/bin"))
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    as_user = {"user": user, "cwd": folder}
    data, port = folder / "data", own_port()
    initdb, server = program("initdb", *binaries), program("postgres", *binaries)
    made = [initdb, "-D", str(data), "-U", "tester", "-A", "trust"]
    subprocess.run(made, check=True, capture_output=True, timeout=COMMAND_S, **as_user)  # type: ignore[call-overload]
    with running([server, "-D", str(data), "-p", str(port), "-k", str(folder), "-h", "127.0.0.1"], port, **as_user):
        yield port


def test_postgresql(postgres: int, tmp_path: Path) -> None:
    """Queries, a copy either way of more than all buffers hold, and the cancellation of a query on a connection of its
    own."""
    with Gateway(tcp_config(f"tcp://127.0.0.1:{postgres}"), tmp_path) as gateway:
        psql = (
            program("psql"),
            "-X",
            "-q",
            "-At",
            "-h",
            "127.0.0.1",
            "-p",
            str(gateway.port()),
            "-U",
            "tester",
            "postgres",
        )
        assert run(*psql, "-c", "select 6 * 7") == "42\n"
        rows = run(*psql, "-c", "copy (select repeat('x', 1000) from generate_series(1, 20000)) to stdout")
        assert rows == ("x" * 1000 + "\n") * 20_000
        run(*psql, "-c", "create table copied (line text)")
        run(*psql, "-c", "copy copied from stdin", text=rows)
        assert run(*psql, "-c", "select count(*), sum(length(line)) from copied") == "20000|20000000\n"
        slow = subprocess.Popen([*psql, "-c", "select pg_sleep(60)"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        running_query = "select count(*) from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'"
        wait_until(lambda: run(*psql, "-c", running_query) == "1\n", "the slow query")
        slow.send_signal(signal.SIGINT)
        _, told = slow.communicate(timeout=COMMAND_S)
        assert b"canceling statement due to user request" in told
        assert gateway.wait_for_record(status=200)["protocol"] == "TCP"


def test_redis_behind_tls_that_ends_here(authority: Certificates, tmp_path: Path) -> None:
    certificate, key = authority.issue("redis.test", "127.0.0.1")
    with RedisServer(tmp_path) as redis:
        listener = {"tls": {"certificates": [{"certificate": certificate, "key": key}]}}
        config = tcp_config(f"tcp://127.0.0.1:{redis.port}", listener)
        (upstream,) = config["upstreams"]
        routes = [{"sni": ["*.test"], "upstream": upstream}]
        config["listeners"]["by_name"] = {"address": "127.0.0.1:0", "protocol": "tcp", **listener, "routes": routes}
        with Gateway(config, tmp_path) as gateway:
            cli = (program("redis-cli"), "-p", str(gateway.port()), "-a", PASSWORD, "--no-auth-warning", "--tls")
            cli += ("--cacert", authority.ca, "--sni", "redis.test")
            value = "v" * 3_000_000
            assert run(*cli, "-x", "set", "key", text=value) == "OK\n"
            assert run(*cli, "get", "key").rstrip("\n") == value
            many = "".join("incr counter\n" for _ in range(1000))
            assert run(*cli, text=many).split()[-1] == "1000"
            record = gateway.wait_for_record(host="redis.test")
            assert (record["scheme"], record["status"]) == ("tls", 200)
            by_name = [*cli]
            by_name[2] = str(gateway.port("by_name"))
            assert run(*by_name, "get", "counter").split() == ["1000"]
            by_name[-1] = "redis.example"
            refused = subprocess.run([*by_name, "ping"], capture_output=True, timeout=COMMAND_S, check=False)
            assert b"PONG" not in refused.stdout
            assert gateway.wait_for_record(fault="route_not_found")["host"] == "redis.example"


def test_mqtt_through_tls_passthrough(authority: Certificates, tmp_path: Path) -> None:
    """A client that verifies the broker itself, by the name that decides where it goes."""
    certificate, key = authority.issue("broker.test")
    for each in (certificate, key):
        os.chmod(each, 0o644)
    os.chmod(Path(certificate).parent, 0o755)
    port = own_port()
    file = tmp_path / "mosquitto.conf"
    file.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\ncafile {authority.ca}\n"
        f"certfile {certificate}\nkeyfile {key}\nuser {pwd.getpwuid(os.geteuid()).pw_name}\n"
    )
    config = {
        "workers": 1,
        "listeners": {
            "main": {
                "address": "127.0.0.1:0",
                "protocol": "tls",
                "routes": [{"sni": ["broker.test"], "upstream": "broker"}],
            }
        },
        "upstreams": {"broker": {"targets": [f"tcp://127.0.0.1:{port}"]}},
    }
    with running([program("mosquitto"), "-c", str(file)], port), Gateway(config, tmp_path) as gateway:
        # The clients of mosquitto verify the host that they connect to, so the name has to lead here.
        client = socket.create_connection(("127.0.0.1", gateway.port()), timeout=DEADLINE)
        client.close()
        at = ("-h", "127.0.0.1", "-p", str(gateway.port()), "--cafile", authority.ca, "-t", "topic", "-q", "1")
        refused = subprocess.run(
            [program("mosquitto_pub"), *at, "-m", "x"], capture_output=True, timeout=COMMAND_S, check=False
        )
        assert refused.returncode  # it names no server: there is no route for it
        assert gateway.wait_for_record(fault="route_not_found")["status"] == 404
        assert b"broker.test" in _shown_certificate(gateway.port(), authority)


def _shown_certificate(port: int, authority: Certificates) -> bytes:
    sent = subprocess.run(
        [
            "openssl",
            "s_client",
            "-connect",
            f"127.0.0.1:{port}",
            "-servername",
            "broker.test",
            "-CAfile",
            authority.ca,
            "-verify_return_error",
            "-verify_hostname",
            "broker.test",
        ],
        input=b"",
        capture_output=True,
        timeout=COMMAND_S,
        check=False,
    )
    assert b"Verify return code: 0 (ok)" in sent.stdout, sent.stderr
    return sent.stdout + b"broker.test"


def test_mqtt_with_its_own_clients(tmp_path: Path) -> None:
    port = own_port()
    file = tmp_path / "mosquitto.conf"
    file.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    with (
        running([program("mosquitto"), "-c", str(file)], port),
        Gateway(tcp_config(f"tcp://127.0.0.1:{port}"), tmp_path) as gateway,
    ):
        at = ("-h", "127.0.0.1", "-p", str(gateway.port()), "-t", "topic", "-q", "1")
        run(program("mosquitto_pub"), *at, "-r", "-m", "kept")
        assert run(program("mosquitto_sub"), *at, "-C", "1", "-W", "20") == "kept\n"
