"""What an API refuses though it is good by its date.

An API that refuses everything must not have a token fetched for each request, whoever fetches: control or, while that
is away, a worker.
"""

import time

from fastgw.errors import Fault
from fastgw.filters.allowance import Allowance
from fastgw.filters.credentials.said import Said, Unavailable, spared


def spare(said: Said, allowance: Allowance) -> Said | None:
    """What is to be said in place of fetching anew; None: it is to be fetched."""
    now_date = time.time()
    if not said.is_good(now_date) or now_date >= said.renew_from_date:  # then it is renewed anyhow
        return None
    rest = allowance.take(time.monotonic())
    if not rest:
        return None
    why = "what was fetched a moment ago is refused"
    return spared(said, Unavailable(Fault.TOKEN_REFUSED, why), min(rest, said.renew_from_date - now_date), 0)
