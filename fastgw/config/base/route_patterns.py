"""Syntax of hosts, paths and path templates in routes: parsed and checked here, compiled by `routing`.

Every function raises `ValueError` with a sentence for the configuration's author: the error, then what was expected.
Literal text is normalized like request paths (`http.path_normalization`), so equal paths are equal bytes.
"""

import re
import string
import sys
from collections.abc import Mapping
from enum import IntEnum
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import re2
from msgspec import Struct
from msgspec.structs import replace

from fastgw.http.malformed import Malformed
from fastgw.http.path_normalization import normalize

REJECTED_METHODS: Final = frozenset(("CONNECT", "TRACE"))
"""Methods of requests that no route gets."""


class PathKind(IntEnum):
    """Kind of a path pattern. When two patterns match, the lower value takes precedence."""

    EXACT = 0  # /users
    PARAMETERS = 1  # /users/{id}, /orders/{id}:cancel, /apps/{app}/{rest:path}
    PREFIX = 2  # /files/*
    REGEX = 3  # ~^/v[0-9]+/


class Parameter(Struct, frozen=True):
    """A path parameter. It matches one non-empty segment; with `rest`, everything after a slash, slashes included, or
    nothing.
    """

    name: str
    rest: bool = False


class MixedSegment(Struct, frozen=True):
    """A segment of text and path parameters: `{id}:cancel`. Each of them matches one or more characters."""

    text: bytes
    """Segment as written, its literals in normal form."""
    names: tuple[str, ...]
    regex: bytes
    """RE2 syntax, anchored; its named groups are the parameters."""
    shape: bytes
    """Text without the names: segments of the same shape match the same."""

    @property
    def order(self) -> int:
        """When two segments match, the lower value takes precedence: the one with more literal bytes. With equally many
        neither does.
        """
        return 2 * len(self.names) - len(self.shape)

    def matches(self, segment: bytes) -> bool:
        """Whether it matches a segment in normal form. For checks: it compiles its regular expression."""
        return re2.compile(self.regex, re2_options()).search(segment) is not None


Segment: TypeAlias = bytes | Parameter | MixedSegment


