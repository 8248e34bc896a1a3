"""Known fields: the values of the few fields that a proxy has to process, where they are lists."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from fastgw.http.field_names import FORWARDING, HOP_BY_HOP
from fastgw.http.grammar import IS_TOKEN, elements

_NEVER_NAMED_AWAY: Final = FORWARDING | frozenset(
    b"authorization cache-control content-encoding content-range content-type cookie date expect expires host "
    b"location max-forwards range set-cookie trailer via www-authenticate x-request-id".split()
)


def members(values: Sequence[bytes]) -> list[bytes]:
    """Return the members of a list field, in lower case, whose lines have these values (RFC 9110 section 5.3)."""
    return elements(b",".join(values))


class ConnectionOptions(NamedTuple):
    """Options of the `Connection` fields of a message."""

    close: bool
    keep_alive: bool
    upgrade: bool
    named: tuple[bytes, ...]
    """Lower-case names of fields that `Connection` makes hop-by-hop, except those that always are and those that must
    never be.
    """


def connection_options(values: Sequence[bytes]) -> ConnectionOptions:
    """Parse the values of `Connection` (RFC 9110 section 7.6.1). An invalid token names no field and is ignored.

    It removes hop-by-hop fields only. End-to-end fields that authentication, routing or the meaning of the content
    depend on are never removed, even if a client lists them there.
    """
    options = members(values)
    named = tuple(name for name in dict.fromkeys(options) if name != b"close" and _may_be_named_away(name))
    return ConnectionOptions(b"close" in options, b"keep-alive" in options, b"upgrade" in options, named)


def _may_be_named_away(name: bytes) -> bool:
    kept = name in _NEVER_NAMED_AWAY or name.startswith(b"x-forwarded-")
    return not kept and name not in HOP_BY_HOP and IS_TOKEN(name) is not None


def protocols(values: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return the protocols that the values of `Upgrade` offer (RFC 9110 section 7.8), in lower case and without h2c,
    because its frames could not be checked.
    """
    return tuple(protocol for protocol in members(values) if protocol != b"h2c")
