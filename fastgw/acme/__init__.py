"""Certificates by ACME (RFC 8555): storage, and the process that talks to an issuer.

That process is a child of control, with a time limit: the libraries block, and their memory is released with it.
"""
