"""Upstream: a named group of targets, with its configuration and its state in one worker."""

from collections.abc import Callable, Container, Mapping, Sequence, Set
from math import inf
from os import urandom
from types import MappingProxyType
from typing import Any, Final
from weakref import ref

from fastgw.config.base.value_types import Url
from fastgw.config.settings import gateway as config
from fastgw.errors import Fault
from fastgw.eventloop.timer_wheel import Timed
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.observe.metrics.series_layout import UPSTREAM_RETRIES_DENIED
from fastgw.shm.node_queue import NodeQueue
from fastgw.upstream.connections.http1_connection import connection_maker
from fastgw.upstream.connections.pool import Pool
from fastgw.upstream.connections.pool_limit import PoolLimit
from fastgw.upstream.connections.socket_connection import SocketConnection
from fastgw.upstream.health.circuit_breaker import HalfOpenGate
from fastgw.upstream.health.outlier_ejection import may_eject
from fastgw.upstream.health.upstream_health import AttemptCounters, Health, HealthWindows, Note
from fastgw.upstream.load_balancing import Balancer, BalancingRequest, Member, NoTarget
from fastgw.upstream.load_balancing.eligible_targets import SlowStart, in_use
from fastgw.upstream.load_balancing.hashing import ConsistentHash, Key, address, key_of
from fastgw.upstream.load_balancing.load_tracking import Latencies, Loads
from fastgw.upstream.load_balancing.random_choice import LatencyBalancing, LeastConnections, Random
from fastgw.upstream.load_balancing.round_robin import RoundRobin, SingleTarget
from fastgw.upstream.load_balancing.sticky_sessions import Cookies, StickySessions
from fastgw.upstream.policies.retry import Hedging, RetryBudget, any_untried, rules_of
from fastgw.upstream.targets.attempt_listener import AttemptListener
from fastgw.upstream.targets.target import Target
from fastgw.upstream.targets.tls import Identity

_NONE: Final[Set[Target]] = frozenset()  # every call of `frozenset()` creates a new one


