"""Messages between the control process and workers about values that are fetched once per node, such as a token.

Rule 1: a value belongs to its material: the settings, and the contents of all secrets and files that they name. Rule 2:
after a failure the previous value stays valid until it expires.
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
"""Maximum seconds for which a failure is cached: a failing endpoint is tried at least this often."""
FOR_EVER: Final = 4e9
"""Date (epoch seconds) that means never."""


class Unavailable(Exception):
    """The value cannot be fetched now. `why` is for the log, without secrets."""

    def __init__(self, fault: Fault, why: str, retry_after: int = 0) -> None:
        super().__init__(why)
        self.fault = fault
        self.why = why
        self.retry_after = retry_after
        """Whole seconds until the next attempt; 0: at once."""


class FetchContext(Protocol):
    """Services for fetching: `Services` of a worker, or the equivalent in control."""

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
    """Result of a fetch. `value`: in the form that its caches parse; it is secret."""

    value: bytes
    good_until_date: float
    renew_from_date: float
    """Date (epoch seconds) from which a newer one is fetched in the background."""
    note: bytes = b""
    """Note for the next fetch."""

    def __repr__(self) -> str:
        return f"<FetchResult until {self.good_until_date:.0f}>"


class FetchedRecord(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """State of a value, as sent to the workers. It is secret."""

    material: bytes
    generation: int = 0
    """Generation of the configuration that was active then."""
    value: bytes = b""
    """b"": no value."""
    good_until_date: float = 0.0
    renew_from_date: float = 0.0
    note: bytes = b""
    fault: str = ""
    """Fault of the last attempt; "": none."""
    why: str = ""
    failed_until_date: float = 0.0
    """Date before which no attempt is made."""
    failures: int = 0
    """Number of consecutive failures."""
    fetched_date: float = 0.0
    """Date of the fetch: it identifies a new response with the same value."""

    def __repr__(self) -> str:
        return f"<FetchedRecord until {self.good_until_date:.0f} {self.fault}>"

    def packed(self) -> bytes:
        return msgspec.msgpack.encode(self)

    def is_good(self, now_date: float) -> bool:
        return bool(self.value) and now_date < self.good_until_date

    def rests_until(self, now_date: float, first_s: float) -> float:
        """Return the date before which no attempt is made; 0: none is due to a failure. A date farther away than the
        longest rest is of before the clock was set back. `first_s`: as in `failed`.
        """
        return self.failed_until_date if now_date < self.failed_until_date <= now_date + longest_rest(first_s) else 0.0

    def problem(self) -> Unavailable | None:
        """Problem of the last attempt."""
        if not self.fault:
            return None
        fault, left = Fault[self.fault], self.failed_until_date - time.time()
        return Unavailable(fault, self.why, max(ceil(left), 1) if fault is Fault.TOKEN_UNAVAILABLE else 0)


def read(value: bytes) -> FetchedRecord | None:
    """Read a message. None: there is none yet (b""), or it is of another version."""
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


def longest_rest(first_s: float) -> float:
    """Return the maximum seconds for which a failure is cached. `first_s`: those of the first one."""
    return max(LONGEST_S, first_s)


def failed(record: FetchedRecord, problem: Unavailable, first_s: float) -> FetchedRecord:
    """Return the state after a failure. `first_s`: seconds for which the first failure is cached; doubled for each
    further one.
    """
    rest_s = min(first_s * 2 ** min(record.failures, 16), longest_rest(first_s))
    return msgspec.structs.replace(
        record,
        fault=problem.fault.name,
        why=problem.why,
        failed_until_date=time.time() + rest_s,
        failures=record.failures + 1,
    )


def renewal(now_date: float, good_until_date: float) -> float:
    """Return when to renew a value valid from now until then: in its last quarter, or last minute, at a random time."""
    left = good_until_date - now_date
    return good_until_date - min(left / 4, 60.0) * random.uniform(0.5, 1.0)


class Getter(Protocol):
    """Fetcher, used in control or, while that is unreachable, in a worker."""

    name: str
    """Name of the value, for the log."""
    material: bytes
    timeout: float
    """Seconds for the whole fetch."""
    negative_ttl: float

    def start(self, around: FetchContext) -> None: ...
    def stop(self) -> None: ...
    async def get(self, around: FetchContext, before: FetchedRecord) -> FetchResult:
        """Fetch a value. Raises `Unavailable`. `before`: the previous value."""
