"""The filters of a route in running order, with their hooks sorted by kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

from fastgw.exchange.body_stages import BodyHook, RemovedCodings, StageFactory
from fastgw.exchange.filter_steps import before_any, by_path
from fastgw.exchange.hooks import BodyHead, Hooks, ReadyStep, RequestStep, ResponseHook, ResponseStep, TrailerStep
from fastgw.exchange.reply import NO_NAMES
from fastgw.exchange.sent_fields import SentFields, fields_for_request, join_fields
from fastgw.typed_fields import expose_fields

if TYPE_CHECKING:
    from fastgw.config.settings.gateway import FilterUse
    from fastgw.exchange.error_pages import ErrorPages
    from fastgw.exchange.exchange import Exchange
    from fastgw.http.messages import RequestHead

ValueStep: TypeAlias = "Callable[..., bytes | None]"
"""Function that returns a value of an exchange, optionally in a form for the place where it is written."""
_NUMBERS: Final = count()
_NO_MAPS: Final[Mapping[str, Any]] = MappingProxyType({})


@final
class FilterInstance:
    """Filter instance at its position in a chain. `always`: its response step runs for every response (OBSERVE, ADMIT).

    `level`: level at which it is configured. Its state is kept over reloads while its configuration at this level and
    the files that it has read (`reads`: files and their digests) do not change. `keeps`: objects that it shares with
    others. `own`: the filter's own hooks, if `hooks` are those of its shadow mode. `early`: it runs before a route is
    found.
    """

    __slots__ = ("always", "early", "hooks", "keeps", "level", "own", "reads", "started", "use")

    def __init__(
        self,
        use: FilterUse,
        hooks: Hooks,
        always: bool,
        level: str,
        reads: Mapping[str, bytes] = MappingProxyType({}),
        keeps: Iterable[object] = (),
        own: Hooks | None = None,
        early: bool = False,
    ) -> None:
        self.use, self.hooks, self.always, self.level, self.early = use, hooks, always, level, early
        self.own = own or hooks
        self.reads, self.keeps = reads, tuple(keeps)
        self.started = False

    @property
    def is_live(self) -> bool:
        """Whether it holds resources in a worker's event loop."""
        return self.hooks.start is not None or self.hooks.stop is not None


