"""HTTP/1.1 as defined by RFC 9112: the parser and the serializer, each in plain Python and compiled, and llhttp as the
second parser.
"""
