"""gRPC without I/O: statuses, deadlines, error details and message frames. No clock."""
