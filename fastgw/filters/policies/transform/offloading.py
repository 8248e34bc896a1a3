"""Offloading: bodies that are transformed in helper processes, because they are large or the expression may not end."""

from __future__ import annotations

from asyncio import Task, get_running_loop
from typing import TYPE_CHECKING, Final, TypeAlias, final

from msgspec import msgpack

from fastgw.filters.api import Env, Exchange, Services
from fastgw.filters.policies.transform.helper_program import (
    CHANGED,
    ChangeRequest,
    encoded_change,
    refusal_in,
)
from fastgw.filters.policies.transform.values import UnmappableBody, variable_text
from fastgw.helper_processes.pool import HelperError, try_program
from fastgw.helper_processes.program import Program
from fastgw.helper_processes.shared_pool import SharedPool, event_of
from fastgw.observe.metrics.families import FilterEvent

if TYPE_CHECKING:
    from fastgw.filters.policies.transform.filter import BodyChange

LONGEST_DEADLINE_S: Final = 30.0
"""Maximum of the setting `deadline`."""
_TRIAL: Final = "fastgw.helper_processes.jq_trial"
_MODULE: Final = "fastgw.filters.policies.transform.helper_program"
_MODULES: Final = {
    "json": b"jmespath jmespath.functions",
    "jq": b"jq",
    "jsonata": b"jsonata.jsonata jsonata.jexception",
}
"""Modules that the processes of each kind import: of jq and JSONata apart, so that none delays another one."""
Transformed: TypeAlias = bytes | UnmappableBody | HelperError
"""Body that a helper process has transformed, or why it has not."""
_QUEUE: Final = 16
_MEMORY_BYTES: Final = 1024**3


@final
class OffloadedChange:
    """The change of one direction as helper processes make it."""

    def __init__(self, pool: SharedPool, change: BodyChange, instance: str, names: frozenset[str]) -> None:
        self._pool = pool
        self._instance = instance
        self._names = names
        self._change = encoded_change(change)
        self._deadline_s = change.deadline
        self._starts_at_once = change.needs_helper

    @classmethod
    def build(cls, env: Env, change: BodyChange, names: frozenset[str]) -> OffloadedChange:
        """Return the change. `names`: of its variables. Raises `ValueError` for a jq expression that does not compile,
        as far as `env` may wait for that.
        """
        kind = "jq" if change.jq is not None else "jsonata" if change.jsonata is not None else "json"
        if change.jq is not None and env.verifies:
            trial = Program(name="jq", module=_TRIAL, argument=change.jq.encode())
            why = env.shared(trial, lambda: [try_program(trial)])[0]
            if why:
                raise ValueError(f"jq: {_first_line(why)}")
        pool = env.shared(("transform", kind), lambda: SharedPool(_program(kind)))
        return cls(pool, change, env.instance, names)

    def start(self, services: Services) -> None:
        wait_for = services.wait_for if self._starts_at_once else None
        loop = services.worker_loop
        self._pool.start(loop.loop, services.workers(), services.slot, wait_for, loop.make_room)

    def stop(self) -> None:
        self._pool.stop()

    def submit(self, exchange: Exchange, body: bytes) -> Task[Transformed]:
        """Begin to transform a body, and return the future of the result. It does not raise why there is none: the
        traceback would refer to frames that hold the future, a reference cycle that holds the body.
        """
        variables: dict[str, str | bool | None] = {}
        for name in self._names:
            try:
                variables[name] = variable_text(exchange, name)
            except UnmappableBody:
                variables[name] = False
        request = msgpack.encode(ChangeRequest(self._change, body, variables))
        return get_running_loop().create_task(self._run(exchange, request))

    async def _run(self, exchange: Exchange, request: bytes) -> Transformed:
        count = exchange.client.counts.count_filter
        try:
            result = await self._pool.run_request(request, self._deadline_s)
        except HelperError as error:
            count(self._instance, event_of(error))
            return error
        count(self._instance, FilterEvent.HELPER_ANSWERED)
        if result[:1] == CHANGED:
            return result[1:]
        return refusal_in(result)


def _program(kind: str) -> Program:
    return Program(
        name=f"body {kind}",
        module=_MODULE,
        argument=_MODULES[kind],
        deadline_s=LONGEST_DEADLINE_S,
        queue=_QUEUE,
        memory_bytes=_MEMORY_BYTES,
    )


def _first_line(why: str) -> str:
    lines = why.partition(": ")[2].splitlines() or [why]
    return " ".join(line.strip() for line in lines[:2] if line.strip()).removeprefix("jq: error: ")
