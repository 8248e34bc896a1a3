"""gRPC as bytes: statuses, deadlines, details of errors and the frames of messages. No I/O, no clock."""
