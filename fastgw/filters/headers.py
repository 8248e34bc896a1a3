"""headers: set, add and remove fields of requests and responses."""

from collections.abc import Mapping
from typing import Annotated, Final

from msgspec import Meta

from fastgw.config.settings import NONE, Settings
from fastgw.config.values import FieldName, FieldValue
from fastgw.filters.api import Env, Exchange, Filter, Hooks, Outcome, Phase
from fastgw.wire.framing import RequestHead
from fastgw.wire.headers import Fields

_OURS: Final = RequestHead.DROPPED
Names = Annotated[tuple[FieldName, ...], Meta(max_length=100)]


class Edits(Settings):
    """What happens to the fields of a message, in this order: remove, set, add.

    For remove and set `-` and `_` in names are one: `X-User` takes `X_User` out too, which CGI, WSGI and PHP could not
    tell from it.
    """

    remove: Names = ()
    """Fields that are taken out."""
    set: Mapping[FieldName, FieldValue] = NONE
    """Fields that are there once, with this value, whatever was there before."""
    add: Mapping[FieldName, FieldValue] = NONE
    """Fields that are added behind those that are there."""

    def __post_init__(self) -> None:
        for name in (*self.remove, *self.set, *self.add):
            if name.lower().encode() in _OURS:
                raise ValueError(f"`{name}` belongs to the connection and is written by the gateway")

    def empty(self) -> bool:
        return not (self.remove or self.set or self.add)


class Headers(Filter, name="headers", phase=Phase.TRANSFORM):
    """Change the fields of what goes to the upstream and of what comes back."""

    request: Edits = Edits()
    """For the request, as the upstream gets it."""
    response: Edits = Edits()
    """For the response, whoever made it."""

    def build(self, env: Env) -> Hooks:
        to_request, to_response = _Edit(self.request), _Edit(self.response)

        def request(exchange: Exchange) -> Outcome:
            to_request(exchange.headers)
            return None

        def response(exchange: Exchange) -> None:
            assert exchange.response is not None
            to_response(exchange.response.headers)

        return Hooks(
            request=None if self.request.empty() else request,
            response=None if self.response.empty() else response,
        )


class _Edit:
    """Edits with their names and values as bytes."""

    __slots__ = ("_add", "_remove", "_set")

    def __init__(self, edits: Edits) -> None:
        self._remove = tuple(name.encode() for name in edits.remove)
        self._set = tuple((name.encode(), value.encode()) for name, value in edits.set.items())
        self._add = tuple((name.encode(), value.encode()) for name, value in edits.add.items())

    def __call__(self, fields: Fields) -> None:
        for name in self._remove:
            fields.remove(name)
        for name, value in self._set:
            fields.set(name, value)
        for name, value in self._add:
            fields.add(name, value)