class Upstream:
    """Compiled upstream; `start` creates its pool in each worker. `active`: exchanges in flight in this worker.

    `identity`: of the TLS context that its targets share; None: it has none. `key`: configured signing key of cookies.
    `before`: in a running worker, the previous upstream of this name, if it reached its targets in the same way
    (`goes_on`): both share the connections. `lends_sockets`: a TCP listener uses it, so its pool has bare sockets
    (`SocketConnection`).
    """

    def __init__(
        self,
        name: str,
        settings: config.Upstream,
        targets: tuple[Target, ...],
        identity: Identity | None,
        key: bytes = b"",
        before: "Upstream | None" = None,
        lends_sockets: bool = False,
    ) -> None:
        self.name = name
        self.lends_sockets = lends_sockets
        self.settings = settings
        self.targets = targets
        self.identity = identity
        self.key = key
        self.members = _members(settings, targets)
        self.started = False
        self.shunned: Set[Target] = _NONE  # unhealthy targets, the ejected ones among them: see `settle`
        self.ejected: Set[Target] = _NONE
        self.drained: Set[Target] = _NONE  # targets drained by an operator
        self.balancer: Balancer
        self.in_use: Sequence[Target] = ()  # the members that it selects from
        self.attempt_listeners: tuple[AttemptListener, ...] = ()  # to every attempt; none: no cost per request
        # To rare events: the begin of retries and hedges, and failed or refused attempts.
        self.failure_listeners: tuple[AttemptListener, ...] = ()
        self.health: Health | None = None
        self._health_windows: HealthWindows | None = None  # of its predecessor, until `look_after`
        self.cookies: Cookies | None = None  # sticky sessions
        if settings.load_balancing.sticky is not None and key:
            self.cookies = Cookies(settings.load_balancing.sticky, name, key)
        self._before = before if before is not None and before.started else None
        self._loads = Loads()
        self._latencies: Latencies | None = None
        self._hashed: ConsistentHash | None = None if before is None else before._hashed
        balancing = settings.load_balancing
        self._rising = None if balancing.slow_start is None else SlowStart(balancing.slow_start)
        self._alarm: _Alarm | None = None
        self._backups: Sequence[tuple[Sequence[Target], Balancer]] | None = None
        self.settle()
        self.total_timeout = settings.timeouts.total or inf  # seconds
        self.rules = rules_of(settings.retries)
        self.hedging = None if settings.hedge is None else Hedging(settings.hedge)
        self.active = 0  # requests in flight
        self.replaced: tuple[ref[Upstream], ...] = ()  # those of earlier configurations that still had some
        self.retry_budget = RetryBudget(settings.retries.budget)
        self.pool: Pool  # of `UpstreamConnection`; where `lends_sockets`, of `SocketConnection`
        self.worker_loop: WorkerLoop

    def pick(self, asked: BalancingRequest) -> Target | None:
        """Return the target for a request that was sent to none yet; None: none is available."""
        balancer = self.balancer
        if type(balancer) is SingleTarget:
            single: SingleTarget = balancer
            return single.target
        return balancer.pick(asked)

    @property
    def in_flight(self) -> int:
        """Requests in flight, with those that began on upstreams that it has replaced."""
        return self.active + sum(each.active for link in self.replaced if (each := link()) is not None)

    @property
    def targets_by_url(self) -> Mapping[Url, Target]:
        return {each.url: target for each, target in zip(self.settings.targets, self.targets, strict=True)}

    def goes_on(self, settings: config.Upstream, identity: Identity | None, lends_sockets: bool = False) -> bool:
        """Whether connections may be kept, because targets are reached in the same way with these settings."""
        mine = self.settings
        return (self.identity, self.lends_sockets) == (identity, lends_sockets) and all(
            getattr(mine, name) == getattr(settings, name)
            for name in ("protocol", "resolve", "host_header", "timeouts", "pool", "tls", "tolerate", "response_limits")
        )

    def start(
        self,
        worker_loop: WorkerLoop,
        workers: int,
        connections: PoolLimit,
        pending: PoolLimit,
        loads: Loads | None = None,
        key: bytes = b"",
        queue: NodeQueue | None = None,
    ) -> None:
        """Start in one of `workers` processes: open for exchanges. `connections`, `pending`: the node's limits.

        `loads`: attempts in flight on the node; every target has a slot. `key`: of this run of the gateway.
        `queue`: the node's queue for its connections; None: other workers have none.
        """
        self.started = True
        self.worker_loop = worker_loop
        before, self._before = self._before, None
        if before is not None:
            if before.health is not None and (self.settings.circuit_breaker is not None or may_eject(self.settings)):
                self._health_windows = before.health.windows
            self.pool = before.pool
            self.pool.add_targets(self.targets)
            self.pool.share(workers)
        else:
            make: Callable[..., Any] = connection_maker(worker_loop, self.settings)
            if self.lends_sockets:
                make = SocketConnection
            counts = workers, connections, pending
            lent_once = self.lends_sockets
            self.pool = Pool(
                self.targets, self.settings, make, *counts, worker_loop.wheel, lent_once=lent_once, queue=queue
            )
        balancing = self.settings.load_balancing
        if loads is not None:
            self._loads = loads
            self._watch(balancing, before)
        if balancing.sticky is not None and self.cookies is None:
            self.cookies = Cookies(balancing.sticky, self.name, key or urandom(32))
        if before is not None and self._rising is not None and before._rising is not None:
            self._rising.take_over_from(before._rising)
        if self.attempt_listeners or self.cookies is not None or self._rising is not None:
            self.settle()  # otherwise there is no new information

    def _watch(self, balancing: config.LoadBalancing, before: "Upstream | None") -> None:
        """Listen to attempts, if targets are selected by their results."""
        if balancing.algorithm == "latency":
            self._latencies = Latencies(self._loads, balancing.decay, self.settings.timeouts.connect)
            if before is not None and before._latencies is not None:
                self._latencies.take_over_from(before._latencies, self.targets)
            self.attempt_listeners = (self._loads, self._latencies)
        elif balancing.algorithm == "least_connections" or (
            balancing.algorithm == "consistent_hash" and balancing.load_factor is not None
        ):
            self.attempt_listeners = (self._loads,)

    @property
    def is_recovering(self) -> bool:
        """Whether its circuit breaker is not closed: successes decide about that."""
        return self.health is not None and self.health.tries

    def is_probe(self, begun_at: float) -> bool:
        """Whether an attempt that began at this time is a probe of its half-open circuit breaker."""
        breaker = None if self.health is None else self.health.breaker
        return breaker is not None and breaker.is_probe(begun_at)

    def pick_for_probe(self, request: BalancingRequest, tried: Container[Target]) -> Target | None:
        """Return the target for the retry of a probe, which takes no second one; None: there is none."""
        balancer = self.balancer
        return (balancer.balancer if isinstance(balancer, HalfOpenGate) else balancer).pick(request, tried)

    def look_after(self, health: Health) -> None:
        """Follow the health of the upstream: from now on the node's decisions exclude targets, and an open breaker
        blocks requests.
        """
        self.health = health
        if self._health_windows is not None:
            health.take_over_from(self._health_windows)
            self._health_windows = None
        if health.watches:
            self.attempt_listeners += (health,)
        else:
            self.failure_listeners += (health,)
            self.pool.on_connected = health.connected
        self.settle()

    def use_targets(self, settings: config.Upstream, targets: tuple[Target, ...]) -> None:
        """Replace the targets in place: routes and requests in flight keep this upstream. `settings`: equal but for
        the targets. Targets that stay keep their connections, counts and windows of errors; requests in flight to
        others are completed.

        If it is started, `count_in` and `look_after` follow.
        """
        self._health_windows = None if self.health is None else self.health.windows
        self._leave_health()
        gone = set(self.targets).difference(targets)
        self.settings, self.targets = settings, targets
        self.members = _members(settings, targets)
        self.shunned, self.ejected = self.shunned - gone, self.ejected - gone
        self.drained = self.drained - gone
        if self.started:
            self.pool.add_targets(targets)
            self.pool.release(gone)
            if self._latencies is not None:
                self._latencies.take_over_from(self._latencies, targets)
        self.settle()

    def _leave_health(self) -> None:
        """Stop following the node's decisions. Attempts in flight do not count any more."""
        if self.health is None:
            return
        self.health.stop()
        if self.pool.on_connected == self.health.connected:  # its successor may have the same pool
            self.pool.on_connected = None
        self.attempt_listeners = tuple(each for each in self.attempt_listeners if each is not self.health)
        self.failure_listeners = tuple(each for each in self.failure_listeners if each is not self.health)
        self.health = None

    def retire(self, heir: "Upstream | None") -> None:
        """Retire an upstream that was removed from the configuration or replaced: keep only the connections that its
        successor of the same name keeps.
        """
        if self.health is not None:  # attempts still in flight must not count: the slots may be reused
            self.health.clear_decisions(None if heir is None else heir.health)
            self._leave_health()
            self.settle()  # without its breaker
        if heir is not None:
            links = (*self.replaced, ref(self))
            earlier = [each for link in links if (each := link()) is not None and each.active]
            heir.replaced = tuple(ref(each) for each in earlier)
            if heir.started:
                for each in {*earlier, self}:  # requests that still wait in filters may come to this one
                    if each.pool is not heir.pool:
                        each.pool.follow_limits(heir.pool)
        if heir is not None and heir.started and heir.pool is self.pool:
            self.pool.release(set(self.targets).difference(heir.targets))
        else:
            self.pool.retire()

    def backup(self, request: BalancingRequest, tried: Container[Target]) -> Target | None:
        """Return an available target of the next priority groups that the request was not sent to yet. None: there is
        none, the circuit breaker is not closed, or a target in use was not tried.

        Otherwise requests would be lost until the failing targets of the first group are ejected; some failures, such
        as a status of 503, eject none by default.
        """
        if any_untried(self.in_use, tried) or self.is_recovering:
            return None
        if self._backups is None:
            self._backups = self._balance_backups()
        return next(
            (balancer.pick(request, tried) for targets, balancer in self._backups if any_untried(targets, tried)), None
        )

    def _balance_backups(self) -> Sequence[tuple[Sequence[Target], Balancer]]:
        """Return the available targets of each priority group after those in use, with a balancer."""
        excluded = {*self.in_use, *self.shunned, *self.drained}
        members = [each for each in self.members if each.weight and each.target not in excluded]
        return [
            ([member.target for member in group], self._balance(group))
            for priority in sorted({each.priority for each in members})
            for group in [[each for each in members if each.priority == priority]]
        ]

    def _balance(self, members: Sequence[Member]) -> Balancer:
        if not members:
            return NoTarget()
        if not members[1:]:  # a single target needs no selection
            return SingleTarget(members[0].target)
        return _ALGORITHMS[self.settings.load_balancing.algorithm](self, members)

    def last_resort(self, tried: Container[Target]) -> Target | None:
        """Return an ejected target that the request was not sent to yet, if the eligible ones were unreachable: it may
        be back. None: there is none, or health is never ignored (`panic_threshold: 0%`).

        Otherwise, when targets are restarted one after the other, all requests would be lost from the stop of the
        second one until the ejection of the first one ends. A target that its own health check has found unhealthy is
        known not to be back.
        """
        if not self.ejected or not self.settings.load_balancing.panic_threshold:
            return None
        ejected = self.ejected - self.drained
        members = (each for each in self.members if each.weight and each.target in ejected)
        return next((each.target for each in members if each.target not in tried), None)

    def drain(self, labels: Set[str]) -> None:
        """Drain the targets with these labels from now on, and no others."""
        drained = {target for target in self.targets if target.label in labels}
        if drained != self.drained:
            self.drained = drained
            self.settle()

    def settle(self) -> None:
        """Create the balancer again, after a change of the targets."""
        balancing = self.settings.load_balancing
        members: Sequence[Member] = in_use(
            self.members, self.shunned, self.drained, balancing.spill_below, balancing.panic_threshold
        )
        usable = [target for target in self.targets if target not in self.shunned]
        if self._rising is not None and self.started:
            now = self.worker_loop.wheel.now
            ready = {each.target for each in self.members if each.weight} - self.shunned - self.drained
            self._rising.record_eligible(ready, now)
            members = self._rising.weigh(members, now)
            if (growing_at := self._rising.next(now)) is not None:
                self._alarm = self._alarm or _Alarm(self)
                self.worker_loop.wheel.watch(self._alarm, growing_at)
        self.in_use, self._backups = [member.target for member in members], None
        balancer = self._balance(members)
        if isinstance(balancer, ConsistentHash):
            self._hashed = balancer
        if self.cookies is not None:
            balancer = StickySessions(balancer, self.cookies, {*usable, *(member.target for member in members)})
        breaker = None if self.health is None else self.health.breaker
        self.balancer = balancer if breaker is None else breaker.guard(balancer)

    def _by_latency(self, members: Sequence[Member]) -> Balancer:
        latencies = self._latencies
        return Random(members) if latencies is None else LatencyBalancing(members, latencies)  # none are known yet

    def _by_hash(self, members: Sequence[Member], key: Key, load_factor: float | None) -> Balancer:
        return ConsistentHash(members, key, RoundRobin(members), self._loads, load_factor, self._hashed)

    def unavailable(self) -> Fault:
        """Return the reason why no target could be selected."""
        breaker = None if self.health is None else self.health.breaker
        return Fault.NO_HEALTHY_TARGET if breaker is None or not breaker.wait() else Fault.CIRCUIT_OPEN

    def wait(self) -> float:
        """Return the seconds until a retry is useful, if no target could be selected."""
        health = self.health
        return 1.0 if health is None else (health.breaker and health.breaker.wait()) or health.wait()

    def count_in(self, spare: PoolLimit, counts: memoryview, first: int, note: "Note | None" = None) -> None:
        """Set the node's counters. `spare`: limit of `SPARE_RETRIES`. `counts`: this worker's counters, in which its
        row begins at `first`, and those of its targets at their own positions. `note`: stores a target's last error.
        """
        self.retry_budget.count_in(spare, counts, first + UPSTREAM_RETRIES_DENIED)
        self.failure_listeners = (AttemptCounters(counts, first, note),)


