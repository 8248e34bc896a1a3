"""Files of the gateway that are damaged: they are set aside, so that it goes on with new ones, and nothing of them is
lost.

Rule: only for a file that is known to be the gateway's own. The path of another program's file may have been configured
by mistake.
"""

import os
import time


def set_aside(path: str, *companions: str) -> str:
    """Rename a file to `PATH.damaged-20260131-235959` (UTC), and return the new name. `companions`: suffixes of files
    that belong to it, which may be missing. Raises `OSError`.
    """
    aside = f"{path}.damaged-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    if os.path.lexists(aside):
        aside += f"-{time.time_ns()}"
    os.rename(path, aside)
    for suffix in companions:
        if os.path.lexists(path + suffix):
            os.rename(path + suffix, aside + suffix)
    return aside
