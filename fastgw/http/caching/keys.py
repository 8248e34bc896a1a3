"""Primary cache keys: what was routed and forwarded, nothing else (RFC 9111 section 2).

A query parameter that is not in the key must not reach the upstream either, or a request could choose what others get
(cache poisoning): `filter_query` returns the query for both.
"""

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final
from urllib.parse import unquote_to_bytes

from fastgw.cache.store import KEY_BYTES
from fastgw.http.caching.key_text import joined_parts, swapped_key
from fastgw.wildcards import wildcard_expression

# PERF: a copy of these takes 0.3 us with its digest, a call with a personalization 0.65 (CPython 3.11).
_PRIMARY: Final = blake2b(digest_size=KEY_BYTES, person=b"fastgw-primary")
_SEARCH: Final = blake2b(digest_size=KEY_BYTES, person=b"fastgw-search-of")
_OWN_VALIDATION: Final = blake2b(digest_size=KEY_BYTES, person=b"fastgw-own-valid")


class QueryRule:
    """Rule for which query parameters are a part of the key, by name.

    `names`: names, decoded; a `*` stands for any characters. `keep`: True: only these are; False: all but these.
    """

    __slots__ = ("_keep", "_matches")

    def __init__(self, names: Iterable[bytes], *, keep: bool) -> None:
        expressions = [*map(wildcard_expression, names)] or [b"(?!)"]
        self._matches = re.compile(b"|".join(expressions), re.DOTALL).fullmatch
        self._keep = keep

    def keeps(self, name: bytes) -> bool:
        """Whether a parameter with this decoded name is a part of the key."""
        return (self._matches(name) is not None) is self._keep


NO_QUERY: Final = QueryRule((), keep=True)


def filter_query(query: bytes | None, rule: QueryRule | None) -> bytes | None:
    """Return the query without the parameters that are not in the key: for the key, and for the upstream.

    `query`: as sent. `rule`: None: the whole query is in the key. Returns None if nothing is left.
    """
    if query is None or rule is None:
        return query
    kept = [part for part in query.split(b"&") if part and rule.keeps(decoded_name(part))]
    return b"&".join(kept) or None


def decoded_name(parameter: bytes) -> bytes:
    """Return the name of a parameter `name=value`, decoded as a form's (`+` is a space)."""
    return unquote_to_bytes(parameter.partition(b"=")[0].replace(b"+", b" "))


def resource_text(
    endpoint: bytes,
    authority: bytes,
    path: bytes,
    sent_path: bytes | None,
    upstream: bytes,
    parts: Sequence[bytes | None],
) -> bytes:
    """Return what the keys of a resource have in common, in a form in which no two resources are equal.

    `endpoint`: scheme and port of the listener. `authority`: as clients see it, normalized; with the port if the client
    has sent it. `path`: of the client's URL, in its normal form: a purge by URL has to find the response. `sent_path`:
    raw path as it is forwarded; None: the same. `upstream`: name of the upstream (of a split, the one that was chosen).
    `parts`: values of headers and cookies in the key, and identities; None: the request has none.
    """
    return joined_parts([endpoint, authority, path, sent_path, upstream, *parts], b"/")


def resource_of_body(resource: bytes, body: bytes, described_by: Iterable[Sequence[bytes]]) -> bytes:
    """Return what the keys of a POST with this body have in common, which is that of no request without one.

    `described_by`: values of the headers that say what the body is.
    """
    digest = blake2b(digest_size=32, person=b"fastgw-of-body")
    for values in described_by:
        digest.update(b"%d;" % len(values))
        digest.update(joined_parts([*values]))
    digest.update(body)
    return b"POST %b%b" % (digest.digest(), resource)  # other resources begin with a digit


def primary_key(resource: bytes, query: bytes | None) -> bytes:
    """Return the key of a resource with a query: `KEY_BYTES` of a hash. HEAD and GET have the same key.

    `resource`: of `resource_text`. `query`: of `filter_query`. Without a query the key is made of the search key, so
    that one hash is enough for both.
    """
    if query is None:
        return swapped_key(search_key(resource))
    return digest_of(resource + joined_parts((query,)), _PRIMARY)


def search_key(resource: bytes) -> bytes:
    """Return the key of the rule by which queries of a resource are equal (`SearchRecord`)."""
    return digest_of(resource, _SEARCH)


def own_validation_key(key: bytes) -> bytes:
    """Return the key of the mark that validations of the response with this key concern one client each."""
    return digest_of(key, _OWN_VALIDATION)


def digest_of(text: bytes, use: blake2b) -> bytes:
    """Return the digest of a text. `use`: the hash of no bytes, with a personalization that tells one use of digests
    from the others.
    """
    made = use.copy()
    made.update(text)
    return made.digest()
