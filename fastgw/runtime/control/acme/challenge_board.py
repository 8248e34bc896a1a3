"""Challenge board: the ACME challenges in progress of all certificates, sent to the workers as one feed."""

import asyncio
import os
import time
from typing import Final

from fastgw.acme.messages import ToAnswer
from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import notice
from fastgw.runtime.ipc.channel import Channel, ChannelClosed, ChannelFull, FeedUpdate
from fastgw.runtime.ipc.feed_values import RETRY_S, write_memfd
from fastgw.runtime.node.node_state import NodeState
from fastgw.sync.acme_challenges import FEED, Challenges, read, written

WAIT_S: Final = 10.0
"""Seconds that workers have to take the challenges."""
LOOK_S: Final = 0.02


class ChallengeBoard:
    """Challenges by the file of their certificate. A challenge of an earlier control process is removed."""

    def __init__(self, node_state: NodeState, channel: Channel) -> None:
        self._node_state, self._channel = node_state, channel
        self._turn = read(node_state.feeds.get(FEED, b"")).turn
        self._posted: dict[str, ToAnswer] = {}
        self._sent = Challenges(self._turn)

    async def post(self, file: str, challenges: ToAnswer) -> None:
        """Answer these challenges, and return once all workers do."""
        self._posted[file] = challenges
        self._send()
        ends_at = time.monotonic() + WAIT_S
        words, shared = self._node_state.words, self._node_state.shared
        while not words.workers_answer(shared, self._turn):
            if time.monotonic() >= ends_at:  # a worker hangs; others may be asked
                notice(OperatorEvent.CERTIFICATE_NOT_ISSUED, "some workers do not answer ACME challenges")
                return
            await asyncio.sleep(LOOK_S)

    def remove(self, file: str) -> None:
        """Answer no challenges of a certificate any more."""
        if self._posted.pop(file, None) is not None:
            self._send()

    def _send(self) -> None:
        self._turn += 1
        posted = self._posted.values()
        http = {token: text for each in posted for token, text in each.http.items()}
        tls = {name: pair for each in posted for name, pair in each.tls.items()}
        self._sent = Challenges(self._turn, http, tls)
        self._send_now(self._turn)

    def _send_now(self, turn: int) -> None:
        if turn != self._turn:
            return  # replaced in between
        try:
            descriptor = write_memfd(written(self._sent))
            try:
                generation = self._node_state.sealed.generation
                self._channel.send(FeedUpdate(generation=generation, key=FEED), [descriptor])
            finally:
                os.close(descriptor)
        except (ChannelFull, OSError):  # OSError: too many open files, for example
            asyncio.get_running_loop().call_later(RETRY_S, self._send_now, turn)
        except ChannelClosed:
            pass  # the supervisor has ended, so this process ends too
