"""Path normalization (RFC 3986 section 6.2.2): routes match the normal form, and targets receive it.

`normalize` converts the client's bytes into the normal form or refuses them. In the normal form:
- dot segments are resolved, also if their dots are sent as `%2e`; a path that climbs above the root is refused;
- escaped unreserved characters are decoded, every other escape is kept with upper-case digits: `%2F` is never `/`;
- printable ASCII that RFC 3986 does not allow in a path (`"<>[]^{|}` and the backtick) is escaped, so that `/a|b` and
  `/a%7Cb` are one path;
- empty segments are kept: `//` names another resource than `/` in object stores, and the matched path is the one that
  is sent.

A path is rejected, regardless of the routes, if it could leave the folder of a target's URL or prefix: see `_REFUSED`.
For forms that have a legitimate use in a name, such as `%2F`, `%5C`, `%252F`, `%0A` or `%3A`, `other_readings` returns
the interpretations of servers.
"""

import re
from collections.abc import Callable
from typing import Final, TypeAlias

from fastgw.http.malformed import Malformed

_UNRESERVED: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
_PLAIN: Final = _UNRESERVED + b"!$&'()*+,;=:@/"
_ESCAPED_ON_SIGHT: Final = b'"<>[]^`{|}'

_BARE: Final = re.compile(rb"[\x00-\x20\x7f-\xff\\#?]|%(?![0-9A-Fa-f]{2})")
_TO_REWRITE: Final = re.compile(rb'%..|["<>\[\]^`{|}]')
_HEX: Final = "0123456789abcdefABCDEF"

_REWRITTEN: Final = {
    **{
        f"%{high}{low}".encode(): bytes([code]) if (code := int(high + low, 16)) in _UNRESERVED else b"%%%02X" % code
        for high in _HEX
        for low in _HEX
    },
    **{bytes([code]): b"%%%02X" % code for code in _ESCAPED_ON_SIGHT},
}

_CONTROL: Final = rb"%(?:[01][0-9A-F]|7F)"
_DEEPEST: Final = 4
"""How many times a path may be percent-encoded once more. Each time is another interpretation."""

_REFUSED: Final = tuple(
    (re.compile(pattern), reason)
    for pattern, reason in (
        # NUL ends a C string. CR LF ends a line of the header into which a server writes the decoded path
        # (nginx: `return 302 $uri`); no name has it, unlike one of the two alone.
        (rb"%00|%0D%0A", "The path has an escaped NUL or line end."),
        # `.` and `/` spelled with more bytes than UTF-8 allows (RFC 3629 section 3), for decoders that do not check.
        (rb"%C[01]|%E0%[89]|%F0%8|%F8%8[0-7]|%FC%8[0-3]", "The path has overlong UTF-8."),
        # Servlet containers remove `;...` from a segment before they resolve dots; others decode `%2F` and `%3B` first,
        # read a backslash as a slash, remove control characters or end the path at one.
        (
            rb"(?:/|%2F|%5C)(?:CTL)*\.(?:(?:CTL)*\.)?(?=CTL|;|%3B|/|%2F|%5C|\Z)".replace(b"CTL", _CONTROL),
            "The path has a dot segment next to `;`, `%2F`, `%5C` or a control character, or encoded twice.",
        ),
    )
)
_DOT_SEGMENTS: Final = re.compile(rb"/\.\.?(?=/|\Z)")


