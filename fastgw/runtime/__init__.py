"""The processes: supervisor, workers and control; how they start, reload, upgrade and end."""
