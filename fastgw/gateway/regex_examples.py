"""Examples of texts that match a regular expression: the shortest one of its first alternatives.

Rule: whoever uses an example has the expression itself judge it. Boundaries and flags are not looked at.
"""

import re
from functools import lru_cache
from typing import Final

import re2

from fastgw.config.base.route_patterns import re2_options

_TOKEN: Final = re.compile(
    r"""
    (?P<flags> \( \? [imsU-]+ \) )
    | (?P<open> \( (?: \? (?: P?<\w+> | [imsU-]*: ) )? )
    | \\Q (?P<quoted> .*? ) (?: \\E | \Z )
    | (?P<empty> [\^$] | \\[AzbB] )
    | (?P<one> \[ \^? \]? (?: \[:\^?\w+:\] | \\. | [^\]\\] )* \] | \\[pP]\{\^?\w+\} | \\[pP]\w | \\x\{[0-9A-Fa-f]+\}
        | \\x[0-9A-Fa-f]{2} | \\. | . )
    """,
    re.VERBOSE | re.DOTALL,
)
_REPEATED: Final = re.compile(r"(?:([*?])|\+|\{([0-9]+)(?:,[0-9]*)?\})\??")
_CANDIDATES: Final = "x0X-_./~ \t\n"
_LONGEST: Final = 1000


@lru_cache(maxsize=64)
def example_of(regex: str) -> bytes:
    """Return a text that probably matches a regular expression (RE2)."""
    return _alternatives(regex, 0)[0][:_LONGEST].encode()


def _alternatives(regex: str, at: int) -> tuple[str, int]:
    """Return an example of the first alternative from a position to the end of its group, and that end."""
    first: str | None = None
    said = ""
    while at < len(regex) and regex[at] != ")":
        if regex[at] == "|":
            first = said if first is None else first
            said, at = "", at + 1
            continue
        token = _TOKEN.match(regex, at)
        if token is None:
            break
        at, one = token.end(), ""
        if token["open"]:
            one, at = _alternatives(regex, at)
            at += 1
        elif token["one"]:
            one = _character(token["one"])
        else:
            one = token["quoted"] or ""
        if (repeated := _REPEATED.match(regex, at)) is not None:
            at = repeated.end()
            one *= 0 if repeated[1] else min(int(repeated[2] or 1), _LONGEST)
        said = (said + one)[:_LONGEST]
    return said if first is None else first, at


@lru_cache(maxsize=256)
def _character(part: str) -> str:
    """Return a character that a part of a regular expression matches; "": none is known."""
    if part[0] not in "\\[.":
        return part
    if part.startswith("\\x"):
        return chr(int(part[2:].strip("{}"), 16))
    matches = re2.compile(f"(?s){part}".encode(), re2_options()).fullmatch
    own = re.sub(r"\\(?=\W)|[\[\]^]", "", part)
    return next((each for each in _CANDIDATES + own if matches(each.encode())), "")
