"""A named group of targets: what the configuration says of it, and what one worker has of it."""

from math import inf

from fastgw.config import settings as config
from fastgw.node.ground import Ground
from fastgw.upstream.balance import RoundRobin
from fastgw.upstream.connection import UpstreamConnection
from fastgw.upstream.pool import Pool
from fastgw.upstream.target import Target

MIN_RETRIES = 3
"""Retries that may always be under way at once: a budget is a share, and a share of little is nothing."""


class Upstream:
    """Compiled before the fork; `start` gives it its pool, in each worker. `active`: exchanges under way here."""

    def __init__(self, name: str, settings: config.Upstream, targets: tuple[Target, ...]) -> None:
        self.name = name
        self.settings = settings
        self.targets = targets
        self.balancer = RoundRobin(targets)
        self.patience = settings.timeouts.total or inf  # seconds
        self.active = 0
        self.retrying = 0
        self.pool: Pool[UpstreamConnection]
        self.ground: Ground

    def may_retry(self) -> bool:
        """Whether the retry budget has room: else a struggling upstream would be asked twice for everything."""
        return self.retrying < max(MIN_RETRIES, self.settings.retries.budget * self.active)
