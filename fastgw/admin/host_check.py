"""Host check of the gateway's own listeners: a page whose name an attacker has resolve to this machine's address (DNS
rebinding) is of the same origin as what answers there, but its requests carry that name.
"""

import ipaddress
import re
from typing import Final

from fastgw.config.base.value_types import Address
from fastgw.config.settings.gateway import Status

_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:/@]+)(?::[0-9]{1,5})?")
_NOT_PUBLIC: Final = (".home.arpa", ".internal", ".lan", ".local", ".localdomain", ".localhost", ".svc")
"""Ends of names that no public resolver answers, so that no page has such a name: monitoring scrapes by them."""


def host_in(field: str) -> str | None:
    """Return the host of the value of a `Host` header, in lower case, without port, brackets and trailing dot. None:
    it is not one.
    """
    match = _HOST.fullmatch(field.lower())
    return None if match is None else match[1].strip("[]").removesuffix(".")


def is_of_listener(host: str, address: Address) -> bool:
    """Whether a host is an IP address, localhost, or the one that the listener is bound to."""
    return host in ("localhost", address.host.lower().removesuffix(".")) or _is_ip(host)


def is_of_status(field: str, status: Status) -> bool:
    """Whether requests with this `Host` are for the status listener: also by a name that is not public, or is listed in
    `hosts`.
    """
    host = host_in(field)
    if host is None:
        return False
    if status.address.path or is_of_listener(host, status.address):
        return True
    if "." not in host or host.endswith(_NOT_PUBLIC):
        return True
    return any(host.endswith(name[1:]) if name.startswith("*") else host == name for name in status.hosts)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
