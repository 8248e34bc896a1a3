"""Secrets inside of texts: values of members, parameters, attributes and elements with secret names are hidden.

A text need not be valid, nor of one format: it may be cut off, and JSON may stand in a string of JSON. So names are
looked for one after the other, in all the forms that formats give them. Rule 1: the value of a secret name is hidden as
a whole, with all that is nested in it. Rule 2: after any other name the search goes on at its value, not behind it.
"""

import re
from collections.abc import Callable
from typing import Final

import orjson

HIDDEN: Final = b"***"
# Names in JSON, in JSON inside of a string of JSON, of elements, and all others (`name=`, `name:`, `'name':`). None is
# tried at each byte of a long run, which would read it many times.
_NAME: Final = re.compile(
    rb"""
    (?P<member>"((?>(?:[^"\\]|\\.){1,128}))"\s*+:\s*+)
    |(?P<escaped>(?<!\\)\\++"([\w.$@-]{1,128}+)\\++"\s*+:\s*+)
    |(?P<element><((?>(?:[\w.-]{1,64}+:)?)[\w.-]{1,128}+)(?=[\s/>]))
    |(?P<assigned>(?<![\w.%\[\]-])([\w.%\[\]-]{1,128}+)(?:[ \t]*+=[ \t]*+|["']?+[ \t]*+:[ \t]*+))
    """,
    re.DOTALL | re.VERBOSE,
)
_PROSE: Final = frozenset((b"code", b"key", b"session", b"ticket"))
"""Names of secrets that are words of messages as well, such as "status code: 500"."""
_QUOTE: Final = re.compile(rb"""(\\*+)(["'])""")
_STRINGS: Final = {
    b'"': re.compile(rb'"(?>(?:[^"\\]++|\\.)*)"?', re.DOTALL),
    b"'": re.compile(rb"'(?>(?:[^'\\]++|\\.)*)'?", re.DOTALL),
}
_NESTING: Final = re.compile(rb'(?<!\\)\\*+"|[\[\]{}]')
_SCALAR: Final = re.compile(rb'[^,}\]\s"\\]*+')
_WORD: Final = re.compile(rb"""[^&\s"'<>\\]*+""")
_REST_OF_LINE: Final = re.compile(rb"""[^\r\n"'<\\]*+""")
_BLOCK_BEGIN: Final = re.compile(rb"(?:[|>][+\-\d]*+)?[ \t]*+\r?\n")
_BLOCK_LINE: Final = re.compile(rb"([ \t]*+)[^\n]*+\n?")
_ATTRIBUTES: Final = re.compile(rb"[^<>]*+>?")
_TAG: Final = re.compile(rb"<(/?)([\w.:-]++)(?=[\s/>])")
# The slashes may be escaped, as PHP's JSON has them: once for each string that the document stands in.
_USERINFO: Final = re.compile(rb"""(:(?>\\*+/|\\++u002[fF]){2})(?>(?:[^/?#\s"'<>\\@]*+@)+)""")


def without_secrets(text: bytes, is_secret: Callable[[bytes], bool]) -> bytes:
    """Return the text with `***` in place of the values of secret names, and of users and passwords in URLs."""
    pieces, at = [], 0
    while (found := _NAME.search(text, at)) is not None:
        form, begin = found.lastgroup or "", found.end()
        pieces.append(text[at:begin])
        at = begin
        if is_secret(_name_of(found)) and not (form == "assigned" and _is_prose(found)):
            at, shown = _FORMS[form](text, begin, found)
            pieces.append(shown)
    pieces.append(text[at:])
    return _USERINFO.sub(rb"\1%b@" % HIDDEN, b"".join(pieces))


def _name_of(found: re.Match[bytes]) -> bytes:
    name: bytes = found[(found.lastindex or 0) + 1]  # the group inside of that of its form
    if b"\\" in name:
        try:
            return str(orjson.loads(b'"%b"' % name)).encode()
        except ValueError:  # no JSON
            return name
    return name.rpartition(b":")[2] if found.lastgroup == "element" else name


def _is_prose(found: re.Match[bytes]) -> bool:
    return b":" in found[0] and _name_of(found).lower() in _PROSE


