"""Decision whether a request is retried after an attempt that came to nothing, where to and when.

It joins what `retries` of the upstream say (`policies/retry.py`), the targets that were not tried yet, and the time
that is left. Whether the request itself may be sent again is for the caller to know (`Forwarding.is_replayable`), and
so is the place in the retry budget (`policies/retry_budget.py`), which it keeps until the end.
"""

from math import inf
from typing import Final, NamedTuple

from fastgw.upstream.policies.retry import CONNECT_FAILURE, any_untried
from fastgw.upstream.targets.target import Target
from fastgw.upstream.upstream import Upstream


class RetryDecision(NamedTuple):
    """Whether, when and where a retry follows. `wait`: seconds until it begins; inf: none follows."""

    wait: float
    is_free: bool = False
    """Whether no place in the retry budget has to be taken for it."""
    last_resort: Target | None = None
    """An ejected target, for no other could be reached."""


_REFUSED: Final = RetryDecision(inf, is_free=True)


def decide_retry(
    upstream: Upstream, condition: str, retried: int, tried: tuple[Target, ...], due_at: float, asked: float
) -> RetryDecision:
    """Decide about another attempt, after `retried` of them. `due_at`: when the response has to be there, by the
    wheel's clock. `asked`: seconds that the target has asked to wait for.

    Where nobody was reached, another target is the first to have any work of the request: that takes no place in the
    budget, or most requests would be lost while one of two targets is down.
    """
    rules = upstream.rules
    if not rules.allow(condition, retried):
        return _REFUSED
    untried, last_resort = any_untried(upstream.in_use, tried), None
    if not untried and condition == CONNECT_FAILURE:
        last_resort = upstream.last_resort(tried)
    others = untried or last_resort is not None
    wait = rules.wait(condition, retried, others, asked)
    if upstream.worker_loop.wheel.now + wait >= due_at:
        wait = inf
    return RetryDecision(wait, wait == inf or (others and condition == CONNECT_FAILURE), last_resort)
