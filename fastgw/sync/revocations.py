"""Revocation list: tokens, all tokens of a subject, and login sessions, revoked before their expiry.

A record is the digest of a credential or of its owner, the date until which the record is kept, and the date before
which the credential was issued. Rule 1: records contain nothing of tokens or sessions. Rule 2: records are only added,
and expire by themselves: lists of several processes and nodes can be merged in any order, with the same result.
"""

import time
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from heapq import heappop, heappush
from typing import Final, Literal, final

from msgspec import Struct

MOST: Final = 100_000
"""Maximum number of records in a process. Beyond it, those that expire first are removed."""
MOST_ENDED_SESSIONS: Final = 10_000
"""Maximum number of records of ended dashboard sessions, which are in a list of their own."""
LENGTH: Final = 26
"""Length of a record in bytes."""
MARK: Final = 16
ALWAYS_DATE: Final = (2**48 - 1) / 1000
"""Date in records for any date of issue."""
LATEST_DATE: Final = float(2**32 - 1)
LONGEST_PART: Final = 256
"""Maximum number of characters of each part of an event."""
MOST_EVENTS: Final = 100
"""Maximum number of events kept, the latest."""
_MOMENTS: Final = 2**48 - 1

Kind = Literal["jti", "subject", "token", "session"]


class RevocationEvent(Struct, frozen=True):
    """Event of a revocation, for people."""

    kind: Kind
    """Kind of the credential: one token, by its `jti` or as a whole; all tokens of a subject; or a login session."""
    date: float
    expires_date: float
    """Expiry of the revocation."""
    issuer: str = ""
    """Issuer; "" = not sent, or none. The same for the following."""
    subject: str = ""
    jti: str = ""


def event_of(kind: Kind, expires_date: float, *, issuer: str = "", subject: str = "", jti: str = "") -> RevocationEvent:
    """Return the event of a revocation made now."""
    parts = [part[:LONGEST_PART] for part in (issuer, subject, jti)]
    return RevocationEvent(kind, time.time(), min(expires_date, LATEST_DATE), *parts)


def mark_of(kind: str, *parts: str | bytes) -> bytes:
    """Return the digest of a credential, or of its owner, equal on all nodes. `kind`: at most 16 characters."""
    digest = blake2b(digest_size=MARK, person=kind.encode())
    for part in parts:
        raw = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(raw))
        digest.update(raw)
    return digest.digest()


def record_of(mark: bytes, expires_date: float, before_date: float = ALWAYS_DATE) -> bytes:
    """Return a record that is kept until `expires_date`. `before_date`: credentials issued later are not revoked."""
    return mark + _value(expires_date, before_date).to_bytes(LENGTH - MARK)


def records_in(joined: bytes) -> Iterator[bytes]:
    """Yield the records in these bytes; an incomplete one at the end is ignored."""
    return (joined[at : at + LENGTH] for at in range(0, len(joined) - LENGTH + 1, LENGTH))


def _value(expires_date: float, before_date: float) -> int:
    expires = int(min(max(expires_date, 0.0), LATEST_DATE) + 0.999)
    return min(expires, 2**32 - 1) << 48 | int(min(max(before_date, 0.0) * 1000, _MOMENTS))


@final
class RevocationList:
    """The records known to a process."""

    __slots__ = ("_known", "_most", "_order", "dropped")

    def __init__(self, most: int = MOST) -> None:
        # A plain dictionary and list of bytes and numbers, which the garbage collector need not visit.
        self._known: dict[bytes, int] = {}
        self._order: list[bytes] = []
        """Heap of expiry and mark. Entries that differ from `_known` are out of date."""
        self._most = most
        self.dropped = 0
        """Number of records removed before their expiry for lack of space."""

    def __len__(self) -> int:
        return len(self._known)

    def __repr__(self) -> str:
        return f"<RevocationList {len(self._known)} of {self._most}>"

    def covers(self, marks: Iterable[tuple[bytes, float]], now: float) -> bool:
        """Whether one of these marks is revoked. Each comes with its date of issue; dates and `now` are epoch
        seconds.
        """
        known = self._known
        for mark, issued_date in marks:
            value = known.get(mark)
            if value is not None and value >> 48 > now and issued_date * 1000 <= value & _MOMENTS:
                return True
        return False

    def add(self, joined: bytes, now: float) -> bytes:
        """Add records, and return those that are new or extended. `now`: epoch seconds."""
        fresh = []
        self._forget(now)
        for record in records_in(joined):
            mark, value = record[:MARK], int.from_bytes(record[MARK:])
            if value >> 48 <= now:
                continue
            before = self._known.get(mark)
            if before is not None:
                value = max(value >> 48, before >> 48) << 48 | max(value & _MOMENTS, before & _MOMENTS)
            if value == before:
                continue
            if before is None and len(self._known) >= self._most and not self._make_room(value):
                continue
            if before is None or value >> 48 != before >> 48:
                heappush(self._order, (value >> 48).to_bytes(4) + mark)
            self._known[mark] = value
            fresh.append(mark + value.to_bytes(LENGTH - MARK))
        return b"".join(fresh)

    def has_room(self, most: int, now: float) -> bool:
        """Whether there are fewer than `most` records, so that one more removes none."""
        self._forget(now)
        return len(self._known) < most

    def _forget(self, now: float) -> None:
        """Remove expired records."""
        order = self._order
        while order and int.from_bytes(order[0][:4]) <= now:
            self._drop(heappop(order))

    def _make_room(self, value: int) -> bool:
        """Remove the record that expires first; False if that is the new one itself."""
        order, count = self._order, len(self._known)
        while len(self._known) == count and int.from_bytes(order[0][:4]) < value >> 48:
            self._drop(heappop(order))
        self.dropped += 1
        return len(self._known) < count

    def _drop(self, entry: bytes) -> None:
        value = self._known.get(entry[4:])
        if value is not None and value >> 48 == int.from_bytes(entry[:4]):
            del self._known[entry[4:]]

    def joined(self, now: float) -> bytes:
        """Return all records."""
        self._forget(now)
        return b"".join(mark + value.to_bytes(LENGTH - MARK) for mark, value in self._known.items())

    def lacking(self, joined: bytes) -> bytes:
        """Return the records that `joined` lacks, or has with an earlier date."""
        theirs = RevocationList(max(len(joined) // LENGTH, 1))
        theirs.add(joined, 0.0)
        return b"".join(
            mark + value.to_bytes(LENGTH - MARK)
            for mark, value in self._known.items()
            if (other := theirs._known.get(mark)) is None
            or other >> 48 < value >> 48
            or other & _MOMENTS < value & _MOMENTS
        )
