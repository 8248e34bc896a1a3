"""DNS: resolves a host name to its addresses, without blocking the loop, and refreshes them while the name is in use.

Rule 1: one lookup per name at a time; all callers wait for the same one.
Rule 2: the addresses of a name in use are valid until the next ones are found: no caller waits for that lookup.
Addresses that were not looked up for an interval may be another host's by now: their next use waits for a lookup, and
takes them only if it fails, or for want of an answer within `LAPSED_WAIT_S`.
Rule 3: the system's resolver may hang for any time: its thread is left running, and is never joined.
"""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Sequence, Set
from concurrent.futures import Future
from contextlib import suppress
from itertools import chain, zip_longest
from math import inf
from typing import Any, Final, NamedTuple, final

from msgspec import Struct

from fastgw.sync.known_addresses import HostAddress, KnownAddresses

RETRY: Final = 1.0
"""Seconds until a failed lookup is repeated, unless the interval is shorter."""
LIMIT: Final = 5.0
"""Timeout of a lookup in seconds. Its thread continues, and the next lookup waits for it."""
AT_ONCE: Final = 16
"""Maximum number of lookups that start within `SLOT_S`, unless they end earlier."""
SLOT_S: Final = 0.5
"""Seconds after which a lookup that has no answer yet lets another one start: a few names that hang delay no others."""
AT_ONCE_TIMED_OUT: Final = 4
"""Maximum number for names whose last lookup has exceeded `LIMIT`. They have slots of their own, so that many names
that hang start few threads at a time and delay only each other.
"""
LAPSED_WAIT_S: Final = 0.5
"""Maximum number of seconds, from the start of a lookup, for which the use of addresses waits that are older than the
interval.
"""
MOST_TIMED_OUT: Final = 4096
"""Maximum number of such names that are remembered."""

_slots = asyncio.Semaphore(AT_ONCE)
_timed_out_slots = asyncio.Semaphore(AT_ONCE_TIMED_OUT)
_timed_out: Final[dict[str, None]] = {}
"""Hosts whose last lookup has exceeded `LIMIT`, the first ones first."""


class TargetAddress(NamedTuple):
    """Address of a socket: the arguments of `socket.socket` and `connect`."""

    family: int
    sockaddr: Any


_NONE: Final[Set[TargetAddress]] = frozenset()  # each `frozenset()` is another


node_addresses: Final = KnownAddresses()
"""Addresses that lookups of this process, or of others of the node, have found: new names begin with them."""


class ResolveFailed(OSError):
    """A name has no known address. The text is for the log."""


_unanswered: Final[dict[tuple[str, int], Future[list[TargetAddress]]]] = {}
"""Lookups that are running in threads: one per name, so a hanging name never occupies a second thread."""


async def look_up(host: str, port: int) -> list[TargetAddress]:
    """Call the system's resolver in a thread. Raises `OSError`, also after `LIMIT`, and `UnicodeError`."""
    try:
        found = await _answer(host, port)
    except TimeoutError as error:
        _timed_out[host] = None
        if len(_timed_out) > MOST_TIMED_OUT:
            del _timed_out[next(iter(_timed_out))]
        raise TimeoutError(f"timed out after {LIMIT:g} s") from error
    except (OSError, UnicodeError):
        _timed_out.pop(host, None)
        raise
    _timed_out.pop(host, None)
    return found


async def _answer(host: str, port: int) -> list[TargetAddress]:
    """Wait for the lookup that runs, or for one that starts in turn. Only the start of a thread needs a slot."""
    answer, left_s = _unanswered.get((host, port)), LIMIT
    try:
        if answer is None:
            slot_s = min(SLOT_S, LIMIT)
            async with _timed_out_slots if host in _timed_out else _slots:
                answer = _unanswered.get((host, port)) or _start_lookup(host, port)
                with suppress(TimeoutError):
                    return await _within(slot_s, answer)
            left_s -= slot_s
        return await _within(left_s, answer)
    finally:
        del answer  # its exception is a reference cycle


async def _within(seconds: float, answer: Future[list[TargetAddress]]) -> list[TargetAddress]:
    async with asyncio.timeout(seconds):
        return await asyncio.wrap_future(answer)


def _start_lookup(host: str, port: int) -> Future[list[TargetAddress]]:
    """Start a lookup, in a separate thread: the loop's pool has only two, and the process would wait for them
    at exit.
    """
    answer: Future[list[TargetAddress]] = Future()
    answer.set_running_or_notify_cancel()  # so that the end of one lookup cannot cancel it for the next one

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            del _unanswered[host, port]
            answer.set_exception(error.with_traceback(None))  # the traceback is a reference cycle
        else:
            del _unanswered[host, port]
            answer.set_result([TargetAddress(family, sockaddr) for family, _, _, _, sockaddr in found])

    _unanswered[host, port] = answer
    try:
        threading.Thread(target=ask, name=f"lookup of {host}", daemon=True).start()
    except RuntimeError as error:  # the system allows no more threads
        del _unanswered[host, port]
        raise OSError(str(error)) from error
    return answer


