"""fastgw as a container runs it: process 1, a root file system that cannot be written to, no capability.

Where namespaces are not ours to make, it runs as a subreaper (prctl(2)): orphans are its own then, as process 1's are.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_processes import GET, forwarding, wait_until_refused
from tests.support.gateway import Gateway, wait_until
from tests.support.origin import OK, Origin

# Their first argument is a FIFO. Who reads there has lost its parent before fastgw becomes process 1.
LEAVE_AN_ORPHAN = '(cat "$0" >/dev/null 2>&1 &); '
CONFINED = (
    "mount -o remount,bind,ro / && test ! -w /etc && "
    'exec setpriv --inh-caps=-all --bounding-set=-all --no-new-privs "$@"'
)
CONTAINER = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
SUBREAPER = "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"


def launchers() -> list[list[str]]:
    """What stands before fastgw's command line but for the FIFO; the best first."""
    shell = ["sh", "-c"]
    return [
        [*CONTAINER, *shell, LEAVE_AN_ORPHAN + CONFINED],
        [*CONTAINER, "--user", "--map-root-user", *shell, LEAVE_AN_ORPHAN + CONFINED],
        [sys.executable, "-c", SUBREAPER, str(shutil.which("sh")), "-c", LEAVE_AN_ORPHAN + 'exec "$@"'],
    ]


def works(launcher: Sequence[str]) -> bool:
    command = [*launcher, os.devnull, "true"]
    return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0


@pytest.fixture(scope="session")
def launcher() -> list[str]:
    return next(each for each in launchers() if works(each))


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


class Contained(Gateway):
    """`process` may be what made the namespace; its only child is process 1 there then. `orphan`: process 1's."""

    def __init__(self, config: Mapping[str, Any], directory: Path, launcher: Sequence[str]) -> None:
        self.fifo = directory / "fifo"
        os.mkfifo(self.fifo)
        super().__init__(config, directory, launcher=[*launcher, str(self.fifo)])
        (self.orphan,) = [pid for pid in children(self.pid) if name(pid) == "cat"]

    @property
    def pid(self) -> int:
        return children(self.process.pid)[0] if name(self.process.pid) == "unshare" else self.process.pid

    @property
    def child_pids(self) -> list[int]:
        return [pid for pid in children(self.pid) if pid != self.orphan]

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def end_the_orphan(self) -> None:
        """It reads the end of the file, and exits. Raises `OSError` when it is gone."""
        os.close(os.open(self.fifo, os.O_WRONLY | os.O_NONBLOCK))

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            super().__exit__(kind, *error)
        finally:
            with contextlib.suppress(OSError):
                self.end_the_orphan()


@pytest.mark.landing
def test_process_1_buries_orphans_and_drains(tmp_path, launcher):
    with Origin() as origin, Contained(forwarding(origin), tmp_path, launcher) as gateway:
        gateway.end_the_orphan()
        wait_until(lambda: not Path(f"/proc/{gateway.orphan}").exists(), "the orphan to be gone, zombie and all")
        with gateway.connect() as client:
            client.send(GET)
            upstream = origin.accept()
            upstream.read_request()
            gateway.signal(signal.SIGTERM)
            wait_until_refused(gateway.address())
            upstream.send(OK)
            assert client.read_response().status == 200
        assert gateway.wait() == 0
        assert b"drained 1 requests" in gateway.stderr.lines[-1]
        assert "ended:" not in gateway.stderr.text()  # the orphan was none of its workers


@pytest.mark.landing
def test_process_1_replaces_a_worker(tmp_path, launcher):
    with Origin() as origin, Contained(forwarding(origin), tmp_path, launcher) as gateway:
        worker, *_ = gateway.child_pids
        os.kill(worker, signal.SIGKILL)
        gateway.stderr.wait_for(lambda line: b"ended: killed by SIGKILL" in line)
        wait_until(lambda: not Path(f"/proc/{worker}").exists(), "the worker to be gone")
        with gateway.connect() as client:
            client.send(GET)
            origin.accept().answer()
            assert client.read_response().status == 200
