"""Cache directives: `Cache-Control` (RFC 9111 section 5.2, RFC 5861, RFC 8246) and targeted fields (RFC 9213).

Directives that allow a cache to do something are only recognized when they are valid; those that forbid something,
even if their argument is invalid. Freshness that is invalid or contradictory is none: the response is stale (RFC 9111
section 4.2.1).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import cython
import http_sf

from fastgw.http.grammar import IS_TOKEN, TOKEN, elements
from fastgw.http.messages import RequestHead, ResponseHead, first_of, values_of

LONGEST: Final = 2**31
"""Maximum of delta-seconds; larger values mean this one (RFC 9111 section 1.2.2)."""
TARGETS: Final = (b"fastgw-cache-control", b"cdn-cache-control")
"""Targeted fields, the most specific one first (RFC 9213 section 2.2)."""
_LONGEST_FIELD: Final = 4096
_LONGEST_KEPT: Final = 256
_MOST_PARSED: Final = 1024
_QUOTED: Final = rb'(?>(?:[^"\\]|\\.)*)'
_MEMBERS: Final = re.compile(rb'(?>="' + _QUOTED + rb'"|[^,])+', re.DOTALL)
_NAME: Final = re.compile(TOKEN + rb"++")
_ARGUMENT: Final = re.compile(b'=(?:"(' + _QUOTED + b')"|(' + TOKEN + b"++))", re.DOTALL)
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)
_TARGETED: Final[Mapping[str, tuple[type, ...]]] = {
    **dict.fromkeys(("max-age", "s-maxage", "stale-while-revalidate", "stale-if-error"), (int,)),
    **dict.fromkeys(("no-store", "public", "must-revalidate", "proxy-revalidate", "must-understand"), (bool,)),
    **dict.fromkeys(("no-cache", "private"), (bool, str)),
}
"""Types of directives in targeted fields."""


@cython.cclass
class RequestDirectives:
    """Cache directives of a request (RFC 9111 section 5.2.1).

    `max_age`, `min_fresh`, `stale_if_error`: seconds; None: it has no such directive. `max_stale`: seconds of staleness
    that the client accepts; `LONGEST`: any; None: no `max-stale`.
    """

    def __init__(
        self,
        *,
        no_cache: bool = False,
        no_store: bool = False,
        only_if_cached: bool = False,
        max_age: int | None = None,
        min_fresh: int | None = None,
        max_stale: int | None = None,
        stale_if_error: int | None = None,
    ) -> None:
        self.no_cache, self.no_store, self.only_if_cached = no_cache, no_store, only_if_cached
        self.max_age, self.min_fresh, self.max_stale = max_age, min_fresh, max_stale
        self.stale_if_error = stale_if_error


@cython.cclass
class ResponseDirectives:
    """Cache directives of a response (RFC 9111 section 5.2.2).

    `max_age` and the following: seconds; 0 if it is invalid or contradictory; None: it has no such directive.
    `no_cache`: `no-cache` without header names. With names it applies to these headers only: `no_cache_fields`, in
    lower case, which may not be sent from the cache without validation. `private`: with header names too: a shared
    cache that stored the rest would have to know all caches behind it. `targeted`: whether the directives are those of
    a targeted field; `Cache-Control` and `Expires` then have no effect.
    """

    def __init__(
        self,
        *,
        max_age: int | None = None,
        s_maxage: int | None = None,
        stale_while_revalidate: int | None = None,
        stale_if_error: int | None = None,
        no_store: bool = False,
        no_cache: bool = False,
        private: bool = False,
        public: bool = False,
        must_revalidate: bool = False,
        proxy_revalidate: bool = False,
        must_understand: bool = False,
        no_cache_fields: tuple[bytes, ...] = (),
        targeted: bool = False,
    ) -> None:
        self.max_age, self.s_maxage = max_age, s_maxage
        self.stale_while_revalidate, self.stale_if_error = stale_while_revalidate, stale_if_error
        self.no_store, self.no_cache, self.private, self.public = no_store, no_cache, private, public
        self.must_revalidate, self.proxy_revalidate = must_revalidate, proxy_revalidate
        self.must_understand, self.no_cache_fields, self.targeted = must_understand, no_cache_fields, targeted


_parsed: dict[bytes, ResponseDirectives] = {}
"""Of short lines."""
NO_REQUEST_DIRECTIVES: Final = RequestDirectives()
_PRAGMA: Final = RequestDirectives(no_cache=True)
NO_RESPONSE_DIRECTIVES: Final = ResponseDirectives()


def parse_request(head: RequestHead) -> RequestDirectives:
    """Return the cache directives of a request. Invalid arguments count as the strictest ones."""
    lines = values_of(head, b"cache-control")
    if not lines:
        # RFC 9111 section 5.4: a request without Cache-Control
        pragma = first_of(head, b"pragma")
        return _PRAGMA if pragma is not None and b"no-cache" in split_directives([pragma]) else NO_REQUEST_DIRECTIVES
    found = split_directives(lines)
    stale = found.get(b"max-stale", ())
    return RequestDirectives(
        no_cache=b"no-cache" in found,
        no_store=b"no-store" in found,
        only_if_cached=b"only-if-cached" in found,
        max_age=_seconds(found, b"max-age"),
        min_fresh=None if b"min-fresh" not in found else _number(found[b"min-fresh"], invalid=LONGEST),
        max_stale=None if not stale else LONGEST if set(stale) == {None} else _number(stale, invalid=0),
        stale_if_error=_seconds(found, b"stale-if-error"),
    )


def parse_response(head: ResponseHead, targets: Sequence[bytes] = TARGETS) -> ResponseDirectives:
    """Return the cache directives of a response: of the first of the targeted fields that is valid, else those of
    `Cache-Control`. `targets`: names of targeted fields, in lower case.
    """
    for name in targets:
        lines = values_of(head, name)
        if lines and (found := _parse_targeted(lines)) is not None:
            return found
    lines = values_of(head, b"cache-control")
    if not lines:
        return NO_RESPONSE_DIRECTIVES
    if len(lines) == 1 and len(lines[0]) <= _LONGEST_KEPT:
        # PERF: 0.1 us for a line that was parsed before, 6 without (CPython 3.11): a site has few different ones.
        kept: ResponseDirectives | None = _parsed.get(lines[0])
        if kept is None:
            if len(_parsed) >= _MOST_PARSED:
                _parsed.clear()
            kept = _parsed[lines[0]] = _parse_cache_control(lines)
        return kept
    return _parse_cache_control(lines)


def _parse_cache_control(lines: Sequence[bytes]) -> ResponseDirectives:
    return _directives_of(split_directives(lines), targeted=False)


def _directives_of(members: dict[bytes, list[bytes | None]], *, targeted: bool) -> ResponseDirectives:
    named = _names(members.get(b"no-cache", ()))
    return ResponseDirectives(
        max_age=_seconds(members, b"max-age"),
        s_maxage=_seconds(members, b"s-maxage"),
        stale_while_revalidate=_seconds(members, b"stale-while-revalidate"),
        stale_if_error=_seconds(members, b"stale-if-error"),
        no_store=b"no-store" in members,
        no_cache=named is None,
        private=b"private" in members,
        public=b"public" in members,
        must_revalidate=b"must-revalidate" in members,
        proxy_revalidate=b"proxy-revalidate" in members,
        must_understand=b"must-understand" in members,
        no_cache_fields=named or (),
        targeted=targeted,
    )


def split_directives(lines: Sequence[bytes]) -> dict[bytes, list[bytes | None]]:
    """Return the directives of `Cache-Control` lines: names in lower case, and the argument of each occurrence.

    An argument is a token or the content of a quoted string; None: there is none. Anything else after a name is
    kept as sent, `=` included, so it is invalid for every directive that reads it. Members without a name are left out.
    """
    found: dict[bytes, list[bytes | None]] = {}
    for line in lines:
        if len(line) > _LONGEST_FIELD:
            # Longer than any that makes sense: nothing that it says may be overlooked, so nothing is reused.
            found.setdefault(b"no-store", []).append(None)
            continue
        for member in _MEMBERS.findall(line):
            text = member.strip(b" \t")
            if (name := _NAME.match(text)) is not None:
                found.setdefault(name[0].lower(), []).append(_argument(text[name.end() :]))
    return found


def _parse_targeted(lines: Sequence[bytes]) -> ResponseDirectives | None:
    """Return the directives of a targeted field; None: it is empty, no dictionary, or has a value of a wrong type."""
    text = b", ".join(lines)
    if len(text) > _LONGEST_FIELD:
        return None
    try:
        members: Any = http_sf.parse(text, tltype="dictionary")
    except (ValueError, RecursionError):
        return None
    if not members:
        return None
    found: dict[bytes, list[bytes | None]] = {}
    for name, (value, _) in members.items():
        expected = _TARGETED.get(name)
        if expected is None:
            continue
        if type(value) not in expected or (type(value) is int and value < 0):
            return None
        if value is not False:
            found[name.encode()] = [None if value is True else str(value).encode()]
    return _directives_of(found, targeted=True)


def _argument(text: bytes) -> bytes | None:
    """Return the argument of a directive from what follows its name."""
    match = _ARGUMENT.fullmatch(text)
    if match is None:
        return text or None
    return match[2] if match[1] is None else _ESCAPED.sub(rb"\1", match[1])


def _names(arguments: Sequence[bytes | None]) -> tuple[bytes, ...] | None:
    """Return the header names that the occurrences of `no-cache` list; None: one of them means the whole response."""
    names: list[bytes] = []
    for argument in arguments:
        listed = elements(argument) if argument else []
        if not listed or not all(map(IS_TOKEN, listed)):
            return None
        names += listed
    return tuple(names)


def _seconds(members: dict[bytes, list[bytes | None]], name: bytes) -> int | None:
    """Return the argument of a directive; 0 if it is invalid, None without the directive."""
    arguments = members.get(name)
    return None if arguments is None else _number(arguments, invalid=0)


def _number(arguments: Sequence[bytes | None], *, invalid: int) -> int:
    """Return the delta-seconds that all occurrences agree on."""
    first = arguments[0]
    if first is None or not first.isdigit() or any(other != first for other in arguments[1:]):
        return invalid
    return min(int(first), LONGEST) if len(first) <= 20 else LONGEST if first.strip(b"0") else 0