def _member(text: bytes, at: int, _: re.Match[bytes]) -> tuple[int, bytes]:
    """Return where the value of a member of JSON ends, and what is shown in its place."""
    end = _value_end(text, at, _SCALAR)
    return end, b'"%b"' % HIDDEN if end > at else b""


def _escaped(text: bytes, at: int, _: re.Match[bytes]) -> tuple[int, bytes]:
    end = _value_end(text, at, _SCALAR)
    return end, HIDDEN if end > at else b""


def _element(text: bytes, at: int, found: re.Match[bytes]) -> tuple[int, bytes]:
    """Hide attributes and content of an element, also if it contains others of its name."""
    begun = _ATTRIBUTES.match(text, at)
    assert begun is not None  # it matches the empty text
    ending = b"/>" if begun[0].endswith(b"/>") else b">" if begun[0].endswith(b">") else b""
    attributes = begun[0].removesuffix(ending).strip()
    shown = (b" " + HIDDEN if attributes else b"") + ending
    if ending != b">":
        return begun.end(), shown
    tag, depth, end = found[0][1:], 1, len(text)
    for each in _TAG.finditer(text, begun.end()):
        if each[2] == tag:
            depth += -1 if each[1] else 1
            if not depth:
                end = each.start()
                break
    return end, shown + (HIDDEN if end > begun.end() else b"")


def _assigned(text: bytes, at: int, found: re.Match[bytes]) -> tuple[int, bytes]:
    """Hide the value of a parameter, an attribute or a line such as `name: value`."""
    is_line = b":" in found[0]
    end = _value_end(text, at, _REST_OF_LINE if is_line else _WORD)
    if (quote := _QUOTE.match(text, at)) is not None:
        return end, quote[0] + HIDDEN + (quote[0] if end >= at + 2 * len(quote[0]) else b"")
    if is_line and (block := _BLOCK_BEGIN.match(text, at)) is not None:
        return _block_end(text, block.end(), text.rfind(b"\n", 0, found.start()) + 1), HIDDEN + b"\n"
    return end, HIDDEN if end > at else b""


_FORMS: Final[dict[str, Callable[[bytes, int, re.Match[bytes]], tuple[int, bytes]]]] = {
    "member": _member,
    "escaped": _escaped,
    "element": _element,
    "assigned": _assigned,
}


def _value_end(text: bytes, at: int, plain: re.Pattern[bytes]) -> int:
    """Return the end of a string, of an object or array, or of what `plain` matches."""
    if (quote := _QUOTE.match(text, at)) is not None:
        return _string_end(text, at, quote[1], quote[2])
    if text[at : at + 1] in (b"[", b"{"):
        return _nested_end(text, at)
    found = plain.match(text, at)
    return at if found is None else found.end()


def _string_end(text: bytes, at: int, escape: bytes, quote: bytes) -> int:
    """Return the end of a string. `escape`: the backslashes before its first quote."""
    if not escape:
        found = _STRINGS[quote].match(text, at)
        return len(text) if found is None else found.end()
    end = at + len(escape) + 1
    while (end := text.find(quote, end)) >= 0:
        first = end
        while text[first - 1 : first] == b"\\":
            first -= 1
        if first == end:
            return end  # the string that contains all of it
        end += 1
        if end - 1 - first == len(escape):
            return end
    return len(text)


def _nested_end(text: bytes, at: int) -> int:
    """Return the end of an object or array, or of the string that contains it."""
    depth, is_escaped = 0, False
    while (found := _NESTING.search(text, at)) is not None:
        token, at = found[0], found.end()
        if token.endswith(b'"'):
            if is_escaped and token == b'"':
                return at - 1
            is_escaped = token != b'"'
            at = _string_end(text, found.start(), token[:-1], b'"')
        else:
            depth += 1 if token in (b"[", b"{") else -1
            if depth <= 0:
                return at
    return len(text)


def _block_end(text: bytes, at: int, line: int) -> int:
    """Return the end of the lines that are indented more than the line that begins at `line` (YAML)."""
    first = _BLOCK_LINE.match(text, line)
    least = len(first[1]) if first is not None else 0
    while at < len(text):
        each = _BLOCK_LINE.match(text, at)
        if each is None or (each[0].strip() and len(each[1]) <= least):
            break
        at = each.end()
    return at
