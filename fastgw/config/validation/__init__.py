"""Checks of settings that are well-formed: rules between settings, TLS material, settings without effect, lint
notes.

Errors refuse a configuration; notes do not.
"""
