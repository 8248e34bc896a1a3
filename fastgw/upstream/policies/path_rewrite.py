"""Path rewriting: the path that a route sends to its upstream.

Rule: a path is matched in its normal form (`http.path_normalization`). If the client's own bytes are sent, they are
refused unless every server interprets them alike: they begin with the removed prefix, and the rest stays below it.
"""

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias

from fastgw.config.base.route_patterns import Template, parse_path, parse_rewrite, parse_strip_prefix
from fastgw.config.settings import gateway as config
from fastgw.errors import Fault
from fastgw.exchange import Exchange, Reply, problem
from fastgw.exchange.reply import ALLOW
from fastgw.http.malformed import Malformed
from fastgw.http.path_normalization import normalize
from fastgw.upstream.load_balancing import BalancingRequest

ValueOf: TypeAlias = Callable[[str], Callable[[Any], bytes | None]]
"""Returns the function for a variable's value in an exchange, percent-encoded for a path or URL."""


class MissingVariable(Exception):
    """A variable has no value in this exchange."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"{{{name}}} has no value")

    @property
    def fault(self) -> Fault:
        """Fault of the request: it has not shown who sends it, or lacks something else."""
        return Fault.FORBIDDEN if self.name.startswith(("consumer.", "claim")) else Fault.BAD_REQUEST


_DOT: Final = frozenset((b".", b"%2e"))
_DOTS: Final = frozenset((b"..", b".%2e", b"%2e.", b"%2e%2e"))
_HOLLOW: Final = re.compile(rb"(?:%(?:25)*(?:2f|5c|[01].|7f))*(?:(?:;|%(?:25)*3b).*)?", re.DOTALL)
"""Segments, in lower case, that are empty for servers that decode `%2F`, read `%5C` as a slash, or remove control
characters or `;…`, before they resolve dots.
"""
_SLASH: Final = re.compile(rb"%(?:25)*(?:2[Ff]|5[Cc])")
"""Slashes, and what some servers read as one."""


def path_of(route: config.Route, value_of: ValueOf) -> Callable[[BalancingRequest], bytes] | None:
    """Return the function that computes the path for the upstream, without the base path of its URL. None: the
    request's path, in normal form.

    It raises `Malformed` for paths that `path_check` refuses, and `MissingVariable` with `rewrites_variables`.
    """
    if route.rewrite is not None:
        template: Template = parse_rewrite(route.rewrite)
        if rewrites_variables(route):
            expand = expander(template, route, value_of)
            return lambda asked: _normalized(expand(asked))
        if rewrites_captures(route):
            return lambda asked: _normalized(template.expand(asked.params))
        return lambda asked: template.expand(asked.params)
    raw = route.path.forward == "raw"
    prefix = b"" if route.strip_prefix is None else parse_strip_prefix(route.strip_prefix)
    if route.add_prefix is not None:
        cut = _Cut(prefix, b"")
        return _prefixed(cut.raw if raw else cut.normal, route.add_prefix)
    if not prefix:
        return _raw if raw else None
    cut = _Cut(prefix, b"/" if route.path.root == "slash" else b"")
    return cut.raw if raw else cut.normal


def path_replacer(strip_prefix: str | None, add_prefix: str | None) -> Callable[[BalancingRequest], bytes]:
    """Return the function that replaces a prefix of the normalized path by another one."""
    cut = _Cut(b"" if strip_prefix is None else parse_strip_prefix(strip_prefix), b"")
    return _prefixed(cut.normal, "/" if add_prefix is None else add_prefix)


def _prefixed(rest_of: Callable[[BalancingRequest], bytes], add_prefix: str) -> Callable[[BalancingRequest], bytes]:
    """Return the function that puts a prefix before a path. `rest_of`: returns the path; b"": the prefix alone is sent,
    as it is written.
    """
    prefix = parse_strip_prefix(add_prefix) if add_prefix != "/" else b""
    alone = prefix + b"/" if add_prefix.endswith("/") else prefix

    def path(asked: BalancingRequest) -> bytes:
        rest = rest_of(asked)
        return prefix + rest if rest else alone

    return path


def rewrites_captures(route: config.Route) -> bool:
    """Whether the path that is sent contains parameters that may be parts of segments, there or where they are from."""
    if route.rewrite is None or "{" not in route.rewrite or rewrites_variables(route):
        return False
    return parse_rewrite(route.rewrite).can_complete or any(parse_path(path).captures_parts for path in route.paths)


def rewrites_variables(route: config.Route) -> bool:
    """Whether the path that is sent contains values of the request, which are known once its filters have run."""
    return route.rewrite is not None and bool(_variables(parse_rewrite(route.rewrite), route))


def _variables(template: Template, route: config.Route) -> frozenset[str]:
    """Return the names in a template that are no parameters of the route's paths."""
    held = [parse_path(path).names for path in route.paths]
    return frozenset(template.parameters) - (frozenset.intersection(*held) if held else frozenset())


def expander(template: Template, route: config.Route, value_of: ValueOf) -> Callable[[Any], bytes]:
    """Return the function that expands a path or URL for an exchange. Raises `MissingVariable`."""
    values = {name: value_of(name) for name in _variables(template, route)}
    if not values:
        return lambda exchange: template.expand(exchange.params)

    # A path begins with a slash, which may stand before it, too.
    before = zip(template.literals, template.parameters, strict=False)
    behind_slash = {name for literal, name in before if literal.endswith(b"/")}

    def expand(exchange: Any) -> bytes:
        held = dict(exchange.params)
        for name, read in values.items():
            value = read(exchange)
            if not value:
                raise MissingVariable(name)
            held[name] = value.lstrip(b"/") if name in behind_slash else value
        return template.expand(held)

    return expand