class Chain:
    """Filters of a route (before a route is found: of a listener) in running order, with hooks sorted by kind."""

    def __init__(
        self,
        links: Iterable[FilterInstance],
        error_pages: ErrorPages | None = None,
        maps: Mapping[str, ValueStep] = _NO_MAPS,
    ) -> None:
        self.links = tuple(links)
        self.maps = maps  # results of the gateway's maps, by name, for values in this chain
        # Of a part of a traffic split: its label, and its number among parts of this label. A reload keeps both.
        self.variant: tuple[str, int] | None = None
        # By what its requests differ from others of the route with the same upstream and path, for keys of caches: the
        # name of a listener with filters of its own, and settings of a part. Unlike `variant`, they name the same
        # requests when the order of the parts changes. b"": nothing.
        self.sent_settings = b""
        # Chains of requests of the gateway's own for exchanges of this one (`upstream.client.call`), made
        # when the first one is sent; None: none was.
        self.of_calls: Chain | None = None
        self.of_copies: Chain | None = None
        self.number = next(_NUMBERS)  # another one for each chain: filters may be kept over a reload, a route is not
        self.error_pages = error_pages  # for the gateway's own faults; None: they stay problem documents
        self.logged_at: dict[object, float] | None = None  # monotonic time of the last log line, by step
        hooks = [link.hooks for link in self.links]
        self.request_steps = request_steps_of(self.links)
        self.request_body_hooks = tuple(h.request_body for h in hooks if isinstance(h.request_body, BodyHook))
        self.removed_codings = self._removed_codings()
        self.response_body_hooks = tuple(
            (link, link.hooks.response_body) for link in reversed(self.links) if link.hooks.response_body is not None
        )
        self.drops_ranges = any(
            hook.spoils_ranges for _, hook in self.response_body_hooks
        )  # of requests: see `BodyHook.spoils_ranges`
        self.trailer_steps = tuple(h.trailers for h in reversed(hooks) if h.trailers is not None)
        self.treats_responses = bool(self.response_body_hooks or self.trailer_steps)
        self.body_heads = tuple(h.request_body for h in hooks if isinstance(h.request_body, BodyHead))
        self.treats_bodies = self.treats_responses or bool(self.request_body_hooks or self.body_heads)
        # Response steps run in reverse order.
        self.response_steps = tuple(h.response.step for h in reversed(hooks) if h.response is not None)
        # Those of them that may change headers by lines: no later step and no body hook reads or replaces them.
        self.line_steps = () if self.treats_responses else _line_steps(hooks)
        self.reply_steps = tuple(h.reply for h in reversed(hooks) if h.reply is not None)
        self.tunnel_steps = tuple(h.tunnel for h in reversed(hooks) if h.tunnel is not None)
        self.renew_steps = tuple(h.renew for h in reversed(hooks) if h.renew is not None)
        self.finish_steps = tuple(h.finish for h in reversed(hooks) if h.finish is not None)
        self.preflight = next((h.preflight for h in reversed(hooks) if h.preflight is not None), None)
        ids = (h.request.ids for h in reversed(hooks) if h.request is not None)
        self.request_ids = next((each for each in ids if each is not None), None)
        translations = [h.translate for h in hooks if h.translate is not None]
        self.sign_steps = tuple(each.step for each in translations if each.signs)
        self.translate_steps = (*(each.step for each in translations if not each.signs), *self.sign_steps)
        self.whole_hook = self._whole_hook()
        self.whole_check = self._whole_check()
        # Headers of responses that the filters change where their steps do not run.
        sent = (
            h.response.fields for h in reversed(hooks) if h.response is not None and self._sends_fields_of(h.response)
        )
        self.response_fields = join_fields(tuple(fields for fields in sent if fields is not None))
        self.ready_answer = self._ready_answer(hooks)
        self.calls_only = False  # whether its route leads to gRPC upstreams alone
        self.takes_literally = False  # whether names in paths may contain what some servers read in another way
        self.allows_fetch = False  # whether a filter may take part in the forwarding (`exchange.taker`)

    def with_links(self, links: Iterable[FilterInstance]) -> Chain:
        """Return a chain of other filters at the same position."""
        chain = Chain(links, self.error_pages, self.maps)
        chain.variant, chain.sent_settings, chain.calls_only = self.variant, self.sent_settings, self.calls_only
        chain.takes_literally = self.takes_literally
        return chain

    def _removed_codings(self) -> RemovedCodings | None:
        """Return the function for the content codings that a filter removes from the body of a request. None: none
        does.
        """
        steps = (hook.step for hook in self.request_body_hooks)
        return next((step.codings for step in steps if isinstance(step, StageFactory) and step.codings), None)

    def _whole_hook(self) -> BodyHook | None:
        """Return the hook that changes complete response bodies at once (`StageFactory.change_whole`). None: there is
        none, or other filters take part.
        """
        if len(self.response_body_hooks) != 1 or self.trailer_steps:
            return None
        hook = self.response_body_hooks[0][1]
        is_able = isinstance(hook.step, StageFactory) and hook.step.change_whole is not None and hook.bound is None
        return hook if is_able else None

    def _whole_check(self) -> BodyHook | None:
        """Return the hook that checks complete request bodies at once (`StageFactory.check_whole`). None: there is
        none, or other filters take part.
        """
        if len(self.request_body_hooks) != 1:
            return None
        step = self.request_body_hooks[0].step
        return self.request_body_hooks[0] if isinstance(step, StageFactory) and step.check_whole is not None else None

    def _sends_fields_of(self, hook: ResponseHook) -> bool:
        """Whether `fields` are sent without the response step for which they stand: no later step sees them."""
        return hook.fields is not None and hook.step in self.line_steps

    @property
    def is_bare(self) -> bool:
        """Whether no filter sees requests or responses: the action alone decides about the answer, which gets the
        `response_fields`.
        """
        steps = self.request_steps or self.reply_steps or self.finish_steps or self.translate_steps
        seen = steps or self.treats_bodies
        hooks = [link.hooks.response for link in self.links]
        return not seen and all(self._sends_fields_of(each) for each in hooks if each is not None)

    def _ready_answer(self, hooks: Iterable[Hooks]) -> ReadyStep | None:
        """Return the step that answers from memory, if no other filter has to see the request or the response."""
        ready = [h.translate for h in hooks if h.translate is not None and h.translate.ready is not None]
        if len(ready) != 1 or self.treats_responses or self.finish_steps:
            return None  # hooks for the bodies of requests do not count: it is asked for those without a body only
        is_alone = all(
            (h.request is None or h.request.for_upstream or h.request.ids is not None)
            and (h.translate is ready[0] or h.response is None or self._sends_fields_of(h.response))
            and h.translate in (None, ready[0])
            for h in hooks
        )
        return ready[0].ready if is_alone else None

    def response_fields_for(self, head: RequestHead, peer: Any) -> SentFields | None:
        """Return the `response_fields` for the response to a request. None: the response steps have to run."""
        return fields_for_request(self.response_fields, head, peer)

    def response_steps_due(self, answered_by: RequestStep | None) -> tuple[ResponseStep, ...]:
        if answered_by is None or not self.response_steps:
            return self.response_steps
        hooks = (link.hooks.response for link in reversed(self.ran(answered_by)))
        return tuple(each.step for each in hooks if each is not None)

    def finish_steps_due(self, answered_by: RequestStep | None) -> tuple[Callable[[Exchange], None], ...]:
        if answered_by is None or not self.finish_steps:
            return self.finish_steps
        return tuple(link.hooks.finish for link in reversed(self.ran(answered_by)) if link.hooks.finish is not None)

    def response_body_hooks_due(self, answered_by: RequestStep | None) -> list[BodyHook]:
        """Return the hooks of response bodies for an exchange that the step `answered_by` has answered, in reverse
        order.
        """
        due = self.links if answered_by is None else self.ran(answered_by)
        return [hook for link, hook in self.response_body_hooks if link in due]

    def trailer_steps_due(self, answered_by: RequestStep | None) -> tuple[TrailerStep, ...]:
        if answered_by is None or not self.trailer_steps:
            return self.trailer_steps
        return tuple(link.hooks.trailers for link in reversed(self.ran(answered_by)) if link.hooks.trailers is not None)

    def ran(self, answered_by: RequestStep | None) -> list[FilterInstance]:
        """Return the links whose response and finish steps have to run when the request step `answered_by` has
        answered."""
        due, by_its_path = [], answered_by is by_path
        reached = answered_by is not before_any and not by_its_path
        for link in self.links:
            request = link.hooks.request
            is_early = by_its_path and link.early
            if (
                reached
                or link.always
                or is_early
                or (request is not None and request.before_authentication is not None)
            ):
                due.append(link)
            if answered_by is not None and request is not None and request.step is answered_by:
                reached = False
        return due

    def name_of(self, step: object) -> str:
        """Return the instance whose hook `step` is, for the log."""
        return next((link.use.name for link in self.links if step in _hooks_of(link)), "?")


