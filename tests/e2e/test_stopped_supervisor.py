"""A supervisor that is stopped for a while: whoever connects meanwhile is answered once it goes on, not later."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastgw.runtime.node.heartbeat_monitor import LOOK_EVERY, SILENT_S
from tests.e2e.test_processes import GET_AND_CLOSE, answering, ask, wait_for_samples
from tests.support.gateway import Gateway, wait_until

STATUS = {"address": "127.0.0.1:0"}
CLIENTS = 20


def state_of(pid: int) -> str:
    """As proc(5) has it: `T` is stopped, `Z` dead; empty: gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """The processes are stopped for the length of the block; the first goes on last."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda pid=pid: state_of(pid) == "T", "the process to stop")  # type: ignore[misc]
    try:
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)


def passes(seconds: float) -> None:
    """The time that has to go by, since a silence is one after so long."""
    time.sleep(seconds)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_dies_meanwhile(tmp_path: Path, workers: int) -> None:
    with Gateway(answering(workers=workers), tmp_path) as gateway, contextlib.ExitStack() as stack:
        dead, *_ = gateway.worker_pids
        with stopped(gateway.pid):
            os.kill(dead, signal.SIGKILL)
            wait_until(lambda: state_of(dead) == "Z", "the worker to die")
            clients = [stack.enter_context(gateway.connect()) for _ in range(CLIENTS)]
            for client in clients:
                client.send(GET_AND_CLOSE)
        assert [client.read_response().status for client in clients] == [200] * CLIENTS


def test_a_worker_hangs_meanwhile(tmp_path: Path) -> None:
    """The other has gone round without it: the first look tells so, and it accepts for both."""
    with Gateway(answering(status=STATUS), tmp_path) as gateway, contextlib.ExitStack() as stack:
        hung, _ = gateway.worker_pids
        with stopped(hung):
            with stopped(gateway.pid):
                clients = [stack.enter_context(gateway.connect()) for _ in range(CLIENTS)]
                for client in clients:
                    client.send(GET_AND_CLOSE)
                passes(SILENT_S + LOOK_EVERY)
            assert [client.read_response().status for client in clients] == [200] * CLIENTS
        gateway.stderr.wait_for(lambda line: b"worker 1 (pid %d) sends heartbeats again" % hung in line)
        wait_for_samples(gateway, {"fastgw_workers": 2, "fastgw_child_deaths_total": 0})


def test_everybody_was_stopped(tmp_path: Path) -> None:
    """As by a machine that was suspended: nobody has hung."""
    with Gateway(answering(status=STATUS), tmp_path) as gateway:
        with stopped(gateway.pid, *gateway.child_pids):
            passes(SILENT_S + LOOK_EVERY)
        assert ask(gateway.ready["status"], "/readyz").status == 200
        wait_for_samples(gateway, {"fastgw_workers": 2})
        assert "has sent no heartbeat" not in gateway.stderr.text()
