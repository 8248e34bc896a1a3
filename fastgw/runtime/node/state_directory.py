"""Directory in which a gateway keeps data over restarts."""

import os


def state_directory() -> str | None:
    """Return the directory that systemd gives to the service (`StateDirectory`), of several the first; None: there is
    none.
    """
    return os.environ.get("STATE_DIRECTORY", "").partition(":")[0] or None
