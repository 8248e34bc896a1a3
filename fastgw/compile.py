"""From a checked configuration to the tables that the data plane runs on.

Everything a request would otherwise have to work out is worked out here, before the workers are forked: filter chains
in running order, route tables, paths to send, TLS. Assumes a valid `Config`; what only the file system can tell (a
certificate that is no certificate) raises `CompileError`.
"""

import ssl
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from ipaddress import ip_address
from math import inf

from fastgw.config import settings as config
from fastgw.config.levels import accumulate, early, of_listener, of_route
from fastgw.config.patterns import Template, parse_host, parse_path, parse_redirect, parse_rewrite, parse_strip_prefix
from fastgw.config.values import Network, Url
from fastgw.downstream import Listener
from fastgw.errors import Fault
from fastgw.exchange import Chain, Exchange, Link, Reply, Route
from fastgw.filters.api import Env
from fastgw.node.ground import Ground
from fastgw.node.places import Names, first, target_name
from fastgw.node.shared import Column, Layout
from fastgw.node.targets import TargetWords
from fastgw.observe import Series
from fastgw.observe.series import UPSTREAM_CONNECTS, UPSTREAM_WAITS, counted_in
from fastgw.routing import Conditions, Router
from fastgw.upstream.connection import UpstreamConnection
from fastgw.upstream.forward import Asked, Forward
from fastgw.upstream.group import Upstream
from fastgw.upstream.pool import Pool
from fastgw.upstream.target import Target, build_targets


class CompileError(Exception):
    """What is wrong, and where in the configuration, in a line for people."""


class Gateway:
    """The compiled configuration: immutable, but for what `start` adds in each worker."""

    def __init__(self, configuration: config.Config, workers: int) -> None:
        self.config = configuration
        self.workers = workers
        self.timeouts = configuration.timeouts
        self.limits = configuration.limits
        self.upstreams: dict[str, Upstream] = {}
        for name, settings in configuration.upstreams.items():
            self._add_upstream(name, settings)
        self.listeners = tuple(self._listener(name) for name in configuration.listeners)
        self.names = Names(
            listeners=tuple(configuration.listeners),
            routes=[route.name for route in configuration.routes],
            upstreams={name: [target.label for target in each.targets] for name, each in self.upstreams.items()},
        )
        """What has places in shared memory."""
        self.places = first(self.names)
        """Where; to be replaced, before `start`, in a generation that comes after another."""
        self.layout = Layout()
        """The words of shared memory that are needed; the runtime adds its own before it maps them."""
        self._counted = counted_in(self.layout)
        self._words = TargetWords(self.layout)

    @property
    def series(self) -> Series:
        return Series(self.places, [fault.label for fault in Fault])

    def target_place(self, upstream: str, target: Target) -> int:
        return self.places.targets[target_name(upstream, target.label)]

    def start(self, ground: Ground, column: Column) -> None:
        """In a worker, after the fork: give the upstreams their pools."""
        series, words = self.series, self._words
        for name, upstream in self.upstreams.items():
            place, counted = self.places.upstreams[name], self._counted + series.upstream_words(name)
            upstream.ground = ground
            upstream.pool = Pool(
                upstream.targets,
                upstream.settings,
                partial(UpstreamConnection, ground),
                self.workers,
                column.limit(
                    words.connections + place, upstream.settings.pool.max_connections, counted + UPSTREAM_CONNECTS
                ),
                column.limit(words.pending + place, upstream.settings.pool.max_pending, counted + UPSTREAM_WAITS),
                ground.wheel,
            )

    def stop(self) -> None:
        for upstream in self.upstreams.values():
            upstream.pool.stop()

    # upstreams

    def _add_upstream(self, name: str, settings: config.Upstream) -> Upstream:
        try:
            targets = build_targets(settings)
        except (OSError, ssl.SSLError) as error:
            raise CompileError(f"upstreams.{name}.tls: {error.strerror or error}") from error
        upstream = self.upstreams[name] = Upstream(name, settings, targets)
        return upstream

    def _upstream(self, destination: str | Url) -> Upstream:
        """The upstream of that name; for a URL, one of its own that all routes with this URL share."""
        name = str(destination)
        if isinstance(destination, str) or name in self.upstreams:
            return self.upstreams[name]
        return self._add_upstream(name, config.Upstream(targets=(config.Target(url=destination),)))

    # listeners and routes

    def _listener(self, name: str) -> Listener:
        settings = self.config.listeners[name]
        here = accumulate(of_listener(self.config, name)).values()
        early_links = _links((use for use in here if early(use.settings)), None)
        rules = [
            (conditions(route), self._route(name, route, early_links))
            for route in self.config.routes
            if not route.listeners or name in route.listeners
        ]
        return Listener(name, settings, trust(settings.trusted_proxies), Chain(early_links), Router(rules))

    def _route(self, listener: str, route: config.Route, early_links: list[Link]) -> Route:
        # An early filter of a route's own runs as soon as the route is known; the listener's have run by then.
        ran = {link.use.name for link in early_links}
        uses = accumulate(of_route(self.config, listener, route)).values()
        links = _links((use for use in uses if use.name not in ran), route.name)
        chain = Chain(early_links + links)
        steps = tuple(link.hooks.request for link in links if link.hooks.request is not None)
        action = self._action(route)
        slash_allowed = route.path.encoded_slash == "keep"
        straight = None
        if isinstance(action, Forward) and action.patience == inf and slash_allowed and not chain.links:
            straight = action
        return Route(route.name, action, chain, steps, slash_allowed, straight)

    def _action(self, route: config.Route) -> Callable[[Exchange], None]:
        if route.respond is not None:
            return _respond(route.respond)
        if route.redirect is not None:
            return _redirect(route.redirect.status, parse_redirect(route.redirect.to))
        assert route.upstream is not None
        upgrade = tuple(protocol.lower().encode() for protocol in route.upgrade)
        return Forward(self._upstream(route.upstream), path_of(route), route.forwarded, upgrade, route.timeout)


