"""Everything that talks to Redis: URLs, connections, rate limits over nodes, the encrypted cache behind credential
caches.
"""
