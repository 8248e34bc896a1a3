"""Cookies of the gateway's own: taken out of what the upstream sees, and split where one would be too long.

A value of several cookies is cut into `NAME`, `NAME.1`, `NAME.2`…; the first begins with their number and `~`. RFC 6265
section 6.1 asks browsers for 4,096 bytes of name, value and attributes.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Final, final

MOST_PIECES: Final = 5
"""Most pieces of one value."""
_PIECE: Final = 3_600
LONGEST: Final = MOST_PIECES * _PIECE
"""Bytes of a value."""


PREFIX: Final = b"__Host-"
"""Prefix of a cookie that is of this host alone, and came by https."""
OWN: Final = "fastgw_oidc_"


def own_name(meaning: bytes) -> str:
    """Return the name of the cookie of sessions with this meaning, where the settings have none."""
    return OWN + sha256(meaning).hexdigest()[:8]


def names_of(name: str) -> list[bytes]:
    """The cookies that a session may be in."""
    return [prefix + each for each in _names(name.encode()) for prefix in (b"", PREFIX)]


def attempt_name(name: bytes, state: str) -> bytes:
    """The cookie of an attempt to log in. Without its state: how those of all attempts begin."""
    return b"%b.at.%b" % (name, re.sub(r"[^A-Za-z0-9_-]", "", state)[:8].encode())


def attempts_of(name: str) -> list[bytes]:
    """Return the prefixes of the cookies that attempts to log in may be in."""
    return [prefix + attempt_name(name.encode(), "") for prefix in (b"", PREFIX)]


class AmbiguousCookie(Exception):
    """A cookie is there more than once, so whose it is depends on who reads it."""


@final
class Jar:
    """The cookies of a request that are ours, by their names; the others are for the upstream."""

    __slots__ = ("others", "ours", "repeated")

    def __init__(self, lines: Sequence[bytes], is_ours: Callable[[bytes], object]) -> None:
        """`lines`: the values of all its Cookie fields."""
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
        """Cookies that go on to the upstream."""

    def value(self, name: bytes) -> bytes | None:
        """Return the value of this name, put together again; None: none, or not all of it. Raises `AmbiguousCookie`."""
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


def put(name: bytes, value: bytes, attributes: bytes, there: Mapping[bytes, bytes]) -> list[bytes]:
    """The `Set-Cookie` values that set a value, and that clear pieces which are `there` from a longer one.

    Raises `ValueError` when it is too long for a browser to be asked to keep it.
    """
    if len(value) > LONGEST:
        raise ValueError(f"{len(value)} bytes do not fit in cookies")
    pieces = [value[at : at + _PIECE] for at in range(0, len(value), _PIECE)]
    pieces[0] = b"%d~%b" % (len(pieces), pieces[0])
    lines = [b"%b=%b%b" % (_name(name, place), piece, attributes) for place, piece in enumerate(pieces)]
    return lines + [_cleared(each, attributes) for each in _names(name)[len(pieces) :] if each in there]


def clear(name: bytes, attributes: bytes, there: Mapping[bytes, bytes]) -> list[bytes]:
    """The `Set-Cookie` values that remove what is `there` by this name."""
    return [_cleared(each, attributes) for each in _names(name) if each in there]


def _name(name: bytes, place: int) -> bytes:
    return b"%b.%d" % (name, place) if place else name


def _names(name: bytes) -> list[bytes]:
    return [_name(name, place) for place in range(MOST_PIECES)]


def _cleared(name: bytes, attributes: bytes) -> bytes:
    return b"%b=%b; Max-Age=0" % (name, attributes)
