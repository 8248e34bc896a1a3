"""request_parameters: add headers and query parameters to requests that lack them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, final
from urllib.parse import parse_qsl, quote

from fastgw.config.base.value_types import FieldName, QueryText
from fastgw.config.settings.credentials import Values, Word, check_own
from fastgw.config.settings.gateway import NONE
from fastgw.config.settings.secrets import Secret
from fastgw.exchange.exchange import UNCHANGED_QUERY
from fastgw.filters.api import Env, Exchange, Filter, Hooks, Phase
from fastgw.http.fields import folded
from fastgw.http.grammar import IS_VALUE
from fastgw.http.percent_encoding import decode_form_text

_SIGN: Final = re.compile(rb"[^0-9A-Za-z]")


class RequestParameters(Filter, name="request_parameters", phase=Phase.CREDENTIALS, order=10):  # type: ignore[literal-required]  # order: ours
    """Add headers and query parameters to requests, such as the tenant or the key that an API requires.

    Values from the client take precedence: a header is not added if the client has sent it, or one whose name differs
    only in punctuation (`X_Tenant`); a query parameter is not added if the client has sent it. Headers and parameters
    that earlier filters have removed count as not sent, and those that they have added take precedence.

    Values are secret: no log has them, `explain` shows `***`, and neither `mirror` nor the `fallback` of a route sends
    them.
    """

    headers: Mapping[FieldName, Values] = NONE
    """Headers; several values are sent as several header lines."""
    query: Mapping[Word, Values] = NONE
    """Query parameters, appended to those of the client; several values are sent as several parameters."""
    query_first: QueryText = ""
    """Query that is put before the client's query unchanged, whatever the client sends: if both have a parameter, both
    values are sent."""

    for_its_upstream = True

    def __post_init__(self) -> None:
        if not self.headers and not self.query and not self.query_first:
            raise ValueError("expected at least one of `headers`, `query` and `query_first`")
        check_own(self.headers)

    def secret_names(self) -> Iterable[str]:
        return (*self.headers, *self.query, *(name for name, _ in parse_qsl(self.query_first, keep_blank_values=True)))

    def build(self, env: Env) -> Hooks:
        fields = {name: field_lines(name, values_of(env, said)) for name, said in self.headers.items()}
        parameters = {name: parameters_named(name, values_of(env, said)) for name, said in self.query.items()}
        return Hooks(request=_Added(fields, parameters, self.query_first.encode()).request)


def values_of(env: Env, said: Values) -> Sequence[str]:
    """Return the value of one secret, or of several. Raises `SecretError`."""
    return [env.secret(each) for each in ((said,) if isinstance(said, Secret) else said)]


def field_lines(name: str, values: Iterable[str]) -> bytes:
    """Return a header line for each value. Raises `ValueError` for an invalid value, without showing it."""
    lines = b""
    for text in values:
        value = text.encode()
        if IS_VALUE(value) is None or value != value.strip(b" \t"):
            raise ValueError(f"the secret for {name} is not a single line")
        lines += b"%b: %b\r\n" % (name.encode(), value)
    return lines


def parameters_named(name: str, values: Iterable[str]) -> bytes:
    """Serialized parameters of a query, joined by `&`."""
    return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for value in values).encode()


@final
class _Added:
    """Additions to the requests of a route. `fields`: serialized lines; `parameters`, `first`: parts of a query."""

    __slots__ = ("_all_lines", "_all_parameters", "_first", "_is_present", "_lines", "_parameters")

    def __init__(self, fields: Mapping[str, bytes], parameters: Mapping[str, bytes], first: bytes) -> None:
        self._first = first
        self._lines = {folded(name.encode()): lines for name, lines in fields.items()}
        self._all_lines = b"".join(fields.values())
        # Matches the line of such a header, or of one whose name differs only in punctuation.
        names = (rb"[^0-9A-Za-z:\r\n]".join(_SIGN.split(name)) for name in self._lines)
        self._is_present = re.compile(rb"\n(?i:%b):" % b"|".join(names)).search
        self._parameters = {name.encode(): text for name, text in parameters.items()}
        self._all_parameters = b"&".join(parameters.values())

    def request(self, exchange: Exchange) -> None:
        exchange.keep_from_others()
        if self._all_lines:
            exchange.request_added += self._missing_lines(exchange)
        if self._all_parameters or self._first:
            query = exchange.query_sent
            if query is UNCHANGED_QUERY:
                query = exchange.query
            if self._first:
                query = exchange.query_sent = self._first + b"&" + query if query else self._first
            if not self._all_parameters:
                return
            if not query:
                exchange.query_sent = self._all_parameters
            elif missing := self._missing_parameters(query):
                exchange.query_sent = query + b"&" + missing

    def _missing_lines(self, exchange: Exchange) -> bytes:
        head, added = exchange.head, exchange.request_added
        query_match = self._is_present(b"\n" + added)
        if not query_match and head.edited() is None and not head.any_line(self._is_present):
            return self._all_lines
        said = {folded(name) for name, _ in exchange.headers} - set(map(folded, exchange.request_dropped))
        said |= {folded(line.partition(b":")[0]) for line in added.split(b"\r\n")}
        return b"".join(lines for name, lines in self._lines.items() if name not in said)

    def _missing_parameters(self, query: bytes) -> bytes:
        said = {decode_form_text(part.partition(b"=")[0]) for part in query.split(b"&")}
        if said.isdisjoint(self._parameters):
            return self._all_parameters
        return b"&".join(text for name, text in self._parameters.items() if name not in said)
