"""Expands `egress` into ordinary routes, upstreams and filters, before the rules are checked.

A service becomes an upstream `egress/<app>/<service>` (with `/<entry>` appended if it has entries), and a route of the
same name for each listener that applications call (with `/<listener>` appended if there are several). The last route of
each listener, `egress` or `egress/<listener>`, answers calls of unknown services.

Providers call `add_services` after the files are merged and before `expand`. They pass a `SourceLocation` for a service
in a document of their own, or a `Derived` if the document has other keys.
"""

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import chain
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar

from msgspec.structs import replace

from fastgw.config.base.problems import Path, Problem, format_value, suggest
from fastgw.config.base.value_types import Endpoint, is_far_in_the_clear
from fastgw.config.decoding.decoder import BROKEN
from fastgw.config.decoding.incremental_cache import IncrementalCache
from fastgw.config.decoding.merge import Derived, Merged, SourceLocation
from fastgw.config.egress.consumers import Guard, guards
from fastgw.config.settings.credentials import (
    READABLE,
    Basic,
    Csrf,
    GcpIdToken,
    OAuth2,
    RequestParameters,
    TokenExchange,
)
from fastgw.config.settings.egress import (
    Addressing,
    ApiOfSecret,
    Egress,
    EgressCredentials,
    EgressEntry,
    EgressService,
)
from fastgw.config.settings.gateway import FilterUse, PathForwarding, Respond, Route
from fastgw.config.settings.upstreams import Retries, Target, Upstream, UpstreamTimeouts, UpstreamTls
from fastgw.config.sources.extension_packages import UnknownType, type_called
from fastgw.config.sources.virtual_files import is_derived
from fastgw.net.pem import pair_problem

NAME: Final = "egress"
"""Prefix of the names of generated objects."""
T = TypeVar("T")
S = TypeVar("S", UpstreamTimeouts, Retries)
Named = tuple[str, ...]


def add_services(merged: Merged, apps: Mapping[str, Mapping[str, tuple[SourceLocation, EgressService]]]) -> None:
    """Add a provider's services with their positions, by application and name.

    A duplicate is reported at the later position. Without a section `egress`, its defaults apply.
    """
    for app, services in apps.items():
        held = merged.services.setdefault(app, {})
        for name, (location, service) in services.items():
            merged.egress_location = merged.egress_location or location
            if name in held:
                location.report(f"already defined at {held[name][0]}", "expected a unique name")
            else:
                held[name] = location, service


class EgressKept:
    """Cache of the generated services."""

    def __init__(self) -> None:
        self._made = _Made(None)
        self._last: _Made | None = None

    @property
    def upstreams(self) -> IncrementalCache[str, tuple[EgressEntry, Named, Any]]:
        return self._made.upstreams

    @property
    def routes(self) -> IncrementalCache[str, tuple[EgressEntry, Named, Any]]:
        return self._made.routes

    def begin_reading(self, around: object) -> Container[int]:
        """Start a reading. `around`: all inputs other than the services; if they have changed, nothing is reused.
        Returns the identities of valid objects of the last reading."""
        if around != self._made.around:
            self._last = self._last or self._made
            self._made = _Made(around)
        return self._made.validated

    def end_reading(self, merged: Merged | None) -> None:
        """End a successful reading; None: it has failed."""
        if merged is None and self._last is not None:
            self._made = self._last
        self._last = None
        made = self._made
        made.upstreams.end_reading(merged is not None)
        made.routes.end_reading(merged is not None)
        if merged is not None:
            # Services with filters of their own are not kept as valid: what a filter names, such as another upstream,
            # may be gone next time.
            held = chain(made.upstreams.values(), made.routes.values())
            kept = (each for settings, _, each in held if not settings.filters)
            here = {id(each) for _, each in chain(merged.maps["upstreams"].values(), merged.routes())}
            made.validated = {id(each): each for each in kept if id(each) in here and id(each) not in merged.with_notes}


