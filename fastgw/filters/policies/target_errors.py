"""target_errors: mark error responses of an upstream, to distinguish them from errors of the gateway."""

from collections.abc import Iterable
from functools import cache
from typing import Annotated, Final

from msgspec import Meta

from fastgw.config.base.value_types import Statuses
from fastgw.config.settings.gateway import Some
from fastgw.filters.api import Env, Exchange, FieldName, Filter, Hooks, Phase
from fastgw.filters.authentication.identity_headers import check_label

_ERRORS: Final = (range(500, 600),)


class TargetErrors(Filter, name="target_errors", phase=Phase.TRANSFORM, order=20):  # type: ignore[literal-required]  # order: ours
    """Answer 502 if the upstream has answered with an error, and send the original status in a header.

    Headers and body of the upstream are forwarded unchanged. Responses of the gateway itself do not change.
    """

    statuses: Some[Statuses] = _ERRORS
    """Statuses of the upstream that count as errors: ranges such as `"500-599"`, or single ones."""
    status: Annotated[int, Meta(ge=500, le=599)] = 502
    """Status of the response to the client."""
    header: FieldName = "Target-System-Status"
    """Header with the status of the upstream. A header with this name from the upstream is removed."""

    stands_anywhere = True

    def __post_init__(self) -> None:
        check_label(self.header)

    def build(self, env: Env) -> Hooks:
        meant = _statuses_in(self.statuses)
        status, name, dropped = self.status, self.header.encode(), frozenset((self.header.lower().encode(),))

        def response(exchange: Exchange) -> None:
            answer = exchange.response
            assert answer is not None
            head = answer.head
            if head is None:
                return
            if head.status in meant:
                answer.status = status
                answer.dropped |= dropped
                answer.added += b"%b: %d\r\n" % (name, head.status)
            elif head.first(dropped_name) is not None:
                answer.dropped |= dropped

        (dropped_name,) = dropped
        return Hooks(response=response)


@cache
def _statuses_in(ranges: Iterable[range]) -> frozenset[int]:
    """Return the final statuses in these ranges. Cached: thousands of routes have the same ones."""
    return frozenset(status for each in ranges for status in each if status >= 200)
