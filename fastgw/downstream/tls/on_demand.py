"""On-demand certificates of one worker: handshakes wait for a certificate that is read from the storage, or ordered.

Rule 1: a name that `allow` does not match costs a look-up. Rule 2: everything that a client's choice of names can fill
is bounded: waiting handshakes, questions to control, contexts. Rule 3: names with a certificate are not counted in
these bounds.
"""

import asyncio
from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial
from itertools import islice
from time import monotonic
from typing import Final, Protocol, final

from fastgw.config.formats.positions import SyntaxProblem
from fastgw.config.settings.acme import Acme, OnDemand
from fastgw.config.sources.files import read_file
from fastgw.config.sources.virtual_files import issued_in
from fastgw.downstream.tls.contexts import OnDemandContext, ServerContexts
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.sync.feeds import Feed
from fastgw.sync.on_demand import MOST_REFUSED, AllowedNames, read

MOST_WAITING: Final = 256
"""Maximum number of handshakes that wait for an order in a worker; further ones are refused."""
ASKS_AT_ONCE: Final = 50
ASKS_PER_S: Final = 20.0
"""Rate at which a worker asks control about names without a certificate, and the number that may come at once."""
ASKED_AGAIN_S: Final = 2.0
"""Seconds after which control is asked again about a name: a message may be lost, and control may have ended."""
MOST_ASKED: Final = 1024
"""Maximum number of names whose last question is remembered."""
MOST_CONTEXTS: Final = 1000
"""Maximum number of contexts of a listener; above it the one used longest ago is made again when it is needed."""
MOST_BYTES: Final = 1024 * 1024
"""Maximum size of a stored certificate."""
USE_REPORTED_S: Final = 6 * 3600.0
"""Seconds after which the use of a name is reported again."""


class NameDecision(Enum):
    """Decision about a handshake."""

    FIRST = "present the first certificate of the listener: the name is not allowed"
    PRESENT = "begin: the certificate is there"
    WAIT = "wait: the waiting handshake is called back"
    REFUSE = "refuse"


class Waiting(Protocol):
    """Handshake that waits for a certificate."""

    def proceed(self, answer: NameDecision) -> None:
        """Present the certificate, or refuse the client."""


class _Place:
    """Place of a waiting handshake."""

    __slots__ = ("contexts", "is_counted", "timer", "who")

    def __init__(self, who: Waiting, contexts: ServerContexts, timer: asyncio.TimerHandle, *, is_counted: bool) -> None:
        self.who, self.contexts, self.timer, self.is_counted = who, contexts, timer, is_counted


