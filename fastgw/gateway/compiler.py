"""Compiler from a checked configuration to the tables of the data plane.

It computes everything that requests can reuse: filter chains in running order, route tables, paths to send, TLS. It
assumes a valid `Config`; errors in the contents of files (an invalid certificate) raise `CompileError`.

The first tables are built before the workers are forked. Later ones are built by each worker in addition to those in
use, in steps between which it serves requests; they take over unchanged parts. Rule: no reference cycles, so that
tables are freed in steps without the garbage collector.
"""

import logging
import ssl
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from msgspec.structs import replace

from fastgw.composition.action import ComposeAction
from fastgw.config.base.problems import Path as SettingPath
from fastgw.config.base.route_patterns import parse_strip_prefix
from fastgw.config.base.settings_base import SettingsErrors
from fastgw.config.base.value_types import Url, parse_field_value
from fastgw.config.decoding.filter_levels import by_route, early, early_turn, running_order
from fastgw.config.egress.expand import service_of
from fastgw.config.loading.load import PROBLEMS_LISTED, no_collections
from fastgw.config.loading.locate_filter import Where
from fastgw.config.loading.locate_setting import UnusableSetting
from fastgw.config.settings import gateway as config
from fastgw.config.settings.secrets import SecretError, secret_in
from fastgw.config.settings.telemetry import OtlpExport, ZipkinExport
from fastgw.consumers.index import NOBODY, Index, index_of
from fastgw.downstream import Listener, ListenerTable
from fastgw.downstream.protocols import offered_by_alpn
from fastgw.downstream.tcp.routes import TcpRoutes
from fastgw.downstream.tls.contexts import ServerContexts, server_contexts, server_identity
from fastgw.downstream.trusted_proxies import trust
from fastgw.exchange import Chain, Division, FilterInstance, Hooks, Route
from fastgw.exchange.action import Action
from fastgw.exchange.chain import request_steps_of
from fastgw.exchange.error_pages import ErrorPage, ErrorPages
from fastgw.exchange.upstream_chains import NO_CHAINS, UpstreamChains
from fastgw.files.action import FilesAction
from fastgw.files.resources import FileFinder
from fastgw.filters.api import CACHES, STATE, Env, FilterResources, digest_of_caches, digest_of_state, secret_names
from fastgw.filters.authentication.templates import look_up_in, url_value
from fastgw.filters.wrappers.forwarded_preflights import forwards_preflight
from fastgw.filters.wrappers.misconfigured import Misconfigured
from fastgw.filters.wrappers.shadow import in_shadow
from fastgw.functions.action import LambdaAction
from fastgw.gateway import acme_http
from fastgw.gateway.acme_http import answers_http
from fastgw.gateway.conditions import conditions_of
from fastgw.gateway.own_responses import RespondAction, redirect_action, respond_action, static_reply
from fastgw.gateway.tables import CompiledRoute, CompileError, Gateway
from fastgw.gateway.unkeyed_values import find_unkeyed_values
from fastgw.http.error_templates import html_template, json_template
from fastgw.redis.url import RedisSource
from fastgw.routing.table import Conditions, Router, Rule, Steps, at_once, rule_of
from fastgw.upstream.forwarding.fallback import Fallback
from fastgw.upstream.forwarding.forward_action import Forward
from fastgw.upstream.forwarding.forwarded_request import ForwardSettings
from fastgw.upstream.forwarding.gateway_urls import OwnUrls, own_urls
from fastgw.upstream.policies.path_rewrite import (
    folder_of,
    path_check,
    path_of,
    rewrites_variables,
    stripped_prefix,
)
from fastgw.upstream.policies.traffic_split import Splitter
from fastgw.upstream.targets.target import build_targets
from fastgw.upstream.targets.tls import client_tls, identity_of, material_of, protocols_of
from fastgw.upstream.upstream import Upstream
from fastgw.websocket_api.action import WebsocketApiAction

log = logging.getLogger("fastgw")

_PIECE: Final = 32  # unchanged routes that one step compares

Level = tuple[str, config.Filters]
"""Filters, and the name of the level at which they are configured."""


class Plan(NamedTuple):
    """Input from which tables are built. Routes may be expensive to decode, and are read only when needed."""

    settings: config.Config
    """Settings of the configuration; its routes and upstreams are not used."""
    upstreams: Mapping[str, config.Upstream]
    route_names: Sequence[str]
    route: Callable[[int], config.Route]
    same: Sequence[int] = ()
    """Position of an equal route in the tables in use for each route, or -1. (): there are no tables in use."""
    files: Mapping[str, bytes] = config.NONE
    """Contents of files by path; missing ones are read."""
    consumers: Index = NOBODY
    """Index of the consumers, used instead of the settings."""
    same_upstreams: Container[str] = ()
    """Names of the upstreams that are equal to those in use, which are reused."""
    verifies: bool = False
    """Whether building a filter may wait for a check of its settings."""
    adapt: Callable[[config.FilterUse, Hooks], Hooks] | None = None
    """Replaces the hooks of a filter: for a sandbox, which does not contact what filters contact."""

    @classmethod
    def of(
        cls, configuration: config.Config, files: Mapping[str, bytes] = config.NONE, index: Index | None = None
    ) -> "Plan":
        return cls(
            rest_of(configuration),
            configuration.upstreams,
            [route.name for route in configuration.routes],
            configuration.routes.__getitem__,
            files=files,
            consumers=index_of(configuration.consumers, files) if index is None else index,
        )


