"""The access log: records of finished exchanges, their formats, and a writer that never stalls the loop."""
