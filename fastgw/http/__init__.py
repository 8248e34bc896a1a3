"""HTTP as RFC 9110 has it, whatever the version: fields, authority, path normalization, grammar, malformed
messages.

What belongs to one version of the protocol is in a folder of its own.
"""
