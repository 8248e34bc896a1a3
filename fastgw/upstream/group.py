"""A named group of targets: what the configuration says of it, and what one worker has of it."""

from collections.abc import Set
from functools import partial
from math import inf

from fastgw.config import settings as config
from fastgw.errors import Fault
from fastgw.node.ground import Ground
from fastgw.upstream.balance import Balancer, Nobody, RoundRobin
from fastgw.upstream.connection import UpstreamConnection
from fastgw.upstream.pool import Limit, Pool
from fastgw.upstream.target import Target
from fastgw.upstream.tls import Identity
from fastgw.upstream.watch import AttemptWatch

MIN_RETRIES = 3
"""Retries that may always be under way at once: a budget is a share, and a share of little is nothing."""


class Upstream:
    """Compiled; `start` gives it its pool, in each worker. `active`: exchanges under way here.

    `identity`: of the TLS context that its targets share; None: it has none.
    """

    def __init__(
        self, name: str, settings: config.Upstream, targets: tuple[Target, ...], identity: Identity | None
    ) -> None:
        self.name = name
        self.settings = settings
        self.targets = targets
        self.identity = identity
        self.started = False
        self.shunned: Set[Target] = frozenset()  # targets that are not to be picked: see `settle`
        self.balancer: Balancer
        self.watch: AttemptWatch | None = None  # who wants to know how attempts go
        self.settle()
        self.patience = settings.timeouts.total or inf  # seconds
        self.active = 0
        self.retrying = 0
        self.pool: Pool[UpstreamConnection]
        self.ground: Ground

    def start(self, ground: Ground, workers: int, connections: Limit, pending: Limit) -> None:
        """In a worker, one of so many: open for exchanges. `connections`, `pending`: the node's allowances."""
        self.started = True
        self.ground = ground
        make = partial(UpstreamConnection, ground)
        self.pool = Pool(self.targets, self.settings, make, workers, connections, pending, ground.wheel)

    def settle(self) -> None:
        """Make anew what picks targets, after something has changed about them."""
        usable = [target for target in self.targets if target not in self.shunned]
        self.balancer = RoundRobin(usable) if usable else Nobody()

    def unavailable(self) -> Fault:
        """Why no target could be picked."""
        return Fault.NO_HEALTHY_TARGET

    def may_retry(self) -> bool:
        """Whether the retry budget has room: else a struggling upstream would be asked twice for everything."""
        return self.retrying < max(MIN_RETRIES, self.settings.retries.budget * self.active)