class _Made:
    """Generated configuration, valid while the settings around the services are equal."""

    def __init__(self, around: object) -> None:
        self.around = around
        self.upstreams: IncrementalCache[str, tuple[EgressEntry, Named, Any]] = IncrementalCache()
        self.routes: IncrementalCache[str, tuple[EgressEntry, Named, Any]] = IncrementalCache()
        self.validated: dict[int, object] = {}
        """Valid objects by identity; the reference keeps the identity from being reused."""


def expand(merged: Merged, filter_types: Mapping[str, type], kept: EgressKept | None = None) -> list[Problem]:
    """Generate the routes and upstreams of `egress`. Reports problems, and returns the notes."""
    location = merged.egress_location or next(
        (at for at, said in merged.single_entry("providers") if said.kyma is not None), None
    )
    if location is None:
        return []
    kept = EgressKept() if kept is None else kept
    values = [merged.single, merged.egress, *merged.maps.values()]
    merged.validated = kept.begin_reading(
        (filter_types, [{name: said for name, (_, said) in each.items()} for each in values])
    )
    return _Expansion(merged, filter_types, location, kept).make()


def service_of(route: Route) -> str:
    """Return the service of a generated route for one of several listeners; "" for any other route."""
    if len(route.listeners) != 1 or not route.name.startswith(f"{NAME}/"):
        return ""
    service = route.name.removesuffix(f"/{route.listeners[0]}")
    return service if service != route.name and service in (NAME, route.upstream) else ""


@dataclass
class _Called:
    """An API with the names by which applications call it."""

    app: str
    service: str
    entry: str
    """Name of the entry; "" = the service has a single API."""
    location: SourceLocation
    settings: EgressEntry
    host: str
    of: SourceLocation
    """Position of the service."""
    alone: bool = True
    """Whether it is the only API of the service."""
    name: str = field(init=False)
    """Name of its upstream, and prefix of the names of its routes."""

    def __post_init__(self) -> None:
        entry = f"/{self.entry}" if self.entry else ""
        self.name = f"{NAME}/{self.app}/{self.service}{entry}"

    @property
    def is_of_secret(self) -> bool:
        """Whether it is an API of a Secret without an Application."""
        return isinstance(self.settings, ApiOfSecret)

    def is_reached_by(self, addressing: Addressing) -> bool:
        if self.is_of_secret or addressing == "secret":
            return self.is_of_secret and addressing == "secret"
        if addressing == "path_with_entry":
            return bool(self.entry)
        return self.alone or (addressing == "host" and self.settings.host is not None)


