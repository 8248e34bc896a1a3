"""Listening sockets: opened here, inherited from systemd, or owned by another process."""
