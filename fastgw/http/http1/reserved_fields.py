"""Reserved fields: only trusted peers may send them. They are found in a head and removed before anything reads them.

Such a field states the identity of a client or its original request, and upstreams trust it because they assume that a
proxy has written it: `True-Client-IP`, `X-Original-URL`, `SSL-Client-Verify`. `Proxy` becomes `HTTP_PROXY` in CGI and
its successors.
"""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple, final

from fastgw.http.field_names import DEBUG_TOKEN
from fastgw.http.fields import folded
from fastgw.http.grammar import TOKEN
from fastgw.http.http1.known_fields import SIGNS, spelled
from fastgw.http.http1.parser import Http1RequestHead

ANYTHING: Final = b"*"
"""Marker at the end of a name: any continuation matches."""


class _Patterns(NamedTuple):
    """Names, `folded`, and prefixes of names."""

    names: frozenset[bytes]
    begin: tuple[bytes, ...]

    @classmethod
    def parse(cls, patterns: Iterable[bytes]) -> "_Patterns":
        names: set[bytes] = set()
        begin: set[bytes] = set()
        for each in patterns:
            (begin if each.endswith(ANYTHING) else names).add(folded(each.removesuffix(ANYTHING)))
        return cls(frozenset(names), tuple(sorted(begin)))

    def match(self, name: bytes) -> bool:
        return name in self.names or name.startswith(self.begin)


@final
class _ReservedFields:
    """Field names, in any case and with any punctuation in place of a hyphen; a name that ends in `*` is a prefix.

    Names in `Http1RequestHead.KNOWN` are never among them: they have rules of their own. `exempt`: names, but no
    prefixes, that are not reserved.
    """

    __slots__ = ("_exempt", "_find", "_reserved")

    def __init__(self, names: Iterable[bytes], exempt: Iterable[bytes] = ()) -> None:
        self._reserved, self._exempt = _Patterns.parse(names), frozenset(map(folded, exempt))
        self._find = _lines_of(self._reserved)

    def __repr__(self) -> str:
        return f"<ReservedFields {len(self._reserved.names) + len(self._reserved.begin)} names>"

    def has(self, name: bytes) -> bool:
        """Whether `name` is one of them."""
        wanted = folded(name)
        if not self._reserved.match(wanted) or wanted in self._exempt:
            return False
        return name.lower() not in Http1RequestHead.KNOWN

    def take_out_of(self, head: Http1RequestHead) -> tuple[bytes, ...]:
        """Remove the lines from `head` and return their names as they were sent."""
        find = self._find
        if find is None or find.search(head.raw, head.fields_start - 1) is None:
            return ()
        return head.fields().take_out(self.has)


def _lines_of(patterns: _Patterns) -> re.Pattern[bytes] | None:
    """Return the pattern for the beginning of a line with one of these names; None: there are no names."""
    options = [_spelled(patterns.names) + b":"] if patterns.names else []
    if patterns.begin:
        options.append(_spelled(patterns.begin) + TOKEN + b"*+:")
    return re.compile(b"\n(?:%b)" % b"|".join(options)) if options else None


def _spelled(names: Iterable[bytes]) -> bytes:
    return spelled([name.decode("ascii") for name in names], SIGNS).encode()


if TYPE_CHECKING:
    ReservedFields = _ReservedFields
else:
    from fastgw.http.http1._reserved_fields import ReservedFields

OWN_FIELDS: Final = ReservedFields((DEBUG_TOKEN,))
"""Fields that are for the gateway alone: they are removed from the requests of trusted peers, too."""
