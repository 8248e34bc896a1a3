"""DNS: from a host's name to its addresses, looked up beside the loop and kept current while the name is in use.

Rule 1: one lookup per name at a time; all who need it wait for the same one.
Rule 2: an outcome stands until the next one, a failure too: nobody waits for a lookup but who has no address yet.
Rule 3: the system's resolver may hang for as long as it likes: its thread is left to it, and nobody joins it.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Sequence, Set
from concurrent.futures import Future
from itertools import chain, zip_longest
from typing import Any, Final, NamedTuple, final

RETRY: Final = 1.0
"""Seconds until a failed lookup is repeated, when the interval is not shorter still."""
LIMIT: Final = 5.0
"""Seconds after which a lookup without an answer has failed. Its thread goes on, and the next lookup waits for it."""
AT_ONCE: Final = 16
"""How many lookups run at the same time; those that have failed by `LIMIT` no longer count."""

_places = asyncio.Semaphore(AT_ONCE)


class TargetAddress(NamedTuple):
    """Address of a socket: the arguments of `socket.socket` and `connect`."""

    family: int
    sockaddr: Any


_NONE: Final[Set[TargetAddress]] = frozenset()  # each `frozenset()` is another


class ResolveFailed(OSError):
    """A name has no known address. The text is for the log."""


_unanswered: Final[dict[tuple[str, int], Future[list[TargetAddress]]]] = {}
"""Lookups that threads are doing now: one each, so a name that hangs never takes a second."""


async def look_up(host: str, port: int) -> list[TargetAddress]:
    """Ask the system's resolver in a thread. Raises `OSError`, when `LIMIT` has passed too, and `UnicodeError`."""
    async with _places:
        answer = _unanswered.get((host, port)) or _ask(host, port)
        try:
            async with asyncio.timeout(LIMIT):
                return await asyncio.wrap_future(answer)
        except TimeoutError as error:
            raise TimeoutError(f"timed out after {LIMIT:g} s") from error
        finally:
            del answer  # an error that it holds leads here: only the collector would find the circle


def _ask(host: str, port: int) -> Future[list[TargetAddress]]:
    """Begin to ask. A thread of our own: the loop's pool has two for this, and the process would wait for them."""
    answer: Future[list[TargetAddress]] = Future()
    answer.set_running_or_notify_cancel()  # so that no lookup that ends can cancel it for the next one

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            del _unanswered[host, port]
            answer.set_exception(error.with_traceback(None))  # which leads here, and so to the answer
        else:
            del _unanswered[host, port]
            answer.set_result([TargetAddress(family, sockaddr) for family, _, _, _, sockaddr in found])

    _unanswered[host, port] = answer
    try:
        threading.Thread(target=ask, name=f"lookup of {host}", daemon=True).start()
    except RuntimeError as error:  # the system gives no more threads
        del _unanswered[host, port]
        raise OSError(str(error)) from error
    return answer


@final
class Name:
    """A host's name and port, and its addresses.

    While it is in use it is looked up again every `interval` seconds, in the background. A name that nobody asked for
    during an interval is left alone, and looked up at its next use, which takes the addresses there are. When a lookup
    fails, the last good addresses stay; it is repeated after `RETRY` seconds.
    """

    __slots__ = (
        "_avoided",
        "_current",
        "_found",
        "_interval",
        "_reason",
        "_task",
        "_timer",
        "_turn",
        "_used",
        "host",
        "on_change",
        "port",
    )

    def __init__(self, host: str, port: int, interval: float) -> None:
        self.host = host
        self.port = port
        self._interval = interval
        self.on_change: Callable[[], None] | None = None
        """Called after addresses have gone."""
        self._found: tuple[TargetAddress, ...] = ()
        self._reason = "not resolved yet"
        self._current = False  # whether the outcome of the last lookup still stands
        self._used = False  # since the last lookup
        self._avoided: Set[TargetAddress] = _NONE
        self._turn = 0
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        state = "current" if self._current else "lapsed"
        return f"<Name {self.host}:{self.port} {state}: {len(self._found)} addresses, {len(self._avoided)} avoided>"

    async def addresses(self) -> list[TargetAddress]:
        """All addresses, in the order in which they are to be tried; the first one changes from call to call.

        Families alternate (RFC 8305 section 4); those that did not answer lately come last. Raises `ResolveFailed`.
        """
        self._used = True
        if not self._current:
            lookup = self._begin()
            if not self._found:
                await asyncio.shield(lookup)  # who leaves does not end the lookup for the others
        if not self._found:
            raise ResolveFailed(self._reason)
        start = self._turn % len(self._found)
        self._turn += 1
        rotated = self._found[start:] + self._found[:start]
        good = [address for address in rotated if address not in self._avoided]
        poor = [address for address in rotated if address in self._avoided]
        return _alternate(good) + _alternate(poor)

    def has(self, address: TargetAddress) -> bool:
        """Whether it is one of those last found."""
        return address in self._found

    def avoid(self, address: TargetAddress) -> None:
        """This address did not answer, or others were faster: it comes last until the next lookup."""
        self._avoided |= {address}

    def stop(self) -> None:
        """End a lookup and the repetition. A later use begins anew."""
        self._current = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _begin(self) -> asyncio.Task[None]:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._renew())
        return self._task

    async def _renew(self) -> None:
        pause = self._interval
        before = self._found
        try:
            self._found = tuple(dict.fromkeys(await look_up(self.host, self.port)))
            self._avoided = _NONE
        except (OSError, UnicodeError) as error:  # UnicodeError: no name of DNS, such as a label of 64 characters
            self._reason = f"{self.host}: {error}"
            pause = min(RETRY, pause)
        self._current = True
        self._used = False
        self._timer = asyncio.get_running_loop().call_later(pause, self._elapsed)
        if self.on_change is not None and not set(before) <= set(self._found):
            self.on_change()

    def _elapsed(self) -> None:
        self._timer = None
        if self._used:
            self._begin()
        else:
            self._current = False


def _alternate(addresses: Sequence[TargetAddress]) -> list[TargetAddress]:
    """Interleave the families, beginning with that of the first address."""
    if not addresses:
        return []
    first = [address for address in addresses if address.family == addresses[0].family]
    other = [address for address in addresses if address.family != addresses[0].family]
    return [address for address in chain(*zip_longest(first, other)) if address is not None]