def _normalized(path: bytes) -> bytes:
    """Return a path unchanged. Raises `Malformed` if captures have completed a dot segment or an escape in it."""
    if normalize(path) != path:
        raise Malformed("The rewritten path has a dot segment or an incomplete escape.")
    return path


class _Cut:
    """Removes a prefix, which does not end in a slash. `root`: result for a path that equals the prefix."""

    __slots__ = ("_folder", "_prefix", "_root")

    def __init__(self, prefix: bytes, root: bytes) -> None:
        self._prefix, self._folder, self._root = prefix, prefix + b"/", root

    def normal(self, asked: BalancingRequest) -> bytes:
        path, prefix = asked.path, self._prefix
        if path.startswith(self._folder):
            return path[len(prefix) :]
        return self._root if path == prefix else path

    def raw(self, asked: BalancingRequest) -> bytes:
        """Return the path computed from the client's own bytes. Raises `Malformed`."""
        path, raw_path, prefix = asked.path, _raw(asked), self._prefix
        if raw_path == path or not (path.startswith(self._folder) or path == prefix):
            return self.normal(asked) if raw_path == path else raw_path
        end = _end_of(raw_path, prefix.count(b"/"))
        rest = raw_path[end:]
        if normalize(raw_path[:end]) != prefix or (rest and normalize(rest)) != (self.normal(asked) if rest else b""):
            raise Malformed("The path does not start with the prefix to strip.")
        return rest or self._root


def folder_of(route: config.Route) -> bytes:
    """Return the prefix of a rewrite that only removes it, except for its last slash; b"": it is another rewrite."""
    if route.rewrite is not None or route.strip_prefix is None or route.add_prefix is not None:
        return b""
    return parse_strip_prefix(route.strip_prefix) + b"/"


class StrippedPrefix(NamedTuple):
    """Prefix that a rewrite removes from paths. `always`: whether every path of the route begins with it."""

    prefix: bytes
    always: bool

    def of(self, path: bytes) -> bytes:
        """Return the prefix, if the path begins with it; b"": it does not, and nothing is removed."""
        prefix = self.prefix
        return prefix if self.always or path == prefix or path.startswith(prefix + b"/") else b""


def stripped_prefix(route: config.Route) -> StrippedPrefix | None:
    """Return the prefix of a rewrite that only removes it; None: it is another rewrite, or nothing is removed."""
    prefix = folder_of(route)[:-1]
    if not prefix or route.strip_prefix is None:
        return None
    written = route.strip_prefix.rstrip("/")
    always = all(path == written or path.startswith(written + "/") for path in route.paths)
    return StrippedPrefix(prefix, bool(route.paths) and always)


def path_check(
    route: config.Route, upstream: config.Upstream | None, path_of: Callable[[BalancingRequest], bytes] | None
) -> Callable[[Exchange], Reply | None] | None:
    """Return the step that rejects paths that match a route but are not forwarded; None: all are forwarded.

    `path_of`: returns the path that is sent to the route's upstream.
    """
    if rewrites_variables(route):
        path_of = None  # the path is known once the filters have run: see `Forward.refuse_path`
    captures = rewrites_captures(route)
    raw = path_of if route.path.forward == "raw" or captures else None
    slash_allowed = route.path.encoded_slash == "keep"
    # `*` means the server as a whole (RFC 9110 section 9.3.7): access to one of its paths does not include it.
    whole = route.rewrite is not None or upstream is None or not any(each.url.base_path for each in upstream.targets)
    if raw is None and slash_allowed and (whole or (route.paths and "/*" not in route.paths)):
        return None
    return _PathCheck(raw, slash_allowed, whole, captures).reply


class _PathCheck(NamedTuple):
    """Step that answers paths that are not forwarded."""

    raw: Callable[[BalancingRequest], bytes] | None
    slash_allowed: bool
    whole: bool
    always: bool
    """Whether a path that was received in its normal form is checked too."""

    def reply(self, exchange: Exchange) -> Reply | None:
        if exchange.path == b"*":
            return None if self.whole else Reply(204, fields=(ALLOW,))
        if not self.slash_allowed and _SLASH.search(exchange.path):
            return problem(Fault.BAD_REQUEST, "An encoded slash is not allowed in this path.")
        if self.raw is not None and (self.always or not exchange.head.path_as_sent):
            try:
                self.raw(exchange)
            except Malformed as malformed:
                return problem(Fault.BAD_REQUEST, malformed.reason)
        return None


def _raw(asked: BalancingRequest) -> bytes:
    """Return the client's own bytes. Raises `Malformed` if `..` removes a segment that is empty for some servers."""
    raw_path = asked.raw_path
    if raw_path == asked.path:
        return raw_path
    kept: list[bytes] = []
    for segment in raw_path.lower().split(b"/")[1:]:
        if segment in _DOTS:
            if not kept or _HOLLOW.fullmatch(kept.pop()):
                raise Malformed("The path has a dot segment after an empty segment.")
        elif segment not in _DOT:
            kept.append(segment)
    return raw_path


def _end_of(path: bytes, segments: int) -> int:
    """Return the end position of this number of segments."""
    end = 0
    for _ in range(segments):
        end = path.find(b"/", end + 1)
        if end < 0:
            return len(path)
    return end
