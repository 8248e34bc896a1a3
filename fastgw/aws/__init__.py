"""Formats of AWS: request signatures (Signature Version 4) and event streams. No I/O."""
