"""Lint: valid settings that are probably mistakes, such as habits of other gateways with another meaning here.

Rule: lint rejects nothing, and reports only what is almost certain. Values that may be secrets are not quoted.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Final

from fastgw.config.base.problems import Path, Problem, format_value, shorten, suggest
from fastgw.config.base.route_patterns import LIKE_REGEX
from fastgw.config.base.settings_base import listed
from fastgw.config.base.value_types import Url, write_size
from fastgw.config.decoding.decoder import BROKEN
from fastgw.config.decoding.merge import Merged, SourceLocation
from fastgw.config.egress.expand import NAME as EGRESS
from fastgw.config.settings.gateway import AccessLog, Files, FilterUse, Respond, Route, Variant
from fastgw.config.settings.log_sinks import OtlpSink
from fastgw.config.settings.telemetry import OtlpExport
from fastgw.config.settings.value_maps import constant_source
from fastgw.config.validation.listener_protocols import upstreams_of_events
from fastgw.http.error_templates import VALUES, unknown_placeholders
from fastgw.http.field_names import HOP_BY_HOP

_EXPANSION: Final = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*(:?[-+?=][^}]*)?\}")
_NGINX: Final = re.compile(
    r"\$(?:host|scheme|uri|request_uri|args|is_args|query_string|remote_addr|remote_user|server_name|server_port|"
    r"http_[a-z_]+|arg_[a-z_]+|cookie_[a-z_]+|proxy_add_x_forwarded_for|upstream_addr|request_id)\b"
)
_VARIABLES: Final = {
    "host": "{host}",
    "scheme": "{scheme}",
    "uri": "{path}",
    "request_uri": "{path} and {query}",
    "args": "{query}",
    "query_string": "{query}",
    "remote_addr": "{client_ip}",
    "remote_user": "{consumer.name}",
    "request_id": "{request_id}",
    "upstream_addr": "{target}",
}
"""Variables of nginx, and what they are here."""
_PREFIXES: Final = {"http_": "header.", "arg_": "query.", "cookie_": "cookie."}
"""Beginnings of the names of variables of nginx, and what they are here."""
_GROUP: Final = re.compile(r"\$[0-9](?![0-9])|\\[0-9]")
_BRACES: Final = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}")
_DOLLAR: Final = re.compile(r"\$(\{[a-z_]+(\.[A-Za-z0-9_-]+)+\}|\{\{.*?\}\})")
"""Variables and expressions of fastgw with the `$` of other syntaxes."""
_ARN: Final = re.compile(r"arn:aws[a-z-]*:lambda:([a-z0-9-]+):")
_OF_LAMBDA: Final = re.compile(r"lambda\.([a-z0-9-]+)\.amazonaws\.com")
_MODIFIER: Final = re.compile(r"~\s+")
"""Modifier of nginx for regular expressions, which begin with `~` here."""
_ELSEWHERE: Final = re.compile(r"/(:[A-Za-z_]\w*|<[^/<>]+>)(?=/|$)")
"""Path parameters in the syntax of Express and Kong, and of Flask."""
_INTAKES: Final = {"loki": "/loki/api/v1/push", "elasticsearch": "/_bulk"}
_OTLP_NAMES: Final = {"http": "OTLP/HTTP", "grpc": "OTLP/gRPC"}
_OTLP_PORTS: Final = {"http": 4318, "grpc": 4317}
_NO_SINKS: Final = ("stderr", "syslog", "journal", "off", "none", "-")
_PARAMETER: Final = re.compile(r"\{[^}:]*")
_PRIVATE_KEY: Final = b"PRIVATE KEY-----"
FREE_TEXT: Final = ("body", "description", "html", "json")
"""Keys of free text, in which `${name}` may be a program's own syntax, such as JavaScript."""
CACHE_OF_WORKER: Final = 256 * 1024
"""Minimum memory of a cache store for each worker."""
KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "key_auth": ("key_auth",),
    "basic_auth": ("basic_auth",),
    "hmac": ("hmac",),
    "jwt": ("jwt", "introspection", "oidc"),
    "certificates": ("certificate_auth",),
}
"""Credentials of consumers, and the filters that read them."""


