"""Process basics: signals, event loop, machine capacity, transient errors, bounded child processes."""
