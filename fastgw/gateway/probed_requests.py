"""Probed requests: examples of requests that a route answers, and of those that other routes answer in its place.

They are found from the settings alone; the route table decides which route answers them.
"""

import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import Final, NamedTuple
from urllib.parse import quote_plus

import re2

from fastgw.config.base.route_patterns import (
    HostPattern,
    MixedSegment,
    Parameter,
    PathKind,
    PathPattern,
    Segment,
    either_slash,
    parse_path,
    parse_rewrite,
    parse_strip_prefix,
    re2_options,
)
from fastgw.config.settings.gateway import Route, ValueCondition
from fastgw.gateway.regex_examples import example_of
from fastgw.routing.table import Conditions

CASE: Final = "case (IIS, Express)"
SLASHES: Final = "trailing slashes (Express)"
ANY_PATH: Final = parse_path("/*")
OTHER_HOST: Final = b"other.invalid"
METHODS: Final = (b"DELETE", b"PUT", b"POST", b"PATCH", b"GET")
"""Methods that a service may have, the most harmful ones first. Without OPTIONS: preflights have no credentials."""
SAFE: Final = frozenset((b"GET", b"HEAD", b"OPTIONS"))
_OTHER_CLIENTS: Final = ("192.0.2.1", "198.51.100.1", "2001:db8::1", "10.9.8.7")
_NOT_NAME: Final = re.compile(rb"(?:^|(?<=\}))[^{]+")
_NAME: Final = re.compile(rb"\{([A-Za-z_][A-Za-z0-9_]*)\}")


class ProbedRequest(NamedTuple):
    """A request, with what routing and the computation of its path read."""

    host: bytes
    path: bytes
    method: bytes
    query: bytes
    headers: Mapping[bytes, bytes]
    client_ip: str = "unix:"
    params: Mapping[str, bytes] = {}

    @property
    def raw_path(self) -> bytes:
        return self.path

    def values(self, name: bytes) -> list[bytes]:
        return [self.headers[name]] if name in self.headers else []

    def changes(self, other: "ProbedRequest") -> list[str]:
        """Return the parts in which another request differs from this one."""
        parts = {
            "method": self.method != other.method,
            "host": self.host != other.host,
            "fields": (self.headers, self.query) != (other.headers, other.query),
            "client": self.client_ip != other.client_ip,
            "path": self.path != other.path,
        }
        return [part for part, is_other in parts.items() if is_other]


def requests_of(
    route: Route, conditions: Conditions, pattern: PathPattern, methods: tuple[bytes, ...]
) -> Iterator[ProbedRequest]:
    """Yield requests of a route for one of its paths, for each of its hosts and methods. Parameters are literal: no
    route has a brace.
    """
    fields = _fields_of(route)
    for host in map(_host, conditions.hosts) if conditions.hosts else (b"",):
        for method in conditions.methods or methods:
            yield ProbedRequest(host, example_path(pattern), method, *fields)


def other_requests(
    route: Route, conditions: Conditions, asked: ProbedRequest, methods: tuple[bytes, ...]
) -> Iterator[ProbedRequest]:
    """Yield requests for the same path that miss one condition of their route."""
    if conditions.methods and route.grpc is None:
        included = {*conditions.methods, *((b"HEAD",) if b"GET" in conditions.methods else ())}
        yield from (asked._replace(method=method) for method in methods if method not in included)
    if conditions.hosts:
        yield asked._replace(host=OTHER_HOST)
    if route.headers or route.query or route.cookies:
        # A header that has to be absent is there.
        yield asked._replace(query=b"", headers=dict.fromkeys(_absent(route), b"x"))
    for address in _OTHER_CLIENTS if route.clients else ():
        if not any(ip_address(address) in network for network in route.clients):
            yield asked._replace(client_ip=address)
            break


def request_by(route: Route, conditions: Conditions, asked: ProbedRequest, path: bytes) -> ProbedRequest:
    """Return the request for a path that meets the conditions of another route, and otherwise is as `asked`."""
    query, headers, client = _fields_of(route)
    own_host = not conditions.hosts or any(_fits(host, asked.host) for host in conditions.hosts)
    own_method = not conditions.methods or asked.method in conditions.methods
    return ProbedRequest(
        asked.host if own_host else _host(conditions.hosts[0]),
        path,
        asked.method if own_method else conditions.methods[0],
        b"&".join(filter(None, (asked.query, query))),
        {**asked.headers, **headers},
        client if route.clients else asked.client_ip,
    )


def client_paths(route: Route, sent: bytes) -> Iterator[bytes]:
    """Yield paths of requests that a route may send with the path `sent`: the reverse of its rewriting."""
    if route.rewrite is None:
        prefix = b"" if route.strip_prefix is None else parse_strip_prefix(route.strip_prefix)
        if route.add_prefix is not None:
            added = parse_strip_prefix(route.add_prefix) if route.add_prefix != "/" else b""
            if not sent.startswith(added):
                return
            sent = sent.removeprefix(added)
        yield prefix + sent
        if prefix:
            yield sent
        return
    template = parse_rewrite(route.rewrite)
    for pattern in map(parse_path, route.paths):
        rest = {each.name for each in pattern.parameters if each.rest}
        regex = re.escape(template.literals[0])
        for name, literal in zip(template.parameters, template.literals[1:], strict=True):
            regex += (b"(.*)" if name in rest else b"([^/]+)") + re.escape(literal)
        if (found := re2.compile(regex, re2_options()).fullmatch(sent)) is not None:
            yield example_path(pattern, dict(zip(template.parameters, found.groups(), strict=True)))


