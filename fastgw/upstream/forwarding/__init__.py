"""Forwarding of requests to an upstream: the fast path, attempts and retries, fallback, credential renewal."""
