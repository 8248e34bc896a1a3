"""Errors that validation finds in a body, in the event loop or in a helper process, and the answer to the request."""

from __future__ import annotations

from asyncio import Task, get_running_loop
from typing import Final, final

import orjson

from fastgw.exchange.reply import extended
from fastgw.filters.api import Exchange, Fault, Reply, Services
from fastgw.helper_processes.pool import HelperError
from fastgw.helper_processes.shared_pool import SharedPool, event_of, fault_of
from fastgw.observe.metrics.families import FilterEvent

Errors = list[dict[str, str]]
_FAULT: Final = Fault.VALIDATION_FAILED  # PERF: not looked up for each refusal (CPython 3.11, micro/content)


def summary(errors: Errors) -> str:
    """Return the errors in the form of the log."""
    if len(errors) == 1:  # mostly
        each = errors[0]
        return f"{each['in']} {each['pointer'] or '-'}: {each['keyword']}"
    return "; ".join([f"{each['in']} {each['pointer'] or '-'}: {each['keyword']}" for each in errors])


def refusal(exchange: Exchange, errors: Errors) -> Reply:
    """Return the problem (RFC 9457) with the errors."""
    return extended(exchange.refuse(_FAULT, why=summary(errors)), {"errors": errors})


@final
class HelperChecks:
    """Checks of a filter in a pool whose program returns the errors of a body as a JSON array."""

    __slots__ = ("_at_once", "_deadline_s", "_filter", "_instance", "pool")

    def __init__(self, pool: SharedPool, filter_name: str, instance: str, deadline_s: float, *, at_once: bool) -> None:
        """`at_once`: whether the processes start with the worker; otherwise with the first body."""
        self.pool = pool
        self._filter, self._instance, self._deadline_s, self._at_once = filter_name, instance, deadline_s, at_once

    def start(self, services: Services) -> None:
        wait_for = services.wait_for if self._at_once else None
        loop = services.worker_loop
        self.pool.start(loop.loop, services.workers(), services.slot, wait_for, loop.make_room)

    def submit(self, exchange: Exchange, message: bytes) -> Task[Reply | None]:
        """Return the future of the response to a body that does not conform. `message`: request of the program."""
        return get_running_loop().create_task(self._check(exchange, message))

    async def _check(self, exchange: Exchange, message: bytes) -> Reply | None:
        count = exchange.client.counts.count_filter
        try:
            found = await self.pool.run_request(message, self._deadline_s)
        except HelperError as error:
            count(self._instance, event_of(error))
            return exchange.refuse(fault_of(error), why=f"{self._filter}: {error}")
        count(self._instance, FilterEvent.HELPER_ANSWERED)
        errors: Errors = orjson.loads(found)
        return refusal(exchange, errors) if errors else None
