"""Countries of addresses, from a database in MaxMind's format that is replaced while the gateway runs.

Each process maps the file into memory. The control process looks whether it has been replaced, and announces it to the
workers, which open it then. Rule: an invalid file is reported, and the previous one stays open.
"""

import asyncio
import os
from collections.abc import Callable
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Final, final

from msgspec import Meta

from fastgw.config.base.value_types import FieldName, FileName
from fastgw.config.settings.gateway import Settings
from fastgw.filters.api import Feed, FeedSource, NodeSide, Services
from fastgw.filters.authentication.identity_headers import check_written
from fastgw.operator_events import OperatorEvent, log_event

if TYPE_CHECKING:
    from maxminddb import Reader

REMEMBERED: Final = 8192
"""Maximum number of addresses whose country is cached."""
LOOK_S: Final = 1.0
"""Seconds between two looks at the file. It is opened once it has been the same at two of them."""
_SAMPLED: Final = 1000
"""Number of records among which one has to have a country."""

CountryCode = Annotated[str, Meta(pattern="^[A-Z]{2}$", title='a country code such as "DE" (ISO 3166-1)')]


class Countries(Settings):
    """Countries of clients. Needs `fastgw[geoip]`."""

    database: Annotated[str, FileName(readable=False)]
    """Database in MaxMind's format (`.mmdb`) with countries, such as GeoLite2-Country. It is mapped into memory, and
    opened again after it has been replaced by another file, as `geoipupdate` does; do not write into the file."""
    allow: tuple[CountryCode, ...] = ()
    """Countries that are allowed: addresses in other or unknown countries are denied, unless a network allows them."""
    deny: tuple[CountryCode, ...] = ()
    """Countries that are denied, unless a network allows the address."""
    header: FieldName | None = None
    """Request header in which the upstream gets the country code. It is removed if a client sends it, and absent if
    the country is unknown. null = none."""

    def __post_init__(self) -> None:
        if self.allow and self.deny:
            raise ValueError("`allow` and `deny` are mutually exclusive; expected one of them")
        if not (self.allow or self.deny or self.header):
            raise ValueError("no decision; expected `allow`, `deny` or `header`")
        if self.header is not None:
            check_written((self.header,))

    def verdict(self, country: str | None) -> tuple[bool, str] | None:
        """Return the verdict on a country, with the reason; None: these settings have none."""
        if self.allow:
            passes = country in self.allow
            return passes, f"{country or 'an unknown country'} is {'allowed' if passes else 'not allowed'}"
        return (False, f"{country} is denied") if country in self.deny else None


class DatabaseWatch(FeedSource, frozen=True, kw_only=True):
    """Watch of a database: its value is the fingerprint of the last valid file."""

    path: str

    @classmethod
    def of(cls, path: str) -> "DatabaseWatch":
        return cls(key=f"countries {path}", path=path)

    @property
    def name(self) -> str:
        return self.path

    async def run(self, node: NodeSide) -> None:
        before, judged, complaint = b"", b"", ""
        while True:
            now = await asyncio.to_thread(fingerprint, self.path)
            if now == before and now != judged:
                judged = now
                why = await asyncio.to_thread(_problem, self.path) if now else "no such file"
                if why and why != complaint:
                    log_event(OperatorEvent.FEED_FAILED, "%s: %s; the previous file is still used", self.path, why)
                elif complaint and not why:
                    log_event(OperatorEvent.FEED_BACK, "%s: opened again", self.path)
                complaint = why
                node.attempted(why)
                if not why:
                    node.publish(now)
            before = now
            await asyncio.sleep(LOOK_S)


def fingerprint(path: str) -> bytes:
    """Return a fingerprint of a file, which changes when it is replaced; b"": it cannot be found."""
    try:
        found = os.stat(path)
    except OSError:
        return b""
    return b"%d %d %d" % (found.st_ino, found.st_size, found.st_mtime_ns)


def _problem(path: str) -> str:
    try:
        _open(path)
    except ValueError as error:
        return str(error)
    return ""


def _open(path: str, *, checks: bool = True) -> "Reader":
    """Map a database into memory. Raises `ValueError`, also if it has no countries, which `checks` finds out."""
    try:
        import maxminddb
    except ModuleNotFoundError as error:
        raise ValueError("the package maxminddb is missing; pip install 'fastgw[geoip]'") from error
    try:
        reader = maxminddb.open_database(path, maxminddb.MODE_AUTO)
        if checks and not any(country_in(record) for _, record in islice(reader, _SAMPLED)):
            kind = reader.metadata().database_type
            raise ValueError(f"a database of type {kind!r}, without countries; expected one such as GeoLite2-Country")
    except maxminddb.InvalidDatabaseError as error:
        raise ValueError("not a database in MaxMind's format") from error
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from error
    return reader


def country_in(record: Any) -> str | None:
    """Return the country of a record: that of the address, or else the one in which the network is registered. Some
    publishers have the code itself.
    """
    for name in ("country", "registered_country", "country_code"):
        found = record.get(name) if isinstance(record, dict) else None
        code = found.get("iso_code") if isinstance(found, dict) else found
        if isinstance(code, str) and code:
            return code
    return None


@final
class CountryDatabase:
    """An open database in one process, for all filters that name the file. Raises `ValueError` if it is unusable."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._mark = fingerprint(path)
        self._reader = [_open(path)]
        self.country = _cached_country(self._reader)
        self._feed: Feed | None = None
        self._users: list[Callable[[], None]] = []

    def start(self, services: Services, tell: Callable[[], None]) -> None:
        """Follow the file in a worker; `tell` is called after each change, until `stop`."""
        self._users.append(tell)
        if self._feed is None:
            self._feed = services.feeds[DatabaseWatch.of(self._path).key]
            self._feed.on_change(self._reopen)
            self._reopen(self._feed.value)

    def stop(self, tell: Callable[[], None]) -> None:
        self._users.remove(tell)
        if not self._users and self._feed is not None:
            self._feed.forget(self._reopen)
            self._feed = None

    def _reopen(self, mark: bytes) -> None:
        """Open the file that the control process has seen. PERF: 0.1 ms; pages are read when they are needed."""
        if not mark or mark == self._mark:
            return
        now = fingerprint(self._path)
        try:
            self._reader[0] = _open(self._path, checks=False)
        except ValueError:
            return  # replaced in between: the control process announces what comes of it
        self._mark = now
        self.country.cache_clear()
        for tell in self._users:
            tell()


def _cached_country(reader: "list[Reader]") -> Any:
    from maxminddb import InvalidDatabaseError

    # PERF: 0.05 us for a cached address, 2 us for another (CPython 3.11).
    @lru_cache(maxsize=REMEMBERED)
    def country(ip: str) -> str | None:
        """Return the country of an address; None: it is unknown, or no address."""
        try:
            return country_in(reader[0].get(ip))
        except (ValueError, InvalidDatabaseError):  # a unix socket; IPv6, and a database for IPv4; a damaged record
            return None

    return country
