"""How often something is fetched anew because an API refuses what is good by its date.

An API that refuses everything must not have a token fetched for each request, whoever fetches: control or, while that
is away, a worker.
"""

import time
from typing import Final, final

from fastgw.errors import Fault
from fastgw.filters.credentials.said import Said, Unavailable, spared

AGAIN_S: Final = 10.0
"""How often at most."""
BURST: Final = 4
"""So often at once, if it was not refused lately."""


@final
class Allowance:
    """Of one source, in one process."""

    __slots__ = ("_left", "_since")

    def __init__(self) -> None:
        self._left, self._since = float(BURST), time.monotonic()

    def spare(self, said: Said) -> Said | None:
        """What is to be said in place of fetching anew; None: it is to be fetched."""
        now_date = time.time()
        if not said.is_good(now_date) or now_date >= said.renew_from_date:  # then it is renewed anyhow
            return None
        rest = self._take()
        if not rest:
            return None
        why = "what was fetched a moment ago is refused"
        return spared(said, Unavailable(Fault.TOKEN_REFUSED, why), min(rest, said.renew_from_date - now_date), 0)

    def _take(self) -> float:
        """0.0: now; else how many seconds to wait."""
        now = time.monotonic()
        self._left, self._since = min(float(BURST), self._left + (now - self._since) / AGAIN_S), now
        if self._left < 1:
            return (1 - self._left) * AGAIN_S
        self._left -= 1
        return 0.0
