# The types of `cache_purges.py`.

cpdef bytes url_tag(bytes url)
