"""How a gateway ends: readiness first, then the listeners, then what is under way; and who is impatient."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.test_processes import ask, wait_until_refused
from tests.e2e.test_reload import Reloadable, saying
from tests.support.gateway import wait_until
from tests.support.origin import OK, Origin


class Slow:
    """A gateway with `timeouts.drain.delay`, and a request under way that is answered when the test says so."""

    def __init__(self, directory: Path, delay: str) -> None:
        self._stack = contextlib.ExitStack()
        self.origin = self._stack.enter_context(Origin())
        routes = [{"name": "slow", "paths": ["/slow"], "upstream": self.origin.url}, *saying("v1")]
        config = {"routes": routes, "timeouts": {"drain": {"delay": delay}}}
        self.gateway = self._stack.enter_context(Reloadable(config, directory))
        self.client = self._stack.enter_context(self.gateway.connect())
        self.client.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        self._upstream = self.origin.accept()
        self._upstream.read_request()

    def __enter__(self) -> Slow:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def answer(self) -> int:
        """The status that the slow request gets in the end."""
        self._upstream.send(OK)
        return self.client.read_response().status

    def readiness(self) -> int:
        return ask(self.gateway.ready["status"], "/readyz").status

    @property
    def last_line(self) -> str:
        return self.gateway.stderr.lines[-1].decode().rstrip("\n")


DRAINED = re.compile(r"drained (\d+) requests in \d+\.\d s, 0 cut")


@pytest.mark.parametrize("way", ["TERM", "QUIT", "the admin API"])
def test_readiness_goes_first_and_new_clients_are_served_for_a_while(tmp_path: Path, way: str) -> None:
    with Slow(tmp_path, delay="1s") as slow:
        gateway = slow.gateway
        if way == "the admin API":
            assert gateway.command("drain").returncode == 0
        else:
            gateway.signal(getattr(signal, f"SIG{way}"))
        wait_until(lambda: slow.readiness() == 503, "readiness to go")
        assert gateway.answer() == (200, b"v1")
        assert ask(gateway.ready["status"], "/livez").status == 200
        wait_until_refused(gateway.address())
        assert slow.readiness() == 503
        assert slow.answer() == 200
        assert gateway.wait() == 0
        assert DRAINED.fullmatch(slow.last_line)


@pytest.mark.landing
def test_a_drain_that_the_admin_api_began_is_not_cut_by_a_first_term(tmp_path: Path) -> None:
    """As of a hook before the stop, which is followed by TERM."""
    with Slow(tmp_path, delay="0s") as slow:
        assert slow.gateway.command("drain").returncode == 0
        wait_until_refused(slow.gateway.address())
        slow.gateway.signal(signal.SIGTERM)
        assert slow.answer() == 200
        assert slow.gateway.wait() == 0
        assert DRAINED.fullmatch(slow.last_line)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_impatience_while_new_clients_are_served(tmp_path: Path, number: int) -> None:
    with Slow(tmp_path, delay="1m") as slow:
        slow.gateway.signal(signal.SIGTERM)
        wait_until(lambda: slow.readiness() == 503, "readiness to go")
        while slow.gateway.process.poll() is None:
            slow.gateway.signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                slow.gateway.process.wait(0.2)
        assert slow.gateway.wait() == 0
        assert slow.last_line == "at once, without draining"


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2])
def test_who_has_begun_to_leave_does_not_stay(tmp_path: Path, number: int) -> None:
    """A reload and an upgrade change nothing about it."""
    with Slow(tmp_path, delay="1s") as slow:
        slow.gateway.signal(signal.SIGTERM)
        wait_until(lambda: slow.readiness() == 503, "readiness to go")
        slow.gateway.signal(number)
        slow.gateway.stderr.wait_for(lambda line: b"not possible now: the gateway" in line)
        wait_until_refused(slow.gateway.address())
        assert slow.answer() == 200
        assert slow.gateway.wait() == 0
        assert DRAINED.fullmatch(slow.last_line)


@pytest.mark.landing
def test_probes_are_answered_to_the_end_although_control_is_killed(tmp_path: Path) -> None:
    with Slow(tmp_path, delay="0s") as slow:
        slow.gateway.signal(signal.SIGTERM)
        wait_until_refused(slow.gateway.address())
        os.kill(slow.gateway.control_pid, signal.SIGKILL)
        assert slow.readiness() == 503
        assert ask(slow.gateway.ready["status"], "/livez").status == 200
        assert slow.answer() == 200
        assert slow.gateway.wait() == 0
