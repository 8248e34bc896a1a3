"""Fast path plans: made for a route from its filters and its action. None: its requests take the full path."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce

from fastgw.exchange import Chain, FastPathPlan, FilterInstance
from fastgw.exchange.error_pages import prefers_html
from fastgw.exchange.filter_steps import pass_tests
from fastgw.exchange.hooks import PassTest, RefuseStep
from fastgw.exchange.request_stages import RANGE
from fastgw.exchange.sent_fields import NO_SENT_FIELDS, JoinedFields, SentFields, join_fields
from fastgw.http.messages import RequestHead
from fastgw.upstream.forwarding.forward_action import Forward


def fast_path_plan(
    chain: Chain, links: Sequence[FilterInstance], action: Forward, *, checks_path: bool, keeps_slashes: bool
) -> FastPathPlan | None:
    """Return the plan of a route; None: all of its requests take the full path.

    `links`: the filters of the chain whose request steps run once the route is known. `checks_path`: the route has a
    path check. `keeps_slashes`: encoded slashes are forwarded as they are.
    """
    # The fast path changes no headers of gRPC: trailers may stand in their place.
    meets_answers = chain.meets_answers or (action.grpc and chain.response_fields is not NO_SENT_FIELDS)
    sent_fields = _sent_fields(links)
    tests = pass_tests(_tests_of(chain, links))
    is_sent = bool(sent_fields.dropped or sent_fields.added)
    # Filters that change the header of requests one after the other change the one that these read.
    is_read = len(chain.request_steps) > 1 and type(chain.response_fields) is JoinedFields
    at_once = tests is not None and not meets_answers and keeps_slashes and not (is_sent and (action.grpc or is_read))
    if action.grpc and not at_once:
        return None
    # The outcome of a call without trailers is known on the full path only.
    response_fields = None if action.grpc else NO_SENT_FIELDS if meets_answers else _response_fields(chain, action)
    return FastPathPlan(
        action,
        checks_path,
        at_once,
        chain.looks_at,
        meets_answers,
        _id_step(chain),
        action.grpc,
        change_whole=None if meets_answers or action.grpc else chain.change_whole,
        full_path_headers=_headers_met(chain, links) if at_once else (),
        pass_tests=tests if at_once and tests is not None else (),
        sent_fields=sent_fields,
        refuse=_refuse_step(chain, tests) if at_once and tests is not None else None,
        response_fields=response_fields,
    )


def fetch_plan(chain: Chain, action: Forward, *, checks_path: bool) -> FastPathPlan | None:
    """Return the plan for requests whose responses a filter of the chain stores; None: no filter does."""
    fetch = chain.fetch_step
    if fetch is None:
        return None
    return FastPathPlan(
        action,
        checks_path,
        at_once=False,
        looks_at=None,
        meets_answers=False,
        id_of=_id_step(chain),
        fetch=fetch,
        response_fields=_response_fields(chain, action),
    )


def _id_step(chain: Chain) -> Callable[[RequestHead], bytes] | None:
    return None if chain.request_ids is None else chain.request_ids.of


def _headers_met(chain: Chain, links: Iterable[FilterInstance]) -> tuple[bytes, ...]:
    """Return the names of the headers with which some request steps have to run, or that are not sent."""
    hooks = [link.hooks for link in links if link.hooks.request is not None]
    names = {name for each in hooks for name in each.request_headers or ()}
    return tuple(sorted(names | RANGE if chain.drops_ranges else names))


def _sent_fields(links: Iterable[FilterInstance]) -> SentFields:
    """Return the headers for the upstream that filters change for all requests."""
    fields = (link.hooks.sent_fields for link in links)
    return reduce(SentFields.then, (each for each in fields if each is not None), NO_SENT_FIELDS)


def _response_fields(chain: Chain, action: Forward) -> SentFields | JoinedFields:
    """Return the headers of responses that the fast path changes."""
    fields = chain.response_fields
    if fields is NO_SENT_FIELDS or not action.marks:
        return fields
    return join_fields((fields, SentFields(action.marks, b"")))


def _tests_of(chain: Chain, own: Iterable[FilterInstance]) -> Iterator[PassTest | None]:
    """Yield the test of each filter whose request step or body hook has to run for a request; None: it has none.

    `own`: the filters of the chain whose request steps run once its route is known.
    """
    for link in chain.links:
        hooks = link.hooks
        has_step = link in own and hooks.request is not None
        if (has_step and hooks.request_headers is None and hooks.sent_fields is None) or hooks.request_body is not None:
            yield hooks.lets_pass
        if hooks.body_head is not None and not (chain.calls_only and hooks.body_head.skips_calls):
            yield hooks.body_head.lets_pass


def _refuse_step(chain: Chain, tests: Sequence[PassTest]) -> RefuseStep | None:
    """Return the step that refuses on the fast path, if no other filter has to see its requests and refusals."""
    if chain.response_steps or chain.reply_steps or chain.finish_steps:
        return None
    if chain.error_pages is not None and not chain.error_pages.are_default:
        return None
    able = [link.hooks for link in chain.links if link.hooks.refuse is not None]
    if len(able) != 1 or not tests or tests[-1] != able[0].lets_pass:
        return None
    refuse = able[0].refuse
    assert refuse is not None
    return lambda head: None if prefers_html(head) else refuse(head)
