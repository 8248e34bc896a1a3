"""What systemd does for a service: opening its sockets, and letting it do little."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.programs import Printing, program
from tests.e2e.test_processes import GET, GET_AND_CLOSE
from tests.support.gateway import Gateway
from tests.support.origin import OK, Origin

ROOT = Path(__file__).parents[2]
CONFINED = [
    sys.executable,
    str(Path(__file__).with_name("confinement.py")),
    str(ROOT / "deploy/systemd/fastgw.service"),
]

ACTIVATED = """
import json, os, sys
from fastgw.config.values import parse_address
from fastgw.runtime.activation import bound_to, inherited

found = inherited()
(public,) = found.take(parse_address(sys.argv[1]))
print(json.dumps([str(bound_to(public)), found.unclaimed(), [name for name in os.environ if "LISTEN" in name]]))
sys.stdout.flush()
public.setblocking(True)
client, _ = public.accept()
client.sendall(b"served")
client.close()
public.close()
found.close()
"""


@pytest.mark.parametrize("kind", ["path", "port"])
def test_with_systemd_socket_activate(tmp_path, kind):
    """It starts the program when the first client connects, and that client is served."""
    with ExitStack() as opened:
        held = opened.enter_context(socket.socket())  # bound, not listening: it keeps others away from the port
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        path = str(tmp_path.resolve() / "gw.sock")
        family, name = (socket.AF_UNIX, path) if kind == "path" else (socket.AF_INET, held.getsockname())
        listens, address = (path, f"unix:{path}") if kind == "path" else (f"127.0.0.1:{name[1]}",) * 2
        idle = str(tmp_path.resolve() / "idle.sock")
        activate = [program("systemd-socket-activate"), "-l", listens, "-l", idle, "--fdname=public:idle"]
        with Printing([*activate, sys.executable, "-c", ACTIVATED, address]) as activated:
            activated.lines.wait_for(lambda line: f"Listening on {idle}".encode() in line)
            with socket.socket(family) as client:
                client.settimeout(10)
                client.connect(name)
                assert client.recv(100) == b"served"
            assert activated.wait() == 0
            told = [json.loads(line) for line in activated.lines.lines if line.startswith(b"[")]
            assert told == [[address, [f"systemd listens on unix:{idle} (idle), and no listener has that address"], []]]


FORBIDDEN = """
import mmap, os, socket
for attempt in (
    lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC),
    lambda: os.chroot("/"),
    lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
):
    try:
        attempt()
    except OSError as error:
        print(error.strerror)
"""


def test_the_unit_forbids_what_it_says():
    """So that the next test shows something."""
    ended = subprocess.run([*CONFINED, sys.executable, "-c", FORBIDDEN], capture_output=True, text=True, check=True)
    denied = "Operation not permitted"
    assert ended.stdout.splitlines() == [denied, denied, "Address family not supported by protocol"]


def test_the_unit_forbids_nothing_that_the_gateway_needs(tmp_path):
    """Patterns by RE2, a host name, uvloop, a file that is logged to, a worker that dies, logs opened anew, a drain."""
    with Origin() as origin:
        config = {
            "workers": 2,
            "listeners": {"main": {"address": "127.0.0.1:0"}, "unix": {"address": f"unix:{tmp_path}/gw.sock"}},
            "status": {"address": "127.0.0.1:0"},
            "access_logs": [{"sink": str(tmp_path / "access.log"), "format": "json"}],
            "routes": [
                {"name": "pattern", "paths": ["~^/v[0-9]+/"], "respond": {"body": "ok"}},
                {"name": "named", "upstream": origin.url.replace("127.0.0.1", "localhost")},
            ],
        }
        with Gateway(config, tmp_path, launcher=CONFINED) as gateway:
            worker, *_ = gateway.worker_pids
            os.kill(worker, signal.SIGKILL)
            gateway.stderr.wait_for(lambda line: b"ended: killed by SIGKILL" in line)
            gateway.signal(signal.SIGUSR1)
            for listener in gateway.ready["listeners"]:
                with gateway.connect(listener) as client:
                    assert client.exchange(GET.replace(b" / ", b" /v1/x ")).status == 200
            with gateway.connect() as client:
                client.send(GET_AND_CLOSE)
                upstream = origin.accept()
                upstream.read_request()
                gateway.signal(signal.SIGTERM)
                upstream.send(OK)
                assert client.read_response().status == 200
            assert gateway.wait() == 0
        assert "not permitted" not in gateway.stderr.text()
