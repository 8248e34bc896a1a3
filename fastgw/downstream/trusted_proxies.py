"""Trusted proxies: peers whose headers about the client are accepted."""

from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import ip_address

from fastgw.config.base.value_types import Network
from fastgw.http.field_names import DEBUG_TOKEN
from fastgw.http.http1.reserved_fields import OWN_FIELDS, ReservedFields


@lru_cache(maxsize=256)
def reserved_fields(names: tuple[str, ...], exempt: tuple[str, ...]) -> ReservedFields:
    """Return the names of `config.Listener.reserved_headers` without `unreserved_headers`, as a set of header fields,
    and `OWN_FIELDS` in any case.
    """
    exempted = [name for name in (each.lower().encode() for each in exempt) if not OWN_FIELDS.has(name)]
    return ReservedFields((DEBUG_TOKEN, *(name.lower().encode() for name in names)), exempted)


def trust(networks: Iterable[Network]) -> Callable[[str], bool]:
    """Whether an address is in one of the networks. Caches the results for the last addresses."""
    held = tuple(networks)
    if not held:
        return lambda ip: False

    @lru_cache(maxsize=4096)
    def trusts(ip: str) -> bool:
        try:
            address = ip_address(ip)
        except ValueError:  # a unix socket has no address
            return False
        return any(address in network for network in held)

    return trusts
