"""Exchange for `explain`: the client is unknown, because the service that would identify it is not asked.

Rule: a filter that reads the client gets a placeholder, as in templates, and the access is recorded. A decision that it
makes then counts as undecided.
"""

from collections.abc import Mapping
from typing import Any, Final

from fastgw.consumers.index import Consumer
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.reply import ReplyBody, Response
from fastgw.exchange.shadow_exchange import ShadowExchange


class _Claim(str):
    """Placeholder for a claim and its nested claims."""

    __slots__ = ()

    def get(self, name: str, default: Any = None) -> "_Claim":
        return _Claim(f"{self[:-1]}.{name}}}")


Mapping.register(_Claim)


class _Claims(dict[str, Any]):
    """Placeholder for the claims of a token."""

    def get(self, name: str, default: Any = None) -> Any:
        return self[name]

    def __missing__(self, name: str) -> Any:
        return _Claim(f"{{claims.{name}}}")

    def __contains__(self, name: object) -> bool:
        return True

    def __bool__(self) -> bool:
        return True


STANDING_IN: Final[Mapping[str, Any]] = {
    "consumer": Consumer("{consumer.name}", frozenset(("{consumer.groups}",))),
    "claims": _Claims(),
}


def _watched(name: str) -> Any:
    slot: Any = Exchange.__dict__[name]
    standing_in = STANDING_IN[name]

    def get(self: Any) -> Any:
        if name in self.unknown:
            self.looked = True
            return standing_in
        return slot.__get__(self)

    def put(self: Any, value: Any) -> None:
        slot.__set__(self, value)
        if value and value is not standing_in:  # known after all: a filter has set it
            self.unknown -= {name}

    return property(get, put)


class _Watched:
    __slots__ = ()

    consumer = _watched("consumer")
    claims = _watched("claims")


class OpenExchange(_Watched, Exchange):
    """Exchange of `explain`. `unknown`: which of `consumer` and `claims` are unknown. `looked`: whether one of them was
    read. `asked`: filters that would have set them.
    """

    __slots__ = ("asked", "looked", "unknown")

    def __init__(self, *given: Any) -> None:
        self.asked: tuple[str, ...] = ()
        self.looked = False
        self.unknown: frozenset[str] = frozenset()
        super().__init__(*given)

    def _reply_in_pieces(self, response: Response, body: ReplyBody, is_fault: bool) -> None:
        body.close()  # the head alone is sufficient
        self.respond(response, b"", True, is_fault=is_fault)

    def leave_open(self, asked: str) -> None:
        """Record that from now on only this filter knows the client."""
        self.asked += (asked,)
        self.unknown = frozenset(STANDING_IN)


class OpenShadow(_Watched, ShadowExchange):
    """Exchange for `explain`, for a filter in shadow mode."""

    __slots__ = ("asked", "looked", "unknown")

    def __init__(self, real: OpenExchange) -> None:
        self.unknown: frozenset[str] = frozenset()
        super().__init__(real)
        self.asked, self.looked, self.unknown = real.asked, False, real.unknown
