"""request_id: assign an id to each request, for the client, the log and the upstream."""

from typing import ClassVar

from fastgw.config.base.value_types import FieldName
from fastgw.exchange.request_ids import request_ids
from fastgw.filters.api import Env, Filter, Hooks, Phase, RequestHook
from fastgw.filters.authentication.identity_headers import check_label


class RequestId(Filter, name="request_id", phase=Phase.OBSERVE):
    """Request ids: each request has an id in the log, to the upstream and in the response.

    The gateway has this filter by default, as with `filters: {request_id: {}}`. `request_id: null` or `off` removes it,
    for the gateway or for one level; listeners, upstreams and routes may have their own. The innermost one counts.
    """

    header: FieldName = "X-Request-Id"
    """Header with the id, in the request and in the response; the upstream's own is replaced. A header other than the
    default costs more, as it needs a filter step."""
    trust_client: bool = True
    """Whether an id from the client is kept: up to 128 visible ASCII characters. Otherwise the gateway generates one:
    128 random bits as 32 hexadecimal digits."""

    by_route: ClassVar[bool] = True
    by_default: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_label(self.header)

    def build(self, env: Env) -> Hooks:
        ids = request_ids(self.header.encode(), self.trust_client)
        return Hooks(request=RequestHook(ids.identify, ids=ids), response=None if ids.is_usual else ids.add_to_response)
