"""HTTP/1.1 as RFC 9112 has it: the parser and the serializer, each in plain Python and compiled, and llhttp as
second parser.
"""
