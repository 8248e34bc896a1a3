"""`fastgw`, but who follows on a child that died is born so many seconds later. Run as a program, in front of it."""

import sys

from fastgw.cli import main
from fastgw.runtime.node import child_slots

if __name__ == "__main__":
    _, seconds, _, *arguments = sys.argv
    child_slots.restart_delay = lambda deaths: float(seconds)
    sys.argv = ["fastgw", *arguments]
    main()
