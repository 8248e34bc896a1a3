"""Variants of a resource: which request fields select among them (`Vary`, RFC 9110 section 12.5.5, RFC 9111 4.1)."""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final, Protocol

from fastgw.http.content_coding.accept_encoding import normalize_accept_encoding
from fastgw.http.grammar import IS_TOKEN, elements
from fastgw.http.header_conditions import SINGLE

_MOST_NAMES: Final = 16
WRITTEN_FOR_EACH_CLIENT: Final = frozenset(
    (b"forwarded", b"via", b"x-forwarded-client-cert", b"x-forwarded-for", b"x-real-ip")
)
"""Request fields that the upstream does not get as the client has sent them: the gateway writes them, with another
value for each client. Headers that it writes from scheme and host, such as `X-Forwarded-Proto`, are the same for all
requests with one key."""
_NO_CASE: Final = frozenset((b"accept-language", b"accept-charset"))
"""Fields whose values are compared without case (RFC 9110 sections 12.5.2 and 12.5.4)."""


class RequestFields(Protocol):
    """Fields of a request."""

    def values(self, name: bytes) -> list[bytes]: ...


def find_varying(lines: Sequence[bytes]) -> tuple[bytes, ...] | None:
    """Return the names in the lines of a `Vary`, in lower case, sorted, each once.

    None: every client gets another response, because `*` or one of `WRITTEN_FOR_EACH_CLIENT` is among the names; or
    there are too many or invalid ones.
    """
    if not lines:
        return ()
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
    digest = blake2b(primary, digest_size=16, person=b"fastgw-variant")
    for name in names:
        value = normalized_value(name, head.values(name))
        # Lengths, so that no value can pass for the beginning of the next one; a missing field is not an empty one.
        digest.update(b"%d:%b=" % (len(name), name))
        digest.update(b"-" if value is None else b"%d:%b" % (len(value), value))
    return digest.digest()