def normalize(raw_path: bytes, *, strict: bool = True) -> bytes:
    """Return the normal form of `raw_path`: the part of an origin-form target before `?` (RFC 9112 section 3.2.1).

    Normalizing twice changes nothing. Raises `Malformed` (400). `strict`: also for paths that climb above the root, as
    in requests; references in responses resolve to the root then (RFC 3986 section 5.2.4).
    """
    # PERF: two scans in C handle a plain path: 0.39 us for 40 bytes, 0.6 by re.search (CPython 3.11, micro/routing).
    if raw_path[:1] == b"/" and b"/." not in raw_path and not raw_path.translate(None, _PLAIN):
        return raw_path
    if raw_path[:1] != b"/":
        raise Malformed("The path does not start with a slash.")
    bare = _BARE.search(raw_path)
    if bare is not None:
        raise Malformed(
            "The path has an invalid percent-encoding." if bare[0] == b"%" else "The path has an invalid character."
        )
    path = _rewritten(raw_path)
    # The dot segments of the path itself are those that every server resolves.
    text = _DOT_SEGMENTS.sub(b"/-", path) if b"/." in path else path
    _refuse(text)
    if b"%25" in path:
        _refuse_decoded(text, _decode)
        _refuse_decoded(text, lambda path: _decode(_remove_controls(path)))
    return _without_dots(path, strict=strict) if b"/." in path else path


def _refuse(path: bytes) -> None:
    for pattern, reason in _REFUSED:
        if pattern.search(path):
            raise Malformed(reason)


def _refuse_decoded(path: bytes, decode: Callable[[bytes], bytes]) -> None:
    """Refuse a path for what servers find in it that decode it again, at any depth."""
    for _ in range(_DEEPEST):
        before, path = path, decode(path)
        if path == before:
            return
        _refuse(path)
    if decode(path) != path:
        raise Malformed("The path is percent-encoded too many times.")


def _rewritten(raw_path: bytes) -> bytes:
    """Return the path with its escapes and characters in normal form, its dot segments as they are."""
    return _TO_REWRITE.sub(lambda found: _REWRITTEN[found[0]], raw_path)


_STRAY: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def _decode(path: bytes) -> bytes:
    """Return the normal form, dot segments as they are, of what a server reads that decodes a path once more."""
    return _rewritten(_STRAY.sub(b"%25", path.replace(b"%25", b"%"))) if b"%25" in path else path


_CONTROLS: Final = re.compile(_CONTROL)


def _remove_controls(path: bytes) -> bytes:
    return _CONTROLS.sub(b"", path)


def _without_dots(path: bytes, *, strict: bool = True) -> bytes:
    """Resolve dot segments (RFC 3986 section 5.2.4). `strict`: reject paths that climb above the root, which the RFC
    allows.
    """
    kept: list[bytes] = []
    segments = path.split(b"/")[1:]
    for segment in segments:
        if segment == b"..":
            if kept:
                kept.pop()
            elif strict:
                raise Malformed("The path has dot segments that lead above the root.")
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in (b".", b".."):
        kept.append(b"")  # a trailing dot segment names a directory
    return b"/" + b"/".join(kept)


# other readings

_RESERVED: Final = b"!$&'()*+,;=:@"
"""Characters that a path may have as they are, or escaped: two paths by RFC 3986 (section 2.2), and one path for
services that decode it.
"""
_LITERAL: Final = rb"%(?:25|5[Cc]|[01]|7[Ff])"
_AS_LITERAL: Final = re.compile(_LITERAL)
_MANY_WAYS: Final = re.compile(rb"//|;|%2[Ff]|%3[Bb]|" + _LITERAL)
_READ_IN_TWO_WAYS: Final = re.compile(rb"//|;|%(?:2[146-9A-CFa-cf]|3[ABDabd]|40)|" + _LITERAL)
_LONGEST: Final = 4096
"""Maximum bytes of a path with several interpretations. Longer ones are refused: each one takes as long as normalizing
once.
"""
_MOST: Final = 192
"""Maximum number of interpretations. A path with more of them is refused."""


def has_other_readings(raw_path: bytes) -> bool:
    """Whether a path contains anything that servers interpret in different ways."""
    return _READ_IN_TWO_WAYS.search(raw_path) is not None


