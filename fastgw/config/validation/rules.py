"""Rules about several values at once, or about the meaning of a value.

`RULES` lists them. Each one reports all problems that it finds; it skips values that could not be decoded, which are
reported already.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import astuple

from fastgw.config.base import route_patterns as patterns
from fastgw.config.base.problems import Path, format_value, suggest
from fastgw.config.base.value_templates import KnownNames, names_in
from fastgw.config.base.value_types import Address
from fastgw.config.base.variables import (
    FIXED,
    MAP_PREFIX,
    OF_UPSTREAMS,
    RESPONSE_PREFIX,
    inserted_values,
    is_variable,
)
from fastgw.config.decoding.decoder import BROKEN, fields_of
from fastgw.config.decoding.merge import Merged, SourceLocation
from fastgw.config.formats.positions import SyntaxProblem
from fastgw.config.settings.egress import Kubernetes, Kyma, Providers
from fastgw.config.settings.gateway import AccessLog, Config, Route, Variant
from fastgw.config.settings.kubernetes import KubernetesProvider
from fastgw.config.settings.secrets import Secret, SecretError, secret_in
from fastgw.config.settings.upstreams import SHORTEST_KEY, Retries
from fastgw.config.settings.value_maps import is_whole
from fastgw.config.validation.composition import composed_routes, events_have_upstreams, functions_have_upstreams
from fastgw.config.validation.kubeconfig import check_kubernetes
from fastgw.config.validation.listener_protocols import (
    check_takes_requests,
    destinations_at,
    listeners_of_one_protocol,
    targets_have_slots,
    targets_of_one_protocol,
)
from fastgw.config.validation.tls import served_tls_that_works, tls_that_works
from fastgw.config.validation.value_maps import known_maps, parameters_anywhere, parameters_of
from fastgw.consumers.credentials import NOUNS, CredentialKind, marks_of, scope_of
from fastgw.http.field_names import READ_IN_REQUESTS
from fastgw.http.http1.methods import knows_method
from fastgw.redis.url import check_url

Rule = Callable[[Merged], None]

_ACTIVE: Final = re.compile(r"javascript|ecmascript|css|\{", re.IGNORECASE)
"""Content types of scripts and style sheets, and those that a request decides."""
ENDS: Final = ("upstream", "variants", "respond", "redirect", "compose", "lambda", "websocket_api", "files")
"""Actions of a route: exactly one of them is needed."""
OF_UPSTREAM: Final = (
    *("split", "fallback", "strip_prefix", "add_prefix", "rewrite", "path", "host_header", "proxy_redirect"),
    *("forwarded", "forwarded_header", "upgrade", "timeout", "timeouts", "retries", "deadline_header"),
)
"""Settings that only affect requests sent to an upstream."""
_ANY_METHOD: Final = ("*", "ANY", "ALL")
"""Names that other products have for any method."""


def needs_version_and_listeners(merged: Merged) -> None:
    """Check that required settings exist: the version in the main file, listeners in any file."""
    main = SourceLocation(merged.readings[0], ())
    for field in fields_of(Config).values():
        files = merged.readings if field.key in merged.maps else merged.readings[:1]
        location = main.below(field.key)
        said = any(field.key in (reading.document.value or {}) for reading in files)
        if field.required and not said and not location.misspelt:
            location.report("missing", f"expected {field.shape.expected}")
    location = main.below("listeners")
    if not merged.maps["listeners"] and not location.misspelt and not _makes_listeners(merged):
        expected = f"expected {fields_of(Config)['listeners'].shape.expected}"
        reading = next((each for each in merged.readings if "listeners" in (each.document.value or {})), None)
        if reading is None:
            location.report("missing", expected)
        elif reading.document.value["listeners"] == {}:
            SourceLocation(reading, ("listeners",)).report("an empty object", expected, at_key=False)


def _makes_listeners(merged: Merged) -> bool:
    """Whether a provider adds listeners."""
    said = [providers for _, providers in merged.single_entry("providers") if isinstance(providers, Providers)]
    return any(isinstance(each.kubernetes, KubernetesProvider) for each in said)


def one_listener_per_address(merged: Merged) -> None:
    """Check that no two listeners bind the same address, by the kernel's rules. Port 0 is a new port each time."""
    taken: dict[tuple[bool, int, str], list[tuple[Address, SourceLocation]]] = {}
    addresses = [
        (location.below("address"), listener.address, listener.protocol == "udp")
        for location, _, listener in merged.whole("listeners")
    ]
    for key in ("status", "admin"):
        addresses += (
            (location.below("address"), settings.address, False) for location, settings in merged.single_entry(key)
        )
    for location, address, is_udp in addresses:
        if address is BROKEN or (not address.path and not address.port):
            continue
        held = taken.setdefault((is_udp, address.port, os.path.realpath(address.path) if address.path else ""), [])
        other = next(((each, at) for each, at in held if _overlap(each, address)), None)
        if other is None:
            held.append((address, location))
        elif other[0] == address:
            location.report(f"{address} is already used by {other[1]}", "expected a unique address", at_key=False)
        else:
            wrong = f"{address} overlaps {other[0]}, which is used by {other[1]}"
            location.report(wrong, "expected a unique address", at_key=False)


