"""Keys of TLS session tickets: the same in every worker, also in one that is born later, and new ones each day.

A ticket lets a client that comes again do without most of a handshake, whichever worker it meets. All keys of a day
come from one seed, and the next day's seed from it, so processes that once knew the same seed agree without a word.
There is no way back: what was encrypted under keys of two days ago nobody can read any more.

Where keys cannot be set (`net.openssl`), each context has keys of its own, which processes share by being forked.
"""

import os
from dataclasses import dataclass, field
from hmac import digest
from typing import Final

from fastgw.net.openssl import KEY_BYTES

DAY_S: Final = 24 * 3600
NAME_BYTES: Final = 16
"""Bytes of the keys that stand in front of a ticket as their name."""

_SEED_BYTES: Final = 32


@dataclass
class TicketKeySeeds:
    """Seeds of the last two days in use. Goes forward only, so a clock that is put back changes nothing."""

    day: int
    today: bytes = field(repr=False)
    before: bytes = field(repr=False)

    @classmethod
    def begin(cls, now: float) -> "TicketKeySeeds":
        """`now`: epoch seconds, here and below."""
        return cls(int(now) // DAY_S, os.urandom(_SEED_BYTES), os.urandom(_SEED_BYTES))

    def advance(self, now: float) -> bool:
        """Come to the day of `now`, and forget those before yesterday. True: it is another day."""
        day = int(now) // DAY_S
        moved = day > self.day
        while day > self.day:
            self.before, self.today = self.today, digest(self.today, b"the next day", "sha256")
            self.day += 1
        return moved

    def keys(self, purpose: bytes) -> tuple[bytes, bytes]:
        """Today's, and those of the day before. Who has other rules for its clients has another purpose."""
        return _expanded(self.today, purpose), _expanded(self.before, purpose)


def _expanded(seed: bytes, purpose: bytes) -> bytes:
    first = digest(seed, b"\x01" + purpose, "sha512")
    return (first + digest(seed, b"\x02" + purpose, "sha512"))[:KEY_BYTES]
