"""Runs `fastgw` so that a replacement of a dead child starts with a delay in seconds. A program, put in front of the
command.
"""

import sys

from fastgw.cli import main
from fastgw.runtime.node import child_slots

if __name__ == "__main__":
    _, seconds, _, *arguments = sys.argv
    child_slots.restart_delay = lambda deaths: float(seconds)
    sys.argv = ["fastgw", *arguments]
    main()
