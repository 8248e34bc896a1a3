"""Clients of the services that followed files come from: Vault, and the registries of service discovery.

Each source can fetch a file once, and follow it; what it delivers is checked, so that an invalid answer never replaces
a valid list. The control process follows sources; every other process only reads what it has published.
"""
