"""What systemd does for a service, done by its own tools: opening sockets, and starting who serves them."""

from __future__ import annotations

import json
import socket
import sys
from contextlib import ExitStack

import pytest

from tests.e2e.programs import Printing, program

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
