"""Retry policy: when another attempt may follow, and after which delay, according to `retries` of an upstream.

A condition names the reason why an attempt failed. The fault's row in `errors.py` defines for which conditions the
upstream cannot have acted, and which require a request that may be sent again (see the contract's "Retry and reuse"); a
status always requires it.
"""

from collections.abc import Container, Sequence
from functools import lru_cache
from math import inf
from random import random
from typing import Final, final

from fastgw.config.settings import gateway as config
from fastgw.http.grpc.status import GrpcStatus
from fastgw.http.messages import ResponseHead
from fastgw.http.retry_after import wait_in
from fastgw.upstream.targets.target import Target

IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"))
"""Idempotent methods, which may be retried (RFC 9110 section 9.2.2)."""
SAFE: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE"))
"""Safe methods (RFC 9110 section 9.2.1)."""

NEVER: Final = ""
CONNECT_FAILURE: Final = "connect_failure"
RESET: Final = "reset_before_response"
LOST: Final = "reset"
"""Condition: the connection was lost before any response, whether it was reused or not. It includes `RESET`."""
PER_TRY_TIMEOUT: Final = "per_try_timeout"
REFUSED: Final = "stream_refused"
"""Condition: the target reported over HTTP/2 that it has not processed the request. It needs no setting."""
MOST_REFUSED: Final = 6
"""Maximum number of retries of a request that targets refused unprocessed, in addition to `retries.max`: such a request
has put no load on them.
"""


@final
class RetryRules:
    """Retry policy, compiled from `retries`. `retries_lost`: whether requests on lost new connections are retried;
    `statuses`: response statuses that are retried; `grpc_statuses`:
    conditions for gRPC statuses.
    """

    def __init__(self, settings: config.Retries) -> None:
        self.max = settings.max
        of_reused = (RESET,) if LOST in settings.conditions else ()
        self._conditions: frozenset[str] = frozenset((*settings.conditions, *of_reused, REFUSED))
        self.retries_lost = LOST in self._conditions and self.max > 0
        self.statuses = frozenset(int(each) for each in settings.conditions if each.isdecimal()) if self.max else ()
        self.grpc_statuses = {
            GrpcStatus[each.upper()]: each for each in settings.conditions if each.upper() in GrpcStatus.__members__
        }
        self.any_method = settings.non_idempotent
        self.per_try = settings.per_try_timeout or inf  # seconds
        self.body_bytes = settings.body_bytes
        self._first_wait = settings.backoff.base
        self._longest_wait = settings.backoff.max

    def allow(self, condition: str, retried: int) -> bool:
        """Whether one more attempt may follow after this number of retries; for `REFUSED`: of such retries. The caller
        checks whether the request may be sent again.
        """
        most = MOST_REFUSED if condition == REFUSED and self.max else self.max
        return retried < most and condition in self._conditions

    def wait(self, condition: str, retried: int, others: bool, asked: float = 0.0) -> float:
        """Return the seconds until the next attempt; inf: none follows. `others`: it goes to a target that was not
        tried yet.

        `asked`: from `Retry-After` of the target. The delay is random from 0 to a bound that doubles each time ("full
        jitter"), so that simultaneous failures are not retried simultaneously. After a failed connect or a timeout, a
        retry at another target does not wait; a reused connection that was just closed says nothing about its target.
        """
        if (
            condition == RESET
            or (condition == REFUSED and not retried)
            or (others and condition in (CONNECT_FAILURE, PER_TRY_TIMEOUT))
        ):
            return 0.0
        if asked > self._longest_wait:
            return inf
        bound: float = min(self._longest_wait, self._first_wait * 2**retried)
        return max(random() * bound, asked)


@lru_cache(256)
def rules_of(settings: config.Retries) -> RetryRules:
    """Return the policy; cached, because thousands of upstreams may have equal settings."""
    return RetryRules(settings)


def asked_wait(head: ResponseHead) -> float:
    """Return the seconds in `Retry-After` (RFC 9110 section 10.2.3); 0: it is missing or invalid."""
    return wait_in(head.first(b"retry-after"))


def any_untried(targets: Sequence[Target], tried: Container[Target]) -> bool:
    return any(target not in tried for target in targets)
