"""Runs `fastgw` so that a replacement of a dead child starts with a delay in seconds, and that neighbours of a worker
accept for it once it is dead, however long it was silent before. A program, put in front of the command.
"""

import sys
from math import inf

from fastgw.cli import main
from fastgw.runtime.node import child_slots
from fastgw.runtime.supervisor import hang_detection

if __name__ == "__main__":
    _, seconds, _, *arguments = sys.argv
    hang_detection.SILENT_S = inf
    child_slots.restart_delay = lambda deaths: float(seconds)
    sys.argv = ["fastgw", *arguments]
    main()
