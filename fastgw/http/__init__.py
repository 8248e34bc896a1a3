"""HTTP as defined by RFC 9110, for all versions: fields, authority, path normalization, grammar, malformed messages.

Each version of the protocol has a folder of its own.
"""
