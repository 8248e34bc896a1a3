"""h11 as the parser of every request that the gateway sends upstream in memory.

Rejections are kept until the test ends: an exception in `write` would count as a defect of the gateway.
"""

from __future__ import annotations

from typing import Final

import h11

REFUSED: Final[list[str]] = []
"""Rejections since the test began; a fixture of the unit tests asserts that there are none."""


class RequestJudge:
    """Reads one connection as a server does, request by request, up to an upgrade."""

    def __init__(self) -> None:
        self._reader = self._new_reader()
        self._may_upgrade = self._is_over = False

    def read(self, chunk: bytes) -> None:
        """Read bytes that the gateway has written."""
        if self._is_over or not chunk:
            return
        try:
            self._reader.receive_data(chunk)
            while (event := self._reader.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.Request):
                    self._may_upgrade = event.method == b"CONNECT" or any(
                        name == b"upgrade" for name, _ in event.headers
                    )
                elif isinstance(event, h11.EndOfMessage):
                    if self._may_upgrade:
                        self._is_over = True
                        return
                    rest, _ = self._reader.trailing_data
                    self._reader = self._new_reader()
                    if not rest:
                        return
                    self._reader.receive_data(rest)
        except h11.RemoteProtocolError as error:
            self._is_over = True
            REFUSED.append(f"{error}: {chunk[:200]!r}")

    @staticmethod
    def _new_reader() -> h11.Connection:
        return h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 24)
