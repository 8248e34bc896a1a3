"""Program of the helper processes of tests: does what a request says."""

import os
import signal
import time
from collections.abc import Callable
from glob import glob
from pathlib import Path


def start(argument: bytes) -> Callable[[bytes], bytes]:
    if argument == b"broken":
        raise ValueError("these rules do not load")

    def work(request: bytes) -> bytes:
        what, _, rest = request.partition(b" ")
        match what:
            case b"echo":
                return rest
            case b"pid":
                return str(os.getpid()).encode()
            case b"environment":
                return repr(dict(os.environ)).encode()
            case b"descriptors":
                return repr(sorted(_descriptors())).encode()
            case b"sleep":
                time.sleep(float(rest))
                return b"slept"
            case b"raise":
                raise KeyError(rest.decode())
            case b"die":
                os.kill(os.getpid(), signal.SIGSEGV)
            case b"open":
                Path("/etc/hostname").read_bytes()
            case b"allocate":
                return b"%d" % len(bytearray(int(rest)))
        return argument

    return work


_LIBFFI = {(each.st_dev, each.st_ino) for each in map(os.stat, glob("/usr/lib/*/libffi.so*"))}


def _descriptors() -> list[int]:
    """Return the open descriptors; /proc cannot be listed, because the process may not open anything. Without that by
    which libffi 3.5, the library of `ctypes`, maps itself once more.
    """
    found = []
    for number in range(256):
        try:
            state = os.fstat(number)
        except OSError:
            continue
        if (state.st_dev, state.st_ino) not in _LIBFFI:
            found.append(number)
    return found