def lint(merged: Merged) -> list[Problem]:
    """Return the notes on a valid configuration."""
    return [
        *_expansions(merged),
        *_sinks(merged),
        *_of_telemetry(merged),
        *_senders_of_proxy_headers(merged),
        *_of_routes(merged),
        *_configuration_in_roots(merged),
        *_missing_pages(merged),
        *_parts_of_responses_that_are_not_sent(merged),
        *_placeholders_of_error_pages(merged),
        *_never_reached(merged),
        *_credentials_that_nobody_reads(merged),
        *_upstreams_that_nobody_uses(merged),
        *_filters_of_parts(merged),
        *_filters_of_functions(merged),
        *_regions_of_functions(merged),
        *_files_without_reading(merged),
        *_caches_that_nobody_uses(merged),
        *_caches_too_small_for_workers(merged),
        *_maps_that_nobody_uses(merged),
        *_filter_sets_without_use(merged),
        *_targets_kept_in_use(merged),
        *_filters_of_events(merged),
        *_certificates_of_each_node(merged),
    ]


def _expansions(merged: Merged) -> Iterator[Problem]:
    """Yield a note for each variable of a shell or of nginx, which has no meaning here."""
    for reading in merged.readings:
        if "$" not in reading.document.text:
            continue  # most documents have none, and may have very many values
        for path, text in _texts(reading.document.value, ()):
            if path[-1] in FREE_TEXT or text.startswith("~"):
                continue
            at = SourceLocation(reading, path)
            if _EXPANSION.search(text) is not None:
                yield at.value_problem("`${…}` is taken literally; write {env: NAME} in place of the whole value")
            elif (found := _DOLLAR.search(text)) is not None:
                yield at.value_problem(f"the `$` of `{found[0]}` is taken literally; write {found[1]}")
            elif (found := _NGINX.search(text)) is not None:
                yield at.value_problem(f"`{found[0]}` is taken literally: {_variable_here(found[0][1:])}")


def _variable_here(name: str) -> str:
    """Return how a variable of nginx is written here."""
    kind = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "")
    of_name = name.removeprefix(kind)
    here = f"{{{_PREFIXES[kind]}{of_name.replace('_', '-') if kind == 'http_' else of_name}}}" if kind else ""
    here = here or _VARIABLES.get(name, "")
    return (
        f"a variable is written {{NAME}}, here {here}" if here else "a variable is written {NAME}, such as {client_ip}"
    )


def _texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    waiting: list[tuple[Path, Any]] = [(path, value)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, str) and path:
            if "$" in value:
                yield path, value
        elif isinstance(value, dict):
            waiting += (((*path, key), each) for key, each in reversed(value.items()) if key != "consumers")
        elif isinstance(value, list):
            waiting += (((*path, index), each) for index, each in reversed([*enumerate(value)]))


def _sinks(merged: Merged) -> Iterator[Problem]:
    for location, access_log in merged.lists.get("access_logs", ()):
        sink = None if access_log is BROKEN else location.raw.get("sink")
        if sink in _NO_SINKS:
            meant = "`stdout`, or the name of a file such as /dev/stderr"
            none = "; `access_logs: []` turns access logs off" if sink in ("off", "none", "-") else ""
            yield location.below("sink").value_problem(
                f"this writes to a file named {format_value(sink)}; a sink is {meant}{none}"
            )
        if access_log is not BROKEN:
            for kind, path in _INTAKES.items():
                settings = getattr(access_log.sink, kind, None)
                if settings is not None and settings.url.target == "/":
                    setting = location.below("sink", kind, "url")
                    yield setting.value_problem(f"this has no path; its servers accept lines at {path}")
            if (otlp := getattr(access_log.sink, "otlp", None)) is not None:
                yield from _port_of_other_protocol(location.below("sink", "otlp", "url"), otlp)
            yield from _routes_of_log(merged, location, access_log)


def _port_of_other_protocol(url: SourceLocation, otlp: OtlpSink | OtlpExport) -> Iterator[Problem]:
    """Report a collector's port that is by convention (OpenTelemetry's specification of OTLP) the other protocol's."""
    own, other = otlp.protocol, "grpc" if otlp.protocol == "http" else "http"
    if otlp.endpoint.origin.port == _OTLP_PORTS[other]:
        yield url.value_problem(
            f"port {_OTLP_PORTS[other]} is that of {_OTLP_NAMES[other]}, and this sends {_OTLP_NAMES[own]}; "
            f"expected `protocol: {other}`, or port {_OTLP_PORTS[own]}"
        )


