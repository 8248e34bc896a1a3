"""Ordinary misses, found, sent and stored without objects of Python. See the module's own text."""

from fastgw.exchange import Exchange
from fastgw.exchange.response_taker import ResponseTaker
from fastgw.filters.policies.cache.policy import CachePolicy
from fastgw.upstream.forwarding.forward_action import Forward

def begin_exchange_fetch(policy: CachePolicy, exchange: Exchange, forward: Forward) -> ResponseTaker | None:
    """Begin to fetch the response to an exchange, as `CachedRequest` would by an `ExchangeFetch`, if that is an
    ordinary case. None: `CachedRequest` has to decide.
    """

def digest(text: bytes, person: bytes) -> bytes:
    """Return a digest as of `hashlib.blake2b(text, digest_size=16, person=person)`, for tests. `person`: 16 bytes."""
