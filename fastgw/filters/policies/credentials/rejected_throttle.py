"""Rate limit for refetching a token that an API rejects although it has not expired.

Each value is refetched once for all requests that were rejected with it. An API that rejects everything, or some calls
for other reasons, must not cause a fetch for each of them: the process that fetches (control or, while that is
unreachable, a worker) limits the rate. Requests wait for the next fetch; none is rejected, because the credentials may
be valid.
"""

import asyncio
import time
from typing import Final

from fastgw.filters.outbound.refresh_throttle import Allowance
from fastgw.filters.policies.credentials.messages import FetchedRecord

AGAIN_S: Final = 1.0
"""Minimum seconds between fetches. Some servers invalidate a token when they issue the next one: within this time, a
retried request is answered before another rejection replaces its token.
"""


def allowance() -> Allowance:
    return Allowance(time.monotonic(), 1, AGAIN_S)


async def keep_pace(record: FetchedRecord, allowance: Allowance) -> None:
    """Wait until a rejected credential may be fetched again."""
    now_date = time.time()
    if not record.is_good(now_date) or now_date >= record.renew_from_date:  # it is renewed anyway
        return
    while rest := allowance.take_token(time.monotonic()):
        await asyncio.sleep(rest)
