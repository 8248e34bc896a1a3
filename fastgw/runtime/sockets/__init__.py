"""Listening sockets: made here, inherited from systemd, or held by somebody else."""
