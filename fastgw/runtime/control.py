"""The control process: what is asked about the gateway is answered here, off the data path.

Workers never wait for it; when it dies it is replaced.
"""

import asyncio
import socket
from collections.abc import Callable
from functools import partial

import uvloop

from fastgw.admin.metrics import Exposition
from fastgw.admin.status import StatusConnection, StatusPages
from fastgw.runtime.channel import GENERATION, Channel, ChannelClosed, Ready, Stop


def run_control(
    listening: socket.socket, is_ready: Callable[[], bool], exposition: Exposition, channel: Channel
) -> None:
    """The life of the control process, after the fork: serve the status listener until told to stop."""
    pages = StatusPages(is_ready, exposition.text)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        create = loop.create_unix_server if listening.family == socket.AF_UNIX else loop.create_server
        server = await create(partial(StatusConnection, pages), sock=listening)
        channel.send(Ready(generation=GENERATION))
        await told_to_stop(channel)
        server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


async def told_to_stop(channel: Channel) -> None:
    """Return when the supervisor says so, or is gone. For processes that take no other orders."""
    loop = asyncio.get_running_loop()
    told = loop.create_future()

    def obey() -> None:
        try:
            while (message := channel.receive()) is not None:
                if isinstance(message, Stop):
                    break
            else:
                return
        except ChannelClosed:
            pass
        loop.remove_reader(channel)
        told.set_result(None)

    loop.add_reader(channel, obey)
    await told
