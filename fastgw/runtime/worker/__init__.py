"""A worker process: accepting sockets, the swap of tables on reload, heartbeats, work in slices."""