@final
class Name(Struct, eq=False):
    """A host's name and port, and its addresses.

    While the name is in use it is looked up again every `interval` seconds, in the background: while connections to
    its addresses are open, which may carry all requests, or new ones are opened. A name that was not used during an
    interval is looked up at its next use, which waits for that lookup (`LAPSED_WAIT_S`). If a lookup fails, the last
    valid addresses stay; it is repeated after `RETRY` seconds. The first use takes the addresses that another `Name` of
    the host has found, in this process or another one, but waits as well if they are older than the interval.
    """

    host: str
    port: int
    _interval: float
    on_change: Callable[[], None] | None = None
    """Called after addresses were removed."""
    is_connected: Callable[[], bool] | None = None
    """Returns whether connections to its addresses are open."""
    _found: tuple[TargetAddress, ...] = ()
    _found_at: float = -inf  # monotonic seconds
    _reason: str = "not resolved yet"
    _current: bool = False  # whether the result of the last lookup is still valid
    _overdue_at: float = inf  # from then on, no caller that has addresses waits for the running lookup
    _used: bool = False  # since the last lookup
    _avoided: Set[TargetAddress] = _NONE
    _turn: int = 0
    _task: asyncio.Task[None] | None = None
    _timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        state = "current" if self._current else "lapsed"
        return f"<Name {self.host}:{self.port} {state}: {len(self._found)} addresses, {len(self._avoided)} avoided>"

    async def addresses(self, timeout: float = inf) -> list[TargetAddress]:
        """All addresses, in the order in which they are to be tried; the first one changes from call to call.

        `timeout`: of the caller, in seconds. At most half of it is spent waiting if there are addresses, although they
        are older than the interval: the rest is for connecting to them.

        Families alternate (RFC 8305 section 4); addresses that recently did not answer come last. Raises
        `ResolveFailed`.
        """
        self._used = True
        if not self._current:
            lookup = self._start_renewal()
            self._begin_with_known()
            if not self._found:
                await asyncio.shield(lookup)  # a cancelled caller does not end the lookup for the others
            elif time.monotonic() >= self._found_at + self._interval:
                left_s = max(0.0, self._overdue_at - time.monotonic())
                await asyncio.wait({lookup}, timeout=min(left_s, timeout / 2))
        self._begin_with_known()  # another worker may have found them meanwhile
        if not self._found:
            raise ResolveFailed(self._reason)
        start = self._turn % len(self._found)
        self._turn += 1
        rotated = self._found[start:] + self._found[:start]
        good = [address for address in rotated if address not in self._avoided]
        poor = [address for address in rotated if address in self._avoided]
        return _alternate(good) + _alternate(poor)

    def _begin_with_known(self) -> None:
        """Take the addresses that another `Name` has found, if there are none here or only older ones that lapsed."""
        if self._found and self._current:
            return
        addresses, found_at = node_addresses.of_host(self.host)
        if addresses and found_at > self._found_at:
            before, self._found, self._found_at = self._found, _with_port(addresses, self.port), found_at
            self._avoided = _NONE
            self._report_removed(before)

    def has(self, address: TargetAddress) -> bool:
        """Whether it is in the result of the last lookup."""
        return address in self._found

    def avoid(self, address: TargetAddress) -> None:
        """Move an address to the end until the next lookup, because it did not answer or others were faster."""
        self._avoided |= {address}

    def stop(self) -> None:
        """End a lookup and the repetition. A later use starts again."""
        self._current = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _start_renewal(self) -> asyncio.Task[None]:
        if self._task is None or self._task.done():
            self._overdue_at = time.monotonic() + LAPSED_WAIT_S
            self._task = asyncio.get_running_loop().create_task(self._renew())
        return self._task

    async def _renew(self) -> None:
        pause = self._interval
        before = self._found
        try:
            self._found = tuple(dict.fromkeys(await look_up(self.host, self.port)))
            self._avoided = _NONE
            self._found_at = time.monotonic()
            node_addresses.add(self.host, _without_port(self._found), self._found_at)
        except (OSError, UnicodeError) as error:  # UnicodeError: not a valid DNS name, such as a label of 64 characters
            self._reason = f"{self.host}: {error}"
            pause = min(RETRY, pause)
        self._current = True
        self._used = False
        self._timer = asyncio.get_running_loop().call_later(pause, self._elapsed)
        self._report_removed(before)

    def _report_removed(self, before: Sequence[TargetAddress]) -> None:
        if self.on_change is not None and not set(before) <= set(self._found):
            self.on_change()

    def _elapsed(self) -> None:
        self._timer = None
        if self._used or (self.is_connected is not None and self.is_connected()):
            self._start_renewal()
        else:
            self._current = False


def _without_port(addresses: Sequence[TargetAddress]) -> list[HostAddress]:
    return [(family, at[0], *(at[2:4] if family == socket.AF_INET6 else (0, 0))) for family, at in addresses]


def _with_port(addresses: Sequence[HostAddress], port: int) -> tuple[TargetAddress, ...]:
    return tuple(
        TargetAddress(family, (host, port, *more) if family == socket.AF_INET6 else (host, port))
        for family, host, *more in addresses
    )


def _alternate(addresses: Sequence[TargetAddress]) -> list[TargetAddress]:
    """Interleave the families, beginning with that of the first address."""
    if not addresses:
        return []
    first = [address for address in addresses if address.family == addresses[0].family]
    other = [address for address in addresses if address.family != addresses[0].family]
    return [address for address in chain(*zip_longest(first, other)) if address is not None]
