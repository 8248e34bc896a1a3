"""Compiled `credential_cache`."""

from fastgw.sync import credential_cache as tokens
from fastgw.sync.credential_cache import TokenCache as TokenCache

def count_in(words: memoryview) -> None: ...
def uncollected(each: tokens.T) -> tokens.T: ...
