"""Beginning of a line whose rest a full disk did not take: the next line would continue it."""

import os
import stat


def remove_torn_line(fd: int, begun: int) -> bool:
    """Remove the last bytes of a file, in number `begun`, that are the beginning of a line.

    False: they stay, as in a pipe, in an append-only file, or where another process has written after them. One that
    writes between the check and the removal, for which another program has to free space just then, loses its line.
    """
    try:
        status, end = os.fstat(fd), os.lseek(fd, 0, os.SEEK_CUR)
        if not stat.S_ISREG(status.st_mode) or status.st_size != end:
            return False
        os.ftruncate(fd, end - begun)
        os.lseek(fd, end - begun, os.SEEK_SET)  # it may have been opened without O_APPEND
    except OSError:
        return False
    return True
