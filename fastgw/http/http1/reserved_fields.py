"""Fields that only some peers may send: found in a head, and taken out of it before anybody reads them.

Such a field says who a client is, or what it asked for, and upstreams believe it because a proxy is thought to have
written it: `True-Client-IP`, `X-Original-URL`, `SSL-Client-Verify`. `Proxy` becomes `HTTP_PROXY` in CGI and its heirs.
"""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, final

from fastgw.compiled import twin
from fastgw.http.fields import folded
from fastgw.http.grammar import TOKEN
from fastgw.http.http1.known_fields import SIGNS, spelled
from fastgw.http.http1.parser_reference import Http1RequestHead

ANYTHING: Final = b"*"
"""Marker at the end of a name: and whatever follows."""


@final
class _ReservedFields:
    """Field names, in whatever case and with any sign for a hyphen; one that ends in `*` is the beginning of names.

    Never among them are those in `Http1RequestHead.KNOWN`: they have rules of their own.
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
        """Whether it is one of them."""
        wanted = folded(name)
        return (wanted in self._names or wanted.startswith(self._begin)) and name.lower() not in Http1RequestHead.KNOWN

    def take_out_of(self, head: Http1RequestHead) -> tuple[bytes, ...]:
        """The names, as they were sent, of the lines that are in `head` no more, nor in anything made of it."""
        find = self._find
        if find is None or find.search(head.raw, head.fields_start - 1) is None:
            return ()
        return head.fields().take_out(self.has)


def _lines_of(patterns: Iterable[bytes]) -> re.Pattern[bytes] | None:
    """Return the pattern for the beginning of a line that may have one of these names; None: there are none."""
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
