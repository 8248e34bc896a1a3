"""Health checker: the control process checks targets, once for the node, and reports changes.

Results are words in shared memory (`shm.health_words`). They are valid for three intervals: while control is
unavailable, the state of a target becomes unknown, and it may be used.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from math import inf
from ssl import SSLContext
from time import monotonic
from typing import Final

from fastgw.config.settings.gateway import ActiveHealth, Target, Upstream
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.runtime.node.metrics import OfUpstream
from fastgw.runtime.process.lasting_tasks import keep_running
from fastgw.runtime.process.transient_errors import is_passing
from fastgw.shm.health_words import HealthVerdict, HealthWords
from fastgw.shm.memory import SharedMemory
from fastgw.shm.slot_assignment import SlotTable, target_name
from fastgw.upstream.client.http_client import made_context
from fastgw.upstream.health.active_check import SETTINGS_USED, CannotCheck, Check
from fastgw.upstream.health.circuit_breaker import BreakerPhase, phase_of
from fastgw.upstream.health.outlier_ejection import may_eject
from fastgw.upstream.health.upstream_health import HealthPoller
from fastgw.upstream.targets.target import labels_of
from fastgw.upstream.targets.tls import ClientTls, Identity, identity_of, material_of, protocols_of

AT_ONCE: Final = 256
"""Maximum number of concurrent checks; further ones wait."""
FIRST_S: Final = 1.0
"""Seconds over which the first checks of new targets are spread, unless the interval is shorter."""
JITTER: Final = 0.1
HOLDS: Final = 3
"""Number of intervals for which a result is valid."""


class Checks:
    """Checks the targets of the active configuration, and follows the decisions of workers about them."""

    def __init__(self, worker_loop: WorkerLoop, shared: SharedMemory, words: HealthWords) -> None:
        self._worker_loop = worker_loop
        self._shared = shared
        self._words = words
        self._running: dict[str, _Checked] = {}
        self._contexts: dict[Identity, asyncio.Task[SSLContext]] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._upstreams: Mapping[str, Upstream] = {}
        self._slot_table = SlotTable()
        self._following: asyncio.Task[None] | None = None
        self._outlook: HealthPoller | None = None
        self._journal: _Journal | None = None

    # active configuration

    def check_upstreams(
        self, upstreams: Mapping[str, Upstream], slot_table: SlotTable, files: Mapping[str, bytes]
    ) -> None:
        """Check these upstreams from now on. A target whose check has not changed keeps its state."""
        self._upstreams, self._slot_table = upstreams, slot_table
        if self._following is not None:
            self._following.cancel()
        update = partial(self._update_checks, upstreams, slot_table, files)
        self._following = asyncio.get_running_loop().create_task(keep_running("health checks", update))
        watched = {name: each for name, each in upstreams.items() if may_eject(each) or each.circuit_breaker}
        before = self._journal
        self._journal = _Journal(watched, slot_table, self._shared, self._words)
        if before is None:
            # The previous control process has logged the current state.
            self._journal.refresh_verdicts(monotonic(), quiet=True)
        else:
            self._journal.logged_states = {
                key: value for key, value in before.logged_states.items() if key in self._journal.keys
            }
        if self._outlook is not None:
            self._outlook.stop()
        followers = [self._journal] if watched else []
        self._outlook = HealthPoller(self._worker_loop.wheel, self._words, self._shared.supervisor, followers)
        self._outlook.start()

    async def _update_checks(
        self, upstreams: Mapping[str, Upstream], slot_table: SlotTable, files: Mapping[str, bytes]
    ) -> None:
        wanted: dict[str, tuple[Upstream, Target, ActiveHealth, Identity | None]] = {}
        tls: dict[Identity, ClientTls] = {}
        for name, upstream in upstreams.items():
            active = upstream.health_checks.active
            if active is None:
                continue
            identity = None
            if any(upstream.speaks_tls(target.url) for target in upstream.targets):
                material = material_of(upstream.client_tls, files)
                identity = identity_of(upstream.client_tls, material, protocols_of(upstream))
                tls[identity] = ClientTls(upstream.client_tls, material, identity)
            for target, label in zip(upstream.targets, labels_of(each.url for each in upstream.targets), strict=True):
                own = identity if upstream.speaks_tls(target.url) else None
                wanted.setdefault(target_name(name, label), (upstream, target, active, own))
            await asyncio.sleep(0)
        for key in [key for key, running in self._running.items() if not running.is_same_check(wanted.get(key))]:
            gone = self._running.pop(key)
            gone.task.cancel()
            if key not in slot_table.targets or key not in wanted:
                self._words.set_verdict(self._shared.supervisor, gone.slot, HealthVerdict.UNKNOWN, 0.0)
                self._words.changed(self._shared.supervisor)
        for unused in self._contexts.keys() - tls.keys():
            self._contexts.pop(unused).cancel()
        for identity, client in tls.items():
            if identity not in self._contexts:
                self._contexts[identity] = asyncio.create_task(made_context(client))
        failed: dict[Identity, Exception] = {}
        for key, (upstream, target, active, own) in wanted.items():
            if key in self._running or own in failed:
                continue
            context = None
            if own is not None:
                try:
                    context = await self._context(own)
                except (OSError, MemoryError, RuntimeError) as error:  # the checks of other targets begin nevertheless
                    failed[own] = error
                    continue
            check = Check(upstream, target, context, active)
            label = "upstream {}: {}".format(*key.rsplit(" ", 1))
            self._running[key] = _Checked(self, label, slot_table.targets[key], check, (upstream, target, active, own))
            await asyncio.sleep(0)
        for why in failed.values():
            if is_passing(why) or not isinstance(why, OSError):
                raise why  # tried again, by `keep_running`
            # It was created once, when the configuration was accepted.
            log_event(OperatorEvent.TARGET_NOT_CHECKED, "health checks over TLS cannot be made: %s", why)

    async def _context(self, identity: Identity) -> SSLContext:
        making = self._contexts[identity]
        try:
            return await asyncio.shield(making)
        except Exception:
            if self._contexts.get(identity) is making:
                del self._contexts[identity]  # the next attempt is another one
            raise

    def stop(self) -> None:
        for running in self._running.values():
            running.task.cancel()
        for making in (*self._contexts.values(), *([self._following] if self._following is not None else [])):
            making.cancel()
        if self._outlook is not None:
            self._outlook.stop()

    # log

    def problems(self) -> Mapping[str, str]:
        """Problems of unhealthy targets, by `target_name`."""
        return {key: running.why for key, running in self._running.items() if running.why}

    def upstream_states(self) -> dict[str, OfUpstream]:
        """Return the state of each upstream with health checks of any kind."""
        now, column, views = monotonic(), self._shared.supervisor, self._shared.views
        found = {}
        for name, upstream in self._upstreams.items():
            counted = breaker = None
            if upstream.health_checks.active or may_eject(upstream):
                labels = labels_of(target.url for target in upstream.targets)
                slots = [self._slot_table.targets[target_name(name, label)] for label in labels]
                thought = Counter(verdict for verdict, _ in self._words.read_verdicts(column, slots, now))
                counted = {verdict: thought[verdict] for verdict in HealthVerdict}
            if upstream.circuit_breaker is not None:
                breaker = phase_of(self._words.breaker(views, self._slot_table.upstreams[name]), now)
            if counted is not None or breaker is not None:
                found[name] = OfUpstream(counted, breaker)
        return found

    # for the checks

    @property
    def turns(self) -> asyncio.Semaphore:
        return self._turns

    @property
    def worker_loop(self) -> WorkerLoop:
        return self._worker_loop

    def verdict_of(self, slot: int) -> HealthVerdict:
        """Return the result of the previous control process, if it is still valid."""
        verdict, until = self._words.verdict_of(self._shared.supervisor, slot)
        return verdict if until > monotonic() else HealthVerdict.UNKNOWN

    def set_verdict(self, slot: int, verdict: HealthVerdict, until: float, changed: bool) -> None:
        self._words.set_verdict(self._shared.supervisor, slot, verdict, until)
        if changed:
            self._words.changed(self._shared.supervisor)


_Spec = tuple[Upstream, Target, ActiveHealth, Identity | None]


class _Checked:
    """One target, checked by a task of its own."""

    def __init__(self, checks: Checks, label: str, slot: int, check: Check, spec: _Spec) -> None:
        self.slot = slot
        self.why = ""
        self._checks = checks
        self._label = label
        self._check = check
        self._spec = spec
        self._active = spec[2]
        self._verdict = checks.verdict_of(slot)
        self._good = self._bad = 0
        self._began_at = monotonic()
        self.task = asyncio.get_running_loop().create_task(self._run())

    def is_same_check(self, wanted: _Spec | None) -> bool:
        """Whether its check is unchanged."""
        if wanted is None:
            return False
        (upstream, target, *others), (mine, my_target, *my_others) = wanted, self._spec
        return (
            others == my_others
            and target.url == my_target.url
            and all(getattr(upstream, name) == getattr(mine, name) for name in SETTINGS_USED)
        )

    async def _run(self) -> None:
        try:
            await keep_running(f"health checks of {self._label}", self._keep_checking)
        finally:
            self._check.stop()

    async def _keep_checking(self) -> None:
        active = self._active
        await asyncio.sleep(random.uniform(0, min(active.interval, FIRST_S)))
        while True:
            before, self._began_at = self._began_at, monotonic()
            async with self._checks.turns:
                try:
                    why = await self._check(self._checks.worker_loop)
                except CannotCheck as error:
                    log_event(OperatorEvent.TARGET_NOT_CHECKED, "%s: cannot be checked: %s", self._label, error)
                else:
                    # With more targets than can be checked in an interval, a round takes longer.
                    round_s = max(active.interval, monotonic() - self._began_at, self._began_at - before)
                    self._record_result(why, monotonic() + HOLDS * round_s + active.timeout)
            pause = active.interval * random.uniform(1 - JITTER, 1 + JITTER)
            await asyncio.sleep(max(self._began_at + pause - monotonic(), 0))

    def _record_result(self, why: str, until: float) -> None:
        before, active = self._verdict, self._active
        self._good, self._bad = (0, self._bad + 1) if why else (self._good + 1, 0)
        self.why = why
        if why and self._bad >= active.unhealthy_threshold:
            self._verdict = HealthVerdict.UNHEALTHY
        elif not why and (before is HealthVerdict.UNKNOWN or self._good >= active.healthy_threshold):
            self._verdict = HealthVerdict.HEALTHY
        self._checks.set_verdict(self.slot, self._verdict, until, self._verdict is not before)
        if self._verdict is before:
            return
        if self._verdict is HealthVerdict.UNHEALTHY:
            log_event(OperatorEvent.TARGET_UNHEALTHY, "%s is unhealthy: %s", self._label, why)
        elif before is HealthVerdict.UNHEALTHY:
            log_event(OperatorEvent.TARGET_HEALTHY, "%s is healthy again", self._label)


class _Journal:
    """Reports ejections and breakers, once for the node, regardless of the deciding worker."""

    def __init__(
        self, upstreams: Mapping[str, Upstream], slot_table: SlotTable, shared: SharedMemory, words: HealthWords
    ) -> None:
        self._shared = shared
        self._words = words
        self._targets: dict[str, int] = {}
        self._breakers: dict[str, int] = {}
        for name, upstream in upstreams.items():
            if may_eject(upstream):
                for label in labels_of(target.url for target in upstream.targets):
                    key = target_name(name, label)
                    self._targets[key] = slot_table.targets[key]
            if upstream.circuit_breaker is not None:
                self._breakers[name] = slot_table.upstreams[name]
        self._in_order: Sequence[int] = tuple(self._targets.values())
        self.logged_states: dict[str, tuple[str, float]] = {}
        """The last log line about each target that is ejected and each breaker that is not closed: the state, and when
        it ends (monotonic seconds).
        """

    @property
    def keys(self) -> Iterable[str]:
        return {*self._targets, *self._breakers}

    def refresh_verdicts(self, now: float, quiet: bool = False) -> float:
        again = [inf]
        views = self._shared.views
        for key, (verdict, until) in zip(
            self._targets, self._words.read_verdicts(self._shared.supervisor, self._in_order, now), strict=True
        ):
            state = ""
            if verdict is HealthVerdict.EJECTED:
                again.append(until)
                state = "ejected"
            if self._follow_state(key, state, until, now) and not quiet:
                upstream, _, label = key.rpartition(" ")
                if state:
                    text = f"upstream {upstream}: {label} is ejected for {until - now:.1f} s: it keeps failing"
                    log_event(OperatorEvent.TARGET_EJECTED, "%s", text)
                else:
                    log_event(OperatorEvent.TARGET_RESTORED, "upstream %s: %s is no longer ejected", upstream, label)
        for name, slot in self._breakers.items():
            breaker = self._words.breaker(views, slot)
            phase = phase_of(breaker, now)
            ends_at = inf
            if phase is BreakerPhase.OPEN:
                ends_at = breaker.until
                again.append(ends_at)
            state = "" if phase is BreakerPhase.CLOSED else phase.value
            if self._follow_state(name, state, ends_at, now) and not quiet:
                log_event(OperatorEvent.BREAKER_CHANGED, "upstream %s: %s", name, BREAKER_MESSAGES[phase])
        return min(again)

    def _follow_state(self, key: str, state: str, ends_at: float, now: float) -> bool:
        """Return whether this state is another than the logged one, or has begun again since that one ended."""
        state_before, ended_at = self.logged_states.get(key, ("", inf))
        if state:
            self.logged_states[key] = state, ends_at
        elif state_before:
            del self.logged_states[key]
        return state != state_before or ended_at <= now


BREAKER_MESSAGES: Final = {
    BreakerPhase.OPEN: "its breaker is open: too many requests failed",
    BreakerPhase.HALF_OPEN: "its breaker is half-open: some requests are let through",
    BreakerPhase.CLOSED: "its breaker is closed again",
}