def _routes_of_log(merged: Merged, location: SourceLocation, access_log: AccessLog) -> Iterator[Problem]:
    conditions = [("only", access_log.only), ("always", access_log.always)]
    named = {key: set(listed(each.route)) for key, each in conditions if each is not None}
    named["sample_routes"] = set(access_log.sample_routes)
    yield from _unknown_routes(merged, [(location.below(key), names) for key, names in named.items()])


def _of_telemetry(merged: Merged) -> Iterator[Problem]:
    for location, telemetry in merged.single_entry("telemetry"):
        if telemetry is BROKEN:
            continue
        zipkin = None if telemetry.traces is None else telemetry.traces.zipkin
        if zipkin is not None and zipkin.url.target == "/":
            setting = location.below("traces", "zipkin", "url")
            yield setting.value_problem("this has no path; Zipkin accepts spans at /api/v2/spans")
        for signal, settings in (("traces", telemetry.traces), ("metrics", telemetry.metrics)):
            if settings is not None and settings.otlp is not None:
                yield from _port_of_other_protocol(location.below(signal, "otlp", "url"), settings.otlp)
        named = [(location.below("route_slos"), set(telemetry.route_slos))]
        duration = None if telemetry.metrics is None else telemetry.metrics.request_duration
        if duration is not None:
            named.append((location.below("metrics", "request_duration", "route_buckets"), set(duration.route_buckets)))
        yield from _unknown_routes(merged, named)


def _unknown_routes(merged: Merged, named: Sequence[tuple[SourceLocation, set[str]]]) -> Iterator[Problem]:
    """Report names in settings that no route has."""
    if not any(names for _, names in named):
        return
    known = {route.name for _, route in merged.routes()}
    for location, names in named:
        for name in sorted(names - known):
            yield location.value_problem(f"there is no route with the name {format_value(name)}")


def _senders_of_proxy_headers(merged: Merged) -> Iterator[Problem]:
    """Yield a note on each listener whose senders of PROXY headers could be TCP load balancers."""
    for location, _, listener in merged.whole("listeners"):
        is_open = "proxy_protocol_senders" not in location.raw and listener.trusted_proxies
        if listener.protocol == "http" and listener.proxy_protocol == "required" and is_open:
            yield location.below("proxy_protocol").problem(
                "forwarding headers of `trusted_proxies` are believed behind a PROXY header: a TCP load balancer "
                "(HAProxy `mode tcp`, AWS NLB) passes on those of its clients; name it in `proxy_protocol_senders`, or "
                "write `[]` there if each proxy replaces these headers"
            )


def _of_routes(merged: Merged) -> Iterator[Problem]:
    catching_all = [route for _, route in merged.routes() if _catches_all(route)]
    for location, route in merged.routes_to_validate():
        if route.name.startswith(f"{EGRESS}/"):
            continue
        found = [*_of_route(location, route, catching_all)]
        merged.note(route, found)
        yield from found


def _catches_all(route: Route) -> bool:
    return not route.paths or "/*" in route.paths


def _of_route(location: SourceLocation, route: Route, catching_all: list[Route]) -> Iterator[Problem]:
    if route.paths == ("/",) and route.upstream is not None and not any(_overlap(route, each) for each in catching_all):
        wrong = "`/` matches that path only; `/*` matches all paths"
        yield location.below("paths", 0).value_problem(wrong)
    for index, path in enumerate(route.paths):
        if _MODIFIER.match(path) is not None:
            wrong = "it cannot match anything: a regular expression starts right after `~`, such as ~^/v[0-9]+/"
            yield location.below("paths", index).value_problem(wrong)
        elif not path.startswith("~") and (found := _ELSEWHERE.search(path)) is not None:
            wrong = f"`{found[1]}` is matched literally: a parameter is written {{name}}, such as /users/{{id}}"
            yield location.below("paths", index).value_problem(wrong)
        elif not path.startswith("~") and LIKE_REGEX.search(path) is not None:
            wrong = "it is matched literally: a regular expression starts with `~`, such as ~^/v[0-9]+/"
            yield location.below("paths", index).value_problem(wrong)
        elif path.startswith("~") and _BRACES.search(path) is not None:
            wrong = "`{…}` in a regular expression is not a parameter: parameters are for paths without `~`"
            yield location.below("paths", index).value_problem(wrong)
    if "_" in route.hosts:
        wrong = "`_` is matched literally: leave out `hosts` for any host"
        yield location.below("hosts", route.hosts.index("_")).value_problem(wrong)
    for key, conditions in (("headers", route.headers), ("query", route.query)):
        for name, value in conditions.items():
            if not isinstance(value, str):
                continue
            if value.startswith("~") or _BRACES.search(value) is not None or value == "*":
                wrong = "it is compared literally: a pattern is written {regex: ...} or {prefix: ...}"
                yield location.below(key, name).value_problem(wrong)
    for at, rewrite in _rewrites(location, route):
        if rewrite.endswith("/*"):
            wrong = "its `*` is sent literally: use a path parameter, such as /new/{rest} for the path /old/{rest:path}"
            yield at.value_problem(wrong)
    for steps, template in _templates(route):
        if (group := _GROUP.search(template)) is not None:
            wrong = f"`{group[0]}` is taken literally: use a named path parameter, `{{name}}`, and a path that has it"
            yield location.below(*steps).value_problem(wrong)


