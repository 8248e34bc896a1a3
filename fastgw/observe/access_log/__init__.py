"""Access logs: records of finished exchanges, log formats, and a writer that never blocks the event loop."""
