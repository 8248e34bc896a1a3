"""ip: allow or deny by the client's address."""

from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final, TypeAlias

from fastgw.config.base.value_types import Network
from fastgw.filters.api import Env, Exchange, Fault, Filter, Hooks, Outcome, Phase

REMEMBERED: Final = 8192
"""Maximum number of addresses whose verdict is cached, for each pair of lists."""
_MAPPED_BITS: Final = 96  # `::ffff:0:0/96`: IPv4-mapped IPv6 addresses (RFC 4291 section 2.5.5.2)

_ByMask: TypeAlias = tuple[tuple[int, dict[int, tuple[bool, IPv4Network | IPv6Network]]], ...]
"""Netmasks, the longest first, each with the networks of that length by their first address."""


class Ip(Filter, name="ip", phase=Phase.ADMIT, order=-10):  # type: ignore[literal-required]  # order: ours
    """Allow or deny requests by the client's address, which may come from a trusted proxy.

    The most specific network that contains the address decides; if it is in both lists, the address is denied. An
    address in none of the networks is allowed, unless `allow` is set. An IPv4-mapped IPv6 address (`::ffff:192.0.2.1`)
    is treated as the IPv4 address. A denied request is answered 403.
    """

    allow: tuple[Network, ...] = ()
    """Networks or addresses that are allowed. If there are any, addresses in no network are denied."""
    deny: tuple[Network, ...] = ()
    """Networks or addresses that are denied."""
    unix: bool | None = None
    """Whether clients of a unix socket, which have no address, are allowed. null = they are treated like an address in
    no network."""

    def __post_init__(self) -> None:
        if not self.allow and not self.deny and self.unix is None:
            raise ValueError("no addresses, so every request is allowed; expected `allow` or `deny`")

    def build(self, env: Env) -> Hooks:
        check_address = env.shared(
            ("ip", self.allow, self.deny, self.unix), lambda: address_check(self.allow, self.deny, self.unix)
        )

        def request(exchange: Exchange) -> Outcome:
            passes, why = check_address(exchange.client_ip)
            return None if passes else exchange.refuse(Fault.CLIENT_ADDRESS_DENIED, why=why)

        def explain(exchange: Exchange) -> str:
            return check_address(exchange.client_ip)[1]

        return Hooks(request=request, explain=explain)


def address_check(
    allow: Iterable[Network], deny: Iterable[Network], unix: bool | None = None
) -> Callable[[str], tuple[bool, str]]:
    """Return a function that decides on an address, and gives the reason. The most recent addresses are cached."""
    allowed, denied = [*map(_plain, allow)], [*map(_plain, deny)]
    verdicts: dict[IPv4Network | IPv6Network, bool] = dict.fromkeys(allowed, True)
    verdicts.update(dict.fromkeys(denied, False))  # a tie is denied
    tables = {version: _by_mask(verdicts, version) for version in (4, 6)}
    otherwise = not allowed
    by_default = otherwise, "no network contains it"
    of_unix = by_default if unix is None else (unix, "a unix socket")

    # PERF: 0.07 us for a cached address, 2.4 us for another among 5,000 networks of 5 lengths (CPython 3.11,
    # micro/filters).
    @lru_cache(maxsize=REMEMBERED)
    def check_address(ip: str) -> tuple[bool, str]:
        try:
            address: IPv4Address | IPv6Address = ip_address(ip)
        except ValueError:  # a unix socket
            return of_unix
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped or address
        number = int(address)
        for mask, networks in tables[address.version]:
            found = networks.get(number & mask)
            if found is not None:
                passes, network = found
                return passes, f"{network} is {'allowed' if passes else 'denied'}"
        return by_default

    return check_address


def _plain(network: Network) -> IPv4Network | IPv6Network:
    """Return an IPv4 network for one of IPv4-mapped IPv6 addresses; others unchanged."""
    if isinstance(network, IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    return network


def _by_mask(verdicts: dict[IPv4Network | IPv6Network, bool], version: int) -> _ByMask:
    by_mask: dict[int, dict[int, tuple[bool, IPv4Network | IPv6Network]]] = {}
    for network, passes in verdicts.items():
        if network.version == version:
            first = int(network.network_address)
            by_mask.setdefault(int(network.netmask), {})[first] = passes, network
    return tuple(sorted(by_mask.items(), reverse=True))
