"""The old program's part of an upgrade: test the installed version in a child, and exec it if it can serve.

Until the exec nothing changes: the child reports errors of the new version, and the old one continues. The exec keeps
the pid, so the gateway stays process 1 of a container, and the same service for a service manager.
"""

import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import inf
from typing import Final

from fastgw.kernel import memory_file
from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import notice
from fastgw.runtime.process.signals import outcome
from fastgw.runtime.supervisor.handover_state import PREFLIGHT, TAKE_OVER, HandoverState

PREFLIGHT_S: Final = 60.0
"""Maximum seconds in which the new version has to prove that it can serve."""
PASSED: Final = 93
"""Exit status of a version that has passed the preflight."""
NOT_UPGRADED: Final = "not upgraded, nothing has changed"
REPORT_MAX: Final = 4096
"""Maximum bytes that are read from the end of the new version's output."""


class Upgrade:
    """Runs one preflight at a time."""

    def __init__(self) -> None:
        self.preflight = 0
        """The pid of the new version under test; 0: none."""
        self.due_at = inf
        """When to `poll`, monotonic seconds."""
        self.has_passed = False
        """Whether the new version has passed the preflight for `generation`; the exec is pending."""
        self.generation = 0
        """The generation of the configuration with which the upgrade was tested."""
        self._is_repeated = False  # the preflight
        self._report = -1  # a memory file for its stdout and stderr
        self._verdict = ""  # reason of its kill

    @property
    def under_way(self) -> bool:
        return bool(self.preflight) or self.has_passed

    @property
    def holds_reloads(self) -> bool:
        """Whether the preflight is repeated, because the configuration has changed during the first one. Each further
        change would repeat it again, without end: they wait.
        """
        return self.under_way and self._is_repeated

    def start_preflight(self, handover: HandoverState) -> None:
        """Start the preflight. Its result is reported when it ends."""
        self._is_repeated = self.has_passed
        why = "the configuration has changed meanwhile: " if self._is_repeated else ""
        self.has_passed, self.generation, self._verdict = False, handover.generation, ""
        try:
            self._start(handover)
        except OSError as error:
            notice(
                OperatorEvent.UPGRADE_REFUSED, f"{NOT_UPGRADED}: {sys.executable} cannot be started: {error.strerror}"
            )
        else:
            self.due_at = time.monotonic() + PREFLIGHT_S
            notice(OperatorEvent.UPGRADING, f"upgrade: {why}trying the installed version (pid {self.preflight})")

    def _start(self, handover: HandoverState) -> None:
        with inheritable(handover.write(), [handover.shared]) as descriptor:
            report = memory_file("fastgw-preflight")
            environment = {**os.environ, PREFLIGHT: str(descriptor)}
            outputs = [(os.POSIX_SPAWN_DUP2, report, output) for output in (1, 2)]
            try:
                self.preflight = os.posix_spawn(sys.executable, sys.orig_argv, environment, file_actions=outputs)
            except OSError:
                os.close(report)
                raise
        self._report = report

    def poll(self, now: float) -> None:
        """End a preflight that hangs."""
        if now >= self.due_at:
            self.due_at, self._verdict = inf, f"did not serve within {PREFLIGHT_S:.0f} s"
            os.kill(self.preflight, signal.SIGKILL)

    def give_up(self) -> None:
        """Cancel the upgrade, because the gateway shuts down."""
        if self.preflight:
            os.kill(self.preflight, signal.SIGKILL)
            os.close(self._report)
        if self.under_way:
            notice(OperatorEvent.UPGRADE_REFUSED, "not upgraded: the gateway ends")
        self.preflight, self.due_at, self.has_passed = 0, inf, False

    def decide(self, code: int) -> None:
        """Handle the end of the preflight."""
        self.preflight, self.due_at = 0, inf
        report = os.pread(self._report, REPORT_MAX, max(0, os.fstat(self._report).st_size - REPORT_MAX))
        os.close(self._report)
        if code == PASSED:
            self.has_passed = True
            return
        last = report.decode(errors="backslashreplace").rstrip().rpartition("\n")[2]  # the last line of the output
        verdict = self._verdict or f"ended: {outcome(code)}"
        notice(
            OperatorEvent.UPGRADE_REFUSED,
            f"{NOT_UPGRADED}: the installed version {verdict}{f': {last}' if last else ''}",
        )

    def exec_new_version(self, handover: HandoverState) -> None:
        """Replace this program (exec). Returns only if that fails."""
        self.has_passed = False
        try:
            with inheritable(handover.write(), handover.descriptors) as descriptor:
                os.environ[TAKE_OVER] = str(descriptor)
                notice(OperatorEvent.UPGRADING, "upgrade: the installed version takes over")
                os.execv(sys.executable, sys.orig_argv)
        except OSError as error:
            notice(OperatorEvent.UPGRADE_REFUSED, f"{NOT_UPGRADED}: {sys.executable}: {error.strerror}")
        finally:
            os.environ.pop(TAKE_OVER, None)


@contextmanager
def inheritable(descriptor: int, others: Iterable[int]) -> Iterator[int]:
    """Make these descriptors inheritable for a program started in the block. The first is closed at its end."""
    kept = [descriptor, *others]
    try:
        for each in kept:
            os.set_inheritable(each, True)
        yield descriptor
    finally:
        for each in kept:
            os.set_inheritable(each, False)
        os.close(descriptor)