def compile(configuration: config.Config, workers: int) -> Gateway:
    """The tables for `workers` processes. Raises `CompileError`."""
    return Gateway(configuration, workers)


def _links(uses: Iterable[config.FilterUse], route: str | None) -> list[Link]:
    """Filters built, and in running order."""
    ordered = sorted(uses, key=lambda use: (use.settings.phase, use.settings.order))
    return [Link(use, use.settings.build(Env(use.name, route)), use.settings.phase.always) for use in ordered]


def conditions(route: config.Route) -> Conditions:
    return Conditions(
        hosts=tuple(parse_host(host) for host in route.hosts),
        paths=tuple(parse_path(path) for path in route.paths),
        methods=tuple(method.encode() for method in route.methods),
        headers=tuple((name.lower().encode(), value.encode()) for name, value in route.headers.items()),
        query=tuple((name.encode(), value.encode()) for name, value in route.query.items()),
    )


def path_of(route: config.Route) -> Callable[[Asked], bytes] | None:
    """Which path the upstream is sent, base path of its URL not counted. None: that of the request, in normal form."""
    if route.rewrite is not None:
        template: Template = parse_rewrite(route.rewrite)
        return lambda asked: template.expand(asked.params)
    if route.strip_prefix is None:
        return (lambda asked: asked.raw_path) if route.path.forward == "raw" else None
    prefix = parse_strip_prefix(route.strip_prefix)
    folder = prefix + b"/"

    def stripped(asked: Asked) -> bytes:
        path = asked.path
        if path.startswith(folder):
            return path[len(prefix) :]
        return b"/" if path == prefix else path

    return stripped


def _respond(respond: config.Respond) -> Callable[[Exchange], None]:
    fields = [(name.encode(), value.encode()) for name, value in respond.headers.items()]
    if respond.body and not any(name.lower() == b"content-type" for name, _ in fields):
        fields.append((b"Content-Type", b"text/plain; charset=utf-8"))
    reply = Reply(respond.status, respond.body.encode(), fields)
    return lambda exchange: exchange.reply(reply)


def _redirect(status: int, to: Template) -> Callable[[Exchange], None]:
    has_query = any(b"?" in literal for literal in to.literals)

    def redirect(exchange: Exchange) -> None:
        location = to.expand(exchange.params)
        if exchange.query is not None and not has_query:
            location += b"?" + exchange.query
        exchange.reply(Reply(status, fields=((b"Location", location),)))

    return redirect


def trust(networks: Iterable[Network]) -> Callable[[str], bool]:
    """Whether an address is in one of the networks. Remembers the last addresses it was asked about."""
    held = tuple(networks)
    if not held:
        return lambda ip: False

    @lru_cache(maxsize=4096)
    def trusts(ip: str) -> bool:
        try:
            address = ip_address(ip)
        except ValueError:  # a unix socket has no address
            return False
        return any(address in network for network in held)

    return trusts
