"""Changes to the headers of a message that are known before a step has run."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, reduce
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, cast, final

from fastgw.exchange.reply import NO_NAMES
from fastgw.http.fields import folded, without_fields

if TYPE_CHECKING:
    from fastgw.http.messages import RequestHead

MOST_JOINED: Final = 1024
"""Maximum number of joined changes that a process keeps: one for each origin, for example."""


@final
class SentFields(NamedTuple):
    """Changes to the headers of messages: lower-case names of headers that are not sent, together with their twins
    (`Fields`), and lines that are added.
    """

    dropped: frozenset[bytes]
    added: bytes

    def then(self, later: SentFields) -> SentFields:
        """Return these changes and later ones as one: a header that is added here may be dropped there."""
        if self == NO_SENT_FIELDS:
            return later  # the same object, whose names are recognized
        added = without_fields(self.added, frozenset(map(folded, later.dropped))) if self.added else b""
        return SentFields(self.dropped | later.dropped, added + later.added)


NO_SENT_FIELDS: Final = SentFields(NO_NAMES, b"")

FieldsStep: TypeAlias = "Callable[[RequestHead, Any], SentFields | None]"
"""The second argument is the `Peer` of the connection."""


class JoinedFields:
    """Changes that several filters make to the headers of a response, of which some depend on the request, as one
    `FieldsStep`. Equal ones are shared by thousands of routes.
    """

    def __init__(self, parts: tuple[SentFields | FieldsStep, ...]) -> None:
        """`parts`: in the order in which the changes are made."""
        self.parts = parts

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JoinedFields) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(self.parts)

    def __call__(self, head: RequestHead, peer: Any) -> SentFields | None:
        return self.fields_for(head, peer)

    def fields_for(self, head: RequestHead, peer: Any) -> SentFields | None:
        """Return the changes for this request; None: the response steps of the filters have to run."""
        found = []
        try:
            for part in self.parts:
                fields = part if type(part) is SentFields else part(head, peer)
                if fields is None:
                    return None
                found.append(fields)
            return join_found(tuple(found))
        except Exception:  # the edge of a filter: its response step runs
            return None


@lru_cache(MOST_JOINED)
def join_found(found: tuple[SentFields, ...]) -> SentFields:
    """Return changes of several filters as one. Raises `TypeError` for what a filter should not return."""
    for fields in found:
        if (type(fields), type(fields.dropped), type(fields.added)) != (SentFields, frozenset, bytes):
            raise TypeError(f"{fields!r} are no SentFields of a frozenset and bytes")
    return reduce(SentFields.then, found)


def join_fields(parts: tuple[SentFields | FieldsStep, ...]) -> SentFields | JoinedFields:
    """Return changes to the headers of a response, in this order, as one."""
    if any(type(part) is not SentFields for part in parts):
        return JoinedFields(parts)
    return reduce(SentFields.then, cast("tuple[SentFields, ...]", parts), NO_SENT_FIELDS)


@lru_cache(MOST_JOINED)
def join_names(names: frozenset[bytes], others: frozenset[bytes]) -> frozenset[bytes]:
    """Return all of these names; cached, because the serializer recognizes the same object."""
    return names | others


def fields_for_request(fields: SentFields | FieldsStep, head: RequestHead, peer: Any) -> SentFields | None:
    """Return the changes to the headers of the response to a request: `Chain.response_fields` for this request."""
    if type(fields) is SentFields:
        return fields
    return fields.fields_for(head, peer) if isinstance(fields, JoinedFields) else fields(head, peer)
