"""Keys of TLS session tickets: the same in every worker, also in one that is born later, and new ones each day.

A ticket lets a client that comes again do without most of a handshake, whichever worker it meets. All keys of a day
come from one seed, and the next day's seed from it, so processes that once knew the same seed agree without a word.
There is no way back: what was encrypted under keys of two days ago nobody can read any more.

Python has no call that sets the keys. It is made past it, by `ctypes`, once `verify` has seen in a child process that
it does what it should; where it does not, each context has keys of its own, which processes share by being forked.
"""

import ctypes
import os
import ssl
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from hmac import digest
from typing import Any, Final

DAY_S: Final = 24 * 3600
KEY_BYTES: Final = 80
"""What OpenSSL takes: the name that stands in front of a ticket, and the keys to sign and encrypt it with."""
NAME_BYTES: Final = 16

_SEED_BYTES: Final = 32
_MODE, _GET_KEYS, _SET_KEYS, _CACHE_MODE = 33, 58, 59, 44  # SSL_CTRL_…
_RELEASE_BUFFERS: Final = 0x10


@dataclass
class Seeds:
    """Of the last two days that were asked about. Goes forward only, so a clock that is put back changes nothing."""

    day: int
    today: bytes = field(repr=False)
    before: bytes = field(repr=False)

    @classmethod
    def begin(cls, now: float) -> "Seeds":
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


# --- past Python ---


class _Library:
    """The OpenSSL that the `ssl` module is bound to. Raises `OSError`, `AttributeError` where it cannot be had."""

    def __init__(self) -> None:
        import _ssl  # whose dependencies are searched too, so it is the very library

        library = ctypes.CDLL(_ssl.__file__)
        self._control = library.SSL_CTX_ctrl
        self._control.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p)
        self._control.restype = ctypes.c_long

    def control(self, context: ssl.SSLContext, command: int, number: int, pointer: Any = None) -> int:
        # An `SSLContext` begins with what every object begins with; the next word leads to OpenSSL's own.
        address = ctypes.c_void_p.from_address(id(context) + object.__basicsize__).value
        return int(self._control(address, command, number, pointer))


_library: _Library | None = None


def verify() -> bool:
    """Try in a child process whether the keys of a context can be set, and remember it, also for children to come.

    Only where no other thread runs.
    """
    global _library
    _library = None
    with suppress(OSError, AttributeError):
        library = _Library()
        if sys.implementation.name == "cpython" and _survives(library):
            _library = library
    return _library is not None


def _survives(library: _Library) -> bool:
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if _agrees(library) else 1
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def _agrees(library: _Library) -> bool:
    """Whether keys that are set are read back, and only in the context where they were set."""
    contexts = [ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(2)]
    before = [_keys_of(library, each) for each in contexts]
    wanted = os.urandom(KEY_BYTES)
    if not library.control(contexts[0], _SET_KEYS, KEY_BYTES, ctypes.c_char_p(wanted)):
        return False
    after = [_keys_of(library, each) for each in contexts]
    return before[0] != before[1] and after == [wanted, before[1]]


def _keys_of(library: _Library, context: ssl.SSLContext) -> bytes:
    held = ctypes.create_string_buffer(KEY_BYTES)
    library.control(context, _GET_KEYS, KEY_BYTES, held)
    return held.raw


def are_shared() -> bool:
    """Whether `verify` has found that keys can be set."""
    return _library is not None


def set_keys(context: ssl.SSLContext, keys: bytes) -> None:
    """Give a context its keys; where that cannot be done it goes on with its own."""
    if _library is not None:
        _library.control(context, _SET_KEYS, KEY_BYTES, ctypes.c_char_p(keys))


def spare_memory(context: ssl.SSLContext) -> None:
    """Hold neither buffers of idle connections (34 KiB each) nor sessions, which clients hold themselves."""
    if _library is not None:
        _library.control(context, _MODE, _RELEASE_BUFFERS)
        _library.control(context, _CACHE_MODE, 0)


def tried() -> str:
    """How it would be here, for `fastgw version`."""
    return "keys of all workers, new each day" if verify() else "keys of each start, inherited by fork"
