"""Messages between control and the workers about something that is fetched once per node, such as a token.

Rule 1: what is fetched belongs to the material it was fetched with: the settings, and the contents of all secrets and
files that they name. Rule 2: a failure takes nothing away: what was fetched before is good until it expires.
"""

import random
import time
from collections.abc import Callable
from math import ceil
from typing import Final, NamedTuple, Protocol

import msgspec

from fastgw.errors import Fault
from fastgw.filters.api import Feeds, Fetcher

LONGEST_S: Final = 30.0
"""The longest that a failure is remembered: so often an endpoint that fails is asked at least."""
FOR_EVER: Final = 4e9
"""A date (epoch seconds) that nobody waits for."""


class Unavailable(Exception):
    """The value cannot be fetched now. `why` is for the log, without anything secret."""

    def __init__(self, fault: Fault, why: str, retry_after: int = 0) -> None:
        super().__init__(why)
        self.fault = fault
        self.why = why
        self.retry_after = retry_after
        """Whole seconds until it is tried again; 0: at once."""


class FetchContext(Protocol):
    """Services for fetching: `Services` of a worker, or the same in control."""

    @property
    def fetcher(self) -> Fetcher: ...
    @property
    def feeds(self) -> Feeds: ...
    @property
    def control_is_away(self) -> Callable[[], bool]: ...
    @property
    def generation(self) -> Callable[[], int]: ...
    @property
    def feed_others(self) -> Callable[[str, bytes], None]: ...


class FetchResult(NamedTuple):
    """Result of a fetch. `value`: as its holders read it; it is secret."""

    value: bytes
    good_until_date: float
    renew_from_date: float
    """Date (epoch seconds) from which a newer one is fetched in the background."""
    note: bytes = b""
    """Note for the next fetch."""

    def __repr__(self) -> str:
        return f"<FetchResult until {self.good_until_date:.0f}>"


class FetchedRecord(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """All there is to know of it, as it goes to the workers. It is secret."""

    material: bytes
    generation: int = 0
    """The configuration that was in force when it was said."""
    value: bytes = b""
    """b"": there is none."""
    good_until_date: float = 0.0
    renew_from_date: float = 0.0
    note: bytes = b""
    fault: str = ""
    """Fault of the last attempt; "": none."""
    why: str = ""
    failed_until_date: float = 0.0
    """Date before which no attempt is made."""
    failures: int = 0
    """Number of failures in a row."""
    fetched_date: float = 0.0
    """Some endpoints give the same each time: by this alone those who wait know that it is an answer."""

    def __repr__(self) -> str:
        return f"<FetchedRecord until {self.good_until_date:.0f} {self.fault}>"

    def packed(self) -> bytes:
        return msgspec.msgpack.encode(self)

    def is_good(self, now_date: float) -> bool:
        return bool(self.value) and now_date < self.good_until_date

    def problem(self) -> Unavailable | None:
        """Problem of the last attempt."""
        if not self.fault:
            return None
        fault, left = Fault[self.fault], self.failed_until_date - time.time()
        return Unavailable(fault, self.why, max(ceil(left), 1) if fault is Fault.TOKEN_UNAVAILABLE else 0)


def read(value: bytes) -> FetchedRecord | None:
    """b"": nothing was said yet. None also for what another version has said."""
    try:
        return msgspec.msgpack.decode(value, type=FetchedRecord) if value else None
    except msgspec.DecodeError:
        return None


def succeeded(record: FetchedRecord, got: FetchResult) -> FetchedRecord:
    return FetchedRecord(
        material=record.material,
        value=got.value,
        good_until_date=got.good_until_date,
        renew_from_date=got.renew_from_date,
        note=got.note,
        fetched_date=time.time(),
    )


def failed(record: FetchedRecord, problem: Unavailable, first_s: float) -> FetchedRecord:
    """`first_s`: for how long the first failure is remembered; each further one is for twice as long."""
    rest_s = min(first_s * 2 ** min(record.failures, 16), max(LONGEST_S, first_s))
    return msgspec.structs.replace(
        record,
        fault=problem.fault.name,
        why=problem.why,
        failed_until_date=time.time() + rest_s,
        failures=record.failures + 1,
    )


def renewal(now_date: float, good_until_date: float) -> float:
    """When to renew what is good from now until then: in its last quarter, or last minute, at a time of its own."""
    left = good_until_date - now_date
    return good_until_date - min(left / 4, 60.0) * random.uniform(0.5, 1.0)


class Getter(Protocol):
    """Fetches it, in control or, while that is unreachable, in a worker."""

    name: str
    """Name of what is fetched, for the log."""
    material: bytes
    timeout: float
    """Seconds for everything."""
    negative_ttl: float

    def start(self, around: FetchContext) -> None: ...
    def stop(self) -> None: ...
    async def get(self, around: FetchContext, before: FetchedRecord) -> FetchResult:
        """Raises `Unavailable`. `before`: what was said last, and is to be replaced."""
