"""Rate limit for refetching a token that an API rejects although it has not expired.

Each value is fetched anew once, for all who were refused with it. An API that refuses everything, or some calls for
reasons of its own, must not have one fetched for each of them as fast as can be: whoever fetches (control or, while
that is away, a worker) keeps to a pace. Who comes too soon waits; nobody is turned away, for the secret may be good.
"""

import asyncio
import time
from typing import Final

from fastgw.filters.outbound.refresh_throttle import Allowance
from fastgw.filters.policies.credentials.messages import FetchedRecord

AGAIN_S: Final = 1.0
"""How often at most. Some servers end a token by the next one: in that time a request that was sent once more has its
answer, before another one's refusal takes its token away again."""


def allowance() -> Allowance:
    return Allowance(time.monotonic(), 1, AGAIN_S)


async def keep_pace(record: FetchedRecord, allowance: Allowance) -> None:
    """Wait until what was said may be fetched anew."""
    now_date = time.time()
    if not record.is_good(now_date) or now_date >= record.renew_from_date:  # then it is renewed anyhow
        return
    while rest := allowance.take_token(time.monotonic()):
        await asyncio.sleep(rest)
