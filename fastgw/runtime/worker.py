"""A worker: the process that serves. It accepts for itself and otherwise does what the supervisor says.

Signals are the supervisor's affair: a terminal or a service manager sends them to every process of the group, and the
channel tells what to do about them. When the channel closes the supervisor is gone, and the worker goes too.
"""

import asyncio
import faulthandler
import logging
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import uvloop

from fastgw.compile import Gateway
from fastgw.downstream import Listener, Server
from fastgw.node.ground import Ground
from fastgw.node.shared import Shared
from fastgw.node.timers import TICK
from fastgw.observe import Observer
from fastgw.runtime.accepting import Acceptor
from fastgw.runtime.channel import (
    GENERATION,
    Adopt,
    AnyMessage,
    Channel,
    ChannelClosed,
    Drain,
    Drained,
    Ready,
    Release,
    Reopen,
    Stop,
)
from fastgw.runtime.notices import described
from fastgw.runtime.sockets import Endpoint
from fastgw.runtime.words import Words

log = logging.getLogger("fastgw")

FLUSH_S: Final = 2.0
"""How long the logs may go on writing after a drain."""
FLUSH_NOW_S: Final = 0.3
"""The same when the worker was told to stop at once."""


@dataclass(frozen=True)
class Listening:
    """A listener and where it is bound."""

    listener: Listener
    endpoints: tuple[Endpoint, ...]


class Worker:
    """What one worker process holds. Made after the fork."""

    def __init__(
        self,
        slot: int,
        gateway: Gateway,
        shared: Shared,
        words: Words,
        listenings: Sequence[Listening],
        channel: Channel,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._slot = slot
        self._gateway = gateway
        self._listenings = listenings
        self._channel = channel
        self._column = shared.columns[slot]
        self._words = words
        self._ground = Ground(self._loop)
        self._observer = Observer(
            logs=gateway.config.access_logs, column=words.counted(self._column), series=gateway.series
        )
        self._server = Server(
            self._ground,
            gateway,
            self._observer,
            words.connection_limit(self._column),
            words.address_limit(self._column),
        )
        self._acceptor = Acceptor(self._loop, self._server)
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._drain: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """Serve until told to stop."""
        self._loop.set_exception_handler(_log_unforeseen)
        self._observer.start()
        self._ground.start()
        self._gateway.start(self._ground, self._column)
        self._beat()
        self._open(self._slot)
        self._loop.add_reader(self._channel, self._obey)
        self._column.words[self._words.ready] = 1
        self._channel.send(Ready(generation=GENERATION))
        try:
            await self._ended
        finally:
            self._loop.remove_reader(self._channel)
            self._server.stop()
            self._gateway.stop()
            self._ground.close()
            self._observer.stop(FLUSH_S if self._drain is not None else FLUSH_NOW_S)

    def _beat(self) -> None:
        self._column.words[self._words.beat] = time.monotonic_ns()
        self._loop.call_later(TICK, self._beat)

    def _open(self, slot: int) -> None:
        for listening in self._listenings:
            for endpoint in listening.endpoints:
                self._acceptor.open(endpoint.of_slot(slot), listening.listener)

    def _close(self, slot: int) -> None:
        for listening in self._listenings:
            for endpoint in listening.endpoints:
                if not endpoint.shared:  # what is shared is ours as well
                    self._acceptor.close(endpoint.of_slot(slot))

    def _obey(self) -> None:
        try:
            while (message := self._channel.receive()) is not None:
                self._do(message)
        except ChannelClosed:
            self._end()

    def _do(self, message: AnyMessage) -> None:
        match message:
            case Adopt(slot=slot):
                self._open(slot)
            case Release(slot=slot):
                self._close(slot)
            case Reopen():
                self._observer.reopen()
            case Drain():
                self._column.words[self._words.ready] = 0
                self._drain = self._loop.create_task(self._finish(message))
            case Stop():
                self._end()

    async def _finish(self, limits: Drain) -> None:
        try:
            draining = self._loop.create_task(self._server.drain(limits.requests_s, limits.tunnels_s))
            await asyncio.sleep(0)  # it has begun: whoever finds us closed may rely on that
            await self._acceptor.end()
            summary = await draining
            if self._server.connections:  # they came from the queue when there was nothing to wait for any more
                summary = await self._server.drain(limits.requests_s, limits.tunnels_s)
            self._channel.send(Drained(generation=GENERATION, drained=summary.drained, cut=summary.cut))
        finally:
            self._end()

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)


def _log_unforeseen(loop: asyncio.AbstractEventLoop, report: dict[str, Any]) -> None:
    """What nobody caught in a callback: one line. The loop goes on."""
    error = report.get("exception")
    log.error("%s%s", report["message"], f": {described(error)}" if isinstance(error, BaseException) else "")


def run_worker(
    slot: int,
    gateway: Gateway,
    shared: Shared,
    words: Words,
    listenings: Sequence[Listening],
    channel: Channel,
) -> None:
    """The life of a worker process, after the fork."""
    faulthandler.enable(2)
    faulthandler.register(signal.SIGUSR2, 2)

    async def live() -> None:
        await Worker(slot, gateway, shared, words, listenings, channel).serve()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(live())
