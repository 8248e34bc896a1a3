"""Everything that talks to Redis: URLs, rate limits over nodes, the encrypted cache behind credential caches.

What nodes share (`state`) goes by one pipelined connection, caches by aiocache.
"""
