"""Configuration warnings about filters that can never take effect, or that trust a network in between.

Rule: only what is certain is told. A filter of one's own may say who a client is; so may files of consumers, which
change while the gateway runs; and one way of several in `auth` may be there for later.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from math import ceil
from typing import Any, Final

from fastgw.config.base.problems import nearest, show
from fastgw.config.base.value_types import is_far_in_the_clear, write_duration
from fastgw.config.decoding.filter_levels import running
from fastgw.config.egress.expand import NAME as EGRESS
from fastgw.config.loading.locate_filter import Where
from fastgw.config.settings.credentials import READABLE
from fastgw.config.settings.gateway import Config, Consumer, Filters, FilterUse
from fastgw.filters import TYPES
from fastgw.filters.api import Phase
from fastgw.filters.authentication.templates import is_identity, names_request
from fastgw.filters.policies.auth import REJECT, Auth
from fastgw.filters.policies.authorize import Authorize
from fastgw.filters.policies.basic_auth import BasicAuth
from fastgw.filters.policies.certificate_auth import CertificateAuth
from fastgw.filters.policies.concurrency import Concurrency
from fastgw.filters.policies.credentials import Credentials
from fastgw.filters.policies.forward_auth import ForwardAuth
from fastgw.filters.policies.headers import Headers
from fastgw.filters.policies.hmac import Hmac
from fastgw.filters.policies.introspection import Introspection
from fastgw.filters.policies.jwt import Jwt
from fastgw.filters.policies.key_auth import KeyAuth
from fastgw.filters.policies.oidc import Oidc
from fastgw.filters.policies.quota import Quota
from fastgw.filters.policies.rate_limit import RateLimit
from fastgw.filters.policies.request_id import RequestId
from fastgw.http.http1.llhttp import knows_method

_OURS: Final = frozenset(TYPES.values())
_HELD: Final[Mapping[type, tuple[str, Callable[[Consumer], tuple[Any, ...]]]]] = {
    KeyAuth: ("key_auth", lambda consumer: consumer.key_auth),
    BasicAuth: ("basic_auth", lambda consumer: consumer.basic_auth),
    Hmac: ("hmac", lambda consumer: consumer.hmac),
    CertificateAuth: ("certificates", lambda consumer: consumer.certificates),
}
"""Filters that know consumers by what these have themselves, and where it stands."""


def doubts(config: Config) -> Iterator[tuple[Where, str]]:
    """Yield the warnings, and the use of a filter that each is about."""
    uses = dict(_uses(config))
    for where, use in uses.items():
        for each in _with_inner(use):
            yield from ((where, wrong) for wrong in _in_the_clear(each.settings))
            yield from ((where, wrong) for wrong in _follows_host(each.settings))
        if isinstance(use.settings, RateLimit) and (wrong := _too_late(use.settings, config.timeouts.filters)):
            yield where, wrong
        if isinstance(use.settings, RateLimit):
            yield from ((where, wrong) for wrong in _idle(use.settings, config))
        if isinstance(use.settings, Quota) and config.quotas.file is None:
            yield where, "what it counts ends with the gateway where systemd gives it no directory: see `quotas.file`"
        if isinstance(use.settings, Auth) and (wrong := _called_by_nobody(use.settings.anonymous, config)):
            yield where, wrong
        if use.settings is not None and (wrong := _held_by_nobody(use.settings, config)):
            yield where, wrong
    met = _meetings(config)
    for where, use in uses.items():
        if meetings := met.get(id(use)):
            yield from ((where, wrong) for wrong in _useless(use.settings, meetings, config))
    yield from _hashed_by_nobody(config)


def _uses(config: Config) -> Iterator[tuple[Where, FilterUse]]:
    """Yield the uses of filters that may have warnings."""
    holders: list[tuple[str, str, Filters]] = [("filters", "", config.filters)]
    holders += [("listeners", name, each.filters) for name, each in config.listeners.items()]
    holders += [("upstreams", name, each.filters) for name, each in config.upstreams.items()]
    holders += [("filter_sets", name, filters) for name, filters in config.filter_sets.items()]
    holders += [("routes", route.name, route.filters) for route in config.routes]
    for part, holder, filters in holders:
        for name, use in filters.items():
            if use is not None and _is_doubted(use.settings.__class__):
                if isinstance(use.settings, Credentials) and part == "routes" and holder.startswith(f"{EGRESS}/"):
                    continue  # `egress` tells it where it makes them: there may be thousands
                yield Where(part, holder, name), use


@cache
def _is_doubted(type: type) -> bool:
    """Whether there is anything to know of filters of a type. Of most there is not, and they may be very many."""
    return issubclass(type, (Auth, Jwt, Introspection, Oidc, Credentials, *_HELD, *_WITH_OTHERS))


_Meeting = tuple[str, tuple[FilterUse, ...]]
"""A listener, and the filters that run for a request before this one."""


def _meetings(config: Config) -> Mapping[int, list[_Meeting]]:
    """Return, for each use of `_WITH_OTHERS`, by identity, all the filters that it meets."""
    met: defaultdict[int, list[_Meeting]] = defaultdict(list)
    if any(isinstance(use.settings, _WITH_OTHERS) for _, use in _uses(config)):
        for route in config.routes:
            for listener in route.listeners or config.listeners:
                before = running(config, listener, route)
                for place, use in enumerate(before):
                    if isinstance(use.settings, _WITH_OTHERS):
                        met[id(use)].append((listener, tuple(before[:place])))
    return met


_WITH_OTHERS: Final = (CertificateAuth, Authorize, Headers, RateLimit, Quota, Concurrency)


def _with_inner(use: FilterUse) -> Iterable[FilterUse]:
    return use.settings.any_of if isinstance(use.settings, Auth) else (use,)


def _in_the_clear(settings: Any) -> Iterator[str]:
    if isinstance(settings, Jwt) and settings.jwks_uri is not None and is_far_in_the_clear(settings.jwks_uri.origin):
        yield "`jwks_uri` is http: anybody in between can give other keys, and let themselves in"
    if isinstance(settings, Introspection) and is_far_in_the_clear(settings.url.origin):
        yield "`url` is http: anybody in between can read tokens, and let themselves in"
    if isinstance(settings, Credentials):
        if settings.oauth2 is not None and is_far_in_the_clear(settings.oauth2.token_url.origin):
            yield f"`oauth2.token_url` is http: {READABLE}"
        if settings.csrf is not None and is_far_in_the_clear(settings.csrf.token_url.origin):
            yield f"`csrf.token_url` is http: {READABLE}"


def _follows_host(settings: Any) -> Iterator[str]:
    if isinstance(settings, Oidc) and settings.login is not None and settings.login.public_url is None:
        yield "no `login.public_url`: the `redirect_uri` that the provider gets follows the Host of each request"


def _too_late(settings: RateLimit, patience: float) -> str:
    waits = [terms.last_turn for _, terms in settings.all_terms()]
    if max(waits) <= patience:
        return ""
    most, given = write_duration(ceil(max(waits))), f"{write_duration(patience)} (`timeouts.filters`)"
    return f"the last in the queue has its turn after {most}, but filters have {given}: then it is 504"


def _idle(settings: RateLimit, config: Config) -> Iterator[str]:
    if settings.scope == "shared" and config.state is None:
        yield "`scope: shared`, and there is no `state` to share: each node counts for itself"
    for method in settings.cost.methods:
        if not knows_method(method):
            yield f"`cost.methods`: {method} is always refused: llhttp does not know it"


def _hashed_by_nobody(config: Config) -> Iterator[tuple[Where, str]]:
    """Upstreams that hash on the consumer where nobody says who that is."""
    by_consumer = {
        name
        for name, upstream in config.upstreams.items()
        if upstream.load_balancing.hash_on is not None and upstream.load_balancing.hash_on.kind == "consumer"
    }
    if not by_consumer:
        return
    reached, known = set(), set()
    for route in config.routes:
        wanted = [name for name in route.destinations if name in by_consumer]
        for listener in (route.listeners or config.listeners) if wanted else ():
            reached.update(wanted)
            if any(_may_tell(use.settings) for use in running(config, listener, route)):
                known.update(wanted)
    for name in sorted(reached - known):
        yield Where("upstreams", name, ""), "no filter says who the client is: requests are shared out in turn"


def _held_by_nobody(settings: Any, config: Config) -> str:
    held = _HELD.get(type(settings))
    if held is None or config.consumer_files or getattr(settings, "htpasswd", None) is not None:
        return ""
    key, of = held
    return "" if any(of(consumer) for consumer in config.consumers) else f"no consumer has a `{key}`: nobody can pass"


def _called_by_nobody(anonymous: str, config: Config) -> str:
    known = {consumer.name for consumer in config.consumers}
    meant = None if anonymous in (REJECT, *known) or config.consumer_files else nearest(anonymous, known)
    if meant is None:  # it may be a name of its own, in no group
        return ""
    return f"`anonymous` is the name of no consumer; did you mean {show(meant)}?"


def _useless(settings: Any, meetings: list[_Meeting], config: Config) -> Iterator[str]:
    asked = any(_asks_for_certificates(config, listener) for listener, _ in meetings)
    if isinstance(settings, CertificateAuth):
        if not asked:
            yield "no listener here asks for client certificates (`tls.client_auth`): nobody can pass"
        return
    before = [use for _, uses in meetings for use in uses]
    if isinstance(settings, Authorize) and (shared := _shared_name(settings, before, config)):
        yield f"{show(shared)} is none of `consumers`, and several of the ways of `auth` may call somebody so"
    known = any(_may_tell(use.settings) for use in before)
    if isinstance(settings, RateLimit | Quota | Concurrency):
        if not known and not asked and settings.asks_who:
            yield "no filter before it says who the client is: nobody is a consumer, or has claims"
        elif known and not config.consumer_files and all(_tells_consumers(use.settings) for use in before):
            yield from _groups_of_nobody(_groups_in(settings), config)
    elif isinstance(settings, Headers):
        if _says(settings, names_request) and not any(_may_name_requests(use.settings) for use in before):
            yield "no `request_id` before it names the request: {request_id} is always missing"
        if not known and _says(settings, is_identity):
            yield "no filter before it says who the client is: {consumer.…} and {claims.…} are always missing"
    elif not known and not asked:
        yield "no filter before it says who the client is: nobody can pass"
    elif not config.consumer_files and all(_tells_consumers(use.settings) for use in before):
        groups = {group for consumer in config.consumers for group in consumer.groups}
        lacking = [group for group in settings.groups.all if group not in groups]
        if not lacking and settings.groups.any and groups.isdisjoint(settings.groups.any):
            lacking = [*settings.groups.any]
        if lacking:
            yield f"no consumer is in the group {' or '.join(map(show, lacking))}: nobody can pass"


def _groups_in(settings: RateLimit | Quota | Concurrency) -> Iterable[str]:
    if isinstance(settings, Concurrency):
        return settings.priority.groups if settings.priority is not None else ()
    return settings.groups


def _groups_of_nobody(groups: Iterable[str], config: Config) -> Iterator[str]:
    held = {group for consumer in config.consumers for group in consumer.groups}
    for group in groups:
        if group not in held:
            meant = nearest(group, held)
            hint = "" if meant is None else f"; did you mean {show(meant)}?"
            yield f"no consumer is in the group {show(group)}{hint}"


def _shared_name(settings: Authorize, before: Iterable[FilterUse], config: Config) -> str:
    """A name that may pass, and that ways of `auth` may give to two who are not the same; "" where there is none."""
    if config.consumer_files or settings.groups.all or settings.groups.any or settings.claims:
        return ""
    known = {consumer.name for consumer in config.consumers}
    names = [name for name in (*settings.consumers.any, *settings.consumers.all) if name not in known]
    for use in before:
        if isinstance(use.settings, Auth):
            free = sum(_names_anybody(way.settings) for way in use.settings.any_of)
            for name in names:
                if free + (use.settings.anonymous == name) > 1:
                    return name
    return ""


def _names_anybody(settings: Any) -> bool:
    """Whether a filter of ours names those whom the configuration does not."""
    if isinstance(settings, BasicAuth):
        return settings.htpasswd is not None
    if isinstance(settings, ForwardAuth):
        return settings.consumer_header is not None
    return isinstance(settings, Jwt | Introspection | Oidc)


def _asks_for_certificates(config: Config, listener: str) -> bool:
    tls = config.listeners[listener].tls
    return tls is not None and tls.client_auth is not None


def _may_tell(settings: Any) -> bool:
    """Whether a filter may say who the client is."""
    return settings.phase is Phase.AUTHENTICATE or type(settings) not in _OURS


def _tells_consumers(settings: Any) -> bool:
    """Whether those that a filter knows are, with their groups, those of the configuration."""
    if isinstance(settings, Auth):
        return all(_tells_consumers(use.settings) for use in settings.any_of)
    return type(settings) in _HELD or not _may_tell(settings)


def _may_name_requests(settings: Any) -> bool:
    return isinstance(settings, RequestId) or type(settings) not in _OURS


def _says(settings: Headers, what: Callable[[str], bool]) -> bool:
    edits = (edit for side in (settings.request, settings.response) for edit in (side.set, side.add))
    said = (each for edit in edits for each in edit.values())
    return any(isinstance(each, str) and what(each) for each in said)
