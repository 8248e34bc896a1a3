# The types of `keys.py`.

from fastgw.http.caching.key_text cimport joined_parts, swapped_key

cpdef bytes filter_query(bytes query, rule)
cpdef bytes resource_text(bytes endpoint, bytes authority, bytes path, bytes sent_path, bytes upstream, parts)
cpdef bytes primary_key(bytes resource, bytes query)
cpdef bytes search_key(bytes resource)
cpdef bytes own_validation_key(bytes key)
cpdef bytes digest_of(bytes text, use)
