"""htpasswd files, as written by `htpasswd -B`, and the verification of passwords in a background thread.

Only slow password hashes (bcrypt, argon2) are accepted. They take 50 ms and more, so they are verified in a thread: one
per worker, with a lower priority, and with a short queue.
"""

import asyncio
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import blake2b
from ipaddress import ip_address
from typing import Final, final

import argon2
import bcrypt
from argon2.exceptions import Argon2Error, InvalidHashError

from fastgw.config.base.value_types import parse_username

MOST_USERS: Final = 5_000
"""Maximum number of users in a file. Larger sets belong into `consumers`, where verification is fast."""
MOST_WAITING: Final = 32
"""Maximum number of passwords in the queue of a worker."""
MOST_OF_ONE: Final = 4
"""Maximum number of concurrent checks of one address; IPv6 counts by /64."""
NICENESS: Final = 10
"""Nice value of the thread."""
_BCRYPT: Final = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}")
# Lines that need no further checks: as the usual programs write them, with an acceptable cost.
_PLAIN_LINES: Final = re.compile(
    r"^([!-9;-~]{1,256}):"
    r"(\$2[aby]\$(?:0[4-9]|1[0-2])\$[./A-Za-z0-9]{53}"
    r"|\$argon2id\$v=19\$m=[1-9][0-9]{3,4},t=[1-9],p=[1-8]\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43})$",
    re.MULTILINE,
)
LONGEST_FOR_BCRYPT: Final = 72
"""Maximum bytes of a password with a bcrypt hash: bcrypt reads no more of it."""
_DEAREST_BCRYPT: Final = 14
_DEAREST_ARGON2_KIB: Final = 256 * 1024
_DEAREST_ARGON2_TIMES: Final = 16
_ARGON2: Final = argon2.PasswordHasher()
_REFUSED: Final[Mapping[str, str]] = {
    "$apr1$": "MD5",
    "$1$": "MD5",
    "{SHA}": "SHA-1",
    "{SSHA}": "SHA-1",
    "$5$": "SHA-256-crypt",
    "$6$": "SHA-512-crypt",
    "$y$": "yescrypt",
    "$7$": "scrypt",
}
EXPECTED: Final = "expected bcrypt (`htpasswd -B`) or argon2"


@final
class Htpasswd:
    """Users with their password hashes. Raises `ValueError` for an invalid file: with the line number, without a
    hash.
    """

    __slots__ = ("_decoys", "_hashes", "_key")

    def __init__(self, content: bytes) -> None:
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            raise ValueError("not UTF-8") from error
        self._hashes = _plain(text)
        if not self._hashes:
            for number, line in enumerate(text.splitlines(), 1):
                if line.strip() and not line.startswith("#"):
                    try:
                        self._add(line)
                    except ValueError as error:
                        raise ValueError(f"line {number}: {error}") from error
        if not self._hashes:
            raise ValueError("it has no user; expected lines of `user:hash`")
        # Verifying an unknown user takes as long as for a known one, always the same one.
        self._decoys = tuple(self._hashes.values())
        self._key = os.urandom(16)

    def __repr__(self) -> str:
        return f"<Htpasswd of {len(self._hashes)} users>"

    def _add(self, line: str) -> None:
        name, colon, kept = line.partition(":")
        if not colon:
            raise ValueError("no colon; expected `user:hash`")
        try:
            name, kept = parse_username(name), kept.strip()
        except ValueError:
            raise ValueError("no username; expected `user:hash`") from None  # the cause would show the line
        if name in self._hashes:
            raise ValueError("a duplicate user")
        if len(self._hashes) == MOST_USERS:
            raise ValueError(f"more than {MOST_USERS} users; expected consumers with `basic_auth`")
        if wrong := _why_not(kept):
            raise ValueError(f"{wrong}; {EXPECTED}")
        self._hashes[name] = kept

    def is_right(self, username: str, password: str) -> bool:
        """Whether it is this user's password. Slow, also for unknown users."""
        kept = self._hashes.get(username)
        if kept is None:
            place = int.from_bytes(blake2b(username.encode(), key=self._key, digest_size=8).digest(), "little")
            _matches(self._decoys[place % len(self._decoys)], password)
            return False
        return _matches(kept, password)

    def is_too_long(self, username: str, password: str) -> bool:
        """Whether the hash of this user cannot verify so long a password."""
        return self._hashes.get(username, "").startswith("$2") and len(password.encode()) > LONGEST_FOR_BCRYPT


