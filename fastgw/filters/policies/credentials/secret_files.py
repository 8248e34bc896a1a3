"""Rereading of secret files at once, after an API has rejected their contents."""

import asyncio
from time import monotonic
from typing import Final

from fastgw.filters.api import FeedSource, NodeSide, Services

KEY: Final = "files of secrets"
IDLE_S: Final = 30.0
EVERY_S: Final = 0.25
"""Minimum seconds between two reads; a request in between waits for the next one."""
LOST_S: Final = 1.0
"""Seconds after which control is asked again, because a message may be lost."""
LONGEST_S: Final = 5.0
"""Maximum seconds that a request waits until changed files are stable and active in all workers."""


class SecretFiles(FeedSource, frozen=True, kw_only=True):
    """Part in the control process, for all filters of the node: when it answers, changes are active."""

    lazy = True
    key: str = KEY

    async def run(self, node: NodeSide) -> None:
        while await node.asked(IDLE_S):
            await node.look_at_files()
            node.attempted()
            node.publish(b"")
            await asyncio.sleep(EVERY_S)


async def look_anew(services: Services) -> None:
    """Wait until the files were read and their contents are active, for a bounded time."""
    feed, until = services.feeds[KEY], monotonic() + LONGEST_S
    while (left := until - monotonic()) > 0 and not services.control_is_away():
        feed.ask()
        if await feed.changed(min(left, LOST_S)):
            return