def _rewrites(location: SourceLocation, route: Route) -> Iterator[tuple[SourceLocation, str]]:
    """Yield the rewrites of a route and its variants."""
    places: list[tuple[SourceLocation, Route | Variant]] = [(location, route)]
    places += ((location.below("variants", i), each) for i, each in enumerate(route.variants))
    for at, owner in places:
        if owner.rewrite is not None:
            yield at.below("rewrite"), owner.rewrite


def _templates(route: Route) -> Iterator[tuple[Path, str]]:
    if route.rewrite is not None:
        yield ("rewrite",), route.rewrite
    if route.redirect is not None and route.redirect.to is not None:
        yield ("redirect", "to"), route.redirect.to


def _configuration_in_roots(merged: Merged) -> Iterator[Problem]:
    """Yield a note for each root of static files with a file of this configuration, or a private key that it names."""
    roots = [
        (location.below("files", "root"), route.files.root)
        for location, route in merged.routes()
        if isinstance(route.files, Files) and isinstance(route.files.root, str)
    ]
    if not roots:
        return
    documents = [reading.document for reading in merged.readings if reading.document.name]
    names = {os.path.join(each.folder, os.path.basename(each.name)) for each in documents}
    # Relative: the working directory has been removed, and with it the file.
    names = {name for name in names if os.path.isabs(name)}
    captured = merged.readings[0].files.contents_read
    names |= {name for name, content in captured.items() if name.startswith("/") and _PRIVATE_KEY in content}
    real = {name: os.path.realpath(name) for name in names.union(root for _, root in roots)}
    for location, root in roots:
        served = sorted(name for name in names if _is_served(name, root, real))
        if served:
            yield location.value_problem(
                f"it contains {served[0]}, which is a part of this configuration: it is served"
            )


def _is_served(name: str, root: str, real: Mapping[str, str]) -> bool:
    """Whether a file lies beneath a root, with a path there that is not hidden: its own one, or that of a link. `real`:
    their paths without symbolic links.
    """
    own = _path_below(real[name], real[root])
    return own is not None and any(
        path is not None and "/." not in f"/{path}" for path in (own, _path_below(name, root))
    )


def _path_below(name: str, folder: str) -> str | None:
    """Return the path of a file relative to a folder above it; None: it lies elsewhere."""
    beginning = os.path.join(folder, "")
    return name[len(beginning) :] if name.startswith(beginning) else None


def _missing_pages(merged: Merged) -> Iterator[Problem]:
    """Yield a note for each `spa` page that does not exist: it is looked for at each request, and may yet come."""
    for location, route in merged.routes():
        files = route.files
        if not isinstance(files, Files) or not isinstance(files.root, str) or not isinstance(files.spa, str):
            continue
        if location.reading.files.is_missing(os.path.join(files.root, files.spa)):
            yield location.below("files", "spa").value_problem("no such file in `root`: its paths are answered 404")


def _parts_of_responses_that_are_not_sent(merged: Merged) -> Iterator[Problem]:
    """Yield a note for each body of `respond` with a status without content, and for each header that frames it."""
    for location, respond in _responses(merged):
        if respond.status in (204, 304) and respond.body:
            yield location.below("body").value_problem(
                f"it is not sent: a response with the status {respond.status} has no content"
            )
        for name in respond.headers:
            is_offer = respond.status == 426 and name.lower() == "upgrade"
            if name.lower().encode() in HOP_BY_HOP and not is_offer:
                yield location.below("headers", name).value_problem(
                    "it is not sent: it is about a connection, or the length of a body, which the gateway sets itself"
                )


