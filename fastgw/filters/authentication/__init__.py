"""Shared parts of authentication filters: bearer tokens, JWKS, htpasswd, the policy for verified tokens, identity
headers.
"""
