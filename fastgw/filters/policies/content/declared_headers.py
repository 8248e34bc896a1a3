"""Headers that a schema declares, and other headers that a service could read in their place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, final

from fastgw.http.fields import folded, twins_of
from fastgw.json_pointer import pointer_of

if TYPE_CHECKING:
    from fastgw.filters.policies.content.helper_checks import Errors
    from fastgw.http.messages import RequestHead


@final
class DeclaredHeaders:
    """Search for headers whose names differ from declared ones in punctuation only, such as `X_Tenant`: no schema
    checks them, but CGI and WSGI make `HTTP_X_TENANT` of both (RFC 3875 section 4.1.18).
    """

    __slots__ = ("_by_folded_name", "_names", "_search")

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {name.lower().encode(): name for name in names}
        self._by_folded_name = {folded(name): declared for name, declared in self._names.items()}
        twins = twins_of(self._names)
        self._search = None if twins is None else twins.search

    def errors(self, head: RequestHead) -> Errors:
        """Return an error for each declared header that a request has under another name."""
        if self._search is None or not head.any_line(self._search):
            return []
        others = {folded(name) for name, _ in head.fields() if name.lower() not in self._names}
        return [
            {
                "in": "header",
                "pointer": pointer_of((declared,)),
                "keyword": "name",
                "detail": "expected the name as it is declared, not one that differs in punctuation only",
            }
            for name, declared in self._by_folded_name.items()
            if name in others
        ]