def _responses(merged: Merged) -> Iterator[tuple[SourceLocation, Respond]]:
    """Yield each `respond` of routes, their variants and their fallbacks."""
    for location, route in merged.routes():
        places: list[tuple[tuple[str | int, ...], object]] = [(("respond",), route.respond)]
        places += [(("variants", number, "respond"), each.respond) for number, each in enumerate(route.variants)]
        if route.fallback is not None:
            places.append((("fallback", "respond"), route.fallback.respond))
        for place, respond in places:
            if isinstance(respond, Respond):
                yield location.below(*place), respond


def _placeholders_of_error_pages(merged: Merged) -> Iterator[Problem]:
    """Yield a note for each name in braces that is sent as it is, and for each empty page."""
    holders = [
        *((location, pages) for location, pages in merged.single_entry("error_pages") if pages is not BROKEN),
        *((location.below("error_pages"), each.error_pages) for location, _, each in merged.whole("listeners")),
        *((location.below("error_pages"), each.error_pages) for location, each in merged.routes() if each.error_pages),
    ]
    for location, pages in holders:
        for status, page in pages.items():
            if page.html == "":
                yield location.below(status, "html").value_problem("browsers get an empty page")
            for key, text in (("html", page.html), ("json", page.json)):
                for _, name in unknown_placeholders(text or "", is_html=key == "html"):
                    yield location.below(status, key).value_problem(_not_replaced(name))
    for file in sorted({page.file for _, pages in holders for page in pages.values() if page.file is not None}):
        page_text = merged.readings[0].files.contents_read.get(file, b"").decode(errors="replace")
        for at, name in unknown_placeholders(page_text, is_html=True):
            before = page_text[:at]
            line, column = before.count("\n") + 1, at - (before.rfind("\n") + 1) + 1
            yield Problem(file, line, column, "", _not_replaced(name))


def _not_replaced(name: str) -> str:
    shown = shorten(name)
    return f"{{{shown}}} is not a placeholder, and is sent as it is; {suggest(name.lower().replace('-', '_'), VALUES)}"


def _overlap(one: Route, other: Route) -> bool:
    """Whether hosts and listeners of two routes overlap."""
    hosts = not one.hosts or not other.hosts or not {*map(str.lower, one.hosts)}.isdisjoint(map(str.lower, other.hosts))
    return hosts and (not one.listeners or not other.listeners or not {*one.listeners}.isdisjoint(other.listeners))


_Key = tuple[str, str, str, object]
_Placed = tuple[SourceLocation, Route]
_PREFIX: Final = re.compile(r"([^~{*]*)/(?:\*|\{:path\})")
"""Matches the shape of a path that is a prefix, without parameters before its end."""
_LITERAL: Final = re.compile(r"~(?:\^(?:(?:[\w/~%-]|\\[.])(?![*?{]))*)?")
"""Matches the beginning of a regular expression up to the last character that each match begins with."""
_ESCAPE_OR_CLASS: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]")
_INNER_GROUP: Final = re.compile(r"\([^()]*\)")


def _never_reached(merged: Merged) -> Iterator[Problem]:
    """Yield a note for each route whose requests all match another one before it, with the same hosts and no other
    method: an earlier one with the same paths and conditions, or for regular expressions one with a prefix of theirs.
    """
    taken: dict[_Key, list[_Placed]] = {}
    prefixes: dict[tuple[str, str, str], list[_Placed]] = {}
    listeners = [*merged.maps["listeners"]]
    routes = [each for each in merged.routes() if not each[1].name.startswith(f"{EGRESS}/")]  # with a path or host each
    for location, route in routes:
        for listener, host, path, _ in _keys(route, listeners):
            if (prefix := _PREFIX.fullmatch(path)) is not None:
                prefixes.setdefault((listener, host, prefix[1]), []).append((location, route))
    for location, route in routes:
        keys = [*_keys(route, listeners)]
        before = [_before(taken.get(key, ()), route) or _wider(prefixes, key, route) for key in keys]
        if keys and all(each is not None for each in before):
            first = before[0]
            assert first is not None
            wrong = (
                f"it is unreachable: route {format_value(first[1].name)} ({first[0]}) matches all of its requests first"
            )
            if keys[0][2].startswith("~"):
                wrong += "; a route without `paths` comes after regular expressions"
            yield location.below("name").value_problem(wrong)
        for key in keys:
            taken.setdefault(key, []).append((location, route))