def request_steps_of(links: Sequence[FilterInstance]) -> tuple[RequestStep, ...]:
    """Return the request steps of filters in running order, with the steps before authentication in their place."""
    steps: list[RequestStep] = []
    first: list[RequestStep] = []
    early = 0
    for link in links:
        hook = link.hooks.request
        if hook is None or hook.ids is not None:
            continue
        steps.append(hook.step)
        early += _is_early(link)
        if hook.before_authentication is not None:
            first.append(hook.before_authentication)
    return (*steps[:early], *first, *steps[early:])


def _is_early(link: FilterInstance) -> bool:
    """Whether a filter runs before those that authenticate. That of an observer always does, and has no settings."""
    return link.always or link.early or link.use.settings.phase.early


def _line_steps(hooks: Iterable[Hooks]) -> tuple[ResponseStep, ...]:
    """Return the response steps that may change headers by lines. `hooks`: in the order of requests, so that the last
    response step comes first.
    """
    steps: set[ResponseStep] = set()
    later: frozenset[bytes] = NO_NAMES  # headers that a later step adds without looking for such lines
    for each in hooks:
        hook = each.response
        if hook is None:
            continue
        if hook.step in steps:  # two filters have the same one, which must not stand for both
            steps.remove(hook.step)
            break
        lines = hook.lines
        if lines is None or not lines.names.isdisjoint(later):
            break
        steps.add(hook.step)
        if lines.reads:
            break
        if not lines.replaces:
            later |= lines.names
    return tuple(steps)  # 160 bytes less in each of thousands of chains than a set


def _hooks_of(link: FilterInstance) -> tuple[object, ...]:
    hooks = link.hooks
    first = None if hooks.request is None else hooks.request.before_authentication
    declared = hooks.request, hooks.response, hooks.request_body, hooks.response_body, hooks.translate
    steps = [each.step for each in declared if each is not None]
    return *steps, first, hooks.finish, hooks.preflight, hooks.reply, hooks.renew, hooks.trailers


expose_fields(Chain)
