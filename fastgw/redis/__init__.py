"""Redis clients: URLs, rate limits over nodes, the encrypted cache behind credential caches.

Shared state (`state`) uses one pipelined connection, caches use aiocache.
"""
