"""Process basics: signals, event loop, limits of the machine, transient errors, child processes within bounds."""