class _Alarm(Timed):
    """Timer that settles an upstream, if it still exists, when weights have to grow."""

    __slots__ = ("_upstream",)

    def __init__(self, upstream: Upstream) -> None:
        super().__init__()
        self._upstream = ref(upstream)

    def expire(self, now: float) -> None:
        upstream = self._upstream()
        if upstream is not None:
            upstream.settle()


def _members(settings: config.Upstream, targets: tuple[Target, ...]) -> tuple[Member, ...]:
    return tuple(
        Member(target, each.weight, each.priority) for target, each in zip(targets, settings.targets, strict=True)
    )


_ALGORITHMS: Final[Mapping[str, Callable[[Upstream, Sequence[Member]], Balancer]]] = MappingProxyType(
    {
        "round_robin": lambda upstream, members: RoundRobin(members),
        "random": lambda upstream, members: Random(members),
        "least_connections": lambda upstream, members: LeastConnections(members, upstream._loads),
        "latency": lambda upstream, members: upstream._by_latency(members),
        "ip_hash": lambda upstream, members: upstream._by_hash(members, address, None),
        "consistent_hash": lambda upstream, members: upstream._by_hash(
            members,
            key_of(upstream.settings.load_balancing.hash_on),
            upstream.settings.load_balancing.load_factor,
        ),
    }
)