@dataclass
class _Expansion:
    """One use of `expand`."""

    merged: Merged
    filter_types: Mapping[str, type]
    location: SourceLocation
    """Position of the section."""
    kept: EgressKept
    notes: list[Problem] = field(default_factory=list)
    uses: dict[Any, FilterUse] = field(default_factory=dict)
    """Filters made from strings alone: thousands of services have equal ones."""
    guards: Mapping[str, Guard] = field(default_factory=dict)
    """Guards of applications with `consumers`."""

    def make(self) -> list[Problem]:
        said = {name: value for name, (_, value) in self.merged.egress.items()}
        try:
            egress = Egress(**said)
        except ValueError as error:  # settings from several files
            wrong, _, expected = str(error).partition("; ")
            self.location.report(wrong, expected)
            return self.notes
        listeners = self._listeners(egress)
        self.guards = guards(self.merged, egress, self.filter_types, listeners, self.notes)
        called = [*self._called()]
        for each in called:
            self._add("upstreams", each)
        self._note_unreached(called, listeners)
        for listener in listeners:
            self._add_to(listener)
        routes = self.merged.lists.setdefault("routes", [])
        for listener, addressing in listeners.items():
            behind = f"/{listener}" if len(listeners) > 1 else ""
            for each, name, hosts, path in self._addressed(called, addressing, egress):
                routes.append(self._route(each, egress, listener, addressing, hosts, path, name + behind))
            routes.append(self._unknown(egress, listener, addressing, behind, called))
        return self.notes

    def _listeners(self, egress: Egress) -> dict[str, Addressing]:
        """Return the listeners that applications call, each with its form of addressing."""
        known = self.merged.maps["listeners"]
        if egress.listeners:
            for name in egress.listeners:
                if name not in known:
                    at = self.merged.egress["listeners"][0].below(name)
                    at.report(f"unknown listener {format_value(name)}", suggest(name, known))
            return {name: addressing for name, addressing in egress.listeners.items() if name in known}
        if egress.listener is None:
            if len(known) > 1:
                names = ", ".join(map(format_value, known))
                expected = f"expected `listener`, one of {names}; or `listeners`, each with its addressing"
                self.location.report("no listener for the applications' calls", expected)
            return dict.fromkeys(known, egress.addressing) if len(known) == 1 else {}
        if egress.listener not in known:
            at = self.merged.egress["listener"][0]
            at.report(
                f"unknown listener {format_value(egress.listener)}", suggest(egress.listener, known), at_key=False
            )
            return {}
        return {egress.listener: egress.addressing}

    def _called(self) -> Iterator[_Called]:
        """Yield every API."""
        for app, services in self.merged.services.items():
            for name, (location, service) in services.items():
                if service is BROKEN:
                    continue
                host = (service.host or f"{app}-{name}").lower()
                if service.url is not None:
                    yield _Called(app, name, "", location, self._usable(service, location), host, location)
                entries = {entry: each for entry, each in service.entries.items() if each is not BROKEN}
                alone = len(entries) == 1
                for entry, settings in entries.items():
                    at = location.below("entries", entry)
                    own = (settings.host or host).lower()
                    yield _Called(app, name, entry, at, self._usable(settings, at), own, location, alone)

    def _usable(self, settings: EgressEntry, at: SourceLocation) -> EgressEntry:
        """Return the settings; an API whose client certificate is invalid becomes unavailable, without affecting
        others. Services of Kyma's documents are checked where they are read."""
        shown: Any = settings.credentials
        if shown is BROKEN or shown.type != "certificate" or BROKEN in (shown.certificate, shown.key):
            return settings
        if is_derived(shown.certificate):
            return settings
        read = at.reading.files.read
        found = pair_problem(read(shown.certificate), read(shown.key))
        if found is None:
            return settings
        why = f"{getattr(shown, found.of)}: {found.wrong}"
        self.notes.append(at.below("credentials", found.of).problem(f"{why}: calls are answered 500"))
        nothing = EgressCredentials(type="none")
        return replace(settings, credentials=nothing, csrf=None, request_parameters=_NO_PARAMETERS, unavailable=why)

    def _addressed(
        self, called: list[_Called], addressing: Addressing, egress: Egress
    ) -> Iterator[tuple[_Called, str, tuple[str, ...], str]]:
        """Yield the services that this form of addressing reaches, with the names of their routes, hosts and paths."""
        reached = [each for each in called if each.is_reached_by(addressing)]
        if addressing == "path_with_entry":
            yield from ((each, each.name, (), f"/{each.app}/{each.service}/{each.entry}") for each in reached)
            return
        if addressing == "path":
            yield from ((each, each.name, (), f"/{each.app}/{each.service}") for each in reached)
            return
        if addressing == "secret":  # as in Kyma, the name of an API may be in lower case
            for each in reached:
                for api in dict.fromkeys((each.service, each.service.lower())):
                    yield each, f"{NAME}/{each.app}/{api}", (), f"/secret/{each.app}/api/{api}"
            return
        taken: dict[str, _Called] = {}
        domains = dict.fromkeys((*egress.domains, *self._services_domains()))
        # Names may contain hyphens, so a host can mean two services: the longer application name takes precedence.
        for each in sorted(reached, key=lambda each: -len(each.app)):
            host = each.host
            if host in taken:
                meant = taken[host]
                service = f"{format_value(meant.service)} of {format_value(meant.app)}"
                wrong = f"the host {host} means {service}: no host routes to this service"
                self.notes.append(each.location.problem(wrong))
                continue
            taken[host] = each
            yield each, each.name, (host, *(f"{host}.{domain}" for domain in domains)), ""

    def _services_domains(self) -> tuple[str, ...]:
        """Return the domains of the Services that the gateway creates."""
        for _, said in self.merged.single_entry("providers"):
            kyma = BROKEN if said is BROKEN else said.kyma
            if kyma in (None, BROKEN) or BROKEN in (kyma.services, kyma.services_namespace, kyma.services_gateway):
                continue
            domains: tuple[str, ...] = kyma.services_domains
            return domains
        return ()

    def _note_unreached(self, called: list[_Called], listeners: Mapping[str, Addressing]) -> None:
        """Note each service that none of the listeners' forms of addressing reaches."""
        ways = dict.fromkeys(listeners.values())
        if ways and "host" not in ways and self._services_domains():
            for at, _ in self.merged.single_entry("providers"):
                wrong = "no listener has `addressing: host`: calls of the Services are not served"
                self.notes.append(at.below("kyma", "services").problem(wrong))
        words = " and ".join(f"`{way}`" for way in ways)
        verb = "does" if len(ways) == 1 else "do"
        noted_services: set[tuple[str, str]] = set()
        for each in called:
            service = each.app, each.service
            if service in noted_services or not ways or any(each.is_reached_by(way) for way in ways):
                continue
            noted_services.add(service)
            has = "several `entries`" if each.entry else "no `entries`"
            if each.is_of_secret or [*ways] == ["secret"]:
                has = "no Application" if each.is_of_secret else "an Application"
            self.notes.append(each.of.problem(f"it has {has}: {words} {verb} not reach it"))

    # generated objects

    def _add_to(self, listener: str) -> None:
        """Add the filter that also converts responses before routing to problem details."""
        location, settings = self.merged.maps["listeners"][listener]
        use = self._use("egress_calls", self.location, {"user_agent": "pass"})
        if settings is not BROKEN and settings.filters is not BROKEN and use is not None:
            filters = MappingProxyType({NAME: replace(use, name=NAME), **settings.filters})
            self.merged.maps["listeners"][listener] = location, replace(settings, filters=filters)

    def _add(self, part: str, each: _Called) -> None:
        held, location = (
            self.merged.maps[part],
            Derived(each.location.reading, each.location.path, partial(_upstream_parts, each)),
        )
        if each.name in held:
            held[each.name][0].report(
                f"egress generates one with this name, from {each.location}", "expected another name"
            )
            return
        self._note_risks(each)
        held[each.name] = location, self._cached_object(self.kept.upstreams, each, (), lambda: self._upstream(each))

    def _cached_object(
        self,
        kept: IncrementalCache[str, tuple[EgressEntry, Named, T]],
        each: _Called,
        named: Named,
        make: Callable[[], T],
    ) -> T:
        """Return the object generated for an API, or a cached one of equal inputs. `named`: its other inputs.

        An object with problems is not cached, so that they are reported each time.
        """
        key = "\n".join((each.name, *named[:1]))
        known = kept.find(key)
        if known is not None and known[1] == named and _is_same(known[0], each.settings):
            return kept.store(key, (each.settings, named, known[2]))[2]
        problems = each.location.reading.problems
        before = len(problems)
        made = make()
        if len(problems) == before:
            kept.store(key, (each.settings, named, made))
        return made

    def _note_risks(self, each: _Called) -> None:
        settings: Any = each.settings
        if settings.url is not BROKEN and not settings.tls.verify:
            wrong = "the API's certificate is not verified: an attacker in between can read and change requests"
            self.notes.append(each.location.below("tls", "verify").problem(wrong))
        if settings.url is not BROKEN and not settings.credentials.token_tls.verify:
            wrong = "the token endpoint's certificate is not verified: an attacker in between can steal the credentials"
            self.notes.append(each.location.below("credentials", "token_tls", "verify").problem(wrong))
        for section, endpoint in ("credentials", settings.credentials), ("csrf", settings.csrf):
            url = None if endpoint is None or settings.url is BROKEN else endpoint.token_url
            if isinstance(url, Endpoint) and is_far_in_the_clear(url.origin):
                self.notes.append(each.location.below(section, "token_url").problem(f"it is http: {READABLE}"))

    def _upstream(self, each: _Called) -> Any:
        settings: Any = each.settings
        if settings.url is BROKEN:
            return BROKEN
        if settings.credentials.type == "certificate" and settings.tls.certificate is not None:
            at = each.location.below("tls", "certificate")
            at.report("mutually exclusive with credentials of `type: certificate`", _ONE_OF_THEM)
        timeouts, retries = _plain(UpstreamTimeouts, settings.timeouts), _plain(Retries, settings.retries)
        targets, tls = (Target(url=settings.url),), _tls_of(settings)
        return Upstream(
            targets=targets,
            host_header="target",
            timeouts=timeouts,
            retries=retries,
            tls=tls,
            tolerate=settings.tolerate,
            response_limits=settings.response_limits,
        )

    def _route(
        self,
        each: _Called,
        egress: Egress,
        listener: str,
        addressing: Addressing,
        hosts: tuple[str, ...],
        path: str,
        name: str,
    ) -> tuple[SourceLocation, Any]:
        settings, at = each.settings, each.location
        guard = self.guards.get(each.app)

        def make() -> Route:
            filters: dict[str, FilterUse | None] = {**self._filters(each, egress, path)}
            for own, use in settings.filters.items():
                if use is None and own in filters:
                    del filters[own]
                else:
                    filters[own] = use
            if guard is not None:  # settings of the service do not remove them
                filters.update(guard.filters)
            strips = addressing == "host" or guard is not None  # identities from client certificates are among them
            return Route(
                name=name,
                listeners=(listener,),
                hosts=hosts,
                paths=(f"{path}/*",),
                upstream=each.name,
                strip_prefix=path or None,
                path=PathForwarding(forward="raw", root=_root_of(settings)) if path else _RAW,
                forwarded=settings.forwarded or ("strip" if strips else "pass"),
                forwarded_header=settings.forwarded_header,
                via=egress.via,
                proxy_redirect="off",
                use=settings.use,
                filters=MappingProxyType(filters),
            )

        named = (name, listener, addressing, path, *hosts, *(() if guard is None else guard.made_of))
        route = self._cached_object(self.kept.routes, each, named, make)
        return Derived(at.reading, at.path, partial(_route_parts, each, guard), _TO_UPSTREAM), route

    def _filters(self, each: _Called, egress: Egress, path: str) -> dict[str, FilterUse]:
        """Return the filters of each call."""
        settings, at = each.settings, each.location
        made: dict[str, FilterUse] = {}

        def add(name: str, location: SourceLocation, **said: Any) -> None:
            use = self._use(name, location, said)
            if use is not None:
                made[name] = use

        said = self._credentials(each, egress)
        if said:
            add("credentials", at.below("credentials"), **said)
        parameters = settings.request_parameters
        if parameters != _NO_PARAMETERS:
            added = {name: getattr(parameters, name) for name in parameters.__struct_fields__}
            add("request_parameters", at.below("request_parameters"), **added)
        refusals = {"unavailable": settings.unavailable, "ambiguous": settings.ambiguous}
        has_own = any(name.lower() == "user-agent" for name in parameters.headers)
        add("egress_calls", at, user_agent="pass" if has_own else egress.user_agent, **refusals)
        root = _root_of(settings) if path else "slash"
        cookies = settings.cookies
        add("response_urls", at, urls=(settings.url,), path=path or "/", root=root, any_port=True, cookies=cookies)
        if egress.target_errors != "pass":
            add("target_errors", at)
        return made

    def _credentials(self, each: _Called, egress: Egress) -> dict[str, Any]:
        """Return the settings of the filter that sends the API's credentials."""
        credentials: Any = each.settings.credentials  # the type's settings are complete
        said: dict[str, Any] = {}
        match credentials.type:
            case "basic":
                said["basic"] = Basic(username=credentials.username, password=credentials.password)
            case "bearer":
                said["bearer"] = credentials.token
            case "headers":
                said["headers"], said["hide_authorization"] = credentials.headers, True
            case "certificate":
                said["hide_authorization"] = True
            case "aws_sigv4":
                said["aws_sigv4"] = credentials.aws
            case "gcp_id_token":
                said["gcp_id_token"] = GcpIdToken(
                    audience=credentials.audience,
                    key=credentials.service_account_key,
                    token_url=credentials.token_url,
                    tls=credentials.token_tls,
                )
            case "token_exchange":
                said["token_exchange"] = self._token_exchange(each, credentials)
            case "oauth2" | "oauth2_mtls":
                said["oauth2"] = self._oauth2(each, credentials)
        if each.settings.csrf is not None:
            said["csrf"] = _as_the_api(each.settings.csrf, each.settings)
        if egress.access_token_header is not None:
            said["access_token_header"] = egress.access_token_header
        return said

    def _token_exchange(self, each: _Called, credentials: Any) -> Any:
        try:
            return TokenExchange(
                token_url=credentials.token_url,
                subject_token=credentials.subject_token,
                subject_token_type=credentials.subject_token_type,
                requested_token_type=credentials.requested_token_type,
                audience=credentials.audience,
                resource=credentials.resource,
                scopes=credentials.scopes,
                client_id=credentials.client_id,
                client_secret=credentials.client_secret,
                tls=credentials.token_tls,
                tolerate=credentials.token_tolerate,
            )
        except ValueError as error:
            wrong, _, expected = str(error).partition("; ")
            each.location.below("credentials").report(wrong, expected)
            return BROKEN

    def _oauth2(self, each: _Called, credentials: Any) -> Any:
        headers, query = credentials.token_headers, credentials.token_query
        if each.settings.parameters_for_token:
            parameters = each.settings.request_parameters
            headers = MappingProxyType({**parameters.headers, **headers})
            query = MappingProxyType({**parameters.query, **query})
        mtls = credentials.type == "oauth2_mtls"
        tls = credentials.token_tls
        if mtls:
            tls = replace(tls, certificate=credentials.certificate, key=credentials.key)
        try:
            return OAuth2(
                token_url=credentials.token_url,
                client_id=credentials.client_id,
                client_secret=credentials.client_secret,
                client_key=credentials.client_key,
                client_auth="certificate" if mtls else credentials.client_auth,
                scopes=credentials.scopes,
                audience=credentials.audience,
                assertion_audience=credentials.assertion_audience,
                token_headers=headers,
                token_query=query,
                tls=tls,
                tolerate=credentials.token_tolerate,
                second_level=credentials.second_level,
            )
        except ValueError as error:
            wrong, _, expected = str(error).partition("; ")
            each.location.below("credentials").report(wrong, expected)
            return BROKEN

    def _use(self, name: str, location: SourceLocation, said: Mapping[str, Any]) -> FilterUse | None:
        """Return a use of a filter type with these settings. None: they have problems, which are reported."""
        if BROKEN in said.values():
            return None
        plain = all(value is None or isinstance(value, str) for value in said.values())
        key = (name, *said.items()) if plain else ()
        if key in self.uses:
            return self.uses[key]
        try:
            use = FilterUse(name=name, type=name, settings=type_called(name, self.filter_types)(**said))
            if key:
                self.uses[key] = use
            return use
        except UnknownType as error:
            location.report(error.wrong, error.expected)
        except ValueError as error:
            wrong, _, expected = str(error).partition("; ")
            location.report(wrong, expected)
        return None

    def _unknown(
        self, egress: Egress, listener: str, addressing: Addressing, behind: str, called: list[_Called]
    ) -> tuple[SourceLocation, Route]:
        """Return the route for all other calls."""
        secrets = {each.app for each in called if each.is_of_secret}
        others = self.merged.services.keys() - secrets | {each.app for each in called if not each.is_of_secret}
        apps = tuple(app for app in self.merged.services if app in (secrets if addressing == "secret" else others))
        several: dict[str, tuple[str, ...]] = {}
        if addressing in ("path", "host"):
            for each in called:
                if not each.is_of_secret and not each.is_reached_by(addressing):
                    name = f"{each.app}/{each.service}" if addressing == "path" else each.host
                    several[name] = (*several.get(name, ()), each.entry)
        said: Mapping[str, Any] = {
            "egress_calls": {"user_agent": "pass"},
            "unknown_service": {
                "apps": apps,
                "addressing": addressing,
                "several": MappingProxyType(several),
                "awaited": self.merged.awaits_services,
            },
        }
        uses = {name: self._use(name, self.location, settings) for name, settings in said.items()}
        location = Derived(self.location.reading, self.location.path, made=_TO_NOBODY)
        filters = MappingProxyType({name: use for name, use in uses.items() if use is not None})
        return location, Route(name=NAME + behind, listeners=(listener,), respond=Respond(status=404), filters=filters)


