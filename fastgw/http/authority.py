"""Host and port of a request: the `Host` field and the authority of an absolute-form target (RFC 9110 section 7.2).

The parser accepts less than the grammar of RFC 3986. A name consists of letters, digits, `-`, `.`, `_` and `~`: escapes
and sub-delimiters (a comma would make a list) are not used in DNS, and servers interpret them differently. Labels are
not empty, except for one dot at the end. A port is 1 to 65535 without leading zeros; an empty one after its colon
counts as none. The only IP literals are IPv6 addresses without a zone.
"""

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address
from typing import Final, NamedTuple, final

from fastgw.http.malformed import Malformed

_AUTHORITY: Final = re.compile(
    rb"(?:(?P<name>[a-z0-9_~-]++(?>(?:\.[a-z0-9_~-]++)*))\.?|\[(?P<ipv6>[0-9a-f:.]{2,45})\])"
    rb"(?::(?P<port>[1-9][0-9]{0,4})?)?"
)
_LONGEST_NAME: Final = 253  # RFC 1035 section 2.3.4, as text and without the last dot

DEFAULT_PORTS: Final = {b"http": 80, b"https": 443}


@final
class Authority(NamedTuple):
    text: bytes
    """Authority as sent, lower-cased, without an empty port."""
    host: bytes
    """Host without port and last dot, in lower case; an IPv6 address in its brackets."""
    port: int | None
    """Port as sent; None: none was sent."""

    def same_as(self, other: "Authority", scheme: bytes) -> bool:
        """Whether both name the same host and port; a missing port is the default port of `scheme`."""
        default = DEFAULT_PORTS[scheme]
        return self.host == other.host and (self.port or default) == (other.port or default)


NO_AUTHORITY: Final = Authority(b"", b"", None)
"""That of a request of HTTP/1.0 without `Host`."""


@lru_cache(maxsize=1024)  # the cache is bounded in bytes too, because long values are rejected first
def parse_authority(value: bytes) -> Authority:
    """Read `host[:port]`. Raises `Malformed` (400)."""
    text = value.lower()
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        raise Malformed("The host is empty or malformed; expected host or host:port.")
    name, ipv6, port = match.groups()
    if ipv6 is not None:
        try:
            IPv6Address(ipv6.decode("ascii"))
        except AddressValueError:
            raise Malformed("The host has an invalid IPv6 address.") from None
        host = b"[%b]" % ipv6
    else:
        if len(name) > _LONGEST_NAME:
            raise Malformed("The host name is too long.")
        host = name
    if port is not None and int(port) > 65535:
        raise Malformed("The host has an invalid port.")
    return Authority(text.removesuffix(b":"), host, int(port) if port else None)