def _overlap(one: Address, other: Address) -> bool:
    """Whether two addresses with the same port, or with paths, cannot both be bound. Host names are compared as text,
    except `localhost`."""
    if one.path or one.host == other.host:
        return True
    return any(_covers(each, another) for each in _bound(one) for another in _bound(other))


def _bound(address: Address) -> tuple[IPv4Address | IPv6Address, ...]:
    hosts = {"": ("0.0.0.0", "::"), "localhost": ("127.0.0.1", "::1")}.get(address.host, (address.host,))
    with suppress(ValueError):
        return tuple(map(ip_address, hosts))
    return ()


def _covers(one: IPv4Address | IPv6Address, other: IPv4Address | IPv6Address) -> bool:
    """Whether two addresses are equal, or one is the unspecified address of the other's IP version."""
    return one.version == other.version and (one == other or one.is_unspecified or other.is_unspecified)


_SINKS: Final = {
    "http": '{http: {url: "https://logs.internal/in"}}',
    "syslog": '{syslog: {address: "udp://logs.internal:514"}}',
    "kafka": '{kafka: {brokers: ["kafka-1:9092"], topic: access}}',
    "loki": '{loki: {url: "http://loki:3100/loki/api/v1/push"}}',
    "elasticsearch": '{elasticsearch: {url: "http://search:9200/_bulk", index: web}}',
    "otlp": '{otlp: {url: "http://collector:4318"}}',
}
"""Sinks on other machines, each in its shortest form."""