def _wider(prefixes: Mapping[tuple[str, str, str], list[_Placed]], key: _Key, route: Route) -> _Placed | None:
    """Return a route with a prefix of all paths that a regular expression can match, and no other conditions."""
    listener, host, path, _ = key
    if not path.startswith("~"):
        return None
    literal = "" if _is_alternation(path) else _LITERAL.match(path)[0].removeprefix("~^").replace("\\", "")  # type: ignore[index]
    for end in (place for place, char in enumerate(literal or "/") if char == "/"):
        wider = [
            (location, each)
            for location, each in prefixes.get((listener, host, literal[:end]), ())
            if each.priority >= route.priority
            and each.headers.items() <= route.headers.items()
            and each.query.items() <= route.query.items()
            and each.cookies.items() <= route.cookies.items()
            and (not each.clients or each.clients == route.clients)
        ]
        if (found := _before(wider, route)) is not None:
            return found
    return None


def _is_alternation(regex: str) -> bool:
    """Whether a regular expression may have alternatives as a whole: `|` outside of groups and classes."""
    outside, count = _ESCAPE_OR_CLASS.sub("", regex), 1
    while count:
        outside, count = _INNER_GROUP.subn("", outside)
    return "|" in outside


def _keys(route: Route, listeners: list[str]) -> Iterator[_Key]:
    headers = frozenset((name.lower(), value) for name, value in route.headers.items())
    query, cookies = frozenset(route.query.items()), frozenset(route.cookies.items())
    conditions = headers, query, cookies, frozenset(route.clients), route.priority
    for listener in route.listeners or listeners:
        for host in route.hosts or ("",):
            for path in route.paths or ("",):
                shape = path if path.startswith("~") or "{" not in path else _PARAMETER.sub("{", path)
                yield listener, host.lower().removesuffix("."), shape, conditions


def _before(candidates: Iterable[_Placed], route: Route) -> _Placed | None:
    """Return the first of these routes that matches every method of this route."""
    for location, each in candidates:
        answered = {*each.methods, *(("HEAD",) if "GET" in each.methods else ())}
        if not each.methods or (route.methods and answered.issuperset(route.methods)):
            return location, each
    return None


def _credentials_that_nobody_reads(merged: Merged) -> Iterator[Problem]:
    if merged.lists.get("extensions"):
        return  # filters of an extension may read them
    used = {*_filter_types(merged)}
    for key, types in KINDS.items():
        if used.isdisjoint(types):
            owners = [
                location for location, consumer in merged.consumers() if getattr(consumer, key) not in ((), BROKEN)
            ]
            if owners:
                others = f" (and {len(owners) - 1} more)" if owners[1:] else ""
                filters = " or ".join(f"`{each}`" for each in types)
                yield owners[0].below(key).problem(f"no filter uses it: there is no {filters}{others}")


def _upstreams_that_nobody_uses(merged: Merged) -> Iterator[Problem]:
    if merged.lists.get("extensions"):
        return  # filters of an extension may send requests to any upstream
    used: set[str | Url] = set()
    for _, route in merged.routes():
        used.update(route.destinations, route.part_destinations)
        if route.fallback is not None and route.fallback.upstream is not None:
            used.add(route.fallback.upstream)
    for _, _, listener in merged.whole("listeners"):
        used.update(listener.destinations)
    for use in _filters(merged):
        names = getattr(use.settings, "upstream_names", None)
        used.update(name for _, name in (names() if names is not None else ()))
    for location, name, _ in merged.whole("upstreams"):
        # Those of a cluster were made for a route, which answers 500 while something else of it is refused.
        if name not in used and not name.startswith(f"{EGRESS}/") and not location.reading.document.is_generated:
            yield location.problem("it is unused: no route, fallback, filter or listener names it")


def _filters_of_parts(merged: Merged) -> Iterator[Problem]:
    """Yield a note for each part of a composed route whose upstream has filters that do not run for it."""
    composed = [(location, route.compose) for location, route in merged.routes() if route.compose is not None]
    filters = {name: upstream.filters for _, name, upstream in merged.whole("upstreams")} if composed else {}
    for location, compose in composed:
        for index, part in enumerate(compose.parts):
            uses = filters.get(part.upstream, {}) if isinstance(part.upstream, str) else {}
            idle = [name for name, use in uses.items() if use is not None and not use.settings.for_its_upstream]
            if idle:
                wrong = f"filters of this upstream do not run for a part: {', '.join(idle)}; use them on the route"
                yield location.below("compose", "parts", index, "upstream").value_problem(wrong)


