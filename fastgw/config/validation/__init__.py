"""Validates settings that are well-formed: rules between settings, TLS files, settings without effect, lint notes.

Errors reject a configuration; notes do not.
"""
