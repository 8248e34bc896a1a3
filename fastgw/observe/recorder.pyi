"""Recorder: counts and logs an exchange as soon as it has ended."""

from collections.abc import Callable, Sequence
from typing import final

from fastgw.observe.access_log.finished_exchange import FinishedExchange
from fastgw.observe.access_log.record import LoggedBodies
from fastgw.observe.log import Log
from fastgw.observe.metrics.counters import ExchangeCounters
from fastgw.observe.metrics.request_meter import RequestMeter

KeepStory = Callable[[FinishedExchange, float, float], None]
"""Function that keeps the story of a request that has ended; monotonic and epoch seconds."""
TakeBodies = Callable[[FinishedExchange], LoggedBodies | None]
"""Function that returns the bodies of an exchange that has just ended."""

@final
class Recorder:
    """Counts and logs exchanges. The words of a kind are looked up once, and its JSON lines differ in values only."""

    def __init__(
        self,
        counters: ExchangeCounters,
        logs: Sequence[Log],
        meters: Sequence[RequestMeter] = (),
        take_bodies: TakeBodies | None = None,
    ) -> None:
        """Create the recorder. `take_bodies`: None: no bodies are collected."""

    def adopt(self, logs: Sequence[Log], meters: Sequence[RequestMeter] = ()) -> None:
        """Change to these logs and meters, and look up all words again."""

    def keep_stories(self, keep: KeepStory | None, slower_than: float) -> None:
        """Call `keep` for requests with errors, and for those that take longer than this number of seconds. None: for
        none.
        """

    def count_subrequest(self, ended: FinishedExchange, status: int) -> None:
        """Count a sub-request for its upstream. `status`: 0 = no complete response."""

    def count_content_coding(
        self, ended: FinishedExchange, operation: int, coding: int, bytes_in: int, bytes_out: int
    ) -> None:
        """Count the bytes of a body before and after an operation with a content coding. Not counted if the column has
        no free cell.
        """

    def count_cache_miss(self, route: str, reason: str) -> None:
        """Count a response that a cache has fetched. Not counted if the column has no free cell."""

    def finish(self, ended: FinishedExchange) -> None:
        """Count and log an exchange. Once per exchange, when it ends; never waits."""

    def finish_at(self, ended: FinishedExchange, now: float, date: float) -> None:
        """Count and log an exchange. `now`: monotonic seconds. `date`: epoch seconds."""
