"""The compiled twin of `tokens`."""

from fastgw.node import tokens

def count_in(words: memoryview) -> None: ...

class TokenCache(tokens.TokenCache): ...
