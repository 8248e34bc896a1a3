"""all_of: several authentication methods, each of which has to accept the client."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Annotated, final

from msgspec import Meta
from msgspec.structs import replace

from fastgw.config.settings.gateway import FilterUse, Inner
from fastgw.exchange.filter_steps import checked
from fastgw.exchange.hooks import RequestStep
from fastgw.filters.api import (
    Env,
    Exchange,
    FeedSource,
    Filter,
    Hooks,
    Outcome,
    Phase,
    Reply,
    RequestHook,
    Services,
    WarningContext,
)
from fastgw.filters.api.credential_locations import NOWHERE, CredentialLocations
from fastgw.filters.api.warning_context import ClientIdentity, identity_by, warnings_by
from fastgw.filters.policies.auth import Auth, named_methods

Methods = Annotated[tuple[Annotated[FilterUse, Inner("AUTHENTICATE")], ...], Meta(min_length=2, max_length=8)]


class AllOf(Filter, name="all_of", phase=Phase.AUTHENTICATE):
    """Require several authentication methods at once, as one of the methods of `auth`.

    The methods run in order. The first one that does not accept the client decides its response; if all accept it, the
    consumer is the one of the last method. On a route by itself it is the same as its methods as filters of the route.
    Not for `auth`, `hmac`, a login of `oidc`, and `forward_auth` that sends headers to clients.
    """

    methods: Methods
    """The methods: filters, each as an object with one key, its type, such as `{key_auth: {}}`."""

    def __post_init__(self) -> None:
        if any(isinstance(use.settings, Auth | AllOf) for use in self.methods):
            raise ValueError("`auth` or `all_of` within `all_of` is not allowed; list the methods here")

    def credential_places(self) -> CredentialLocations:
        places = NOWHERE
        for use in self.methods:
            places |= use.settings.credential_places()
        return places

    def feeds(self) -> Iterable[FeedSource]:
        for use in self.methods:
            yield from use.settings.feeds()

    def written_fields(self) -> Iterable[str]:
        for use in self.methods:
            yield from use.settings.written_fields()

    def warnings(self, context: WarningContext) -> Iterable[str]:
        for use in self.methods:
            yield from warnings_by(use, replace(context, instance=use.name))

    def client_identity(self) -> ClientIdentity:
        methods = [identity_by(use.settings) for use in self.methods]
        return ClientIdentity(
            known=True,
            foreign_groups=any(each.foreign_groups for each in methods),
            foreign_names=methods[-1].foreign_names,
        )

    def build(self, env: Env) -> Hooks:
        methods = [
            (name, use.settings.build(env.inner(name, use.settings))) for name, use in named_methods(self.methods)
        ]
        requests = [*_request_hooks(methods)]
        use = _AllOf([each.step for each in requests], [hooks for _, hooks in methods])
        return Hooks(
            request=RequestHook(use.request, asks=" and ".join(each.asks for each in requests if each.asks)),
            start=use.start if any(hooks.start is not None for _, hooks in methods) else None,
            stop=use.stop if any(hooks.stop is not None for _, hooks in methods) else None,
            explain=use.explain,
        )


def _request_hooks(methods: Iterable[tuple[str, Hooks]]) -> Iterator[RequestHook]:
    """Yield the request hooks. Raises `ValueError` for a method that has others as well."""
    for name, hooks in methods:
        others = hooks.response, hooks.request_body, hooks.response_body, hooks.finish, hooks.trailers
        if hooks.request is None or any(others):
            raise ValueError(f"`{name}` does more than to look at the head of a request; expected another method")
        yield hooks.request


@final
class _AllOf:
    """The methods of one use of the filter."""

    __slots__ = ("_hooks", "_steps")

    def __init__(self, steps: list[RequestStep], hooks: list[Hooks]) -> None:
        self._steps, self._hooks = steps, hooks

    def request(self, exchange: Exchange) -> Outcome:
        for place, step in enumerate(self._steps):
            outcome = step(exchange)
            if outcome is not None:
                return outcome if type(outcome) is Reply else self._wait(outcome, place + 1, exchange)
        return None

    async def _wait(self, outcome: Outcome, place: int, exchange: Exchange) -> Reply | None:
        """Wait for a method, then run those from `place` on."""
        while True:
            if outcome is not None:
                reply = outcome if type(outcome) is Reply else checked(await outcome)
                if reply is not None:
                    return reply
            if place == len(self._steps):
                return None
            outcome, place = self._steps[place](exchange), place + 1

    def explain(self, exchange: Exchange) -> str:
        told = [hooks.explain(exchange) for hooks in self._hooks if hooks.explain is not None]
        return "; ".join(dict.fromkeys(filter(None, told)))

    def start(self, services: Services) -> None:
        for hooks in self._hooks:
            if hooks.start is not None:
                hooks.start(services)

    def stop(self) -> None:
        with ExitStack() as steps:
            for hooks in self._hooks:
                if hooks.stop is not None:
                    steps.callback(hooks.stop)
