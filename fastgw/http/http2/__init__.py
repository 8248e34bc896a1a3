"""HTTP/2 sessions by libnghttp2, which is linked into a compiled module.

Without that module HTTP/2 is not available, because no Python implementation is fast and strict enough.
"""
