"""HTTP/2 as bytes: sessions by libnghttp2, which is linked by a compiled module.

Without that module there is no HTTP/2, as no implementation in Python is quick or strict enough to take its place.
"""
