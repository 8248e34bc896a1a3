# The types of `vary.py`.

from fastgw.http.caching.key_text cimport joined_parts
from fastgw.http.caching.keys cimport digest_of
from fastgw.http.messages cimport values_of

cdef dict _found
cdef dict _normalized

cpdef find_varying(lines)
cpdef normalized_value(bytes name, lines)
cpdef bytes variant_key(bytes primary, names, head)
