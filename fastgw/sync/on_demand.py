"""On-demand certificates (`acme.on_demand`): what workers know about clients' names, as control sends it in a feed.

A worker reads the certificate of a kept name from the storage itself, when it first needs it.
"""

from collections.abc import Collection, Mapping
from enum import IntEnum
from typing import Final, final

import msgspec
from msgspec import Struct

FEED: Final = "acme on-demand"
"""Key of this feed. No other source has it: keys of filters' feeds begin with a URL."""
MOST_REFUSED: Final = 1024
"""Maximum number of refused names that are remembered; above it those refused first are forgotten."""


class OrderRefusal(IntEnum):
    """Reason why no certificate is ordered for a name: its value is the position of its counter in shared memory."""

    NOT_ALLOWED = 0
    """`ask` has refused the name."""
    ASK_FAILED = 1
    """`ask` is unreachable, or has failed."""
    RATE = 2
    """`orders_per_hour` is reached."""
    NAMES = 3
    """`names` is reached."""
    BUSY = 4
    """Too many names are asked for at the same time."""
    ORDER_FAILED = 5
    """The order has failed."""


class OnDemandNames(Struct, frozen=True):
    """Names that workers have to know about."""

    kept: Mapping[str, str] = {}
    """Serial number of the certificate of each kept name: another one has to be read again."""
    refused: Mapping[str, float] = {}
    """Dates until which names are refused without asking control; monotonic seconds, one clock for all processes."""


def written(names: OnDemandNames) -> bytes:
    """Encode the names."""
    return msgspec.msgpack.encode(names)


def read(value: bytes) -> OnDemandNames:
    """Decode the names. b"": nothing was sent yet."""
    return msgspec.msgpack.decode(value, type=OnDemandNames) if value else OnDemandNames()


@final
class AllowedNames:
    """Names that match patterns: exact ones, and `*.` for any number of labels. Without patterns: all names.

    A look-up costs the labels of the name, however many patterns there are.
    """

    __slots__ = ("_below", "_exact")

    def __init__(self, patterns: Collection[str]) -> None:
        self._exact = frozenset(each for each in patterns if not each.startswith("*."))
        self._below = frozenset(each[2:] for each in patterns if each.startswith("*."))

    def __contains__(self, name: object) -> bool:
        """Whether a name matches, in lower case without a trailing dot."""
        if not isinstance(name, str) or not is_orderable(name):
            return False
        if name in self._exact or not (self._exact or self._below):
            return True
        parent = name
        while self._below and parent:
            parent = parent.partition(".")[2]
            if parent in self._below:
                return True
        return False


def is_orderable(name: str) -> bool:
    """Whether an issuer can issue a certificate for a server name: a host name of at least two labels."""
    labels = name.split(".")
    return len(name) <= 253 and len(labels) > 1 and not labels[-1].isdigit() and all(_is_label(each) for each in labels)


def _is_label(text: str) -> bool:
    return 0 < len(text) <= 63 and set(text) <= _LETTERS and text[0] != "-" and text[-1] != "-"


_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
