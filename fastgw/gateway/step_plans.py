"""Step plans: made for a route from what its filters declare. None: its steps run for all requests."""

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce

from fastgw.exchange import Chain, FilterInstance, StepPlan
from fastgw.exchange.error_pages import prefers_html
from fastgw.exchange.filter_steps import pass_tests
from fastgw.exchange.hooks import PassTest, RefuseStep
from fastgw.exchange.request_stages import RANGE
from fastgw.exchange.sent_fields import NO_SENT_FIELDS, JoinedFields, SentFields


def step_plan(
    chain: Chain, links: Sequence[FilterInstance], *, checks_path: bool, keeps_slashes: bool, is_grpc: bool
) -> StepPlan | None:
    """Return the plan of a route; None: its steps run for all requests.

    `links`: the filters of the chain whose request steps run once the route is known. `checks_path`: the route has a
    path check. `keeps_slashes`: encoded slashes are forwarded as they are. `is_grpc`: its upstream is one of gRPC.
    """
    sent_fields = _sent_fields(links)
    tests = pass_tests(_tests_of(chain, links))
    is_sent = bool(sent_fields.dropped or sent_fields.added)
    # Filters that change the header of requests one after the other change the one that these read.
    is_read = chain.meets_answers or (len(chain.request_steps) > 1 and type(chain.response_fields) is JoinedFields)
    if tests is None or not keeps_slashes or (is_sent and (is_grpc or is_read)):
        return None
    return StepPlan(checks_path, _headers_met(chain, links), tests, sent_fields, _refuse_step(chain, tests))


def _headers_met(chain: Chain, links: Iterable[FilterInstance]) -> tuple[bytes, ...]:
    """Return the names of the headers with which some request steps have to run, or that are not sent."""
    hooks = [link.hooks for link in links if link.hooks.request is not None]
    names = {name for each in hooks for name in each.request_headers or ()}
    return tuple(sorted(names | RANGE if chain.drops_ranges else names))


def _sent_fields(links: Iterable[FilterInstance]) -> SentFields:
    """Return the headers for the upstream that filters change for all requests."""
    fields = (link.hooks.sent_fields for link in links)
    return reduce(SentFields.then, (each for each in fields if each is not None), NO_SENT_FIELDS)


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
    """Return the step that refuses in place of all steps, if no other filter has to see its requests and refusals."""
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
