"""cache: a shared HTTP cache (RFC 9111). `http.caching` decides, `fastgw.cache` stores, this package connects them.

`filter` has the settings, `cached_request` one request, `fetch` a request to the upstream and its response on its way
into the store, `stored_answer` the response to a client from a stored object.
"""

from fastgw.filters.policies.cache.filter import Cache

__all__ = ["Cache"]
