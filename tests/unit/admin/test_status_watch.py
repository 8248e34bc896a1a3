"""`fastgw status --watch` ends by Ctrl-C at whatever moment it comes.

In a process of its own, in which nobody else traces: run as a program, this file tells how many moments it has tried.
"""

import io
import itertools
import signal
import subprocess
import sys
import threading
from types import FrameType

from rich.console import Console

from fastgw.admin import status_tables

TRACED = (status_tables.__file__, threading.__file__)
HANGS_AFTER = 5.0
"""Seconds."""


class GoesOn(Exception):
    """It asks, though it was to end."""


def watch(until: int) -> bool:
    """Watch, with Ctrl-C at the line of that number behind the first answer. False: there is none before the next."""
    asked = lines = 0

    def ask(client: object) -> tuple[None, None, None]:
        nonlocal asked
        asked += 1
        if asked > 2:
            raise GoesOn
        return None, None, None

    def trace(frame: FrameType, event: str, argument: object):
        nonlocal lines
        if asked and frame.f_code.co_filename in TRACED and event == "line":
            lines += 1
            if lines == until:
                signal.raise_signal(signal.SIGINT)
        return trace

    status_tables.read_tables = ask
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs us in the background has it ignored
    signal.setitimer(signal.ITIMER_REAL, HANGS_AFTER)
    sys.settrace(trace)
    try:
        status_tables.watch(None)
    except GoesOn:
        return False
    except KeyboardInterrupt:  # before it watches: the command ends as any other
        return True
    finally:
        sys.settrace(None)
    return True


def hangs(number: int, frame: object) -> None:
    raise TimeoutError


def main() -> None:
    status_tables.WATCH_EVERY = 0.0
    status_tables.overview = lambda *told: ""
    status_tables.console = lambda: Console(file=io.StringIO())
    signal.signal(signal.SIGALRM, hangs)
    print(next(moment for moment in itertools.count(1) if not watch(moment)))


def test_whatever_it_is_doing():
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert int(done.stdout) > 10


if __name__ == "__main__":
    main()
