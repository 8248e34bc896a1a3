"""Exit codes of the commands; 0: success."""

from typing import Final

WRONG: Final = 1
"""A file or request is invalid."""
USAGE: Final = 2
CANNOT_START: Final = 3
"""The gateway cannot start."""
UNREACHABLE: Final = 3
"""No running gateway can be reached."""
DEFECT: Final = 70  # EX_SOFTWARE of sysexits.h: an internal error
OUTPUT_LOST: Final = 74  # EX_IOERR of sysexits.h
