"""Cookies of the gateway itself: removed from requests to the upstream, and split if they are too long.

A long value is split into `NAME`, `NAME.1`, `NAME.2`…; the first begins with the number of cookies and `~`. RFC 6265
section 6.1 asks browsers to support 4,096 bytes of name, value and attributes.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Final, final

MOST_PIECES: Final = 5
"""Maximum number of cookies for one value."""
_PIECE: Final = 3_600
LONGEST: Final = MOST_PIECES * _PIECE
"""Maximum bytes of a value."""


PREFIX: Final = b"__Host-"
"""Prefix of a cookie that belongs to this host only and requires https."""
OWN: Final = "fastgw_oidc_"


def own_name(meaning: bytes) -> str:
    """Return the default name of the session cookie, for sessions with this meaning."""
    return OWN + sha256(meaning).hexdigest()[:8]


def names_of(name: str) -> list[bytes]:
    """Return the possible names of a session's cookies."""
    return [prefix + each for each in _names(name.encode()) for prefix in (b"", PREFIX)]


def attempt_name(name: bytes, state: str) -> bytes:
    """Return the name of the cookie of a login attempt; without a state, the common prefix of these names."""
    return b"%b.at.%b" % (name, re.sub(r"[^A-Za-z0-9_-]", "", state)[:8].encode())


def attempts_of(name: str) -> list[bytes]:
    """Return the prefixes of the cookies for login attempts."""
    return [prefix + attempt_name(name.encode(), "") for prefix in (b"", PREFIX)]


class AmbiguousCookie(Exception):
    """A cookie occurs more than once, so its value is ambiguous."""


@final
class Jar:
    """The gateway's own cookies of a request by name; the others are for the upstream."""

    __slots__ = ("others", "ours", "repeated")

    def __init__(self, lines: Sequence[bytes], is_ours: Callable[[bytes], object]) -> None:
        """`lines`: the values of all Cookie headers."""
        self.ours: dict[bytes, bytes] = {}
        self.repeated: set[bytes] = set()
        others = []
        for line in lines:
            for pair in line.split(b";"):
                name, equals, value = pair.strip(b" \t").partition(b"=")
                if not is_ours(name):
                    if name or equals:
                        others.append(pair.strip(b" \t"))
                elif name in self.ours:
                    self.repeated.add(name)
                else:
                    self.ours[name] = value
        self.others = b"; ".join(others)
        """Cookies that are forwarded to the upstream."""

    def value(self, name: bytes) -> bytes | None:
        """Return the joined value of this name; None: it is missing or incomplete. Raises `AmbiguousCookie`."""
        first = self._piece(name)
        if first is None:
            return None
        number, tilde, begun = first.partition(b"~")
        if not tilde or len(number) != 1 or not b"1" <= number <= b"%d" % MOST_PIECES:
            return None
        pieces = [begun]
        for place in range(1, int(number)):
            piece = self._piece(b"%b.%d" % (name, place))
            if piece is None:
                return None
            pieces.append(piece)
        return b"".join(pieces)

    def _piece(self, name: bytes) -> bytes | None:
        if name in self.repeated:
            raise AmbiguousCookie
        return self.ours.get(name)


def stored_name(line: bytes) -> bytes:
    """Return the name under which a browser sends the cookie that this value of `Set-Cookie` stores.

    A cookie without a name is sent as its value alone (RFC 6265bis section 5.8.3), which may look like a name.
    """
    pair = line.partition(b";")[0].strip(b" \t")
    return pair.removeprefix(b"=").lstrip(b" \t").partition(b"=")[0].rstrip(b" \t")


def set_cookies(name: bytes, value: bytes, attributes: bytes, there: Mapping[bytes, bytes]) -> list[bytes]:
    """Return the `Set-Cookie` values that set a value, and that clear remaining cookies (`there`) of a longer one.

    Raises `ValueError` if the value is too long.
    """
    if len(value) > LONGEST:
        raise ValueError(f"{len(value)} bytes do not fit in cookies")
    pieces = [value[at : at + _PIECE] for at in range(0, len(value), _PIECE)]
    pieces[0] = b"%d~%b" % (len(pieces), pieces[0])
    lines = [b"%b=%b%b" % (_name(name, place), piece, attributes) for place, piece in enumerate(pieces)]
    return lines + [_cleared(each, attributes) for each in _names(name)[len(pieces) :] if each in there]


def clear(name: bytes, attributes: bytes, there: Mapping[bytes, bytes]) -> list[bytes]:
    """Return the `Set-Cookie` values that remove the existing cookies (`there`) of this name."""
    return [_cleared(each, attributes) for each in _names(name) if each in there]


def _name(name: bytes, place: int) -> bytes:
    return b"%b.%d" % (name, place) if place else name


def _names(name: bytes) -> list[bytes]:
    return [_name(name, place) for place in range(MOST_PIECES)]


def _cleared(name: bytes, attributes: bytes) -> bytes:
    return b"%b=%b; Max-Age=0" % (name, attributes)