def _upstream_parts(each: _Called) -> Mapping[Path, SourceLocation]:
    """Return the positions of the settings that the upstream is generated from."""
    at = each.location
    tls = at.below("tls")
    if each.settings.credentials.type == "certificate":
        shown: dict[Path, SourceLocation] = {(name,): at.below("credentials", name) for name in ("certificate", "key")}
        tls = Derived(tls.reading, tls.path, lambda: shown)
    return {
        ("targets", 0, "url"): at.below("url"),
        **{(name,): at.below(name) for name in ("timeouts", "retries", "tolerate", "response_limits")},
        ("tls",): tls,
    }


def _route_parts(each: _Called, guard: Guard | None) -> Mapping[Path, SourceLocation]:
    """Return the positions of the settings that the route is generated from."""
    at = each.location
    made: dict[Path, SourceLocation] = {("filters", name): at for name in _MADE}
    said: dict[Path, SourceLocation] = {("filters", name): at.below(name) for name in _PER_SERVICE}
    own: dict[Path, SourceLocation] = {("filters", name): at.below("filters", name) for name in each.settings.filters}
    guarded: dict[Path, SourceLocation] = {("filters", name): guard.location for name in guard.filters} if guard else {}
    return {**made, **said, **own, **guarded, ("use",): at.below("use")}