def other_readings(raw_path: bytes, path: bytes, *, literal: bool = False) -> dict[bytes, str]:
    """Return the other paths as which a server may interpret a path with the normal form `path`, each with the steps
    that lead to it. `literal`: servers take a backslash, a control character or `%` in a name for itself.

    Both forms that may be forwarded are interpreted, the normal one and the client's; dot segments are resolved last.
    The number of results is bounded, and there are none unless `has_other_readings`. Raises `Malformed` (400) if the
    path is too long, or has too many.
    """
    if len(raw_path) > _LONGEST and _MANY_WAYS.search(raw_path):
        raise Malformed("The path has characters that servers read differently and is too long to check for ambiguity.")
    found = {path: "", _rewritten(raw_path): ""}
    for changes in _CHANGES if literal or not _AS_LITERAL.search(raw_path) else (*_LITERAL_CHANGES, *_CHANGES):
        for before, done in [*found.items()]:
            for what, change in changes:
                found.setdefault(change(before), f"{done}, {what}" if done else what)
        if len(found) > _MOST:
            raise Malformed("The path has too many interpretations to check for ambiguity.")
    readings: dict[bytes, str] = {}
    for reading, done in found.items():
        readings.setdefault(_without_dots(reading, strict=False) if b"/." in reading else reading, done)
    del readings[path]
    return readings


def _cut_at_control(path: bytes) -> bytes:
    return _CONTROLS.split(path, maxsplit=1)[0]


def _read_backslashes(path: bytes) -> bytes:
    return path.replace(b"%5C", b"/")


def _merge_slashes(path: bytes) -> bytes:
    while b"//" in path:
        path = path.replace(b"//", b"/")
    return path


def _decode_slashes(path: bytes) -> bytes:
    return path.replace(b"%2F", b"/")


def _drop_authority(path: bytes) -> bytes:
    return b"/" + path.lstrip(b"/").partition(b"/")[2] if path.startswith(b"//") else path


_PARAMETERS: Final = re.compile(rb";[^/]*")


def _cut_parameters(path: bytes) -> bytes:
    return _PARAMETERS.sub(b"", path)


def _cut_decoded_parameters(path: bytes) -> bytes:
    return _cut_parameters(path.replace(b"%3B", b";"))


_ESCAPED: Final = tuple((b"%%%02X" % code, bytes([code])) for code in _RESERVED)


def _decode_reserved(path: bytes) -> bytes:
    # PERF: an eighth of the time of a pattern for all, if there are many (CPython 3.11).
    for escape, character in _ESCAPED:
        path = path.replace(escape, character)
    return path


_Changes: TypeAlias = tuple[tuple[str, Callable[[bytes], bytes]], ...]
_CONTROLS_READ: Final[_Changes] = (
    ("control characters removed", _remove_controls),
    ("cut at a control character", _cut_at_control),
)
_LITERAL_CHANGES: Final[tuple[_Changes, ...]] = (
    # Gateways and application servers in a row decode once each; URL parsers remove tabs and line ends in between
    # (WHATWG URL), and C libraries end the path there.
    *((_CONTROLS_READ, (("decoded once more", _decode),)) * _DEEPEST),
    _CONTROLS_READ,
    # IIS, and URL parsers after decoding.
    (("%5C as a slash", _read_backslashes),),
)
"""Changes, before all others, that servers make to characters for which a name has no other form."""
_SLASHES: Final = ("slashes merged", _merge_slashes), ("%2F decoded", _decode_slashes)
_CHANGES: Final[tuple[_Changes, ...]] = (
    # URL parsers treat the part after two slashes as a host (RFC 3986 section 4.2).
    (("//host removed", _drop_authority),),
    # Servlet containers remove path parameters before they decode, others after it.
    (_SLASHES[1],),
    ((";parameters removed", _cut_parameters), (";parameters removed", _cut_decoded_parameters)),
    # nginx merges slashes; servers that map paths to files decode `%2F`; and some do both, in either order.
    _SLASHES,
    _SLASHES,
    # Most services decode each parameter, and many frameworks the whole path before they match it.
    (("escaped characters decoded", _decode_reserved),),
)
"""Changes that servers make to a path, in this order; each server applies one alternative of each step, or skips it."""
