"""Forwarding of requests to an upstream: attempts and retries, fallback, credential renewal."""
