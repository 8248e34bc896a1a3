"""Messages between the supervisor and its children, and values in memory files whose descriptors are sent along."""