_Errors = Sequence[tuple[SettingPath, str]]
"""Errors of a filter, each with the steps to the setting; () = the filter itself."""


def compile(
    configuration: config.Config,
    workers: int,
    files: Mapping[str, bytes] = config.NONE,
    index: Index | None = None,
    base: Gateway | None = None,
    same: Sequence[int] = (),
    adapt: Callable[[config.FilterUse, Hooks], Hooks] | None = None,
) -> Gateway:
    """Compile the tables for `workers` processes. `files`, `same`, `adapt`: as in `Plan`; `index`: of the consumers;
    `base`: as in `building`. Raises `CompileError`.
    """
    plan = Plan.of(configuration, files, index)._replace(adapt=adapt)
    with no_collections():
        return at_once(building(plan._replace(same=same, verifies=True), workers, base))


def building(plan: Plan, workers: int, base: Gateway | None) -> Steps[Gateway]:
    """Build the tables of a plan. Equal parts of `base` are reused; `base` is not changed.

    Raises `CompileError`. A changed set of regular expressions, a TLS context of configured files, and the build of a
    filter are one step each.
    """
    return _Building(plan, workers, base or Gateway(plan.settings, workers, FilterResources())).steps()


class _Building:
    """Builder of one gateway from a previous one, which is empty for the first."""

    def __init__(self, plan: Plan, workers: int, base: Gateway) -> None:
        self._plan = plan
        self._base = base
        self._made = Gateway(plan.settings, workers, base.stock)
        self._digests: dict[str, bytes] = {}
        self._changed = {file for file, digest in base.reads.items() if self._digest(file) != digest}
        """Files that filters have read and that have changed."""
        self._names = tuple(plan.settings.listeners)
        self._of_tcp = {name for name, each in plan.settings.listeners.items() if each.protocol != "http"}
        self._lends_sockets = {upstream for each in plan.settings.listeners.values() for upstream in each.destinations}
        """Upstreams of listeners of TCP."""
        self._page_files: set[str] = set()
        """Files of error pages."""
        self._pages = {
            name: self._error_pages(listener.error_pages) for name, listener in plan.settings.listeners.items()
        }
        """Error pages of listeners, with those at the top."""
        old, new = base.config, plan.settings
        self._maps = self._made.maps = (
            base.maps
            if old.maps == new.maps and base.maps.keys() == new.maps.keys()
            else {name: look_up_in(table) for name, table in new.maps.items()}
        )
        """Functions of the maps; others if any of them has changed, and then all routes are compiled again."""
        self._same_sets = {name for name, filters in new.filter_sets.items() if old.filter_sets.get(name) == filters}
        self._same_filters = tuple(
            name in base.tables
            and old.filters == new.filters
            and base.tables[name].settings.filters == new.listeners[name].filters
            and answers_http(old, base.tables[name].settings) == answers_http(new, new.listeners[name])
            and all(self._changed.isdisjoint(link.reads) for link in base.tables[name].early.links)
            and base.tables[name].early.error_pages == self._pages[name]
            and base.tables[name].early.maps is self._maps
            for name in self._names
        )
        """Flags of the listeners: whether their own filters and those of the gateway are unchanged."""
        self._all_same = all(self._same_filters) and self._names == tuple(base.tables)
        before = {name: place for place, name in enumerate(base.tables)}
        self._places_before = tuple(before.get(name, -1) for name in self._names)
        self._upstream_links: dict[tuple[str, str, str], FilterInstance] = {}
        """Filters in the chains of upstreams: by level, name, and the listener if it is the listener's own."""
        self._anywhere: dict[tuple[config.FilterUse, str, bool], FilterInstance] = {}
        """Filters by use, level, and whether they are early; they do not depend on the position."""
        self._forwards: dict[tuple[Upstream, ForwardSettings], Forward] = {}
        """Forward actions of routes, by everything that distinguishes them."""
        """Step plans of routes, each once."""
        self._unbuilt: dict[Where, tuple[str, _Errors]] = {}
        """Filters that cannot be built: the level, and the error. Each is tried once."""

    def _digest(self, file: str) -> bytes | None:
        """Return the digest of a file's current content; None: unknown, or the file is no longer used."""
        digest = self._digests.get(file)
        if file == STATE and digest is None:
            digest = self._digests[file] = digest_of_state(self._plan.settings.state)
        if file == CACHES and digest is None:
            digest = self._digests[file] = digest_of_caches(self._plan.settings.caches)
        if digest is None and file in self._plan.files:
            digest = self._digests[file] = sha256(self._plan.files[file]).digest()
        return digest

    def steps(self) -> Steps[Gateway]:
        plan, made, base = self._plan, self._made, self._base
        # An equal index is kept, with its cached results.
        made.index = base.index if base.index.digest == plan.consumers.digest else plan.consumers
        if not base.tables:  # the first tables are those in use
            made.stock.roster.use_index(made.index)
        for name in plan.upstreams:
            there = base.upstreams.get(name) if name in plan.same_upstreams else None
            yield from self._upstream(name, plan.upstreams[name] if there is None else there.settings)
            yield
        made.cache_redis = self._cache_redis()
        chains = []
        for name in self._names:
            chains.append(self._early(name))
            yield
        rules: tuple[list[Rule], ...] = tuple([] for _ in self._names)
        for place, name in enumerate(plan.route_names):
            compiled = self._unchanged(place)
            if compiled is None:
                compiled = yield from self._route(place, chains)
                yield
            made.routes.append(compiled)
            made.routes_by_name[name] = compiled
            made.live.update(compiled.live)
            for on_listener, rule in zip(rules, compiled.rules, strict=True):
                if rule is not None:
                    on_listener.append(rule)
            if not place % _PIECE:
                yield
        upstream_chains: dict[str, UpstreamChains] = {}
        for name in self._names:
            upstream_chains[name] = yield from self._upstream_chains(name)
        yield from self._unused_sets()
        self._check_built()
        listeners = []
        for name, chain, on_listener in zip(self._names, chains, rules, strict=True):
            listeners.append((yield from self._listener(name, chain, on_listener, upstream_chains[name])))
        made.listeners = tuple(listeners)
        made.trace_headers = self._trace_headers()
        made.reads |= {file: digest for file, digest in self._base.reads.items() if self._digest(file) == digest}
        made.reads |= {file: sha256(self._content(file)).digest() for file in self._page_files}
        return made

    # upstreams

    def _upstream(self, name: str, settings: config.Upstream) -> Steps[Upstream]:
        base, made = self._base, self._made
        upstream = base.upstreams.get(name)
        same = upstream is not None and (upstream.settings is settings or upstream.settings == settings)
        try:
            identity = context = None
            if settings.needs_tls:
                material, protocols = material_of(settings.client_tls, self._plan.files), protocols_of(settings)
                identity = identity_of(settings.client_tls, material, protocols)
                context = made.contexts.get(identity) or base.contexts.get(identity)
                if context is None:
                    context = yield from client_tls(settings.client_tls, material, protocols)
                made.contexts[identity] = context
        except (OSError, ssl.SSLError) as error:
            text = f"upstreams.{name}.tls: {error.strerror or error}"
            raise CompileError(text, part=Where("upstreams", name, "")) from error
        key = self._sticky_key(name, settings)
        lends_sockets = name in self._lends_sockets
        if (
            upstream is None
            or not same
            or (upstream.identity, upstream.key, upstream.lends_sockets) != (identity, key, lends_sockets)
        ):
            goes_on = upstream is not None and upstream.goes_on(settings, identity, lends_sockets)
            before = upstream if goes_on else None
            targets = build_targets(settings, context, before.targets_by_url if before is not None else config.NONE)
            upstream = Upstream(name, settings, targets, identity, key, before, lends_sockets)
        made.upstreams[name] = upstream
        return upstream

    def _trace_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Return the headers for the collector of traces."""
        telemetry, files = self._plan.settings.telemetry, self._plan.files
        traces, pushed = telemetry.traces, None if telemetry.metrics is None else telemetry.metrics.otlp
        if pushed is not None:  # the control process pushes metrics; here they are only checked
            collector_headers("telemetry.metrics.otlp", pushed, files)
        if traces is None:
            return ()
        kind = "otlp" if traces.otlp is not None else "zipkin"
        return collector_headers(f"telemetry.traces.{kind}", traces.export, files)

    def _sticky_key(self, name: str, settings: config.Upstream) -> bytes:
        """Return the signing key of sticky-session cookies; b"": the configuration has no key."""
        sticky, files = settings.load_balancing.sticky, self._plan.files
        if sticky is None or sticky.key is None:
            return b""
        try:
            held = sticky.key
            key = secret_in(held.file, files[held.file]) if held.file in files else held.value()
        except SecretError as error:
            raise CompileError(f"upstreams.{name}.load_balancing.sticky.key: {error}") from error
        return key.encode()

    def _cache_redis(self) -> RedisSource | None:
        """Return the Redis of cache stores. Raises `CompileError`."""
        settings, files = self._plan.settings, self._plan.files
        state = settings.state
        if state is None or not any(store.redis for store in settings.caches.values()):
            return None
        held = state.url
        try:
            url = secret_in(held.file, files[held.file]) if held.file in files else held.value()
        except SecretError as error:
            raise CompileError(f"state.url: {error}") from error
        return RedisSource(url, state.prefix, state.timeout)

    def _destinations(self, names: Iterable[str | Url]) -> Steps[tuple[Upstream, ...]]:
        """Return the upstreams of a route; for a URL, an upstream shared by all routes with this URL."""
        found = []
        for name in names:
            upstream = self._made.upstreams.get(str(name))
            if upstream is None:
                assert not isinstance(name, str)
                upstream = yield from self._upstream(str(name), config.Upstream(targets=(config.Target(url=name),)))
            found.append(upstream)
        return tuple(found)

    # filters

    def _early(self, listener: str) -> Chain:
        """Return the filters that run before routing."""
        before = self._base.tables.get(listener)
        uses = (held for held in _accumulated(self._levels(listener)) if early(held[1].settings))
        links = self._links(uses, listener, None, before.early.links if before is not None else ())
        self._made.live.update(link for link in links if link.is_live)
        pages = self._pages[listener]
        was = None if before is None else before.early
        if was is not None and (was.links, was.error_pages) == (links, pages) and was.maps is self._maps:
            return was
        return Chain(links, pages, self._maps)

    def _error_pages(self, *levels: Mapping[str, config.ErrorPage]) -> ErrorPages:
        """Return the pages of these levels, outermost first, behind those at the top."""
        levels = (self._plan.settings.error_pages, *levels)
        return ErrorPages(map(self._templates, levels))

    def _templates(self, pages: Mapping[str, config.ErrorPage]) -> dict[str, ErrorPage]:
        """Return the templates of a level. Raises `CompileError`."""
        made = {}
        for status, page in pages.items():
            html = page.html
            if page.file is not None:
                self._page_files.add(page.file)
                try:
                    html = self._content(page.file).decode()
                except UnicodeDecodeError as error:
                    raise CompileError(f"{page.file}: the error page is not UTF-8") from error
            made[status] = ErrorPage(
                None if html is None else html_template(html), None if page.json is None else json_template(page.json)
            )
        return made

    def _content(self, file: str) -> bytes:
        """Return the content of a file. Raises `CompileError`."""
        content = self._plan.files.get(file)
        if content is not None:
            return content
        try:
            return Path(file).read_bytes()
        except OSError as error:
            raise CompileError(f"{file}: {error.strerror or error}") from error

    def _levels(self, listener: str) -> tuple[Level, ...]:
        settings, own = self._plan.settings, self._plan.settings.listeners[listener]
        levels = ("gateway", settings.filters), ("listener", own.filters)
        return (("gateway", {acme_http.NAME: acme_http.USE}), *levels) if answers_http(settings, own) else levels

    def _route_levels(self, route: config.Route, upstream: Upstream | None) -> Iterator[Level]:
        if upstream is not None:
            yield f"upstream {upstream.name}", upstream.settings.filters
        for name in route.use:
            yield f"filter set {name}", self._plan.settings.filter_sets[name]
        yield "route", route.filters

    def _links(
        self,
        uses: Iterable[tuple[str, config.FilterUse]],
        listener: str,
        route: str | None,
        before: Sequence[FilterInstance],
    ) -> tuple[FilterInstance, ...]:
        """Return the built filters in running order. `before`: filters whose state is kept if they are unchanged."""
        there = {(link.level, link.use.name): link for link in before}
        links = []
        in_turn = early_turn if route is None else running_order
        held = sorted(uses, key=lambda held: in_turn(held[1]))
        alone = route is not None and any(use.settings.fails_alone for _, use in held)
        for level, use in held:
            link = there.get((level, use.name))
            if link is None or link.use != use or not self._changed.isdisjoint(link.reads):
                link = self._link(level, use, listener, route, alone=alone)
            links.append(link)
        return tuple(links)

    def _link(
        self, level: str, use: config.FilterUse, listener: str, route: str | None, *, alone: bool = False
    ) -> FilterInstance:
        """Return a filter, which may have been built for another route."""
        if not use.settings.stands_anywhere or use.shadow:
            return self._built_link(level, use, listener, route, alone)
        known = self._anywhere.get((use, level, route is None))
        if known is None:
            known = self._anywhere[use, level, route is None] = self._built_link(level, use, listener, route, alone)
        return known

    def _built_link(
        self, level: str, use: config.FilterUse, listener: str, route: str | None, alone: bool
    ) -> FilterInstance:
        """Build a filter. One that cannot be built gets no hooks: the tables will not be used, unless `alone` lets the
        route fail on its own.
        """
        where = _location_of(level, use, listener, route)
        text = f"listener {listener}" if level == "listener" else level
        settings = self._plan.settings
        stock, files = self._made.stock, self._plan.files
        verifies = self._plan.verifies
        state, caches, namespace = settings.state, settings.caches, use.namespace
        env = Env(use.name, route, use.settings, stock, files, text, state, caches, verifies, namespace)
        hooks = Hooks()
        if where not in self._unbuilt:
            hooks, errors = _built(use, env)
            if errors and alone and level == "route" and use.settings.for_its_upstream and env.reads:
                hooks = Hooks(request=Misconfigured(str(SettingsErrors(errors)), env.reads))
            elif errors:
                self._unbuilt[where] = level, errors
        self._made.reads |= env.reads
        if self._plan.adapt is not None:
            hooks = self._plan.adapt(use, hooks)
        acting = in_shadow(use.name, hooks) if use.shadow else hooks
        always, is_early = use.settings.phase.always, route is None
        return FilterInstance(use, acting, always, level, env.reads, env.keeps, own=hooks, early=is_early)

    def _check_key(self, links: Sequence[FilterInstance], listener: str, route: config.Route) -> None:
        """Note filters that send what the cache leaves out, as those that cannot be built."""
        uses = [link.use for link in links]
        for use, wrong in find_unkeyed_values(uses, self._plan.settings.maps, route.name, route.methods):
            level = next(link.level for link in links if link.use is use)
            self._unbuilt.setdefault(_location_of(level, use, listener, route.name), (level, (((), wrong),)))

    def _unused_sets(self) -> Steps[None]:
        """Build filters in sets that no route uses too, to report their errors."""
        used = {name for compiled in self._made.routes for name in compiled.sets}
        for name, filters in self._plan.settings.filter_sets.items():
            if name not in used:
                for use in filters.values():
                    if use is not None:
                        self._link(f"filter set {name}", use, "", None)
                        yield

    def _check_built(self) -> None:
        """Raise `CompileError` with all filters that cannot be built, if there are any."""
        if self._unbuilt:
            lines = [
                f"{level}: filter {where.use}: {SettingsErrors([error])}"
                for where, (level, errors) in self._unbuilt.items()
                for error in errors
            ]
            if len(lines) > PROBLEMS_LISTED:
                lines[PROBLEMS_LISTED:] = [f"and {len(lines) - PROBLEMS_LISTED} more"]
            unbuilt = (
                (where._replace(steps=steps), wrong)
                for where, (_, errors) in self._unbuilt.items()
                for steps, wrong in errors
            )
            raise CompileError("\n".join(lines), unbuilt)

    # routes

    def _unchanged(self, place: int) -> CompiledRoute | None:
        """Return the route of the base if neither it nor its dependencies have changed."""
        if not self._all_same or not self._is_same(place):
            return None
        compiled = self._base.routes[self._plan.same[place]]
        return compiled if self._same_around(compiled) else None

    def _is_same(self, place: int) -> bool:
        """Whether the route's own settings are equal to those of one in the base."""
        return bool(self._plan.same) and self._plan.same[place] >= 0

    def _same_around(self, compiled: CompiledRoute) -> bool:
        made = self._made
        for upstream in compiled.upstreams:
            if upstream.name not in made.upstreams:  # the upstream of a URL
                made.upstreams[upstream.name] = upstream
                if upstream.identity is not None:
                    made.contexts[upstream.identity] = self._base.contexts[upstream.identity]
        same_upstreams = all(made.upstreams[upstream.name] is upstream for upstream in compiled.upstreams)
        same_files = self._changed.isdisjoint(compiled.reads)
        return same_upstreams and same_files and self._same_sets.issuperset(compiled.sets)

    def _route(self, place: int, chains: Sequence[Chain]) -> Steps[CompiledRoute]:
        route = self._plan.route(place)
        before = self._base.routes_by_name.get(route.name)
        upstreams = yield from self._destinations(route.destinations)
        of_parts = yield from self._destinations(route.part_destinations)
        same = before is not None and self._is_same(place) and self._same_around(before)
        conditions: Conditions | None = None
        actions: list[Action] = []
        rules: list[Rule | None] = []
        for listener, chain, same_filters, was in zip(
            self._names, chains, self._same_filters, self._places_before, strict=True
        ):
            rule = before.rules[was] if before is not None and was >= 0 else None
            if (route.listeners and listener not in route.listeners) or listener in self._of_tcp:
                rule = None
            elif rule is None or not same or not same_filters:
                if conditions is None:
                    conditions = yield from conditions_of(route)
                    if route.variants:
                        pass  # each has an action of its own
                    elif route.lambda_ is not None:
                        actions = [LambdaAction(route.lambda_, of_parts[0], route.via == "on")]
                    elif route.websocket_api is not None:
                        by_name = {
                            str(name): each for name, each in zip(route.part_destinations, of_parts, strict=True)
                        }
                        actions = [WebsocketApiAction(route.websocket_api, by_name, route.via == "on")]
                    elif route.compose is None:
                        actions = [self._action(route, upstream) for upstream in upstreams or (None,)]
                    else:
                        by_name = {each.name: each for each in of_parts}
                        actions = [ComposeAction(route.compose, by_name, route.via == "on")]
                links_before = tuple(rule[0].route.links) if rule is not None else ()
                compiled = self._divided(listener, route, upstreams, actions, chain, links_before)
                rule = yield from rule_of(conditions, compiled)
            rules.append(rule)
            yield
        links = {link for rule in rules if rule is not None for link in rule[0].route.links}
        pages = {page.file for page in route.error_pages.values() if page.file is not None}
        reads = (*pages, *{file for link in links for file in link.reads})
        live = tuple(link for link in links if link.is_live)
        if route.fallback is not None and route.fallback.upstream is not None:
            upstreams = (*upstreams, self._made.upstreams[route.fallback.upstream])
        sets = (*route.use, *(name for each in route.variants for name in each.use))
        return CompiledRoute((*upstreams, *of_parts), sets, reads, live, tuple(rules))

    def _divided(
        self,
        listener: str,
        route: config.Route,
        upstreams: Sequence[Upstream],
        actions: Sequence[Action],
        early_chain: Chain,
        links_before: Sequence[FilterInstance],
    ) -> Route:
        """Compile a route on a listener; with several upstreams, one variant for each of them."""
        variants: Sequence[tuple[config.Route, Upstream | None, Action, str, int]]
        if route.variants:
            variants = [*self._variants(route)]
        elif isinstance(route.upstream, Mapping):
            shares = zip(upstreams, actions, route.upstream, route.upstream.values(), strict=True)
            variants = [(route, *each) for each in shares]
        else:
            upstream = upstreams[0] if upstreams else None
            return self._on_listener(listener, route, upstream, actions[0], early_chain, links_before)
        parts: list[Route] = []
        for variant, sent_to, action, _, _ in variants:
            # A filter of the route itself is a single instance for all of its upstreams.
            before = (*links_before, *(link for part in parts for link in part.chain.links))
            parts.append(self._on_listener(listener, variant, sent_to, action, early_chain, before))
        names, weights = [each[3] for each in variants], [each[4] for each in variants]
        for position, (part, label) in enumerate(zip(parts, names, strict=True)):
            part.chain.ready_answer = None  # it is asked before an upstream is chosen
            part.chain.variant = label, names[:position].count(label)
        for part, each in zip(parts, route.variants, strict=False):
            part.chain.sent_settings += each.sent_settings
        divided = Route(
            *(route.name, parts[0].action, parts[0].chain, parts[0].steps, parts[0].check_path),
            filter_timeout=parts[0].filter_timeout,
            preflight_chain=parts[0].preflight_chain,
            takes_options=parts[0].takes_options,
        )
        divided.forwards_preflight = parts[0].forwards_preflight
        splitter = Splitter(route.name, names, weights, route.split or config.Split())
        divided.division = Division(tuple(parts), splitter)
        return divided

    def _variants(self, route: config.Route) -> Iterator[tuple[config.Route, Upstream | None, Action, str, int]]:
        """Yield the variants of a route as routes, each with its upstream, action, label and weight."""
        for each in route.variants:
            variant = route.with_variant(each)
            upstream = None if each.upstream is None else self._made.upstreams[str(each.upstream)]
            yield variant, upstream, self._action(variant, upstream), each.label, each.weight

    def _on_listener(
        self,
        listener: str,
        route: config.Route,
        upstream: Upstream | None,
        action: Action,
        early_chain: Chain,
        links_before: Sequence[FilterInstance],
    ) -> Route:
        # An early filter at route level runs as soon as the route is known; the listener's early filters have run by
        # then.
        met = _accumulated((*self._levels(listener), *self._route_levels(route, upstream)))
        stay = early_chain.links
        if any(by_route(link.use.settings) for link in stay):
            levels = {use.name: level for level, use in met}
            stay = tuple(
                link for link in stay if not by_route(link.use.settings) or levels.get(link.use.name) == link.level
            )
        ran = {link.use.name for link in stay}
        links = self._links((held for held in met if held[1].name not in ran), listener, route.name, links_before)
        if isinstance(action, Forward | LambdaAction):
            self._check_key(links, listener, route)
        pages = self._pages[listener]
        if route.error_pages:
            pages = self._error_pages(self._plan.settings.listeners[listener].error_pages, route.error_pages)
        chain = Chain(stay + links, pages, self._maps)
        if self._plan.settings.listeners[listener].filters:
            chain.sent_settings = b"\xfe%b\xff" % listener.encode()  # no name, nor setting, has these bytes
        if isinstance(action, FilesAction | RespondAction) and chain.is_bare:
            chain.ready_answer = action.ready_answer
        if isinstance(action, Forward) and action.checks_path:
            chain.ready_answer = None  # its path has values of the request that do not select a ready answer
        chain.takes_literally = route.path.forward == "raw"
        fallback = None if route.fallback is None else self._fallback(route, route.fallback, links)
        chain.calls_only = isinstance(action, Forward) and action.grpc and (fallback is None or fallback.keeps_calls)
        for_preflights = None if chain.preflight is None else _for_preflights(chain, links)
        steps = request_steps_of(links)
        path_sent = action.path_of if isinstance(action, Forward) else None
        check_path = path_check(route, None if upstream is None else upstream.settings, path_sent)
        if isinstance(action, Forward) and action.takes_first_response and not action.grpc:
            chain.allows_fetch = len(chain.translate_steps) == 1 and not (chain.treats_responses or chain.renew_steps)
        takes_options = "OPTIONS" in route.methods
        made = Route(route.name, action, chain, steps, check_path, route.timeout, for_preflights, takes_options)
        made.fallback = fallback
        if for_preflights is not None and isinstance(action, Forward):
            made.forwards_preflight = forwards_preflight(made, links)
        return made

    def _action(self, route: config.Route, upstream: Upstream | None) -> Action:
        if route.respond is not None:
            return respond_action(route, route.respond)
        if route.redirect is not None:
            return redirect_action(route, route.redirect)
        if route.files is not None:
            return _files(route, route.files)
        assert upstream is not None
        return self._forward(route, upstream)

    def _forward(self, route: config.Route, upstream: Upstream) -> Forward:
        how = ForwardSettings(
            path_of=path_of(route, url_value),
            forwarded=route.forwarded,
            upgrade=tuple(protocol.lower().encode() for protocol in route.upgrade),
            timeout=route.timeout,
            deadline_name=None if route.deadline_header is None else route.deadline_header.encode(),
            folder=folder_of(route),
            via=route.via == "on",
            retries=route.retries,
            own_timeouts=route.timeouts,
            checks_path=rewrites_variables(route),
            host_header=route.host_header,
            writes_forwarded=route.forwarded_header,
            stripped=stripped_prefix(route),
            own_urls=self._own_urls(route, upstream),
        )
        differs = upstream, how
        # Shared by all routes with equal behaviour, to stay in the CPU caches: see `exchange.route.Route`.
        forward = self._forwards.get(differs)
        if forward is None:
            forward = self._forwards[differs] = Forward(*differs)
        return forward

    def _own_urls(self, route: config.Route, upstream: Upstream) -> OwnUrls | None:
        """Return how URLs of targets in responses become the gateway's; None: they stay."""
        if route.proxy_redirect == "off":
            return None
        for listener in route.listeners or self._plan.settings.listeners:
            levels = *self._levels(listener), *self._route_levels(route, upstream)
            written = (use for _, filters in levels for use in filters.values() if use is not None)
            # Most configurations have no such filter, and need not accumulate those of thousands of routes for it.
            if any(use.type == _URLS for use in written) and any(use.type == _URLS for _, use in _accumulated(levels)):
                return None
        return own_urls(route)

    def _fallback(self, route: config.Route, settings: config.Fallback, links: Iterable[FilterInstance]) -> Fallback:
        if settings.respond is not None:
            return Fallback(settings.conditions, reply=static_reply(settings.respond))
        assert settings.upstream is not None
        upstream = self._made.upstreams[settings.upstream]
        shares = all(_is_for(upstream, link) for link in links if link.use.settings.for_its_upstream)
        return Fallback(settings.conditions, forward=self._forward(route, upstream), shares=shares)

    # the gateway's own requests

    def _upstream_chains(self, listener: str) -> Steps[UpstreamChains]:
        """Return the chains for the gateway's own requests to upstreams, for this listener."""
        levels, table = self._levels(listener), self._base.tables.get(listener)
        before = NO_CHAINS if table is None else table.upstream_chains
        shared = self._upstream_chain(levels, listener, before.shared)
        common = {link.use.name for link in shared.links}
        own: dict[str, Chain] = {}
        for place, (name, upstream) in enumerate(self._made.upstreams.items()):
            filters = upstream.settings.filters
            if any(key in common or (use is not None and _shows_upstream(use)) for key, use in filters.items()):
                met = *levels, (f"upstream {name}", filters)
                own[name] = self._upstream_chain(met, listener, before.chain_of(name))
                yield
            elif not place % _PIECE:
                yield
        return UpstreamChains(shared, own)

    def _upstream_chain(self, levels: Iterable[Level], listener: str, before: Chain) -> Chain:
        """Return the chain of an upstream; `before`, if it is equal."""
        held = [each for each in _accumulated(levels) if _shows_upstream(each[1])]
        there = {(link.level, link.use.name): link for link in before.links}
        links = []
        for level, use in sorted(held, key=lambda each: running_order(each[1])):
            key = level, use.name, listener if level == "listener" else ""
            link = self._upstream_links.get(key) or there.get((level, use.name))
            if link is None or link.use != use or not self._changed.isdisjoint(link.reads):
                link = self._built_link(level, use, listener, None, alone=False)
                link.early = False
            self._upstream_links[key] = link
            links.append(link)
        self._made.live.update(link for link in links if link.is_live)
        is_same = before.links == tuple(links) and before.maps is self._maps
        return before if is_same else Chain(links, maps=self._maps)

    # listeners

    def _listener(self, name: str, chain: Chain, rules: list[Rule], upstream_chains: UpstreamChains) -> Steps[Listener]:
        settings, before = self._plan.settings.listeners[name], self._base.tables.get(name)
        router = yield from Router.building(rules, before.router if before is not None else None)
        tls = yield from self._server_tls(name, settings)
        if before is not None and _trusted_alike(before, settings, tls):
            trusts, sends = before.trusts, before.sends_proxy_header
        else:
            trusts, sends = trust(settings.trusted_proxies), trust(settings.proxy_protocol_senders)
        tcp = TcpRoutes(name, settings, self._made.upstreams) if settings.protocol != "http" else None
        tunnels = any(_upgrades(rule) for rule in rules)
        table = self._made.tables[name] = ListenerTable(
            settings, trusts, sends, chain, router, tls, upstream_chains, tcp, tunnels
        )
        for listener in self._base.listeners:
            if (listener.name, listener.address) == (name, settings.address):
                return listener
        return Listener(name, table)

    def _server_tls(self, name: str, listener: config.Listener) -> Steps[ServerContexts | None]:
        settings = listener.tls
        if settings is None:
            return None
        alpn = offered_by_alpn(listener)
        before = self._base.tables.get(name)
        try:
            identity = server_identity(name, settings, self._plan.files, alpn)
            if before is not None and before.tls is not None and before.tls.identity == identity:
                return before.tls
            return (yield from server_contexts(name, settings, self._plan.files, identity, alpn))
        except OSError as error:
            text = f"listeners.{name}.tls: {error.strerror or error}"
            raise CompileError(text, part=Where("listeners", name, "")) from error


