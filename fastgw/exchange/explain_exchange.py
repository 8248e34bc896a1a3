"""An exchange of which it is not known who the client is, because who would know is not asked: for `explain` alone.

Rule: whoever looks is shown what stands for it in templates, and that it has looked is noted. What it decides then is
not decided.
"""

from collections.abc import Mapping
from typing import Any, Final

from fastgw.consumers.index import Consumer
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.reply import ReplyBody, Response
from fastgw.exchange.shadow_exchange import ShadowExchange


class _Claim(str):
    """A placeholder for a claim, and for those within it."""

    __slots__ = ()

    def get(self, name: str, default: Any = None) -> "_Claim":
        return _Claim(f"{self[:-1]}.{name}}}")


Mapping.register(_Claim)


class _Claims(dict[str, Any]):
    """A placeholder for the claims of a token."""

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
        if value and value is not standing_in:  # somebody knows after all
            self.unknown -= {name}

    return property(get, put)


class _Watched:
    __slots__ = ()

    consumer = _watched("consumer")
    claims = _watched("claims")


class OpenExchange(_Watched, Exchange):
    """`unknown`: which of `consumer` and `claims` are not known. `looked`: whether somebody has looked at one of them.
    `asked`: the filters that would have told them."""

    __slots__ = ("asked", "looked", "unknown")

    def __init__(self, *given: Any) -> None:
        self.asked: tuple[str, ...] = ()
        self.looked = False
        self.unknown: frozenset[str] = frozenset()
        super().__init__(*given)

    def _reply_in_pieces(self, response: Response, body: ReplyBody, is_fault: bool) -> None:
        body.close()  # the head tells all that is asked
        self.respond(response, b"", True, is_fault=is_fault)

    def leave_open(self, asked: str) -> None:
        """Only this filter knows from here on who the client is."""
        self.asked += (asked,)
        self.unknown = frozenset(STANDING_IN)


class OpenShadow(_Watched, ShadowExchange):
    """An exchange for `explain`, as a filter in shadow sees it."""

    __slots__ = ("asked", "looked", "unknown")

    def __init__(self, real: OpenExchange) -> None:
        self.unknown: frozenset[str] = frozenset()
        super().__init__(real)
        self.asked, self.looked, self.unknown = real.asked, False, real.unknown