def sinks_are_no_urls(merged: Merged) -> None:
    for location, access_log in merged.lists.get("access_logs", ()):
        sink = None if access_log is BROKEN else location.raw.get("sink")
        if isinstance(sink, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", sink) is not None:
            kind = sink.partition("://")[0]
            form = _SINKS["syslog" if kind in ("udp", "tcp", "syslog") else "kafka" if kind == "kafka" else "http"]
            expected = f"expected the kind of server, such as {form}"
            location.below("sink").report(f"a URL ({kind}://…)", expected, at_key=False)
        elif isinstance(sink, str) and sink.startswith("syslog:"):  # as in nginx
            expected = f"expected {_SINKS['syslog']}"
            location.below("sink").report(f"{format_value(sink)} is a name of a file", expected, at_key=False)


def sinks_share_no_files(merged: Merged) -> None:
    """Check that no two logs use one spool, whose lines would go to either server, or a file that one of them rotates
    or whose directives say which fields the lines have. Lines of other logs in one file are whole. Stdout is a
    file, too.
    """
    spools: dict[str, int] = {}
    files: dict[str, tuple[int, AccessLog]] = {}
    for number, (location, access_log) in enumerate(merged.lists.get("access_logs", ()), 1):
        sink = None if access_log is BROKEN else access_log.sink
        for kind in _SINKS:
            spool = getattr(getattr(sink, kind, None), "spool", None)
            if spool is not None and (first := spools.setdefault(os.path.realpath(spool.path), number)) != number:
                setting = location.below("sink", kind, "spool")
                setting.report(f"the spool of access log {first} as well", "expected a directory of its own")
        rotated = getattr(sink, "file", None)
        path = sink if isinstance(sink, str) else None if rotated is None else rotated.path
        if path is None:
            continue
        # Not the file that it is here: `check` and the gateway have different ones.
        file = "stdout" if path in ("stdout", "/dev/stdout") else os.path.realpath(path)
        if file == os.devnull:
            continue
        first, other = files.setdefault(file, (number, access_log))
        if first != number and (why := _why_not_in_one_file(access_log, other)):
            wrong = f"the file of access log {first} as well, and {why}"
            location.below("sink").report(wrong, "expected a file of its own", at_key=False)


def _why_not_in_one_file(*logs: AccessLog) -> str:
    """Return why lines of two logs cannot be in one file; "": they can."""
    if not all(isinstance(each.sink, str) for each in logs):
        return "one of the two rotates it"
    if any(each.format == "w3c" for each in logs) and len({(each.format, each.fields) for each in logs}) > 1:
        return "its `#Fields` would not be those of all lines"
    return ""


def proxy_protocol_needs_trust(merged: Merged) -> None:
    for location, _, listener in merged.whole("listeners"):
        if listener.proxy_protocol == "off" and listener.proxy_protocol_senders not in ((), BROKEN):
            location.below("proxy_protocol_senders").report(
                "has no effect without PROXY protocol", "expected `proxy_protocol: required` as well"
            )
        if listener.address is BROKEN or listener.address.path:
            continue  # clients of a unix socket are trusted: the file permissions decide who may connect
        senders = (listener.trusted_proxies, listener.proxy_protocol_senders)
        if listener.proxy_protocol == "required" and not any(senders):
            location.below("proxy_protocol").report(
                "no peer is trusted to send the PROXY header",
                "expected `trusted_proxies` or `proxy_protocol_senders` as well",
            )


def schemes_of_listeners(merged: Merged) -> None:
    for location, _, listener in merged.whole("listeners"):
        if listener.scheme == "http" and listener.tls is not None:
            location.below("scheme").report("clients of this listener use https", "mutually exclusive with tls")


def admin_is_guarded(merged: Merged) -> None:
    """Check that the admin API is only reachable from this machine, or needs a token or a client certificate."""
    for location, admin in merged.single_entry("admin"):
        certified = admin.tls is not None and admin.tls.client_auth is not None
        if admin.address.local or (certified and admin.tls.client_auth.mode == "required"):
            continue
        if (
            location.raw.get("token") is None and not location.below("token").misspelt
        ):  # an invalid token is reported as such
            wrong = f"{admin.address} is reachable from other machines"
            expected = "expected a `token`, or `tls` with `client_auth: {mode: required, …}`"
            location.below("address").report(wrong, expected, at_key=False)


def admin_token_is_private(merged: Merged) -> None:
    """Check that no other user of the machine can read or replace the token of the admin API, which may change all."""
    for location, admin in merged.single_entry("admin"):
        secret = None if admin is BROKEN else admin.token
        if isinstance(secret, Secret) and secret.file and (why := location.reading.files.exposure(secret.file)):
            at = location.below("token", *location.below("token").raw)
            at.report(why, "expected a token of the gateway's user or group alone", at_key=False)


def routes_have_their_own_names(merged: Merged) -> None:
    taken: dict[str, SourceLocation] = {}
    for location, route in merged.routes():
        if route.name is BROKEN:
            continue
        if route.name in taken:
            wrong = f"{format_value(route.name)} is the name of the route at {taken[route.name].below('name')} too"
            location.below("name").report(wrong, "expected a unique name", at_key=False)
        else:
            taken[route.name] = location


def calls_of_grpc(merged: Merged) -> None:
    for location, route in merged.routes_to_validate():
        for name in ("paths", "methods") if location.raw.get("grpc") is not None else ():
            written = location.raw.get(
                name
            )  # equal where defaults are spelled out; what is no list is reported already
            if written and isinstance(written, Sequence) and [*written] != [*getattr(route, name, ())]:
                location.below(name).report(f"`{name}` and `grpc` are mutually exclusive", "expected one of them")
    for location, _, upstream in merged.whole("upstreams"):
        active = None if upstream.health_checks is BROKEN else upstream.health_checks.active
        if active in (None, BROKEN):
            continue
        written = upstream.targets if upstream.protocol == "auto" and isinstance(upstream.targets, tuple) else ()
        over_http1 = upstream.protocol == "http1" or any(each is not BROKEN and not each.url.tls for each in written)
        if active.type == "grpc" and over_http1:
            location.report("health checks of type grpc need HTTP/2", "expected `protocol: grpc`")


def route_retries_fit_upstreams(merged: Merged) -> None:
    upstreams = {name: upstream for _, name, upstream in merged.whole("upstreams")}
    for location, route in merged.routes_to_validate():
        if route.retries in (None, BROKEN):
            continue
        for destination in route.destinations:
            upstream = upstreams.get(destination) if isinstance(destination, str) else None
            settings = Retries() if upstream is None else upstream.retries
            try:
                if settings is not BROKEN:
                    route.retries.over(settings)
            except ValueError as error:
                location.below("retries").report(str(error), f"with those of upstream {format_value(str(destination))}")


def routes_have_one_end(merged: Merged) -> None:
    for location, _ in merged.routes_to_validate():
        raw = location.raw
        given = [end for end in ENDS if raw.get(end) is not None and raw[end] != []]
        if len(given) > 1:
            location.report(f"{' and '.join(given)} are mutually exclusive", "expected one of them")
        elif not given and not any(location.below(end).misspelt for end in ENDS):
            location.report("the route has no action", f"expected one of {', '.join(ENDS)}")
        if given and not {"upstream", "variants"}.intersection(given):
            for key in OF_UPSTREAM:
                if key in raw and (key, given[0]) != ("strip_prefix", "files"):
                    location.below(key).report(
                        "has no effect without an upstream", f"mutually exclusive with {given[0]}"
                    )


def names_are_known(merged: Merged) -> None:
    """Check that everything a route refers to exists: listeners, an upstream, filter sets."""
    for location, route in merged.routes_to_validate():
        for key, kind, known in (
            ("listeners", "listener", merged.maps["listeners"]),
            ("use", "filter set", merged.maps["filter_sets"]),
        ):
            for index, name in _whole(getattr(route, key)):
                if name not in known:
                    location.below(key, index).report(
                        f"unknown {kind} {format_value(name)}", suggest(name, known), at_key=False
                    )
        known = merged.maps["upstreams"]
        split = isinstance(route.upstream, Mapping)
        for at, name in destinations_at(location, route):
            if isinstance(name, str) and name not in known:
                at.report(f"unknown upstream {format_value(name)}", suggest(name, known), at_key=split)
        for index, variant in _whole(route.variants):
            for place, name in _whole(variant.use):
                if name not in merged.maps["filter_sets"]:
                    location.below("variants", index, "use", place).report(
                        f"unknown filter set {format_value(name)}",
                        suggest(name, merged.maps["filter_sets"]),
                        at_key=False,
                    )
        # Without an upstream, `split` has no effect, or the error of the upstream is reported where it is.
        named = route.destinations if route.split is not None else ()
        are_known = bool(named) and BROKEN not in named
        for index, canary in _whole(route.split.canaries if route.split is not None else ()):
            if are_known and canary.upstream not in (BROKEN, *named):
                wrong = f"{format_value(canary.upstream)} is not one of the route's upstreams"
                at = location.below("split", "canaries", index, "upstream")
                at.report(wrong, suggest(canary.upstream, [*map(str, named)]), at_key=False)
        fallback = route.fallback.upstream if route.fallback is not None else None
        if fallback is not None and fallback not in known:
            at = location.below("fallback", "upstream")
            at.report(f"unknown upstream {format_value(fallback)}", suggest(fallback, known), at_key=False)
        if isinstance(route.upstream, Mapping) and not any(route.upstream.values()):
            location.below("upstream").report("all shares are 0", "expected at least one share above 0")
        elif route.variants:
            if BROKEN not in route.variants and not any(each.weight for each in route.variants):
                location.below("variants").report("all weights are 0", "expected at least one weight above 0")
        elif not split and route.split is not None and are_known:
            location.below("split").report(
                "the route has only one upstream: there is no traffic to split",
                "expected several upstreams with shares",
            )


def route_patterns(merged: Merged) -> None:
    """Check hosts, paths, and the settings that depend on them."""
    maps = known_maps(merged)
    for location, route in merged.routes_to_validate():
        for index, host in _whole(route.hosts):
            _parsed(patterns.parse_host, host, location.below("hosts", index))
        parsed = [_parsed(patterns.parse_path, path, location.below("paths", i)) for i, path in _whole(route.paths)]
        paths = None if BROKEN in parsed or BROKEN in route.paths else parsed
        _check_prefix(route, location, paths)
        _check_path_sent(route, location, paths, maps)
        for index, variant in _whole(route.variants):
            _check_path_sent(variant, location.below("variants", index), paths, maps)


def _check_path_sent(
    owner: Route | Variant, location: SourceLocation, paths: list[Any] | None, maps: KnownNames
) -> None:
    """Check the path that a route or variant sends, or redirects to."""
    _check_prefix(owner, location, paths)
    _check_parameters(patterns.parse_rewrite, owner.rewrite, location.below("rewrite"), paths, FIXED - {"target"}, maps)
    redirect: Any = owner.redirect
    if redirect in (None, BROKEN):
        return
    at = location.below("redirect")
    if redirect.to is not BROKEN:
        _check_parameters(patterns.parse_redirect, redirect.to, at.below("to"), paths, FIXED - OF_UPSTREAMS, maps)
    _check_prefix(redirect, at, paths)
    if redirect.path is not None:
        _parsed(patterns.parse_plain_path, redirect.path, at.below("path"))


def _check_prefix(route: Any, location: SourceLocation, paths: list[Any] | None) -> None:
    """Check the prefixes that a route, variant or redirect removes and adds."""
    if route.add_prefix is not None:
        at = location.below("add_prefix")
        _parsed(patterns.parse_plain_path, route.add_prefix, at)
        if getattr(route, "rewrite", None) is not None:
            at.report("add_prefix and rewrite are mutually exclusive", "expected one of them")
    if route.strip_prefix is None:
        return
    at = location.below("strip_prefix")
    prefix = _parsed(patterns.parse_strip_prefix, route.strip_prefix, at)
    if getattr(route, "rewrite", None) is not None:
        at.report("strip_prefix and rewrite are mutually exclusive", "expected one of them")
    if prefix is not BROKEN and paths and not any(_may_begin(path, prefix) for path in paths):
        wrong = f"no path of this route starts with {format_value(route.strip_prefix)}"
        at.report(wrong, "expected a prefix of one of its paths", at_key=False)


def _may_begin(path: patterns.PathPattern, prefix: bytes) -> bool:
    """Whether a path that matches can begin with the prefix; True for a regular expression."""
    if path.kind is patterns.PathKind.REGEX:
        return True
    wanted = prefix.split(b"/")[1:]
    open_end = path.kind is patterns.PathKind.PREFIX or any(each.rest for each in path.parameters)
    if len(path.segments) < len(wanted) and not open_end:
        return False
    return all(_may_be(segment, each) for segment, each in zip(path.segments, wanted, strict=False))


def _may_be(segment: patterns.Segment, text: bytes) -> bool:
    """Whether a segment of a pattern matches a text; True for a parameter."""
    if isinstance(segment, patterns.MixedSegment):
        return segment.matches(text)
    return not isinstance(segment, bytes) or segment == text


def _check_parameters(
    parse: Callable[[str], patterns.Template],
    text: str | None,
    location: SourceLocation,
    paths: list[Any] | None,
    fixed: frozenset[str],
    maps: KnownNames,
) -> None:
    """Check that each parameter of a template exists in all paths, or is a variable. `fixed`: the variables with a
    fixed name; `maps`: names of the maps.
    """
    if text is None:
        return
    template: Any = _parsed(parse, text, location)
    if template is BROKEN or paths is None:
        return
    held = [path.names for path in paths]
    known = frozenset.intersection(*held) if held else frozenset()
    for name in dict.fromkeys(template.parameters):
        if name in known or name in fixed:
            continue
        if name.startswith((MAP_PREFIX, RESPONSE_PREFIX)):
            if (problem := maps.with_parameters(known).problem_of(name)) is not None:
                location.report(*problem, at_key=False)
            continue
        if "." in name or name in FIXED:
            _check_variable(name, location, sorted(fixed))
            continue
        hint = suggest(name, known) if known else "expected paths that have it"
        if any(path.kind is patterns.PathKind.REGEX for path in paths):
            hint = "expected paths that have it; in a regular expression it is a named group, (?P<name>...)"
        location.report(f"not every path of this route has the parameter {format_value(name)}", hint, at_key=False)


def _check_variable(name: str, location: SourceLocation, fixed: Sequence[str]) -> None:
    try:
        if name not in FIXED and is_variable(name):
            return
        hint = suggest(name, [*fixed, "claim.NAME", "header.NAME", "query.NAME", "cookie.NAME"])
    except ValueError as error:
        hint = str(error)
    location.report(f"unknown variable {format_value(name)}", hint, at_key=False)


def roots_of_files_exist(merged: Merged) -> None:
    for location, route in merged.routes_to_validate():
        if route.files in (None, BROKEN) or route.files.root is BROKEN:
            continue
        if why := location.reading.files.why_no_folder(route.files.root):
            at = location.below("files", "root")
            at.report(f"{format_value(route.files.root)}: {why}", "expected a directory with files", at_key=False)


def error_pages_are_utf_8(merged: Merged) -> None:
    holders = [
        *merged.single_entry("error_pages"),
        *((location.below("error_pages"), each.error_pages) for location, _, each in merged.whole("listeners")),
        *(
            (location.below("error_pages"), each.error_pages)
            for location, each in merged.routes_to_validate()
            if each.error_pages
        ),
    ]
    for location, pages in holders:
        for status, page in {} if pages is BROKEN else pages.items():
            if page is BROKEN or page.file in (None, BROKEN):
                continue
            try:
                location.reading.files.read(page.file).decode()
            except UnicodeDecodeError:
                at = location.below(status, "file")
                at.report(f"{format_value(page.file)} is not UTF-8", "expected a page in UTF-8", at_key=False)


def responses_that_are_no_scripts(merged: Merged) -> None:
    """Check that no value of a request is inserted into a script or style sheet, for which no encoding is right at each
    position, and that none decides the type of a body with values. Maps in it must exist.
    """
    maps = known_maps(merged)
    for location, route in merged.routes_to_validate():
        respond = route.respond
        if respond in (None, BROKEN) or route.paths is BROKEN or BROKEN in (respond.body, respond.headers):
            continue
        try:
            held = [patterns.parse_path(path).names for path in route.paths if isinstance(path, str)]
        except ValueError:
            continue  # reported with the paths
        known = frozenset.intersection(*held) if held else frozenset()
        _check_maps(respond, location.below("respond"), maps.with_parameters(known))
        inserted = next((match[0] for match, _ in inserted_values(respond.body, known)), None)
        content_type = next((each for name, each in respond.headers.items() if name.lower() == "content-type"), "")
        if inserted and content_type is not BROKEN and _ACTIVE.search(content_type) is not None:
            at = location.below("respond", "body")
            wrong = f"{inserted}: a value of the request cannot be inserted into {content_type}"
            at.report(wrong, "expected a type in which it can be encoded: text/plain, JSON, HTML or XML", at_key=False)


def _check_maps(respond: Any, at: SourceLocation, maps: KnownNames) -> None:
    headers = {name: text for name, text in respond.headers.items() if text is not BROKEN}
    texts = (at.below("body"), respond.body), *((at.below("headers", name), text) for name, text in headers.items())
    for below, text in texts:
        for _, name in inserted_values(text, ()):
            if name.startswith(MAP_PREFIX) and (problem := maps.problem_of(name)) is not None:
                below.report(*problem, at_key=False)


def variables_of_maps(merged: Merged) -> None:
    """Check the variables of the gateway's maps: those that they look up, of any route, and groups in results."""
    if not merged.maps["maps"]:
        return
    known = KnownNames(parameters_anywhere(merged))
    for location, _, table in merged.whole("maps"):
        for name in names_in(table.source) if is_whole(table) else ():
            if (problem := known.problem_of(name, in_response=True)) is not None:
                location.below("source").report(*problem, at_key=False)
        for key, *wrong in table.unknown_groups() if is_whole(table) else ():
            location.below("values", key).report(*wrong, at_key=False)


def values_of_requests_that_there_are(merged: Merged) -> None:
    """Check the variables in filters: path parameters must exist in the route, or in any route if the route is not
    known.
    """
    anywhere: frozenset[str] | None = None
    maps = known_maps(merged)
    for location, use, paths in merged.uses_to_validate:
        unknown_names = getattr(getattr(use, "settings", None), "unknown_names", None)
        if unknown_names is not None:
            if paths is not None:
                known = parameters_of(paths)
            else:
                if anywhere is None:
                    anywhere = parameters_anywhere(merged)
                known = anywhere
            for steps, wrong, expected in unknown_names(maps.with_parameters(known)):
                location.below(*steps).report(wrong, expected, at_key=False)


def upstreams_of_filters(merged: Merged) -> None:
    """Check the upstreams that filters name."""
    known = merged.maps["upstreams"]
    for location, use, _ in merged.uses_to_validate:
        upstream_names = getattr(getattr(use, "settings", None), "upstream_names", None)
        for key, name in upstream_names() if upstream_names is not None else ():
            if name is not BROKEN and name not in known:
                location.below(key).report(f"unknown upstream {format_value(name)}", suggest(name, known), at_key=False)
            elif name is not BROKEN:
                check_takes_requests(merged, location.below(key), name)


def one_directory_per_store(merged: Merged) -> None:
    """Check that no two cache stores have the same directory."""
    for location, caches in merged.single_entry("caches"):
        taken: dict[str, str] = {}
        for name, store in {} if caches is BROKEN else caches.items():
            disk = None if store is BROKEN else store.disk
            if disk is None or disk is BROKEN or disk.path is BROKEN:
                continue
            other = taken.setdefault(os.path.realpath(disk.path), name)
            if other != name:
                wrong = f"the store {format_value(other)} has the same directory"
                location.below(name, "disk", "path").report(wrong, "expected one for each", at_key=False)


def redis_tiers_with_state(merged: Merged) -> None:
    """Check that there is a Redis for the cache stores with such a tier."""
    has_state = any(state is not None for _, state in merged.single_entry("state"))
    for location, caches in merged.single_entry("caches"):
        for name, store in {} if caches is BROKEN else caches.items():
            if store is not BROKEN and store.redis is True and not has_state:
                location.below(name, "redis").report(
                    "there is no `state`, whose Redis it would use", "expected `state: {url: ...}` beside it"
                )


def stores_of_filters(merged: Merged) -> None:
    """Check the cache stores that filters name."""
    known: set[str] = {"main"}
    for _, caches in merged.single_entry("caches"):
        if caches is BROKEN:
            return
        known.update(caches)
    for location, use, _ in merged.uses_to_validate:
        store_names = getattr(getattr(use, "settings", None), "store_names", None)
        for key, name in store_names() if store_names is not None else ():
            if name not in known:
                wrong = f"unknown cache store {format_value(name)}"
                location.below(key).report(wrong, suggest(name, known), at_key=False)


def raw_paths_are_not_rewritten(merged: Merged) -> None:
    """Check that no raw path is rewritten: rewriting uses the normalized path."""
    for location, route in merged.routes_to_validate():
        if route.path.forward == "raw" and route.rewrite is not None:
            location.below("rewrite").report(
                "the client's path is forwarded unchanged", "mutually exclusive with path.forward: raw"
            )


def upgrades_that_are_tunnels(merged: Merged) -> None:
    for location, route in merged.routes_to_validate():
        for index, protocol in _whole(route.upgrade):
            if protocol.lower() == "h2c":
                wrong = "h2c would bypass the gateway"
                location.below("upgrade", index).report(
                    wrong, "expected a protocol that can be tunnelled", at_key=False
                )


def methods_that_are_served(merged: Merged) -> None:
    for location, route in merged.routes_to_validate():
        for index, method in _whole(route.methods):
            if method in patterns.REJECTED_METHODS:
                wrong = f"{method} is always rejected"
                location.below("methods", index).report(wrong, "expected another method", at_key=False)
            elif method in _ANY_METHOD:
                wrong = f"{method} does not mean any method"
                location.below("methods", index).report(wrong, "leave out `methods` for any method", at_key=False)
            elif not knows_method(method):
                wrong = f"{method} is always rejected: methods are case-sensitive"
                location.below("methods", index).report(wrong, "expected another method", at_key=False)


def state_that_works(merged: Merged) -> None:
    for location, state in merged.single_entry("state"):
        if state.url is BROKEN:
            continue
        try:
            secret = state.url
            check_url(
                secret_in(secret.file, location.reading.files.read(secret.file)) if secret.file else secret.value()
            )
        except ValueError as error:
            location.below("url").report(str(error), "expected a Redis URL", at_key=False)


def kubernetes_that_can_be_asked(merged: Merged) -> None:
    for location, providers in merged.single_entry("providers"):
        kyma = providers.kyma if isinstance(providers, Providers) else None
        kubernetes = kyma.kubernetes if isinstance(kyma, Kyma) else None
        if isinstance(kubernetes, Kubernetes) and not _broken_in(kubernetes):
            try:
                check_kubernetes(kubernetes, location.reading.files.read)
            except ValueError as error:
                location.below("kyma", "kubernetes").report(*str(error).split("; ", 1))
        own = providers.kubernetes if isinstance(providers, Providers) else None
        if isinstance(own, KubernetesProvider) and not _broken_in(own):
            try:
                check_kubernetes(own, location.reading.files.read)
            except ValueError as error:
                location.below("kubernetes").report(*str(error).split("; ", 1))


def sticky_keys_that_sign(merged: Merged) -> None:
    for location, _, upstream in merged.whole("upstreams"):
        balancing = upstream.load_balancing
        sticky = None if balancing is BROKEN else balancing.sticky
        if sticky in (None, BROKEN) or sticky.key in (None, BROKEN):
            continue
        at, key = location.below("load_balancing", "sticky", "key"), sticky.key
        try:
            said = secret_in(key.file, location.reading.files.read(key.file)) if key.file else key.value()
        except (SecretError, SyntaxProblem):
            continue  # reported where it was read
        if len(said) < SHORTEST_KEY:
            at.report(f"{len(said)} characters", f"expected at least {SHORTEST_KEY}", at_key=False)


def consumers_are_distinguishable(merged: Merged) -> None:
    """Check that credentials of consumers are unique in their namespace. Keys are never shown."""
    taken: dict[tuple[CredentialKind, str, bytes], tuple[SourceLocation, Path]] = {}
    for location, consumer in merged.consumers():
        if not _is_whole(consumer):
            continue
        for mark in marks_of(consumer, location.reading.files.read):
            if mark.wrong:
                location.below(*mark.path).report(mark.wrong, "expected one that a client can send", at_key=False)
                continue
            place = mark.kind, scope_of(mark.kind, consumer), mark.value
            first, path = taken.setdefault(place, (location, mark.path))
            if (first, path) != (location, mark.path):
                wrong = f"{NOUNS[mark.kind]} is already used at {first.below(*path)}"
                location.below(*mark.path).report(wrong, "expected a unique value", at_key=False)


def deadline_headers_are_free(merged: Merged) -> None:
    """Check that no deadline header has the name of a header that the gateway sets itself."""
    for location, route in merged.routes_to_validate():
        name = route.deadline_header
        if isinstance(name, str) and name.lower().encode() in READ_IN_REQUESTS:
            wrong = f"{format_value(name)} is a header that the gateway sets for another purpose"
            location.below("deadline_header").report(wrong, 'expected a name such as "X-Request-Timeout"', at_key=False)


def _is_whole(consumer: Any) -> bool:
    """Whether all of its values could be decoded."""
    lists = consumer.key_auth, consumer.basic_auth, consumer.hmac, consumer.jwt, consumer.certificates
    return (
        consumer.name is not BROKEN
        and BROKEN not in consumer.groups
        and all(BROKEN not in each and not any(_broken_in(inner) for inner in each) for each in lists)
    )


def _broken_in(part: Struct) -> bool:
    return any(value is BROKEN for value in astuple(part))


def _whole(values: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    return ((index, value) for index, value in enumerate(values) if value is not BROKEN)


def _parsed(parse: Callable[[str], Any], text: str, location: SourceLocation) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        wrong, semicolon, expected = str(error).rpartition("; ")
        location.report(*((wrong, expected) if semicolon else (expected,)), at_key=False)
        return BROKEN


RULES: Final[tuple[Rule, ...]] = (
    needs_version_and_listeners,
    one_listener_per_address,
    sinks_are_no_urls,
    sinks_share_no_files,
    proxy_protocol_needs_trust,
    schemes_of_listeners,
    tls_that_works,
    served_tls_that_works,
    admin_is_guarded,
    admin_token_is_private,
    state_that_works,
    redis_tiers_with_state,
    kubernetes_that_can_be_asked,
    sticky_keys_that_sign,
    consumers_are_distinguishable,
    routes_have_their_own_names,
    calls_of_grpc,
    routes_have_one_end,
    route_retries_fit_upstreams,
    names_are_known,
    route_patterns,
    roots_of_files_exist,
    error_pages_are_utf_8,
    responses_that_are_no_scripts,
    values_of_requests_that_there_are,
    upstreams_of_filters,
    one_directory_per_store,
    stores_of_filters,
    variables_of_maps,
    raw_paths_are_not_rewritten,
    upgrades_that_are_tunnels,
    methods_that_are_served,
    deadline_headers_are_free,
    composed_routes,
    functions_have_upstreams,
    events_have_upstreams,
    targets_have_slots,
    targets_of_one_protocol,
    listeners_of_one_protocol,
)
