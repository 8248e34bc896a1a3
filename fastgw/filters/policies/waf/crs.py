"""The OWASP Core Rule Set for requests of a worker: the helper processes, and what their verdicts mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, final

from msgspec import msgpack

from fastgw.filters.api import Env, Exchange, Services
from fastgw.filters.policies.waf.crs_program import UNREAD_BODY, CrsRequest, CrsSettings, CrsVerdict
from fastgw.filters.policies.waf.inspection import Exclusion
from fastgw.helper_processes.pool import HelperError, try_program
from fastgw.helper_processes.program import Program
from fastgw.helper_processes.shared_pool import SharedPool, event_of
from fastgw.observe.metrics.families import FilterEvent

if TYPE_CHECKING:
    from fastgw.filters.policies.waf.filter import Crs

_MODULE: Final = "fastgw.filters.policies.waf.crs_program"
_LONGEST_RUN_S: Final = 2.0
"""Seconds after which a process is killed: a new one takes longer to load its rules than a costly request."""
_CODING: Final = b"content-encoding"
_SHOWN: Final = 12
_VERSIONS: Final = {10: "1.0", 11: "1.1", 20: "2.0"}


@final
class CrsUse:
    """The processes of a rule set in a worker, shared by all uses of the filter with equal settings."""

    def __init__(self, program: Program, processes: int, refuses: bool) -> None:
        self._pool = SharedPool(program, processes)
        self._refuses = refuses  # requests that were not inspected
        self._encoder = msgpack.Encoder()
        self._decoder = msgpack.Decoder(CrsVerdict)

    @classmethod
    def build(cls, env: Env, settings: Crs, paranoia: int, threshold: int, exclusions: Sequence[Exclusion]) -> CrsUse:
        """Return the use. Raises `ValueError` if the rules cannot be loaded, as far as `env` may wait for that."""
        total = [each for each in exclusions if each.is_total]
        rules = CrsSettings(
            settings.rules,
            paranoia,
            threshold,
            tuple(sorted(id for each in total for id in each.rules if id >= 900000 or id in UNREAD_BODY)),
            tuple(sorted(tag for each in total for tag in each.tags)),
        )
        program = Program(
            name="waf",
            module=_MODULE,
            argument=msgpack.encode(rules),
            deadline_s=settings.deadline,
            kill_after_s=max(_LONGEST_RUN_S, settings.deadline),
        )
        if env.verifies and (why := env.shared(("waf crs trial", program), lambda: [try_program(program)])[0]):
            raise ValueError(f"crs: {why.removeprefix('CannotLoad: ')}")
        refuses = settings.on_timeout == "refuse"
        return env.shared(
            ("waf crs", program, settings.processes, refuses), lambda: cls(program, settings.processes, refuses)
        )

    def start(self, services: Services) -> None:
        loop = services.worker_loop
        self._pool.start(loop.loop, services.workers(), services.slot, services.wait_for, loop.make_room)

    def stop(self) -> None:
        self._pool.stop()

    async def inspect(self, exchange: Exchange, instance: str, query: bytes | None, body: bytes, is_cut: bool) -> str:
        """Return why the request is refused, for the log; "": it passes. `body`: its beginning; `is_cut`: more follows
        it.
        """
        head = exchange.head
        is_decoded = exchange.chain.removed_codings is not None
        target = exchange.raw_path if query is None else exchange.raw_path + b"?" + query
        request = CrsRequest(
            exchange.client_ip or "127.0.0.1",
            exchange.method,
            target,
            _VERSIONS.get(head.version, "1.1"),
            [each for each in exchange.headers if not (is_decoded and each[0].lower() == _CODING)],
            body,
            is_cut,
        )
        count = exchange.client.counts.count_filter
        try:
            verdict = self._decoder.decode(await self._pool.run_request(self._encoder.encode(request)))
        except HelperError as error:
            count(instance, event_of(error))
            return f"CRS: not inspected ({error})" if self._refuses else ""
        count(instance, FilterEvent.HELPER_ANSWERED if verdict.is_inspected else FilterEvent.HELPER_FAILED)
        if not verdict.blocks:
            unread = f"CRS: not inspected (the body cannot be read by its first {len(body)} bytes)"
            return unread if self._refuses and not verdict.is_inspected else ""
        texts = [f"{match.id} ({', '.join(match.tags) or 'no tags'})" for match in verdict.matches[:_SHOWN]]
        more = len(verdict.matches) - _SHOWN
        return f"CRS score {verdict.score}: {'; '.join(texts)}" + (f" and {more} more" if more > 0 else "")
