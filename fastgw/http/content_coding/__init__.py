"""Content codings of HTTP (RFC 9110 section 8.4): negotiation, compression and bounded decompression.

`accept_encoding` needs no other package. The other modules need the extra `fastgw[compression]`, and are imported only
where a filter is configured that uses them.
"""
