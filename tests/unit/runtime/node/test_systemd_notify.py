"""What systemd is told, read from a socket that stands for systemd's."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastgw.runtime.node.systemd_notify import Notifier


class Systemd:
    """The receiving end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)

    def told(self) -> list[str]:
        """The lines of the next message; a message is there as soon as it is sent."""
        return self._socket.recv(4096).decode().splitlines()

    def heard_nothing(self) -> bool:
        with pytest.raises(BlockingIOError):
            self.told()
        return True

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    systemd = Systemd(str(tmp_path / "notify") if request.param == "path" else f"@fastgw-test-{os.getpid()}")
    yield systemd
    systemd.close()


@pytest.fixture
def notifier(systemd: Systemd) -> Notifier:
    return Notifier.from_environment({"NOTIFY_SOCKET": systemd.address})


def test_each_message_is_one_datagram(systemd, notifier):
    notifier.ready("serving on http://127.0.0.1:8080 (4 workers)")
    notifier.status("generation 2 on 3/4 workers")
    notifier.watchdog()
    notifier.stopping()
    assert systemd.told() == ["READY=1", "STATUS=serving on http://127.0.0.1:8080 (4 workers)"]
    assert systemd.told() == ["STATUS=generation 2 on 3/4 workers"]
    assert systemd.told() == ["WATCHDOG=1"]
    assert systemd.told() == ["STOPPING=1"]
    assert systemd.heard_nothing()


def test_a_reload_is_told_with_its_time(systemd, notifier):
    """sd_notify(3): the monotonic time in microseconds, taken when the reload begins."""
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    reloading, monotonic = systemd.told()
    name, _, microseconds = monotonic.partition("=")
    assert (reloading, name) == ("RELOADING=1", "MONOTONIC_USEC")
    assert before <= int(microseconds) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_a_drain_may_take_longer_than_the_unit_says(systemd, notifier):
    notifier.stopping(within=302.5)
    assert systemd.told() == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=302500000"]


def test_a_status_cannot_become_another_message(systemd, notifier):
    """What it says may come from a file: a line end would begin an assignment of its own."""
    notifier.status("cannot read\nMAINPID=1\r\nREADY=1 \udcff")
    assert systemd.told() == ["STATUS=cannot read MAINPID=1 READY=1 \\udcff"]


@pytest.mark.parametrize("address", [None, "", "vsock:2:1234", "relative/path"])
def test_without_systemd_nothing_is_told_and_nothing_fails(address):
    environ = {} if address is None else {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"}
    notifier = Notifier.from_environment(environ)
    notifier.ready("serving")
    notifier.watchdog()
    assert notifier.watchdog_interval is None


def test_who_is_gone_is_no_error(tmp_path):
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    notifier.ready("serving")
    Notifier("/" + "x" * 200).ready("a path that no socket can have")


def test_who_does_not_read_is_not_waited_for(systemd, notifier):
    for _ in range(1000):  # more than fit into the queue of a datagram socket
        notifier.watchdog()
    assert systemd.told() == ["WATCHDOG=1"]


def test_a_child_does_not_speak_for_its_parent(systemd, notifier):
    if (pid := os.fork()) == 0:
        notifier.ready("I am a worker")
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert systemd.heard_nothing()


UPGRADED = """
import os, sys
from fastgw.runtime.node.systemd_notify import Notifier
if sys.argv[1] == "started":
    os.environ["WATCHDOG_PID"] = str(os.getpid())  # systemd knows it before it starts the program
    Notifier.from_environment().reloading()
    os.execv(sys.executable, [sys.executable, "-c", os.environ["PROGRAM"], "upgraded"])
notifier = Notifier.from_environment()
notifier.ready(f"{os.getpid()} {notifier.watchdog_interval}")
"""


def test_it_speaks_again_after_an_exec_in_place(systemd):
    """An upgrade: the same pid, the same environment, another program."""
    environ = {**os.environ, "NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "3000000", "PROGRAM": UPGRADED}
    process = subprocess.Popen([sys.executable, "-c", UPGRADED, "started"], env=environ)
    assert process.wait() == 0
    assert systemd.told()[0] == "RELOADING=1"
    assert systemd.told() == ["READY=1", f"STATUS={process.pid} 1.5"]


WATCHDOGS = [
    ({"WATCHDOG_USEC": "3000000"}, 1.5),
    ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
    ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
    ({"WATCHDOG_USEC": "0"}, None),
    ({"WATCHDOG_USEC": "soon"}, None),
    ({}, None),
]


@pytest.mark.parametrize(("environ", "interval"), WATCHDOGS)
def test_the_watchdog_is_told_twice_as_often_as_it_looks(environ, interval):
    assert Notifier.from_environment({"NOTIFY_SOCKET": "/run/notify", **environ}).watchdog_interval == interval
