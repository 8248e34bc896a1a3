"""Decision on an address: the most specific network that contains it, among lists of thousands."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import _lru_cache_wrapper, lru_cache, partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final, TypeAlias, final

from fastgw.filters.api import Services
from fastgw.filters.policies.ip.countries import CountryDatabase
from fastgw.net.network_lists import BITS, NO_NETWORKS, NetworkList, list_of, unpack_list
from fastgw.sync.feeds import Feed

REMEMBERED: Final = 8192
"""Maximum number of addresses whose verdict is cached, for each pair of lists."""

Verdict: TypeAlias = tuple[bool, str]
"""Whether an address is allowed, and the reason."""
_Row: TypeAlias = tuple[int, frozenset[int], bool]
"""Networks of one length: the number of bits behind their prefixes, the prefixes, and whether they are allowed."""


def address_check(
    allow: Iterable[IPv4Network | IPv6Network], deny: Iterable[IPv4Network | IPv6Network], unix: bool | None = None
) -> Callable[[str], Verdict]:
    """Return a function that decides on an address, and gives the reason. The most recent addresses are cached."""
    allowed, denied = list_of(allow), list_of(deny)
    return AddressRules([allowed], [denied], closed=bool(allowed.prefixes), unix=unix).check


@final
class AddressRules:
    """Lists that decide on addresses, in one process.

    `allow_feeds`, `deny_feeds`: keys of feeds with further lists, which are empty until they are known. `closed`:
    whether addresses in no network are denied. `unix`: as in the settings. `verdict_on`: verdict on the country of an
    address in no network; None: it has none.
    """

    def __init__(
        self,
        allow: Sequence[NetworkList],
        deny: Sequence[NetworkList],
        *,
        closed: bool,
        unix: bool | None = None,
        allow_feeds: Sequence[str] = (),
        deny_feeds: Sequence[str] = (),
        countries: CountryDatabase | None = None,
        verdict_on: Callable[[str | None], Verdict | None] = lambda _: None,
    ) -> None:
        self._fixed = [*((each, True) for each in allow), *((each, False) for each in deny)]
        self._fed = {
            (key, passes): NO_NETWORKS for keys, passes in ((allow_feeds, True), (deny_feeds, False)) for key in keys
        }
        self._followed: list[tuple[Feed, Callable[[bytes], None]]] = []
        self._users = 0
        by_default: Verdict = (not closed, "no network contains it")
        self._rows: dict[int, tuple[_Row, ...]] = {}
        of_unix = by_default if unix is None else (unix, "a unix socket")
        self._countries = countries
        country = None if countries is None else countries.country
        self.check = _cached_check(self._rows, by_default, of_unix, country, verdict_on)
        self._arrange()

    def start(self, services: Services) -> None:
        """Follow the feeds in a worker, for each filter that shares these rules."""
        self._users += 1
        if self._users > 1:
            return
        for key, passes in self._fed:
            feed, tell = services.feeds[key], partial(self._take_list, (key, passes))
            feed.on_change(tell)
            self._followed.append((feed, tell))
            tell(feed.value)
        if self._countries is not None:
            self._countries.start(services, self.check.cache_clear)

    def stop(self) -> None:
        """Stop following, once for each `start`."""
        self._users -= 1
        if not self._users:
            for feed, tell in self._followed:
                feed.forget(tell)
            self._followed.clear()
            if self._countries is not None:
                self._countries.stop(self.check.cache_clear)

    def _take_list(self, key: tuple[str, bool], packed: bytes) -> None:
        if packed:
            self._fed[key] = unpack_list(packed)
            self._arrange()

    def _arrange(self) -> None:
        """Arrange the networks by length, the longest first; of equal ones those that are denied."""
        lists = [*self._fixed, *((each, passes) for (_, passes), each in self._fed.items())]
        rows: dict[int, list[_Row]] = {version: [] for version in BITS}
        for each, passes in lists:
            for (version, length), prefixes in each.prefixes.items():
                rows[version].append((BITS[version] - length, prefixes, passes))
        self._rows.update(
            (version, tuple(sorted(of, key=lambda row: (row[0], row[2])))) for version, of in rows.items()
        )
        self.check.cache_clear()


def _cached_check(
    rows: Mapping[int, Sequence[_Row]],
    by_default: Verdict,
    of_unix: Verdict,
    country: Callable[[str], str | None] | None,
    verdict_on: Callable[[str | None], Verdict | None],
) -> "_lru_cache_wrapper[Verdict]":
    """Return the function that decides by these rows, which may change: then its cache is cleared."""

    # PERF: 0.07 us for a cached address; for another 2.4 us among 5,000 networks of 5 lengths, and 5 us among 100,000
    # of 17 (CPython 3.11, micro/filters).
    @lru_cache(maxsize=REMEMBERED)
    def check_address(ip: str) -> Verdict:
        try:
            address: IPv4Address | IPv6Address = ip_address(ip)
        except ValueError:  # a unix socket
            return of_unix
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped or address
        number, version = int(address), address.version
        for shift, prefixes, passes in rows[version]:
            if number >> shift in prefixes:
                first = type(address)(number >> shift << shift)
                return passes, f"{first}/{BITS[version] - shift} is {'allowed' if passes else 'denied'}"
        return (None if country is None else verdict_on(country(str(address)))) or by_default

    return check_address
