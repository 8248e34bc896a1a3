"""Variants of a resource: which request fields select among them (`Vary`, RFC 9110 section 12.5.5, RFC 9111 4.1)."""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final, Protocol

from fastgw.cache.store import KEY_BYTES
from fastgw.http.caching.key_text import joined_parts
from fastgw.http.caching.keys import digest_of
from fastgw.http.content_coding.accept_encoding import normalize_accept_encoding
from fastgw.http.grammar import IS_TOKEN, elements
from fastgw.http.header_conditions import SINGLE
from fastgw.http.messages import values_of

_VARIANT: Final = blake2b(digest_size=KEY_BYTES, person=b"fastgw-variant")
_MOST_NAMES: Final = 16
_LONGEST_KEPT: Final = 256
"""Bytes of a line whose meaning is kept: a site, and its clients, have few different ones."""
WRITTEN_FOR_EACH_CLIENT: Final = frozenset(
    (b"forwarded", b"via", b"x-forwarded-client-cert", b"x-forwarded-for", b"x-real-ip")
)
"""Request fields that the upstream does not get as the client has sent them: the gateway writes them, with another
value for each client. Headers that it writes from scheme and host, such as `X-Forwarded-Proto`, are the same for all
requests with one key."""
_NO_CASE: Final = frozenset((b"accept-language", b"accept-charset"))
"""Fields whose values are compared without case (RFC 9110 sections 12.5.2 and 12.5.4)."""


_MOST_KEPT: Final = 1024
_found: dict[bytes, tuple[bytes, ...] | None] = {}
"""Short line of `Vary` -> its names; None: as of `find_varying`."""
_normalized: dict[tuple[bytes, bytes], bytes] = {}
"""Name and short line of a request field -> its normalized value."""


class RequestFields(Protocol):
    """Fields of a request."""

    def values(self, name: bytes, /) -> Sequence[bytes]: ...


def find_varying(lines: Sequence[bytes]) -> tuple[bytes, ...] | None:
    """Return the names in the lines of a `Vary`, in lower case, sorted, each once.

    None: every client gets another response, because `*` or one of `WRITTEN_FOR_EACH_CLIENT` is among the names; or
    there are too many or invalid ones.
    """
    if not lines:
        return ()
    if len(lines) > 1 or len(lines[0]) > _LONGEST_KEPT:
        return _find_in(lines)
    if lines[0] not in _found:
        if len(_found) >= _MOST_KEPT:
            _found.clear()
        _found[lines[0]] = _find_in(lines)
    return _found[lines[0]]


def _find_in(lines: Sequence[bytes]) -> tuple[bytes, ...] | None:
    names = sorted({name for line in lines for name in elements(line)})
    if b"*" in names or len(names) > _MOST_NAMES or not WRITTEN_FOR_EACH_CLIENT.isdisjoint(names):
        return None
    if not all(map(IS_TOKEN, names)):
        return None
    return tuple(names)


def join_varying(known: Iterable[bytes], more: Iterable[bytes]) -> tuple[bytes, ...] | None:
    """Return the names of both, sorted; None: there are too many, and the known ones should be forgotten."""
    names = sorted({*known, *more})
    return tuple(names) if len(names) <= _MOST_NAMES else None


def normalized_value(name: bytes, lines: Sequence[bytes]) -> bytes | None:
    """Return the value of a request field in the form in which equal values are equal; None: the request has none.

    Lines are joined, and white space around members is removed (RFC 9111 section 4.1); in quoted strings everything
    counts. The order of members is kept: it may mean a preference; but not in `Accept-Encoding`, which has weights for
    that.
    """
    if not lines:
        return None
    if len(lines) > 1 or len(lines[0]) > _LONGEST_KEPT:
        return _normalized_lines(name, lines)
    key = (name, lines[0])
    kept = _normalized.get(key)
    if kept is None:
        if len(_normalized) >= _MOST_KEPT:
            _normalized.clear()
        kept = _normalized[key] = _normalized_lines(name, lines)
    return kept


def _normalized_lines(name: bytes, lines: Sequence[bytes]) -> bytes:
    if name in SINGLE:
        return b"\n".join(lines)
    joined = b",".join(lines)
    if name == b"accept-encoding":
        return normalize_accept_encoding(joined)
    if b'"' not in joined:
        joined = b",".join(member.strip(b" \t") for member in joined.split(b","))
    return joined.lower() if name in _NO_CASE else joined


def variant_key(primary: bytes, names: Sequence[bytes], head: RequestFields) -> bytes:
    """Return the key of the variant that a request selects: 16 bytes.

    `names`: of `find_varying`. `head`: the request as the upstream gets it.
    """
    text = [primary]
    for name in names:
        text += (joined_parts((name,)), b"=", joined_parts((normalized_value(name, values_of(head, name)),)))
    return digest_of(b"".join(text), _VARIANT)
