"""A request on its way to an upstream: the fast path, attempts and retries, fallback, credential renewal."""
