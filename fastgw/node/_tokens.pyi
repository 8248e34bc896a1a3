"""The compiled twin of `tokens`."""

from fastgw.node import tokens
from fastgw.node.tokens import TokenCache as TokenCache

def count_in(words: memoryview) -> None: ...
def uncollected(each: tokens.T) -> tokens.T: ...
