"""Names that Kyma gives the services of its applications, and addresses that a tenant may not have the gateway call."""

import re
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

from fastgw.config.base.value_types import Url

_OTHERS: Final = re.compile("[^A-Za-z0-9]+")
_LONGEST: Final = 57
_LONGEST_APP: Final = 26
"""Most characters of an application's name in a host: with a hyphen and a UUID it makes the 63 that a label may
have.
"""
_LABEL: Final = re.compile("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

_LOCAL: Final = frozenset(("localhost", "ip6-localhost", "ip6-loopback"))
"""Names that /etc/hosts has for the machine, or the pod."""
_EMBEDDING: Final = IPv6Network("64:ff9b::/96"), IPv6Network("::/96")
"""Networks whose last 32 bits hold the IPv4 address that is meant (RFC 6052 section 2.1, RFC 4291 section 2.5.5.1)."""


def normalized(name: str) -> str:
    """Return the name of a service in a path: letters in lower case and digits, a hyphen for each row of others between
    them. "": nothing is left.
    """
    lower = _OTHERS.sub("-", name).lower().removesuffix("-")
    return lower[:_LONGEST].removeprefix("-")


def access_service(app: str, service_id: str) -> str:
    """The host by which a service was called when each had one of its own. "": it cannot have one."""
    host = f"{app[:_LONGEST_APP]}-{service_id}".lower()
    return host if _LABEL.fullmatch(host) else ""


def why_not_there(url: Url) -> str:
    """Return the reason why a tenant's document may not have the gateway call there: it would lead to the gateway's own
    machine, or to what knows that machine's credentials. "": it may. What a name leads to is not looked up.
    """
    host = url.host.rstrip(".")
    if host in _LOCAL or host.endswith((".localhost", ".localdomain")):
        return f"{host} is this machine"
    address = _address(host)
    if address is None:
        return ""
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address.sixtofour or _embedded(address) or address
    if address.is_loopback or address.is_unspecified:
        return f"{host} is this machine"
    if address.is_link_local or address.is_multicast:
        return f"{host} is in this machine's link-local network"
    return ""


def _embedded(address: IPv6Address) -> IPv4Address | None:
    number = int(address)
    is_one = number > 1 and any(address in network for network in _EMBEDDING)  # `::` and `::1` mean themselves
    return IPv4Address(number & 0xFFFFFFFF) if is_one else None


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))  # the system takes 0x7f.1 for an address too
    except (OSError, UnicodeError):
        return None
