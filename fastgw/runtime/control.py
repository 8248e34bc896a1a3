"""The control process: what is asked about the gateway is answered here, off the data path.

Workers never wait for it; when it dies it is replaced.
"""

import asyncio
import socket
from functools import partial

import uvloop

from fastgw.admin.metrics import Exposition
from fastgw.admin.status import StatusConnection, StatusPages
from fastgw.node.shared import Shared
from fastgw.observe import Series
from fastgw.runtime.channel import GENERATION, Channel, ChannelClosed, Ready, Stop
from fastgw.runtime.words import Words


def run_control(
    listening: socket.socket, shared: Shared, words: Words, series: Series, begun_date: float, channel: Channel
) -> None:
    """The life of the control process, after the fork: serve the status listener until told to stop."""

    def is_ready() -> bool:
        """The start is over, the stop has not begun, and a worker accepts."""
        return shared.supervisor.words[words.ready] == 1 and shared.total(words.ready) > 1

    pages = StatusPages(is_ready, Exposition(shared, words, series, begun_date).text)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        stopped = loop.create_future()

        def obey() -> None:
            try:
                while (message := channel.receive()) is not None:
                    if isinstance(message, Stop):
                        stopped.set_result(None)
            except ChannelClosed:
                stopped.cancel()

        create = loop.create_unix_server if listening.family == socket.AF_UNIX else loop.create_server
        server = await create(partial(StatusConnection, pages), sock=listening)
        loop.add_reader(channel, obey)
        channel.send(Ready(generation=GENERATION))
        await stopped
        server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
