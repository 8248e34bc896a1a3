"""Reserved fields: only trusted peers may send them. They are found in a head and removed before anything reads them.

Such a field states the identity of a client or its original request, and upstreams trust it because they assume that a
proxy has written it: `True-Client-IP`, `X-Original-URL`, `SSL-Client-Verify`. `Proxy` becomes `HTTP_PROXY` in CGI and
its successors.
"""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, final

from fastgw.compiled import twin
from fastgw.http.field_names import DEBUG_TOKEN
from fastgw.http.fields import folded
from fastgw.http.grammar import TOKEN
from fastgw.http.http1.known_fields import SIGNS, spelled
from fastgw.http.http1.parser_reference import Http1RequestHead

ANYTHING: Final = b"*"
"""Marker at the end of a name: any continuation matches."""


@final
class _ReservedFields:
    """Field names, in any case and with any punctuation in place of a hyphen; a name that ends in `*` is a prefix.

    Names in `Http1RequestHead.KNOWN` are not allowed here: they have rules of their own.
    """

    __slots__ = ("_begin", "_find", "_names")

    def __init__(self, names: Iterable[bytes]) -> None:
        names = frozenset(names)
        self._begin = tuple(sorted(folded(name[:-1]) for name in names if name.endswith(ANYTHING)))
        self._names = frozenset(folded(name) for name in names if not name.endswith(ANYTHING))
        self._find = _lines_of(names)

    def __repr__(self) -> str:
        return f"<ReservedFields {len(self._names) + len(self._begin)} names>"

    def has(self, name: bytes) -> bool:
        """Whether `name` is one of them."""
        wanted = folded(name)
        return (wanted in self._names or wanted.startswith(self._begin)) and name.lower() not in Http1RequestHead.KNOWN

    def take_out_of(self, head: Http1RequestHead) -> tuple[bytes, ...]:
        """Remove the lines from `head` and return their names as they were sent."""
        find = self._find
        if find is None or find.search(head.raw, head.fields_start - 1) is None:
            return ()
        return head.fields().take_out(self.has)


def _lines_of(patterns: Iterable[bytes]) -> re.Pattern[bytes] | None:
    """Return the pattern for the beginning of a line with one of these names; None: there are no names."""
    patterns = frozenset(patterns)
    begin = {folded(name[:-1]).decode("ascii") for name in patterns if name.endswith(ANYTHING)}
    names = {folded(name).decode("ascii") for name in patterns if not name.endswith(ANYTHING)}
    options = [spelled(names, SIGNS).encode() + b":"] if names else []
    if begin:
        options.append(spelled(begin, SIGNS).encode() + TOKEN + b"*+:")
    return re.compile(b"\n(?:%b)" % b"|".join(options)) if options else None


if TYPE_CHECKING:
    ReservedFields = _ReservedFields
else:
    _twin = twin("fastgw.http.http1._reserved_fields")
    ReservedFields = _ReservedFields if _twin is None else _twin.ReservedFields

OWN_FIELDS: Final = ReservedFields((DEBUG_TOKEN,))
"""Fields that are for the gateway alone: they are removed from the requests of trusted peers, too."""
