"""HTTP/1.1 as defined by RFC 9112: the parser, llhttp as the second one, and the serializer."""
