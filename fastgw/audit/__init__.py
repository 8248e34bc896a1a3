"""Audit log: who changed what, in a file whose entries are chained by hashes."""
