# The types of `cache_status.py`.

cpdef bytes forwarded_status(reason, upstream_status=*, bint stored=*, bint collapsed=*, ttl=*, detail=*)