def leading_path(route: Route, pattern: PathPattern) -> bytes:
    """Return the text that the paths sent for a pattern begin with, in whole segments."""
    if route.rewrite is not None:
        template = parse_rewrite(route.rewrite)
        return template.literals[0].rpartition(b"/")[0] if template.parameters else template.literals[0]
    lead = b""
    for segment in pattern.segments:
        if not isinstance(segment, bytes):
            break
        lead += b"/" + segment
    prefix = b"" if route.strip_prefix is None else parse_strip_prefix(route.strip_prefix)
    if prefix:
        lead = lead.removeprefix(prefix) if f"{lead.decode()}/".startswith(f"{prefix.decode()}/") else b""
    if route.add_prefix is not None and route.add_prefix != "/":
        return parse_strip_prefix(route.add_prefix) + lead
    return lead


def example_path(pattern: PathPattern, values: Mapping[str, bytes] = {}) -> bytes:
    """Return the path of a request that matches a pattern; for a regular expression, one that probably does."""
    if pattern.kind is PathKind.REGEX:
        path = example_of(pattern.regex.decode())
        return path if path.startswith(b"/") else b"/" + path
    return _path_of(pattern, [_written(segment, values) for segment in pattern.segments])


def spelled(pattern: PathPattern) -> Iterator[tuple[str, bytes]]:
    """Yield the forms that some servers treat as the same path, and the parts that they ignore: for case, all text in
    upper case, then the text of one segment, because the wider route may have the text of the others.
    """
    written = [_written(segment) for segment in pattern.segments]
    path = _path_of(pattern, written)
    if len(either_slash(pattern)) > 1:
        yield SLASHES, path[:-1] if path.endswith(b"/") else path + b"/"
    upper = [_upper(segment) for segment in pattern.segments]
    if upper == written:
        return
    yield CASE, _path_of(pattern, upper)
    for place in reversed(range(len(written))):
        if upper[place] != written[place]:
            yield CASE, _path_of(pattern, [*written[:place], upper[place], *written[place + 1 :]])


def shown_path(path: bytes) -> str:
    """Return an example of a path for people: `/users/x`."""
    return _NAME.sub(b"x", re.sub(rb"/\*$", b"/x", path)).decode()


def _written(segment: Segment, values: Mapping[str, bytes] = {}) -> bytes:
    """Return a segment of a request that matches a segment of a pattern."""
    if isinstance(segment, Parameter):
        return values.get(segment.name, b"{%b}" % segment.name.encode())
    if isinstance(segment, MixedSegment):
        return _NAME.sub(lambda found: values.get(found[1].decode(), found[0]), segment.text)
    return segment


def _path_of(pattern: PathPattern, segments: list[bytes]) -> bytes:
    return b"/" + b"/".join([*segments, *([b"*"] if pattern.kind is PathKind.PREFIX else [])])


def _upper(segment: Segment) -> bytes:
    """Return what `_written` does, with the text in upper case and the parameters as they are."""
    if isinstance(segment, MixedSegment):
        return _NOT_NAME.sub(lambda found: found[0].upper(), segment.text)
    return segment.upper() if isinstance(segment, bytes) else _written(segment)


def _host(pattern: HostPattern) -> bytes:
    return b"any" + pattern.name if pattern.wildcard else pattern.name


def _fits(pattern: HostPattern, host: bytes) -> bool:
    return host.endswith(pattern.name) if pattern.wildcard else host == pattern.name


def _fields_of(route: Route) -> tuple[bytes, dict[bytes, bytes], str]:
    """Return query, headers and client address that meet the conditions of a route, if there are examples of them."""
    if not (route.headers or route.query or route.cookies or route.clients):
        return b"", {}, "unix:"
    headers = {name.lower().encode(): _value(each) for name, each in route.headers.items()}
    query = [b"=".join((_quoted(name.encode()), _quoted(_value(each)))) for name, each in route.query.items()]
    cookies = [b"%b=%b" % (name.encode(), _value(each)) for name, each in route.cookies.items() if not _is_absent(each)]
    for name in _absent(route):
        headers.pop(name, None)
    if cookies:
        headers[b"cookie"] = b"; ".join(cookies)
    kept = [pair for pair, each in zip(query, route.query.values(), strict=True) if not _is_absent(each)]
    return b"&".join(kept), headers, str(route.clients[0].network_address) if route.clients else "unix:"


def _quoted(text: bytes) -> bytes:
    return quote_plus(text).encode()


def _is_absent(condition: str | ValueCondition) -> bool:
    return not isinstance(condition, str) and condition.present is False


def _absent(route: Route) -> list[bytes]:
    """Return the headers that have to be absent."""
    return [name.lower().encode() for name, each in route.headers.items() if _is_absent(each)]


def _value(condition: str | ValueCondition) -> bytes:
    """Return a value that probably meets a condition."""
    if isinstance(condition, str):
        return condition.encode()
    if condition.regex is not None:
        return example_of(condition.regex)
    return next((text for text in (condition.exact, condition.prefix) if text is not None), "x").encode()