def _filters_of_functions(merged: Merged) -> Iterator[Problem]:
    """Yield a note for each function whose upstream has filters that do not run for it, or no credentials."""
    functions = [(location, route.lambda_) for location, route in merged.routes() if route.lambda_ is not None]
    filters = {name: upstream.filters for _, name, upstream in merged.whole("upstreams")} if functions else {}
    for location, function in functions:
        uses = filters.get(function.upstream, {}) if isinstance(function.upstream, str) else {}
        idle = [name for name, use in uses.items() if use is not None and not use.settings.for_its_upstream]
        if idle:
            wrong = f"filters of this upstream do not run for a function: {', '.join(idle)}; use them on the route"
            yield location.below("lambda", "upstream").value_problem(wrong)
        if not any(use is not None and use.settings.for_its_upstream for use in uses.values()):
            wrong = "requests are not signed, so AWS answers 403: the upstream has no `credentials` with `aws_sigv4`"
            named = "" if isinstance(function.upstream, str) else "; a URL has no filters, so define an upstream for it"
            yield location.below("lambda", "upstream").value_problem(wrong + named)


def _regions_of_functions(merged: Merged) -> Iterator[Problem]:
    """Yield a note for each function whose ARN has another region than the URL."""
    upstreams = {name: upstream for _, name, upstream in merged.whole("upstreams")}
    for location, route in merged.routes():
        function = route.lambda_
        arn = None if function is None else _ARN.match(function.function)
        if function is None or arn is None:
            continue
        named = upstreams.get(function.upstream) if isinstance(function.upstream, str) else None
        urls = [function.upstream] if named is None else [target.url for target in named.targets]
        hosts = {each.host for each in urls if isinstance(each, Url) and _OF_LAMBDA.match(each.host)}
        regions = {found[1] for host in hosts if (found := _OF_LAMBDA.match(host))}
        if regions and arn[1] not in regions:
            wrong = f"the function is in {arn[1]}, but its requests are sent to {', '.join(sorted(regions))}"
            yield location.below("lambda", "function").value_problem(wrong)


def _files_without_reading(merged: Merged) -> Iterator[Problem]:
    """Yield a note for each route with files that answers neither GET nor HEAD."""
    for location, route in merged.routes():
        if route.files is not None and route.methods and not {"GET", "HEAD"}.intersection(route.methods):
            wrong = "static files answer GET and HEAD only: every request of this route is refused"
            yield location.below("methods").problem(wrong)


def _caches_that_nobody_uses(merged: Merged) -> Iterator[Problem]:
    if merged.lists.get("extensions"):
        return  # filters of an extension may use them
    used = {getattr(use.settings, "store", None) for use in _filters(merged)}
    for location, stores in merged.single_entry("caches"):
        for name in () if stores is BROKEN else stores:
            if name not in used:
                yield location.below(name).problem("it is unused: no filter `cache` has it as its `store`")


def _maps_that_nobody_uses(merged: Merged) -> Iterator[Problem]:
    """Yield a note for each map without use, and for each whose result is always the same."""
    for location, name, table in merged.whole("maps"):
        if table.has_constant_source:
            yield location.below("source").value_problem(constant_source(table.source))
        if not any(f"{{map.{name}}}" in reading.document.text for reading in merged.readings):
            yield location.problem(f"it is unused: no value has {{map.{name}}}")


def _targets_kept_in_use(merged: Merged) -> Iterator[Problem]:
    """Yield a note for each upstream with health checks that cannot take its heaviest target out of use alone: the
    others have too little weight. Names may have several addresses, and a threshold that is set is meant.
    """
    for location, _, upstream in merged.whole("upstreams"):
        written = location.raw
        if not isinstance(written, dict):
            continue
        checks, balancing = written.get("health_checks"), written.get("load_balancing")
        if not isinstance(checks, dict) or not (checks.get("passive") or checks.get("active")):
            continue
        if (isinstance(balancing, dict) and "panic_threshold" in balancing) or not isinstance(upstream.targets, tuple):
            continue
        weighted = [(each.weight, index, each) for index, each in enumerate(upstream.targets) if each.weight]
        if len(weighted) < 2 or len({each.priority for _, _, each in weighted}) > 1:
            continue
        weight, index, heaviest = max(weighted, key=lambda each: each[0])
        left = 1 - weight / sum(each[0] for each in weighted)
        threshold = upstream.load_balancing.panic_threshold
        if left < threshold and _is_address(heaviest.url.host):
            wrong = (
                f"it gets requests even if its health checks fail: without it {left:.0%} of the weight is left, less "
                f"than `panic_threshold` ({threshold:.0%}); set `load_balancing: {{panic_threshold: 0%}}` to take it "
                "out of use, or the threshold that is meant"
            )
            yield location.below("targets", index).value_problem(wrong)


