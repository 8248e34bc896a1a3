"""Parts of a composition: the requests of each, compiled from the settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import orjson

from fastgw.composition.rules import shaping
from fastgw.composition.templates import Body, TargetTemplate, TemplateValues, header_value
from fastgw.config.base.part_templates import parse_list, parse_pieces
from fastgw.config.settings.compose import Part
from fastgw.exchange import Exchange
from fastgw.exchange.exchange import UNCHANGED_QUERY
from fastgw.filters.api.credential_locations import decoded
from fastgw.http.json_tree import Node, Object, opened
from fastgw.upstream.forwarding.forward_action import Forward
from fastgw.upstream.upstream import Upstream

_ALL: Final = "*"
_TYPE: Final = b"content-type"


class PartRequest(NamedTuple):
    """A request of a part, ready to be sent."""

    target: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes


class CompiledPart:
    """A part with its templates and rules."""

    __slots__ = (
        "_body",
        "_fields",
        "_headers",
        "_query",
        "_target",
        "after",
        "default",
        "error_name",
        "forward",
        "index",
        "list_at",
        "method",
        "name",
        "settings",
        "shape",
        "upstream",
    )

    def __init__(
        self,
        index: int,
        settings: Part,
        upstream: Upstream,
        after: Sequence[int],
        headers_to_pass: Sequence[str],
        query_to_pass: Sequence[str],
        forward: Forward,
    ) -> None:
        self.index, self.settings, self.upstream, self.after = index, settings, upstream, tuple(after)
        self.forward = forward
        self.name = settings.name
        self.method = settings.method.encode()
        self.shape = shaping(settings)
        self.list_at = None if settings.for_each is None else parse_list(settings.for_each)
        self.default: Object | None = None
        if settings.default is not None:
            held = opened(settings.default.encode())
            self.default = held if isinstance(held, dict) else None
        error_as = settings.error_as
        self.error_name = None if error_as is None else error_as.replace("{name}", settings.name)
        self._target = TargetTemplate(settings.path)
        self._fields = tuple((name.encode(), parse_pieces(text)) for name, text in settings.headers.items())
        own = {name.lower() for name in settings.headers}
        passed = dict.fromkeys(name.lower() for name in (*headers_to_pass, *settings.headers_to_pass))
        self._headers = tuple(name.encode() for name in passed if name not in own)
        parameters = (*query_to_pass, *settings.query_to_pass)
        self._query = None if _ALL in parameters else frozenset(name.encode() for name in parameters)
        self._body = None if settings.body is None or settings.takes_body else Body(settings.body)

    def request(self, answers: TemplateValues, client_body: bytes) -> PartRequest:
        """Return the request with the values that `answers` has. Raises `MissingValue`."""
        exchange = answers.exchange
        target = self._target.expand(answers)
        if self._query is None or self._query:
            pairs = b"&".join(self._passed_pairs(exchange))
            if pairs:
                target += (b"&" if b"?" in target else b"?") + pairs
        fields = [(name, header_value(pieces, answers)) for name, pieces in self._fields]
        fields += passed_fields(exchange, self._headers)
        body = b""
        if self._body is not None:
            body = self._body.expand(answers)
            fields.append((b"Content-Type", b"application/json"))
        elif self.settings.takes_body:
            body = client_body
            if _TYPE not in self._headers:
                fields += passed_fields(exchange, (_TYPE,))
        fields.append((b"Accept-Encoding", b"identity"))
        return PartRequest(target, tuple(fields), body)

    def merged_list(self, results: Sequence[Node]) -> Object:
        """Return the part for the answers to all elements."""
        return {self.settings.group or self.settings.wrap: list(results)}

    def grouped(self, content: Object) -> Object:
        return content if self.settings.group is None else {self.settings.group: content}

    def described_failure(self, status: int, body: bytes, body_type: bytes) -> Object:
        """Return the members that describe a failure, if `error_as` is set."""
        if self.error_name is None:
            return {}
        said = {
            "http_status_code": status,
            "http_body": body.decode(errors="replace"),
            "http_body_encoding": body_type.decode("latin-1"),
        }
        return {self.error_name: orjson.dumps({name: value for name, value in said.items() if value})}

    def _passed_pairs(self, exchange: Exchange) -> Iterator[bytes]:
        others = exchange.for_others
        query = exchange.query_sent if others is None else others[2]
        if query is UNCHANGED_QUERY:
            query = exchange.query
        for pair in query.split(b"&") if query else ():
            if pair and (self._query is None or decoded(pair.partition(b"=")[0]) in self._query):
                yield pair


def passed_fields(exchange: Exchange, names: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the headers with these lower-case names, as the client has sent them and filters have changed them.

    Headers that filters have hidden, or have added for the upstream of another route only, are not passed.
    """
    if not names:
        return
    added, dropped, _ = exchange.for_others or (exchange.request_added, exchange.request_dropped, None)
    for name in names:
        if name not in dropped:
            for value in exchange.values(name):
                yield name, value
    for line in added.split(b"\r\n"):
        key, colon, value = line.partition(b":")
        if colon and key.lower() in names:
            yield key, value.strip(b" \t")