def collector_headers(
    where: str, export: OtlpExport | ZipkinExport, files: Mapping[str, bytes]
) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers for a collector. `where`: path of its settings. `files`: contents of referenced files.

    Raises `CompileError`.
    """

    def refused(wrong: str, *steps: str) -> CompileError:
        path = *where.split("."), *steps
        return CompileError(f"{'.'.join(path)}: {wrong}", setting=UnusableSetting(path, wrong))

    made = []
    for name, held in export.headers.items():
        try:
            value = secret_in(held.file, files[held.file]) if held.file in files else held.value()
            made.append((name.encode(), parse_field_value(value).encode()))
        except (SecretError, ValueError) as error:
            wrong = str(error) if isinstance(error, SecretError) else "its value is not allowed in a header"
            raise refused(wrong, "headers", name) from error
    return tuple(made)


def rest_of(configuration: config.Config) -> config.Config:
    """Return the configuration without routes, their sources, upstreams and consumers; access logs and traces mask
    the secrets that filters read, and `telemetry` has the objectives of routes.
    """
    distinct = {id(use): use for use in uses(configuration)}  # thousands of routes may have equal ones
    names = {name for use in distinct.values() for name in secret_names(use.settings)}
    logs = configuration.access_logs
    if names:
        logs = tuple(replace(log, redact=tuple(dict.fromkeys((*log.redact, *sorted(names))))) for log in logs)
    telemetry = configuration.telemetry
    if telemetry.traces is not None:
        shown_nowhere = {*names, *telemetry.traces.redact, *(name for log in logs for name in log.redact)}
        traces = replace(telemetry.traces, redact=tuple(sorted(shown_nowhere)))
        telemetry = replace(telemetry, traces=traces)
    if slos := {route.name: route.slo for route in configuration.routes if route.slo is not None}:
        telemetry = replace(telemetry, route_slos={**telemetry.route_slos, **slos})
    return replace(
        configuration,
        routes=(),
        egress=None,
        upstreams=config.NONE,
        consumers=(),
        access_logs=logs,
        telemetry=telemetry,
    )


_OF_PEERS: Final = ("trusted_proxies", "proxy_protocol_senders", "scheme")
"""Settings of listeners by which peers are evaluated."""


def _trusted_alike(before: ListenerTable, settings: config.Listener, tls: ServerContexts | None) -> bool:
    """Whether peers are evaluated as before. If not, `trusts` is a new object, which tells connections to evaluate
    again.
    """
    vouched, vouches = (None if contexts is None else contexts.vouches for contexts in (before.tls, tls))
    return vouched == vouches and all(getattr(before.settings, name) == getattr(settings, name) for name in _OF_PEERS)


def _built(use: config.FilterUse, env: Env) -> tuple[Hooks, _Errors]:
    """Return the hooks of a filter; or empty hooks and the reasons why it cannot be built."""
    try:
        hooks = use.settings.build(env)
    except SettingsErrors as error:
        return Hooks(), error.errors
    except (ValueError, OSError, SecretError) as error:
        return Hooks(), (((), str(getattr(error, "strerror", None) or error) or type(error).__name__),)
    except Exception as error:  # the edge of a filter, which may be third-party code
        return Hooks(), (((), f"a bug: {type(error).__name__}: {error}"),)
    if type(hooks) is not Hooks:
        return Hooks(), (((), f"a bug: its build returned {hooks!r}; expected Hooks"),)
    return hooks, ()


def _location_of(level: str, use: config.FilterUse, listener: str, route: str | None) -> Where:
    kind, _, name = level.rpartition(" ")
    match kind or name:
        case "gateway":
            return Where("filters", "", use.name)
        case "listener":
            return Where("listeners", listener, use.name)
        case "route":
            return Where("routes", route or "", use.name)
        case "upstream":
            return Where("upstreams", name, use.name)
        case _:
            return Where("filter_sets", name, use.name)


def uses(configuration: config.Config) -> Iterator[config.FilterUse]:
    """Yield every use of a filter, at all levels."""
    return (use for _, filters in levels(configuration) for use in filters.values() if use is not None)


def secret_names_of(configuration: config.Config) -> set[str]:
    """Return the names of headers, parameters and cookies from which filters read secrets, or that access logs mask."""
    distinct = {id(use): use for use in uses(configuration)}  # thousands of routes may have equal ones
    of_filters = {name for use in distinct.values() for name in secret_names(use.settings)}
    return of_filters | {name for log in configuration.access_logs for name in log.redact}


def levels(configuration: config.Config) -> Iterator[Level]:
    """Yield all levels with filters. For a route generated by `egress` they are those of the service."""
    yield "gateway", configuration.filters
    yield from ((f"filter set {name}", filters) for name, filters in configuration.filter_sets.items())
    yield from ((f"listener {name}", each.filters) for name, each in configuration.listeners.items())
    yield from ((f"upstream {name}", each.filters) for name, each in configuration.upstreams.items() if each.filters)
    yield from ((f"route {service_of(each) or each.name}", each.filters) for each in configuration.routes)


def _upgrades(rule: Rule) -> bool:
    """Whether connections may change to another protocol on a route."""
    action = rule[0].route.action
    return isinstance(action, WebsocketApiAction) or (isinstance(action, Forward) and bool(action.upgrade))


def _is_for(upstream: Upstream, link: FilterInstance) -> bool:
    """Whether a filter applies to this upstream: its level covers all upstreams, or the upstream has an equal
    filter.
    """
    return link.level in ("gateway", "listener") or upstream.settings.filters.get(link.use.name) == link.use


def _for_preflights(chain: Chain, own: Sequence[FilterInstance]) -> Chain:
    """Return the chain without those filters of the route that do not run for a preflight."""
    if all(link.always for link in own):
        return chain
    return chain.with_links(link for link in chain.links if link.always or link not in own)


def _shows_upstream(use: config.FilterUse) -> bool:
    """Whether a filter adds something for one upstream only, and is active."""
    return use.settings.for_its_upstream and not use.shadow


_URLS: Final = "response_urls"


def _accumulated(levels: Iterable[Level]) -> Sequence[tuple[str, config.FilterUse]]:
    """Return the effective filters for this combination of levels, outermost first, with their levels."""
    held: dict[str, tuple[str, config.FilterUse | None]] = {}
    for level, filters in levels:
        held.update((name, (level, use)) for name, use in filters.items())
    return [(level, use) for level, use in held.values() if use is not None]


def _files(route: config.Route, files: config.Files) -> FilesAction:
    prefix = b"" if route.strip_prefix is None else parse_strip_prefix(route.strip_prefix)
    index, codings = [name.encode() for name in files.index], [coding.encode() for coding in files.precompressed]
    page = None if files.spa is None else files.spa.encode()
    return FilesAction(FileFinder(files.root, index, codings, files.listing, page), prefix)
