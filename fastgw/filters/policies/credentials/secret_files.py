"""Files with secrets, looked at anew at once: an API has refused what they said when they were last looked at."""

import asyncio
from time import monotonic
from typing import Final

from fastgw.filters.api import FeedSource, NodeSide, Services

KEY: Final = "files of secrets"
IDLE_S: Final = 30.0
EVERY_S: Final = 0.25
"""How soon after a look the next one begins at the earliest; whoever asks before that waits so long."""
LOST_S: Final = 1.0
"""Seconds after which control is asked once more: an ask may be lost."""
LONGEST_S: Final = 5.0
"""How long a request waits: until files that change have come to rest, and all workers have what they say."""


class SecretFiles(FeedSource, frozen=True, kw_only=True):
    """Control's side, for all filters of the node: what has changed is in force when it answers."""

    lazy = True
    key: str = KEY

    async def run(self, node: NodeSide) -> None:
        while await node.asked(IDLE_S):
            await node.look_at_files()
            node.attempted()
            node.publish(b"")
            await asyncio.sleep(EVERY_S)


async def look_anew(services: Services) -> None:
    """Wait until the files were looked at and what they say is in force, for a bounded time."""
    feed, until = services.feeds[KEY], monotonic() + LONGEST_S
    while (left := until - monotonic()) > 0 and not services.control_is_away():
        feed.ask()
        if await feed.changed(min(left, LOST_S)):
            return
