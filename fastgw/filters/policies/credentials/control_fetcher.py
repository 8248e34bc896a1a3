"""Fetcher in the control process: fetches for all workers, one value after the other, only on demand."""

import time
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from fastgw.filters.api import Feeds, FeedSource, Fetcher, NodeSide
from fastgw.filters.policies.credentials.messages import FetchedRecord, Getter, Unavailable, failed, read, succeeded
from fastgw.filters.policies.credentials.rejected_throttle import allowance, keep_pace
from fastgw.operator_events import OperatorEvent, log_event

IDLE_S: Final = 30.0
"""Seconds without a request after which a source ends; the next request starts it again, with its last value."""


class ControlContext(NamedTuple):
    """`Services` for fetching in the control process."""

    fetcher: Fetcher
    feeds: Feeds
    generation: Callable[[], int]
    control_is_away: Callable[[], bool] = lambda: False
    feed_others: Callable[[str, bytes], None] = lambda key, value: None


class ControlFetch(FeedSource, frozen=True, kw_only=True):
    """Fetch on demand in the control process: a value is kept until it expires or is rejected.

    An unused source takes 1 KB of the configuration, a value 0.9 KB in each process. A task runs only on demand, and
    for `IDLE_S`.
    """

    lazy = True

    def getter(self, read_file: Callable[[str], bytes]) -> Getter:
        """Return the fetcher. Raises `ValueError`, `OSError`, `SecretError` for unusable settings."""
        raise NotImplementedError

    async def run(self, node: NodeSide) -> None:
        getter = self.getter(node.read)
        around = ControlContext(node.fetcher, node.feeds, lambda: node.generation)
        kept = read(node.feeds[self.key].value)
        record = (
            kept if kept is not None and kept.material == getter.material else FetchedRecord(material=getter.material)
        )
        allowed = allowance()
        if record.fault:
            node.attempted(record.why)
        getter.start(around)
        try:
            while await node.asked(IDLE_S):
                last = node.feeds[self.key].value
                is_ours = (last_record := read(last)) is not None and last_record.material == record.material
                now_date = time.time()
                if (is_ours and not node.is_outdated(last)) or record.rests_until(now_date, getter.negative_ttl):
                    pass  # answered already, or too early
                else:
                    await keep_pace(record, allowed)
                    record = await self._fetched(node, getter, around, record)
                    await node.asked(0)  # all requests until now get this response
                record = msgspec.structs.replace(record, generation=node.generation)
                node.publish(record.packed())
        finally:
            getter.stop()

    async def _fetched(
        self, node: NodeSide, getter: Getter, around: ControlContext, record: FetchedRecord
    ) -> FetchedRecord:
        try:
            got = await getter.get(around, record)
        except Unavailable as problem:
            if problem.why != record.why:
                log_event(OperatorEvent.FEED_FAILED, "%s: %s", _label(node, getter), problem.why)
            node.attempted(problem.why)
            return failed(record, problem, getter.negative_ttl)
        if record.why and record.failures:
            log_event(OperatorEvent.FEED_BACK, "%s: fetched again", _label(node, getter))
        node.attempted()
        return succeeded(record, got)


def _label(node: NodeSide, getter: Getter) -> str:
    """Return a label that distinguishes sources with the same URL."""
    return f"{getter.name} for {node.used_by}" if node.used_by else getter.name
