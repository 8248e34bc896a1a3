"""Simulated clients, gateway and service, on a clock that advances from event to event.

The service is typical: it works on a fixed number of requests at a time, with the others in a FIFO queue, and does not
notice when a client gives up. So under overload it collapses: clients have given up on the requests that it works on.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from fastgw.config.base.value_types import Url
from fastgw.config.settings import gateway as config
from fastgw.filters.limiting.adaptive_concurrency import AdaptiveLimit
from fastgw.upstream.targets.target import build_targets
from fastgw.upstream.upstream import Upstream

BUCKET_S = 0.5
"""Length of the intervals in which results are counted, in seconds."""


class World:
    """Clock and event queue."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.chance = random.Random(seed)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now + seconds, next(self._order), act))

    def run(self, until: float) -> None:
        while self._due and self._due[0][0] <= until:
            self.now, _, act = heapq.heappop(self._due)
            act()


@dataclass(frozen=True)
class Scene:
    """Parameters of a scene."""

    title: str
    seconds: float
    load: Callable[[float], float]
    """First attempts per second at a time, as a share of the service's capacity."""
    slowness: Callable[[float], float] = lambda at: 1.0
    """Factor of the service time at a time."""
    places: int = 20
    """Number of requests that the service works on concurrently."""
    work_s: float = 0.05
    """Mean service time of a request in seconds; exponentially distributed."""
    timeout_s: float = 1.0
    """Timeout of a client in seconds."""
    try_s: float = 1.0
    """Timeout of one attempt of the gateway in seconds."""
    retries: int = 0
    """Maximum number of retries of the gateway."""
    workers: int = 2

    @property
    def capacity(self) -> float:
        """Return the capacity in requests per second."""
        return self.places / self.work_s


@dataclass(frozen=True)
class Policy:
    """Policy of the gateway."""

    name: str
    adaptive: bool = False
    budget: float = 1e9
    """Retry budget, as a share of the requests in flight."""
    least: int = 4
    most: int = 1000
    tolerance: float = 1.5


@dataclass
class Course:
    """Results of the requests, by the interval in which they were completed."""

    scene: Scene
    policy: Policy
    good: list[int] = field(default_factory=list)
    """Responses in time for the client."""
    shed: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    """Responses that came too late, or not at all."""
    limits: list[float] = field(default_factory=list)
    """Sum of the workers' limits at the end of each interval; empty without a limit."""

    def __post_init__(self) -> None:
        for counted in (self.good, self.shed, self.lost):
            counted += [0] * round(self.scene.seconds / BUCKET_S)

    def count(self, what: list[int], now: float) -> None:
        if now < self.scene.seconds:
            what[int(now / BUCKET_S)] += 1

    def goodput(self, begins: float, ends: float) -> float:
        """Return the goodput between two times, as a share of capacity."""
        buckets = self.good[round(begins / BUCKET_S) : round(ends / BUCKET_S)]
        return sum(buckets) / (len(buckets) * BUCKET_S) / self.scene.capacity


class Service:
    def __init__(self, world: World, scene: Scene) -> None:
        self._world, self._scene = world, scene
        self._free = scene.places
        self._queue: deque[Callable[[], None]] = deque()

    def ask(self, answered: Callable[[], None]) -> None:
        if self._free:
            self._free -= 1
            self._work(answered)
        else:
            self._queue.append(answered)

    def _work(self, answered: Callable[[], None]) -> None:
        world, scene = self._world, self._scene
        takes = world.chance.expovariate(1.0 / scene.work_s) * scene.slowness(world.now)

        def done() -> None:
            answered()
            if self._queue:
                self._work(self._queue.popleft())
            else:
                self._free += 1

        world.after(takes, done)


class Gateway:
    """Workers with a limit each, and the retry budget of one upstream."""

    def __init__(self, world: World, scene: Scene, policy: Policy, service: Service, course: Course) -> None:
        self.world, self.scene, self.service, self.course = world, scene, service, course
        bounds = (policy.least / scene.workers, policy.most / scene.workers)
        self.limits = [AdaptiveLimit(lambda: bounds, policy.tolerance) for _ in range(scene.workers * policy.adaptive)]
        target = config.Target(url=Url("http", "service", 80))
        retries = config.Retries(max=scene.retries, budget=policy.budget)
        settings = config.Upstream(targets=(target,), retries=retries)
        self.upstream = Upstream("service", settings, build_targets(settings), None)

    def take(self) -> None:
        """Handle a request."""
        limit = self.world.chance.choice(self.limits) if self.limits else None
        if limit is not None and not limit.try_take():
            self.course.count(self.course.shed, self.world.now)
            return
        Request(self, limit)


class Request:
    def __init__(self, gateway: Gateway, limit: AdaptiveLimit | None) -> None:
        self._gateway, self._limit = gateway, limit
        self._begun_at = gateway.world.now
        self._tries = 0
        self._is_over = False
        gateway.upstream.active += 1
        gateway.world.after(gateway.scene.timeout_s, self._left)
        self._try()

    def _try(self) -> None:
        self._tries += 1
        number = self._tries
        self._gateway.service.ask(lambda: self._answered(number))
        self._gateway.world.after(self._gateway.scene.try_s, lambda: self._late(number))

    def _answered(self, number: int) -> None:
        if number == self._tries and not self._is_over:
            self._end(self._gateway.course.good)

    def _late(self, number: int) -> None:
        if self._is_over or number != self._tries:
            return
        upstream, tries = self._gateway.upstream, self._tries
        may_follow = tries <= self._gateway.scene.retries
        if may_follow and (tries > 1 or upstream.retry_budget.try_take(upstream.active)):
            self._try()
        else:
            self._end(self._gateway.course.lost, failed=True)

    def _left(self) -> None:
        if not self._is_over:
            self._end(self._gateway.course.lost, left=True)

    def _end(self, counted: list[int], failed: bool = False, left: bool = False) -> None:
        gateway, now = self._gateway, self._gateway.world.now
        self._is_over = True
        gateway.upstream.active -= 1
        if self._tries > 1:
            gateway.upstream.retry_budget.give_back()
        gateway.course.count(counted, now)
        if self._limit is not None:
            if left:
                self._limit.client_left(now, self._begun_at, now - self._begun_at)
            else:
                self._limit.record_response(now, self._begun_at, now - self._begun_at, failed)


def play(scene: Scene, policy: Policy, seed: int) -> Course:
    """Simulate a scene under a policy. Deterministic for a given seed."""
    world, course = World(seed), Course(scene, policy)
    gateway = Gateway(world, scene, policy, Service(world, scene), course)

    def arrive() -> None:
        gateway.take()
        come()

    def come() -> None:
        # Thinning: events at the maximum rate, each kept at random, so that the rate may change at any time.
        world.after(world.chance.expovariate(scene.load(world.now) * scene.capacity), arrive)

    def look() -> None:
        course.limits.append(sum(limit.limit for limit in gateway.limits))
        world.after(BUCKET_S, look)

    come()
    world.after(BUCKET_S, look)
    world.run(scene.seconds)
    return course
