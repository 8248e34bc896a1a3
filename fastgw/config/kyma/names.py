"""Kyma's names for services of applications, and the addresses that tenants must not make the gateway call."""

import re
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

from fastgw.config.base.value_types import Url

_OTHERS: Final = re.compile("[^A-Za-z0-9]+")
_LONGEST: Final = 57
_LONGEST_APP: Final = 26
"""Maximum length of an application's name in a host: with a hyphen and a UUID it fills the 63 characters of a DNS
label.
"""
_LABEL: Final = re.compile("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

_LOCAL: Final = frozenset(("localhost", "ip6-localhost", "ip6-loopback"))
"""Names that /etc/hosts maps to the machine or the pod."""
_EMBEDDING: Final = IPv6Network("64:ff9b::/96"), IPv6Network("::/96")
"""Networks whose last 32 bits embed an IPv4 address (RFC 6052 section 2.1, RFC 4291 section 2.5.5.1)."""


def normalized(name: str) -> str:
    """Return the name of a service in a path: letters in lower case and digits, with a hyphen for each sequence of
    other characters between them. "" = nothing is left.
    """
    lower = _OTHERS.sub("-", name).lower().removesuffix("-")
    return lower[:_LONGEST].removeprefix("-")


def access_service(app: str, service_id: str) -> str:
    """Return the former host name of a service, in Kyma versions with one host per service. "" = it has none."""
    host = f"{app[:_LONGEST_APP]}-{service_id}".lower()
    return host if _LABEL.fullmatch(host) else ""


def why_not_there(url: Url) -> str:
    """Return the reason why a tenant's document must not name this host: it is the gateway's own machine, or a metadata
    service with that machine's credentials. "" = it may. Host names are not resolved.
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
    is_one = number > 1 and any(address in network for network in _EMBEDDING)  # `::` and `::1` embed no IPv4 address
    return IPv4Address(number & 0xFFFFFFFF) if is_one else None


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))  # the resolver also accepts 0x7f.1 as an address
    except (OSError, UnicodeError):
        return None
