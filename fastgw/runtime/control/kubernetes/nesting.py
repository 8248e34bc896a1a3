"""Bound of the nesting of JSON from the API server.

Tenants may nest the filters of a policy as deeply as the API server accepts, which is deeper than a decoder does: one
such object would stop all others of its kind.
"""

import re
from typing import Final

MOST_LEVELS: Final = 100
"""Maximum levels of nested values in a list of objects or an event."""
_CUT: Final = b'"nested too deeply"'
"""Text in place of what is nested more deeply: an object that has it is refused for its nesting."""
_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*(?:"|\\?\Z)'
_NO_BRACKETS: Final = re.compile(_STRING + rb"|[^][{}\"]++", re.DOTALL)
_TOKEN: Final = re.compile(_STRING + rb"|[][{}]", re.DOTALL)

_ALIKE: Final = bytes.maketrans(b"[]", b"{}")


def without_deep_values(content: bytes) -> bytes:
    """Return JSON in which the values below `MOST_LEVELS` are replaced by a text; unchanged, if there are none."""
    left = _NO_BRACKETS.sub(b"", content).translate(_ALIKE)
    for _ in range(MOST_LEVELS):
        if not left:
            return content
        left = left.replace(b"{}", b"")  # one level
    return content if not left else _cut(content)


def _cut(content: bytes) -> bytes:
    kept: list[bytes] = []
    level = begin = 0
    for token in _TOKEN.finditer(content):
        bracket = token[0]
        if bracket in b"{[":
            level += 1
            if level == MOST_LEVELS + 1:
                kept += (content[begin : token.start()], _CUT)
        elif bracket in b"}]":
            if level == MOST_LEVELS + 1:
                begin = token.end()
            level -= 1
    return b"".join((*kept, content[begin:]))
