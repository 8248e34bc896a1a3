"""Whom a limit counts: keys made of what tells requests apart."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv6Address, ip_address
from typing import Any, Final

import orjson

from fastgw.config.values import Trait, trait
from fastgw.exchange import Exchange
from fastgw.exchange.traits import reader
from fastgw.jose import claim_path, find_claim

KEY: Final = trait("ip", "consumer", "route", "host", "header", "cookie", "claim")
LATE: Final = frozenset(("consumer", "route", "claim"))
"""What is not known before a route is found and the client has said who it is."""
REMEMBERED: Final = 8192
"""IPv6 addresses whose network is remembered."""

KeyOf = Callable[[Exchange], bytes]


def key_of(traits: Sequence[Trait], name: str, ipv6_prefix: int) -> KeyOf:
    """The key of a request. `name`: tells the filter that counts from all others."""
    begins = blake2b(name.encode(), digest_size=8).digest()
    address = address_of(ipv6_prefix)
    if len(traits) == 1:
        return _single(traits[0], begins, address)
    readers = [_single(each, b"", address) for each in traits]

    def key(exchange: Exchange) -> bytes:
        made = begins
        for read in readers:
            part = read(exchange)
            made += b"%d:%b" % (len(part), part)
        return made

    return key


def address_of(ipv6_prefix: int) -> Callable[[str], bytes]:
    """What counts as one client. An IPv4 address in IPv6 clothes is the IPv4 address."""

    @lru_cache(maxsize=REMEMBERED)
    def network(ip: str) -> bytes:
        try:
            address = ip_address(ip)
        except ValueError:  # of a unix socket
            return ip.encode()
        if not isinstance(address, IPv6Address):
            return ip.encode()
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped).encode()
        return b"6" + (int(address) >> 128 - ipv6_prefix).to_bytes(16)

    def read(ip: str) -> bytes:
        return network(ip) if ":" in ip else ip.encode()

    return read


def _single(trait: Trait, begins: bytes, address: Callable[[str], bytes]) -> KeyOf:
    match trait.kind:
        case "ip":
            return lambda exchange: begins + address(exchange.client_ip)
        case "consumer":
            of_consumer, of_nobody = begins + b"c", begins + b"i"

            def consumer(exchange: Exchange) -> bytes:
                known = exchange.consumer
                if known is None:
                    return of_nobody + address(exchange.client_ip)
                return of_consumer + known.name.encode()

            return consumer
        case "route":

            def route(exchange: Exchange) -> bytes:
                assert exchange.route is not None
                return begins + exchange.route.name.encode()

            return route
        case "claim":
            path = claim_path(trait.name)
            return lambda exchange: begins + _text(find_claim(exchange.claims, path))
        case _:
            read = reader(trait)
            return lambda exchange: begins + read(exchange)


def _text(claim: Any) -> bytes:
    if isinstance(claim, str):
        return claim.encode("utf-8", "surrogatepass")
    return b"" if claim is None else orjson.dumps(claim, option=orjson.OPT_SORT_KEYS)