def _plain(text: str) -> dict[str, str]:
    """Return the users of a file with only plain lines; empty if it has to be parsed line by line.

    PERF: 2 ms for 5,000 users of bcrypt, line by line 12 (CPython 3.11, `timeit Htpasswd(content)`); the loop is
    blocked meanwhile.
    """
    if not text.isascii() or "#" in text:
        return {}
    found = _PLAIN_LINES.findall(text)
    users = dict(found)
    whole = len(users) == len(found) == text.count("\n") + (not text.endswith("\n"))
    return users if whole and len(users) <= MOST_USERS else {}


def _why_not(kept: str) -> str:
    """Return the reason why this hash is not accepted; "" if it is."""
    if match := _BCRYPT.fullmatch(kept):
        return f"a bcrypt hash with a cost above {_DEAREST_BCRYPT}" if int(match[1]) > _DEAREST_BCRYPT else ""
    if kept.startswith("$argon2"):
        try:
            asked = argon2.extract_parameters(kept)
        except InvalidHashError:
            return "not an argon2 hash"
        dear = asked.memory_cost > _DEAREST_ARGON2_KIB or asked.time_cost > _DEAREST_ARGON2_TIMES
        return "an argon2 hash that takes too much memory or time" if dear or asked.parallelism > 16 else ""
    name = next((name for begin, name in _REFUSED.items() if kept.startswith(begin)), "")
    return f"a hash by {name}, which is weak or not supported" if name else "no hash"


def _matches(kept: str, password: str) -> bool:
    shown = password.encode()
    if kept.startswith("$2"):
        # Longer passwords are never truncated: their hash depends on the program that has written it.
        fits = len(shown) <= LONGEST_FOR_BCRYPT
        return bcrypt.checkpw(shown if fits else shown[:LONGEST_FOR_BCRYPT], kept.encode()) and fits
    try:
        return _ARGON2.verify(kept, shown)
    except (Argon2Error, InvalidHashError):
        return False


class Busy(Exception):
    """The queue is full. `own`: with passwords from the same address."""

    def __init__(self, own: bool) -> None:
        self.own = own
        super().__init__()


@final
class Checking:
    """Background thread of a worker that verifies passwords. Its users call `acquire` and `release`."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._waiting: Counter[str] = Counter()
        self._users = 0

    def __repr__(self) -> str:
        return f"<Checking: {self._waiting.total()} wait>"

    def acquire(self) -> None:
        self._users += 1

    def release(self) -> None:
        """Stop using it. The last user ends the thread, and its remaining checks are dropped."""
        self._users -= 1
        if not self._users and self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None

    async def check(self, client: str, is_right: Callable[[], bool]) -> bool:
        """Return the result of `is_right`, run in the thread. Raises `Busy`."""
        whose = _client_key(client)
        if self._waiting[whose] >= MOST_OF_ONE or self._waiting.total() >= MOST_WAITING:
            own = self._waiting[whose] >= MOST_OF_ONE
            self._forget(whose, 0)
            raise Busy(own)
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "passwords", _step_back)
        self._waiting[whose] += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, is_right)
        finally:
            self._forget(whose, 1)

    def _forget(self, whose: str, count: int) -> None:
        self._waiting[whose] -= count
        if not self._waiting[whose]:
            del self._waiting[whose]


def _client_key(client: str) -> str:
    try:
        address = ip_address(client)
    except ValueError:  # a unix socket
        return ""
    return client if address.version == 4 else address.packed[:8].hex()


def _step_back() -> None:
    with suppress(OSError):  # a sandbox may forbid it
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