def _is_same(one: EgressEntry, other: EgressEntry) -> bool:
    """Whether both have the same result. Files named by equal settings may have changed."""
    return one is other or (one == other and _tls_of(other) == UpstreamTls())


@lru_cache(256)
def _plain(of: type[S], settings: S) -> S:
    """Return the settings in the type of an upstream. Thousands of services have equal ones."""
    return of(**{name: getattr(settings, name) for name in of.__struct_fields__})


def _root_of(settings: Any) -> Literal["slash", "bare"]:
    """Return the root form: `/{app}/{service}` alone calls the path of the URL, with or without its trailing slash."""
    return "slash" if settings.url is not BROKEN and settings.url.ends_in_slash else "bare"


def _tls_of(settings: EgressEntry) -> UpstreamTls:
    """Return the TLS settings of an API, with its client certificate."""
    credentials = settings.credentials
    if credentials.type != "certificate":
        return settings.tls
    return replace(settings.tls, certificate=credentials.certificate, key=credentials.key)


def _as_the_api(csrf: Csrf, settings: EgressEntry) -> Csrf:
    """Return the settings of CSRF tokens, with `tolerate` of the API if it has none of its own, and its TLS settings if
    it uses TLS.
    """
    origin = csrf.token_url.origin
    if settings.tolerate and not csrf.tolerate:
        csrf = replace(csrf, tolerate=settings.tolerate)
    if csrf.tls != UpstreamTls() or not origin.tls:
        return csrf
    tls = _tls_of(settings)
    return replace(csrf, tls=tls if origin.host == settings.url.host else replace(tls, server_name=None))


_PER_SERVICE: Final = ("credentials", "request_parameters")
"""Filters of a service with the same name as its setting."""
_MADE: Final = ("egress_calls", "response_urls", "target_errors")
"""Filters generated for a service as a whole."""
_NO_PARAMETERS: Final = RequestParameters()
_RAW: Final = PathForwarding(forward="raw")
_ONE_OF_THEM: Final = "expected one of them"
_TO_UPSTREAM: Final = MappingProxyType({"upstream": NAME})
_TO_NOBODY: Final[Mapping[str, Any]] = MappingProxyType({"respond": {}})
