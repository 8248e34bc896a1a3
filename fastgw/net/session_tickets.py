"""Keys of TLS session tickets: the same in every worker, including later ones, and new ones each day.

A ticket lets a returning client skip most of a handshake, on any worker. All keys of a day are derived from one seed,
and the next day's seed from it, so processes with the same initial seed agree without communication. The derivation is
one-way: data encrypted with keys of two days ago cannot be decrypted any more.

If keys cannot be set (`net.openssl`), each context has keys of its own, which forked processes share.
"""

import os
from dataclasses import dataclass, field
from hmac import digest
from typing import Final

from fastgw.net.openssl import KEY_BYTES

DAY_S: Final = 24 * 3600
NAME_BYTES: Final = 16
"""Bytes of the key name at the beginning of a ticket."""

_SEED_BYTES: Final = 32


@dataclass
class TicketKeySeeds:
    """Seeds of the last two days in use. They only move forward, so a clock that is set back changes nothing."""

    day: int
    today: bytes = field(repr=False)
    before: bytes = field(repr=False)

    @classmethod
    def generate(cls, now: float) -> "TicketKeySeeds":
        """Generate a first seed. `now`: epoch seconds, here and below."""
        return cls(int(now) // DAY_S, os.urandom(_SEED_BYTES), os.urandom(_SEED_BYTES))

    def advance(self, now: float) -> bool:
        """Advance to the day of `now`, and delete seeds from before yesterday. True: the day has changed."""
        day = int(now) // DAY_S
        moved = day > self.day
        while day > self.day:
            self.before, self.today = self.today, digest(self.today, b"the next day", "sha256")
            self.day += 1
        return moved

    def keys(self, purpose: bytes) -> tuple[bytes, bytes]:
        """Return the keys of today and yesterday. Different rules for client certificates need a different
        `purpose`.
        """
        return _expanded(self.today, purpose), _expanded(self.before, purpose)


def _expanded(seed: bytes, purpose: bytes) -> bytes:
    first = digest(seed, b"\x01" + purpose, "sha512")
    return (first + digest(seed, b"\x02" + purpose, "sha512"))[:KEY_BYTES]
