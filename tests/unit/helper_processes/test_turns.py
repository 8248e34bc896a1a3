"""Work of a helper process gives way again and again, and only while there is work."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import signal, time
from fastgw.helper_processes.turns import in_turns, prepare_turns

def left():
    return signal.getitimer(signal.ITIMER_REAL)[0]

def turns(most, seconds):
    "Work until so many further turns have begun."
    begun, before, until = 0, left(), time.process_time() + seconds
    while begun < most and time.process_time() < until:
        begun, before = begun + (left() > before), left()
    return begun

prepare_turns()
signal.setitimer(signal.ITIMER_PROF, 60)  # as `child` does: the limit of the work stays
print(left())
for _ in range(2):
    with in_turns():
        print(0 < left() <= 0.0001, turns(3, 2.0))
    print(left(), turns(1, 0.01))
try:
    with in_turns():
        raise ValueError
except ValueError:
    print(left())
print(signal.getitimer(signal.ITIMER_PROF)[0] > 0)
"""


def test_work_is_done_in_turns() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["0.0", *("True 3", "0.0 0") * 2, "0.0", "True"]
