"""The old program's part of an upgrade: try the installed version in a child, and become it if it could serve.

Until the exec nothing has changed: whatever is wrong with the new version is told by the child, and the old one goes
on. The exec keeps the pid, so process 1 of a container and a service manager see the same gateway.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from math import inf
from typing import Final

from fastgw.runtime.estate import PREFLIGHT, TAKE_OVER, Estate
from fastgw.runtime.notices import notice

PREFLIGHT_S: Final = 20.0
"""How long the new version may take to show that it can serve."""


class Upgrade:
    """One try at a time."""

    def __init__(self) -> None:
        self.preflight = 0
        """The pid of the new version that is being tried; 0: none."""
        self.due_at = inf
        """When to `look`, monotonic seconds."""

    def begin(self, estate: Estate) -> None:
        """Start the preflight. What becomes of it is told when it ends."""
        if self.preflight:
            notice("SIGUSR2: not now: an upgrade is under way")
            return
        descriptor = estate.write()
        kept = (descriptor, estate.shared)
        try:
            for each in kept:
                os.set_inheritable(each, True)
            environment = {**os.environ, PREFLIGHT: str(descriptor)}
            self.preflight = os.posix_spawn(sys.executable, sys.orig_argv, environment)
        except OSError as error:
            notice(f"not upgraded: {sys.executable} cannot be started: {error.strerror}")
        else:
            self.due_at = time.monotonic() + PREFLIGHT_S
            notice(f"upgrade: trying the installed version (pid {self.preflight})")
        finally:
            os.set_inheritable(estate.shared, False)
            os.close(descriptor)

    def look(self, now: float) -> None:
        """End a preflight that hangs."""
        if now >= self.due_at:
            self.due_at = inf
            notice(f"upgrade: the installed version did not serve within {PREFLIGHT_S:.0f} s")
            os.kill(self.preflight, signal.SIGKILL)

    def decide(self, code: int, become: Callable[[], None]) -> None:
        """The preflight has ended."""
        self.preflight, self.due_at = 0, inf
        if code == 0:
            become()
        else:
            how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            notice(f"not upgraded, nothing has changed: the installed version ended with {how}")

    def become(self, estate: Estate) -> None:
        """Replace this program. Returns only if that cannot be done."""
        descriptor = estate.write()
        kept = [descriptor, *estate.descriptors]
        for each in kept:
            os.set_inheritable(each, True)
        os.environ[TAKE_OVER] = str(descriptor)
        notice("upgrade: the installed version takes over")
        try:
            os.execv(sys.executable, sys.orig_argv)
        except OSError as error:
            notice(f"not upgraded, nothing has changed: {sys.executable}: {error.strerror}")
        del os.environ[TAKE_OVER]
        for each in kept:
            os.set_inheritable(each, False)
        os.close(descriptor)