def _is_address(host: str) -> bool:
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _filter_sets_without_use(merged: Merged) -> Iterator[Problem]:
    used: set[str] = set()
    for _, route in merged.routes():
        used.update(name for uses in (route.use, *(each.use for each in route.variants)) for name in uses)
    for location, name, _ in merged.whole("filter_sets"):
        # Those of a cluster were made for a route, which answers 500 while something else of it is refused.
        if name not in used and not location.reading.document.is_generated:
            yield location.problem("it is unused: no route has it in `use`")


def _caches_too_small_for_workers(merged: Merged) -> Iterator[Problem]:
    """Yield a note for each store with less memory than `CACHE_OF_WORKER` for each worker, if their number is set.

    Each worker fills segments of its own: measured with 16 workers, 1 MiB did not store one response in eight, and kept
    22 of 1 KB; with 256 KiB for each worker it stored all.
    """
    workers = next((each for _, each in merged.single_entry("workers")), None)
    if not isinstance(workers, int):
        return
    least = workers * CACHE_OF_WORKER
    for location, stores in merged.single_entry("caches"):
        for name, store in {}.items() if stores is BROKEN else stores.items():
            if store is not BROKEN and store.memory < least:
                yield location.below(name, "memory").value_problem(
                    f"not enough for {workers} workers: few responses are kept, or none are stored; "
                    f"set at least {write_size(least)}, 256KiB for each worker"
                )


def _certificates_of_each_node(merged: Merged) -> Iterator[Problem]:
    location, acme = merged.single.get("acme", (None, None))
    if location is None or acme in (None, BROKEN) or acme.shared_secret is not None:
        return
    if any(state is not None for _, state in merged.single_entry("state")):
        yield location.problem(
            "each node orders certificates of its own, and answers its own challenges only, although there is a "
            "`state` to share them through: behind a load balancer the issuer may verify at another node, and refuse; "
            "set `shared_secret` to a secret of at least 32 characters, the same on all nodes"
        )


def _filters_of_events(merged: Merged) -> Iterator[Problem]:
    """Yield a note for each upstream of a WebSocket API whose filters do not run for its requests, and for each API
    whose clients may send as many messages as they want.
    """
    apis = [(location, route) for location, route in merged.routes() if route.websocket_api is not None]
    filters = {name: upstream.filters for _, name, upstream in merged.whole("upstreams")} if apis else {}
    limits = any(use.type == "websocket" for use in _filters(merged)) if apis else True
    for location, route in apis:
        for at, upstream in upstreams_of_events(location, route):
            uses = filters.get(upstream, {}) if isinstance(upstream, str) else {}
            idle = [name for name, use in uses.items() if use is not None and not use.settings.for_its_upstream]
            if idle:
                wrong = f"filters of this upstream do not run for events: {', '.join(idle)}; use them on the route"
                yield at.value_problem(wrong)
        if not limits:
            yield location.below("websocket_api").value_problem(
                "clients may send any number of messages, and from any origin: the filter `websocket` limits both"
            )


def _filter_types(merged: Merged) -> Iterator[str]:
    return (use.type for use in _filters(merged))


def _filters(merged: Merged) -> Iterator[FilterUse]:
    """Yield every use of a filter, including those inside `auth` and `all_of`."""
    held = [{name: use for name, (_, use) in merged.maps["filters"].items()}]
    held += [filters for _, _, filters in merged.whole("filter_sets")]
    for part in ("listeners", "upstreams"):
        held += [each.filters for _, _, each in merged.whole(part)]
    held += [route.filters for _, route in merged.routes()]
    for filters in held:
        for use in filters.values():
            if use is not None and use is not BROKEN:
                yield from _with_inner(use)


def _with_inner(use: FilterUse) -> Iterator[FilterUse]:
    yield use
    for name in ("any_of", "methods"):
        inner = getattr(use.settings, name, ())
        for each in inner if isinstance(inner, tuple) else ():
            if isinstance(each, FilterUse):
                yield from _with_inner(each)
