"""Decision whether, when and at which target a request is retried after a failed attempt.

It combines `retries` of the upstream and the route (`policies/retry.py`), the targets that were not tried yet, and the
time that is left. The caller knows whether the request itself may be sent again (`Attempts.is_replayable`), and is
counted in the retry budget (`RetryBudget`) until its end.
"""

from math import inf
from typing import Final, NamedTuple

from fastgw.upstream.load_balancing import BalancingRequest
from fastgw.upstream.policies.retry import CONNECT_FAILURE, REFUSED, RESET, RetryRules, any_untried
from fastgw.upstream.targets.target import Target
from fastgw.upstream.upstream import Upstream


class RetryDecision(NamedTuple):
    """Decision about a retry. `wait`: seconds until it begins; inf: none follows."""

    wait: float
    is_free: bool = False
    """Whether it is not counted in the retry budget."""
    target: Target | None = None
    """Target that is not in use, if those in use were tried: of the next priority group, or else an ejected one."""


_REFUSED: Final = RetryDecision(inf, is_free=True)
_SAYS_NOTHING: Final = frozenset((RESET, REFUSED))
"""Conditions that say nothing about the target: a new connection to it may work."""


def decide_retry(
    upstream: Upstream,
    request: BalancingRequest,
    rules: RetryRules,
    condition: str,
    retried: int,
    tried: tuple[Target, ...],
    due_at: float,
    asked: float,
) -> RetryDecision:
    """Decide about another attempt, after `retried` retries. `due_at`: deadline of the response, by the wheel's clock.
    `asked`: seconds from the target's `Retry-After`.

    If no target was reached yet, the retry is the first load that the request causes: it is not counted in the budget,
    because otherwise most requests would be lost while one of two targets is down. Requests that the target refused
    unprocessed are not counted either: a restarting target refuses all requests in flight.
    """
    if not rules.allow(condition, retried):
        return _REFUSED
    untried, target = any_untried(upstream.in_use, tried), None
    if not untried and condition not in _SAYS_NOTHING:
        target = upstream.backup(request, tried)
    if not untried and target is None and condition == CONNECT_FAILURE:
        target = upstream.last_resort(tried)
    others = untried or target is not None
    wait = rules.wait(condition, retried, others, asked)
    if upstream.worker_loop.wheel.now + wait >= due_at:
        wait = inf
    is_free = condition == REFUSED or (others and condition == CONNECT_FAILURE)
    return RetryDecision(wait, wait == inf or is_free, target)
