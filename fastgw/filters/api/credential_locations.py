"""Locations of a credential: headers, query parameters, cookies; how it is found there, and removed."""

from collections.abc import Iterator
from typing import Final, final

from fastgw.exchange import Exchange
from fastgw.exchange.exchange import UNCHANGED_QUERY
from fastgw.http.percent_encoding import decode_form_text


@final
class CredentialLocations:
    """Locations of one kind of credential. `fields`: header names in lower case. `beginnings`: prefixes of names of
    cookies that are removed with it but are not credentials.
    """

    __slots__ = ("_beginnings", "_cookies", "_dropped", "_fields", "_parameters")

    def __init__(
        self,
        fields: tuple[bytes, ...] = (),
        parameters: frozenset[bytes] = frozenset(),
        cookies: frozenset[bytes] = frozenset(),
        beginnings: frozenset[bytes] = frozenset(),
    ) -> None:
        self._fields, self._parameters, self._cookies = fields, parameters, cookies
        self._beginnings = tuple(sorted(beginnings))
        self._dropped = frozenset(fields)

    @property
    def fields(self) -> frozenset[bytes]:
        return self._dropped

    @property
    def only_field(self) -> bytes:
        """The only location, if it is a header; otherwise empty."""
        return self._fields[0] if len(self._fields) == 1 and not self._parameters and not self._cookies else b""

    def has(self, where: str, name: str) -> bool:
        """Whether a header, query parameter or cookie is one of them. `where`: `header`, `query` or `cookie`."""
        if where == "header":
            return name.lower().encode() in self._dropped
        return name.encode() in (self._parameters if where == "query" else self._cookies)

    def __bool__(self) -> bool:
        return bool(self._fields or self._parameters or self._cookies or self._beginnings)

    def __or__(self, other: "CredentialLocations") -> "CredentialLocations":
        fields = dict.fromkeys((*self._fields, *other._fields))
        beginnings = frozenset((*self._beginnings, *other._beginnings))
        return CredentialLocations(
            tuple(fields), self._parameters | other._parameters, self._cookies | other._cookies, beginnings
        )

    def __sub__(self, other: "CredentialLocations") -> "CredentialLocations":
        fields = tuple(name for name in self._fields if name not in other._fields)
        beginnings = frozenset(self._beginnings).difference(other._beginnings)
        return CredentialLocations(
            fields, self._parameters - other._parameters, self._cookies - other._cookies, beginnings
        )

    def values(self, exchange: Exchange) -> list[bytes]:
        """Return all values in these locations of a request."""
        values = exchange.head.values
        found = [value for name in self._fields for value in values(name)]
        if self._parameters:
            found += _parameters(exchange.query, self._parameters)
        if self._cookies:
            found += (value for line in values(b"cookie") for value in _cookies(line, self._cookies))
        return found

    def hide(self, exchange: Exchange) -> None:
        """Remove the credentials from the request for the upstream."""
        exchange.request_dropped |= self._dropped
        query = exchange.query if exchange.query_sent is UNCHANGED_QUERY else exchange.query_sent
        if self._parameters and query:  # without those that other filters have hidden
            kept = [
                part for part in query.split(b"&") if decode_form_text(part.partition(b"=")[0]) not in self._parameters
            ]
            rest = b"&".join(kept)
            if rest != query:
                exchange.query_sent = rest or None
        if self._cookies or self._beginnings:
            self._hide_cookies(exchange)

    def _hide_cookies(self, exchange: Exchange) -> None:
        if not any(map(self._is_hidden, b";".join(exchange.head.values(b"cookie")).split(b";"))):
            return
        fields = exchange.headers
        lines = fields.get_all(b"cookie")
        fields.remove(b"cookie")
        for line in lines:
            rest = b";".join(pair for pair in line.split(b";") if not self._is_hidden(pair)).strip()
            if rest:
                fields.add(b"Cookie", rest)

    def _is_hidden(self, pair: bytes) -> bool:
        name = pair.partition(b"=")[0].strip()
        return name in self._cookies or name.startswith(self._beginnings)


NOWHERE: Final = CredentialLocations()
AUTHORIZATION: Final = CredentialLocations((b"authorization",))


def _parameters(query: bytes | None, names: frozenset[bytes]) -> Iterator[bytes]:
    """Return the values of these parameters, decoded."""
    for part in query.split(b"&") if query else ():
        name, _, value = part.partition(b"=")
        if decode_form_text(name) in names:
            yield decode_form_text(value)


def _cookies(line: bytes, names: frozenset[bytes]) -> list[bytes]:
    """Return the values of these cookies (RFC 6265 section 5.4)."""
    pairs = (part.partition(b"=") for part in line.split(b";"))
    return [value.strip() for name, _, value in pairs if name.strip() in names]