@final
class OnDemandCertificates:
    """`feed`: names that control knows. `ask`: asks control for a certificate of a name, or reports its use; such a
    message may be lost.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, feed: Feed, ask: Callable[[str], None]) -> None:
        self._loop, self._feed, self._ask = loop, feed, ask
        self._storage = ""
        self._policy: OnDemand | None = None
        self._allowed = AllowedNames(())
        self._kept: Mapping[str, str] = {}
        self._refused: dict[str, float] = {}
        self._waiting: dict[str, list[_Place]] = {}
        self._count = 0  # handshakes that wait for an order
        self._reading: set[tuple[ServerContexts, str]] = set()
        self._asked: dict[str, float] = {}
        self._reported: dict[str, float] = {}
        self._asks_left, self._asks_at = float(ASKS_AT_ONCE), 0.0
        feed.on_change(self._use_names)
        self._use_names(feed.value)

    def __repr__(self) -> str:
        return f"<OnDemandCertificates {len(self._kept)} kept, {self._count} waiting>"

    def use_configuration(self, acme: Acme | None) -> None:
        policy = None if acme is None else acme.on_demand
        if policy != self._policy:
            self._allowed = AllowedNames(() if policy is None else policy.allow)
        self._policy = policy
        self._storage = "" if acme is None else acme.storage

    def stop(self) -> None:
        self._feed.forget(self._use_names)
        for name in list(self._waiting):
            self._settle(name, NameDecision.REFUSE)

    def find(self, contexts: ServerContexts, name: str, who: Waiting) -> NameDecision:
        """Return what a handshake with this server name does. `WAIT`: `who` is called back, until it leaves."""
        policy = self._policy
        if policy is None or name not in self._allowed:
            return NameDecision.FIRST
        serial = self._kept.get(name)
        now = monotonic()
        if serial is not None:
            if self._is_there(contexts, name, serial):
                if now >= self._reported.get(name, 0.0):
                    self._reported[name] = now + USE_REPORTED_S
                    self._ask(name)
                return NameDecision.PRESENT
        elif self._refused.get(name, 0.0) > now:
            return NameDecision.REFUSE
        if serial is not None:
            self._read_certificate(contexts, name, serial)
        elif self._count >= MOST_WAITING:
            return NameDecision.REFUSE
        elif now >= self._asked.get(name, 0.0) + ASKED_AGAIN_S:
            if not self._may_ask(now):
                return NameDecision.REFUSE
            if name not in self._asked and len(self._asked) >= MOST_ASKED:
                del self._asked[next(iter(self._asked))]
            self._asked[name] = now
            self._ask(name)
        wait = policy.wait if serial is None else max(policy.wait, 1.0)
        if wait <= 0.0:
            return NameDecision.REFUSE
        timer = self._loop.call_later(wait, self._give_up, name, who)
        self._waiting.setdefault(name, []).append(_Place(who, contexts, timer, is_counted=serial is None))
        self._count += serial is None
        return NameDecision.WAIT

    def leave(self, name: str, who: Waiting) -> None:
        """Forget a handshake that has ended."""
        places = self._waiting.get(name, ())
        for place in places:
            if place.who is who:
                place.timer.cancel()
                self._count -= place.is_counted
                self._waiting[name].remove(place)
                if not self._waiting[name]:
                    del self._waiting[name]
                return

    def _may_ask(self, now: float) -> bool:
        self._asks_left = min(self._asks_left + (now - self._asks_at) * ASKS_PER_S, ASKS_AT_ONCE)
        self._asks_at = now
        if self._asks_left < 1.0:
            return False
        self._asks_left -= 1.0
        return True

    def _is_there(self, contexts: ServerContexts, name: str, serial: str) -> bool:
        held = contexts.on_demand.pop(name, None)
        if held is None or held.serial != serial:
            return False
        contexts.on_demand[name] = held  # at the end: it was used last
        return True

    def _give_up(self, name: str, who: Waiting) -> None:
        self.leave(name, who)
        who.proceed(NameDecision.REFUSE)

    def _use_names(self, value: bytes) -> None:
        names = read(value)
        self._kept = names.kept
        self._refused = dict(islice(names.refused.items(), MOST_REFUSED))
        self._reported = {name: at for name, at in self._reported.items() if name in self._kept}
        now = monotonic()
        for name in list(self._waiting):
            if (serial := self._kept.get(name)) is not None:
                for contexts in {place.contexts for place in self._waiting[name]}:
                    self._read_certificate(contexts, name, serial)
            elif self._refused.get(name, 0.0) > now:
                self._settle(name, NameDecision.REFUSE)

    def _settle(self, name: str, answer: NameDecision, contexts: ServerContexts | None = None) -> None:
        """Continue the handshakes that wait for a name. `contexts`: of one listener; None: all."""
        for place in list(self._waiting.get(name, ())):
            if contexts is None or place.contexts is contexts:
                self.leave(name, place.who)
                place.who.proceed(answer)

    def _read_certificate(self, contexts: ServerContexts, name: str, serial: str) -> None:
        """Read a certificate from the storage, once for all handshakes that wait for it."""
        policy = self._policy
        if policy is None or (contexts, name) in self._reading:
            return
        self._reading.add((contexts, name))
        file, _ = issued_in(policy.certificate(name, self._storage).file)
        reading = self._loop.run_in_executor(None, read_file, file, MOST_BYTES)
        reading.add_done_callback(partial(self._was_read, contexts, name, serial))

    def _was_read(self, contexts: ServerContexts, name: str, serial: str, reading: asyncio.Future[bytes]) -> None:
        self._reading.discard((contexts, name))
        if reading.cancelled():
            return
        try:
            context = contexts.make_context(reading.result())
        except (OSError, SyntaxProblem) as error:
            why = getattr(error, "strerror", None) or error
            log_event(OperatorEvent.CERTIFICATE_MISSING, "the certificate for %s cannot be used: %s", name, why)
            self._settle(name, NameDecision.REFUSE, contexts)
            return
        while len(contexts.on_demand) >= MOST_CONTEXTS:
            del contexts.on_demand[next(iter(contexts.on_demand))]
        contexts.on_demand[name] = OnDemandContext(serial, context)
        self._settle(name, NameDecision.PRESENT, contexts)
