"""Explains hypothetical requests: in a thread, with separate tables of the active configuration."""

import asyncio
from collections.abc import Callable, Set
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from fastgw.admin.node_interface import Explained, RequestToExplain
from fastgw.config.settings.gateway import Config
from fastgw.errors import Fault
from fastgw.explain import as_text, certificate_of, explain
from fastgw.gateway.compiler import compile
from fastgw.gateway.tables import CompileError, Gateway
from fastgw.runtime.node.config_snapshot import ConfigSnapshot
from fastgw.runtime.reload.proposer import Proposer
from fastgw.upstream.upstream import Upstream

WITHIN_S: Final = 30.0
"""Timeout of an explanation, including the wait for earlier ones."""


class UpstreamState(NamedTuple):
    """Present state of an upstream. `drained`, `unhealthy`: labels of targets."""

    drained: Set[str] = frozenset()
    unhealthy: Set[str] = frozenset()
    is_open: bool = False
    """Whether its circuit breaker is open."""


class Explaining:
    """Explains one request at a time; others wait."""

    def __init__(self, proposer: Proposer) -> None:
        self._proposer = proposer
        self.why_not_ordered: Callable[[str], str] = lambda name: ""
        """Returns the reason why no certificate is ordered on demand for a name now; "": there is none."""
        self.state_of: Callable[[str], UpstreamState] = lambda name: UpstreamState()
        """Returns the present state of an upstream; called in a thread."""
        self._running: asyncio.Future[Explained] | None = None

    async def explain(self, request: RequestToExplain) -> Explained:
        """Implements `NodeInterface.explain`."""
        async with asyncio.timeout(WITHIN_S):
            while self._running is not None and not self._running.done():
                await asyncio.wait((self._running,))
            # The thread cannot be stopped: the next request waits for its end.
            self._running = asyncio.ensure_future(self._explain(request))
            self._running.add_done_callback(_retrieve_exception)
            return await asyncio.shield(self._running)

    async def _explain(self, request: RequestToExplain) -> Explained:
        proposer = self._proposer
        current, config, tables = proposer.current, proposer.config, proposer.tables
        if tables is None:
            tables = await asyncio.to_thread(_compiled, config, current)
            proposer.remember_tables(tables, current)
        not_ordered = self.why_not_ordered(urlsplit(request.url).hostname or "")
        return await asyncio.to_thread(
            _explained, tables, config, current.generation, request, not_ordered, self._take_state
        )

    def _take_state(self, upstream: Upstream) -> Fault | None:
        """Give the targets of an upstream their present state. Returns the fault if its circuit breaker is open."""
        state = self.state_of(upstream.name)
        upstream.drain(state.drained)
        unhealthy = {target for target in upstream.targets if target.label in state.unhealthy}
        if unhealthy != upstream.shunned:
            upstream.shunned = unhealthy
            upstream.settle()
        return Fault.CIRCUIT_OPEN if state.is_open else None


def _retrieve_exception(explained: asyncio.Future[Explained]) -> None:
    """Wait for the result; the client may have disconnected."""
    if not explained.cancelled():
        explained.exception()


def _compiled(config: Config, accepted: ConfigSnapshot) -> Gateway:
    try:
        return compile(config, accepted.workers, accepted.captured, accepted.index)
    except CompileError as error:
        raise ValueError(f"the routing tables cannot be compiled: {error}") from error


def _explained(
    tables: Gateway,
    config: Config,
    generation: int,
    request: RequestToExplain,
    not_ordered: str,
    state: Callable[[Upstream], Fault | None],
) -> Explained:
    if tables.stock.roster.index is not tables.index:  # it may belong to the previous generation
        tables.stock.roster.use_index(tables.index)
    certificate = None
    if request.certificate is not None:
        certificate = certificate_of(request.certificate.encode(), "certificate")
    explanation = explain(
        tables,
        request.method,
        request.url,
        request.headers,
        request.client,
        request.listener,
        certificate,
        config.routes,
        not_ordered,
        state,
    )
    return Explained(generation, explanation, as_text(explanation))
