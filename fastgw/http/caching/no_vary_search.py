"""`No-Vary-Search`: which query parameters make no difference for a response (draft-ietf-httpbis-no-vary-search).

Requests whose queries are equal after `normalize_query` may be answered with the same stored response.
"""

from hashlib import blake2b
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import http_sf
from msgspec import Struct
from msgspec.msgpack import encode

_LONGEST: Final = 2048
_MOST_PARAMETERS: Final = 256


class SearchVariance(Struct, frozen=True, array_like=True, gc=False):
    """Parsed value of `No-Vary-Search`."""

    any_order: bool = False
    """Whether the order of parameters with different names makes no difference."""
    ignores_others: bool = False
    """Whether parameters make no difference, but for `names`. False: all do, but for `names`."""
    names: tuple[bytes, ...] = ()


def parse_search_variance(lines: list[bytes]) -> SearchVariance | None:
    """Return the rule in the lines of a `No-Vary-Search`; None: every difference counts, also if it is invalid."""
    text = b", ".join(lines)
    if not text or len(text) > _LONGEST:
        return None
    try:
        members: Any = http_sf.parse(text, tltype="dictionary")
    except (ValueError, RecursionError):
        return None
    values = {name: value for name, (value, _) in members.items()}
    order, params, excepted = values.get("key-order", False), values.get("params", False), values.get("except")
    if type(order) is not bool:
        return None
    if type(params) is bool:
        if excepted is not None and params is False:
            return None
        names = () if excepted is None else _names(excepted)
        found = None if names is None else SearchVariance(order, params, names)
    else:
        names = _names(params)
        found = None if names is None or excepted is not None else SearchVariance(order, False, names)
    return None if found == SearchVariance() else found


def normalize_query(query: bytes | None, rule: SearchVariance) -> bytes | None:
    """Return the query for the key: equal for queries between which the rule sees no difference.

    Parameters are compared decoded, as a form's (`+` is a space). None: the query has no parameter that counts.
    """
    parts = [part for part in (query or b"").split(b"&") if part]
    if len(parts) > _MOST_PARAMETERS:
        return query
    pairs = []
    for part in parts:
        name, _, value = (unquote_to_bytes(each) for each in part.replace(b"+", b" ").partition(b"="))
        if (name in rule.names) is rule.ignores_others:
            pairs.append((name, value))
    if rule.any_order:
        pairs.sort(key=lambda pair: pair[0])  # stable: the order of parameters with one name counts
    # Lengths, so that no value can pass for another parameter.
    return b"&".join(b"%d:%b=%d:%b" % (len(name), name, len(value), value) for name, value in pairs) or None


def equivalent_key(search_key: bytes, query: bytes | None, rule: SearchVariance) -> bytes:
    """Return the key of all queries that are equal to this one by the rule. `search_key`: of the path.

    The rule is a part of it: what is equal by one rule may differ by another.
    """
    digest = blake2b(search_key, digest_size=len(search_key), person=b"fastgw-search")
    told, kept = encode(rule), normalize_query(query, rule)
    digest.update(b"%d:%b" % (len(told), told))
    digest.update(b"-" if kept is None else kept)
    return digest.digest()


def _names(value: Any) -> tuple[bytes, ...] | None:
    """Return the names in an inner list of strings, decoded; None: it is none."""
    if not isinstance(value, list) or not all(type(item) is str for item, _ in value):
        return None
    return tuple(unquote_to_bytes(item.replace("+", " ")) for item, _ in value)