class PathPattern(Struct, frozen=True):
    text: str
    """Pattern as written."""
    kind: PathKind
    segments: tuple[Segment, ...] = ()
    """Parts between the slashes, literals in normal form: `/a/` has `a` and "", `/*` none."""
    regex: bytes = b""
    """RE2 syntax; matches anywhere in the path unless anchored."""
    written: bool = True
    """False: added by `either_slash`; a pattern written so in a file takes precedence."""

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Parameters that are whole segments."""
        return tuple(segment for segment in self.segments if isinstance(segment, Parameter))

    @property
    def names(self) -> frozenset[str]:
        """Names of its parameters; of a regular expression, its named groups."""
        if self.kind is PathKind.REGEX:
            return frozenset(name.decode() for name in re2.compile(self.regex, re2_options()).groupindex)
        mixed = (name for segment in self.segments if isinstance(segment, MixedSegment) for name in segment.names)
        return frozenset((*(parameter.name for parameter in self.parameters), *mixed))

    @property
    def captures_parts(self) -> bool:
        """Whether a parameter may be a part of a segment."""
        return self.kind is PathKind.REGEX or any(isinstance(segment, MixedSegment) for segment in self.segments)

    @property
    def literal(self) -> bytes:
        """Path of an exact pattern, or the prefix of a prefix pattern (`/files/*`: `/files`; `/*`: "")."""
        return b"".join(b"/" + segment for segment in self.segments if isinstance(segment, bytes))


class HostPattern(Struct, frozen=True):
    text: str
    """Pattern as written."""
    name: bytes
    """Host in lower case, without port or trailing dot. For a wildcard, the suffix that follows one or more labels:
    `.example.org`.
    """
    wildcard: bool


class Template(Struct, frozen=True):
    """Text with parameters of the path and variables of the request: `literals[0] parameters[0] literals[1] ...`."""

    literals: tuple[bytes, ...]
    parameters: tuple[str, ...]
    query_from: int = sys.maxsize
    """Position of the first parameter in a query: its value is one value there, whatever it contains. A `?` in the
    fragment counts, too: scripts read the query of `/#/login?next={path}` like any other."""
    can_complete: bool = False
    """Whether values can complete a dot segment, as those of `/{id}.{type}` can if both may be empty."""

    def expand(self, values: Mapping[str, bytes]) -> bytes:
        """Replace the parameters by `values` (normal-form path bytes). The result never begins with `//`, which
        browsers read as a host.
        """
        pieces = [self.literals[0]]
        for place, (name, literal) in enumerate(zip(self.parameters, self.literals[1:], strict=True)):
            value = values[name]
            if place >= self.query_from:
                value = _SEPARATOR.sub(_escaped, value)
            pieces += (value, literal)
        expanded = b"".join(pieces)
        return b"/" + expanded.lstrip(b"/") if expanded.startswith(b"//") else expanded


SMALL_REGEX_BYTES: Final = 192 * 1024
"""Maximum size of a compiled regular expression of a tenant, some 2,000 instructions: the time to compile grows with
the square of them. `x{0,1000}` a hundred times, within RE2's own limit, takes minutes.
"""
LIKE_REGEX: Final = re.compile(
    r"\.\*|\.\+|\(\?|^/?\^|\$$|\[\^|\[[a-z0-9]-[a-z0-9]\]|\\[dws.]|\([^)]*\|[^)]*\)", re.IGNORECASE
)
"""Matches a literal path that was probably meant as a regular expression."""
_LOCATIONS: Final = (
    (
        re.compile(r"~\*\s*(.*)"),
        "{!r}: a regular expression starts right after `~`; expected ~(?i){}, case-insensitive",
    ),
    (re.compile(r"\^~\s*(/.*?)/?\*?"), "{!r} has a modifier of nginx; expected a prefix: {}/*"),
    (re.compile(r"=\s*(/.*)"), "{!r} has a modifier of nginx; expected the path alone, which is matched exactly: {}"),
)
"""Paths with the modifiers that nginx has for a `location`, and how they are written here."""
_PARAMETER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(:path)?\}")
_PART: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_TEMPLATE_PARAMETER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*(?:\.[^{}/?#\s]+)?)\}")
_COMPLETED: Final = re.compile(rb"\.+|.*\..*[;%].*|.*[;%].*\..*", re.DOTALL)
"""Matches a literal beside a parameter that is a dot segment, or in part one for some servers, with some values."""
_NUMBERED: Final = re.compile(r"\{[0-9]+\}")
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_HOST_LENGTH_MAX: Final = 253  # in dotted form (RFC 1035 section 2.3.4)
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f]")
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]+")  # already in normal form: unreserved letters only, no dot
_NOT_IN_URL: Final = re.compile(r'[^!-~]|["<>\\^`{|}]|%(?![0-9A-Fa-f]{2})')
PORT: Final = "(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
"""Regular expression of a port."""
_URL_PORT: Final = re.compile(rf"[^:]*(:{PORT})?|.*\](:{PORT})?")
_SEPARATOR: Final = re.compile(rb"[&=+;]")
"""Characters that end a value in a query, or have another meaning there."""
_URL_START: Final = re.compile(r"https?://[^/?#]+", re.IGNORECASE)


@lru_cache(64)  # the routes of an API that differ in the method stand one after another
def parse_path(text: str) -> PathPattern:
    if text[:1] in ("~", "^", "="):
        _refuse_location(text)
    if text.startswith("~"):
        return PathPattern(text, PathKind.REGEX, regex=_regex(text[1:]))
    if not text.startswith("/"):
        raise ValueError(
            f"{text!r} does not start with a slash; expected a path such as /users/{{id}}, or `~` and a "
            f"regular expression"
        )
    written = text[1:].split("/")
    prefix = written[-1] == "*"
    try:
        segments = tuple(_segment(part) for part in (written[:-1] if prefix else written))
    except ValueError as error:
        if LIKE_REGEX.search(text) is None:
            raise
        raise ValueError(f"{error}, or `~` before a regular expression") from error
    names: list[str] = []
    for segment in segments:
        if isinstance(segment, Parameter):
            names.append(segment.name)
        elif isinstance(segment, MixedSegment):
            names += segment.names
    if len(set(names)) < len(names):
        raise ValueError(f"{text!r} has a duplicate parameter; expected each name once")
    if any(isinstance(segment, Parameter) and segment.rest for segment in segments[:-1]):
        raise ValueError(
            f"{text!r} continues after a :path parameter, which matches the rest of the path; expected it last"
        )
    if not names:
        return PathPattern(text, PathKind.PREFIX if prefix else PathKind.EXACT, segments)
    if prefix:
        raise ValueError(f"{text!r} has both parameters and `*`; expected a last segment such as {{rest:path}}")
    return PathPattern(text, PathKind.PARAMETERS, segments)


def either_slash(pattern: PathPattern) -> tuple[PathPattern, ...]:
    """Return the pattern with and without a trailing slash, as written first. If the slash makes no difference, return
    the pattern alone.
    """
    segments = pattern.segments
    if pattern.kind not in (PathKind.EXACT, PathKind.PARAMETERS) or segments == (b"",):
        return (pattern,)
    last = segments[-1]
    if isinstance(last, Parameter) and last.rest:
        return (pattern,)
    if last == b"":
        other = replace(pattern, text=pattern.text[:-1], segments=segments[:-1], written=False)
    else:
        other = replace(pattern, text=f"{pattern.text}/", segments=(*segments, b""), written=False)
    return pattern, other


def parse_host(text: str) -> HostPattern:
    host = text.lower().removesuffix(".")
    if text == "*":
        raise ValueError("'*' is not a host name; expected one such as *.example.org, or no `hosts` for any host")
    if host.startswith("["):
        return HostPattern(text, _ipv6_host(text), wildcard=False)
    wildcard = host.startswith("*.")
    name = host.removeprefix("*.")
    if not name.isascii():
        raise ValueError(f"{text!r} is not ASCII; expected the Punycode form (xn--)")
    if ":" in name or "/" in name:
        raise ValueError(
            f"{text!r} is not just a host; expected a name without scheme, port or path (IPv6 in brackets)"
        )
    if len(name) > _HOST_LENGTH_MAX or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(f"{text!r} is not a host name; expected one such as api.example.com or *.example.org")
    return HostPattern(text, (f".{name}" if wildcard else name).encode(), wildcard)


def parse_strip_prefix(text: str) -> bytes:
    """Parse a path prefix to strip, in whole segments. The result is in normal form and has no trailing slash:
    `/api`.
    """
    return parse_plain_path(text.rstrip("/"))


def parse_plain_path(text: str) -> bytes:
    """Parse a path without parameters, in normal form, with or without a trailing slash. A `*` is plain text, unless it
    is the whole last segment, as in a pattern.
    """
    written = text.split("/")
    if written[0] or len(written) == 1:
        raise ValueError(f"{text!r} does not start with a slash; expected a plain path such as /api")
    if written[-1] == "*" or any(_PARAMETER.fullmatch(part) for part in written):
        raise ValueError(f"{text!r} is a pattern; expected a plain path such as /api")
    return b"/".join(_normal(part, whole=text) for part in written)


def parse_rewrite(text: str) -> Template:
    """Parse a path in which `{name}` stands for a parameter of the route's paths, or for a variable.

    Literals are normalized by themselves. If values `can_complete` a dot segment, the expanded path has to be judged;
    else it is in normal form.
    """
    if not text.startswith("/") or text.startswith("//"):
        raise ValueError(f"{text!r} does not start with exactly one slash; expected a path such as /internal/{{id}}")
    pieces = _TEMPLATE_PARAMETER.split(text)
    if any("?" in literal for literal in pieces[::2]):
        raise ValueError(
            f"{text!r} has a query; expected the path alone, and the filter `query_parameters` to change the query"
        )
    if (numbered := _NUMBERED.search(text)) is not None:
        raise ValueError(
            f"{text!r} has {numbered[0]!r}; expected the name of a path parameter, such as {{rest}} "
            "with the path /old/{rest:path}"
        )
    literals, can_complete = [], False
    for place in range(0, len(pieces), 2):
        parts = pieces[place].split("/")
        ends = {0} if place > 0 else set[int]()  # positions of the parts that a parameter is beside
        ends |= {len(parts) - 1} if place + 1 < len(pieces) else set()
        normal = [_normal(part, text if part and at in ends else "", text) for at, part in enumerate(parts)]
        can_complete = can_complete or any(_COMPLETED.fullmatch(normal[at]) for at in ends)
        literals.append(b"/".join(normal))
    return Template(tuple(literals), tuple(pieces[1::2]), can_complete=can_complete)


def parse_redirect(text: str) -> Template:
    """Parse a redirect target: a path or an http(s) URL. `{name}` in its path, query or fragment is a
    parameter or a variable.
    """
    url = _URL_START.match(text)
    if url is None and (not text.startswith("/") or text.startswith("//")):
        raise ValueError(
            f"{text!r} is not a valid redirect location; expected a path such as /new/{{id}} or an http(s) URL"
        )
    if url is not None and _URL_PORT.fullmatch(url[0].partition("//")[2]) is None:
        raise ValueError(f"{text!r} has an invalid port; expected one from 1 to 65535")
    if url is not None and "{" in url[0]:
        raise ValueError(
            f"{text!r} has a parameter in the host; expected them after it, such as https://new.example/{{path}}"
        )
    pieces = _TEMPLATE_PARAMETER.split(text)
    for literal in pieces[::2]:
        if wrong := _NOT_IN_URL.search(literal):
            raise ValueError(f"{text!r} has {wrong[0]!r}; expected it escaped, or a parameter such as {{id}}")
    literals = tuple(literal.encode() for literal in pieces[::2])
    query_from = next((place for place, literal in enumerate(literals) if b"?" in literal), sys.maxsize)
    return Template(literals, tuple(pieces[1::2]), query_from)


def parse_regex(text: str) -> str:
    """Return an RE2 regular expression unchanged, if it is valid."""
    _regex(text, "")
    return text


def is_large_regex(text: str) -> bool:
    """Whether a regular expression is too large for a tenant: it would cost others much time to compile it."""
    try:
        re2.compile(text.encode(), re2_options(SMALL_REGEX_BYTES))
    except re2.error as error:
        return "too large" in re2_problem(error)
    return False


def re2_options(most_bytes: int = 0) -> Any:
    """Return the RE2 options: Latin-1, because normalized paths are ASCII (one byte is one character); errors are
    raised, not logged. `most_bytes`: maximum size of the compiled form; 0: that of RE2.
    """
    options = re2.Options()
    if most_bytes:
        options.max_mem = most_bytes
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    return options


def re2_problem(error: re2.error) -> str:
    """Return the problem of a regular expression, as RE2 describes it."""
    return error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)


def _escaped(separator: re.Match[bytes]) -> bytes:
    return b"%%%02X" % ord(separator[0])


def _regex(source: str, after: str = " after `~`, such as ~^/v[0-9]+/") -> bytes:
    if not source or not source.isascii():
        raise ValueError(f"expected an RE2 regular expression in ASCII{after}")
    try:
        re2.compile(source.encode(), re2_options())
    except re2.error as error:
        raise ValueError(f"{source!r}: {re2_problem(error)}; expected a regular expression in RE2 syntax") from error
    return source.encode()


def _refuse_location(text: str) -> None:
    """Raise `ValueError` for a path with a modifier of nginx. RE2 would refuse `*^/x` for its `*`."""
    for written, advice in _LOCATIONS:
        if (found := written.fullmatch(text)) is not None:
            raise ValueError(advice.format(text, found[1]))


def _segment(text: str) -> Segment:
    parameter = _PARAMETER.fullmatch(text)
    if parameter:
        return Parameter(parameter[1], rest=parameter[2] is not None)
    pieces = _PART.split(text)
    if any("{" in literal or "}" in literal for literal in pieces[::2]):
        raise ValueError(f"{text!r} is not a valid parameter; expected {{name}}, or {{name:path}} as a whole segment")
    if "*" in text:
        raise ValueError(f"{text!r} has a `*`; expected it only as the whole last segment, such as /files/*")
    return _normal(text) if len(pieces) == 1 else _mixed(text, pieces)


def _mixed(segment: str, pieces: list[str]) -> MixedSegment:
    """Return a segment of literals and, between them, names."""
    names = tuple(pieces[1::2])
    literals = [_normal(literal, segment) if literal else b"" for literal in pieces[::2]]
    text, regex, shape = literals[0], b"^" + re.escape(literals[0]), literals[0]
    for name, literal in zip(names, literals[1:], strict=True):
        text += b"{%b}%b" % (name.encode(), literal)
        regex += b"(?P<%b>[^/]+)%b" % (name.encode(), re.escape(literal))
        shape += b"{}" + literal
    return MixedSegment(text, names, regex + b"$", shape)


def _normal(text: str, segment: str = "", whole: str = "") -> bytes:
    """Return text within a segment in normal form. Non-ASCII characters are percent-encoded as UTF-8. `segment`: the
    whole segment, if the text is beside a parameter. `whole`: the whole path, if it is no pattern: it matches nothing.
    """
    if _PLAIN.fullmatch(text):  # PERF: most text is plain, and thousands of routes are checked
        return text.encode()
    if "{" in text or "}" in text:
        raise ValueError(f"{text!r} has an unmatched brace; expected {{name}}, or a literal brace as %7B or %7D")
    beside = "x" if segment else ""  # dots beside a parameter are no dot segment
    try:
        if _CONTROLS.search(text):
            raise Malformed("The path has an invalid character.")  # `quote` would escape a line end, too
        encoded = f"{beside}{quote(text, safe=string.punctuation)}{beside}".encode()
        normal = normalize(b"/-/" + encoded).removeprefix(b"/-/")
    except Malformed as refusal:
        reason = refusal.reason.removesuffix(".")
        if whole:
            raise ValueError(
                f"{whole!r} is not a valid path ({reason}); expected plain text or percent-encoding, without a query or"
                " fragment"
            ) from refusal
        raise ValueError(
            f"{segment or text!r} cannot match any request ({reason}); expected plain text or percent-encoding"
        ) from refusal
    if text and normal in (b"", b"/"):
        if whole:
            raise ValueError(f"{whole!r} is not a valid path (dot segments are resolved); expected a path without them")
        raise ValueError(f"{text!r} cannot match any request (dot segments are resolved); expected a path without them")
    return normal[1:-1] if segment else normal


def _ipv6_host(text: str) -> bytes:
    try:
        if not text.endswith("]") or "%" in text:
            raise ValueError(text)
        return f"[{IPv6Address(text[1:-1])}]".encode()
    except ValueError as error:
        raise ValueError(
            f"{text!r} is not an IPv6 host; expected one such as [2001:db8::1], without port or zone"
        ) from error
