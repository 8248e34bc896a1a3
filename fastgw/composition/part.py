"""Parts of a composition: the requests of each, compiled from the settings."""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Final, TypeAlias

import orjson
from msgspec import msgpack

from fastgw.composition.rules import OF_VALUES, AnswerRules, member_begin, shaping
from fastgw.composition.templates import Body, MissingValue, TargetTemplate, TemplateValues, header_value
from fastgw.config.base.part_templates import Pieces, TemplateVariable, parse_list, parse_pieces
from fastgw.config.settings.compose import Part
from fastgw.exchange.exchange import Exchange
from fastgw.filters.authentication.templates import Unfit, raw_value
from fastgw.http.http1.made_request import field_lines
from fastgw.http.percent_encoding import decode_form_text
from fastgw.upstream.forwarding.forward_action import Forward
from fastgw.upstream.upstream import Upstream

_ALL: Final = "*"
_MOST_DESCRIBED: Final = 64 * 1024
"""Bytes of the body of a failure in its description."""
_UNIQUE: Final = frozenset(("request_id", "uuid", "latency", "time.unix", "time.unix_ms", "time.iso"))
"""Variables that no two requests have in common."""
_TYPE: Final = "content-type"
_JSON: Final[Pieces] = (b"application/json",)
_IDENTITY: Final = (b"Accept-Encoding", b"identity")


PartRequest: TypeAlias = tuple[bytes, bytes, bytes]
"""Request of a part, ready to be sent: target, header lines as of `field_lines`, and body."""


class CompiledPart:
    """A part with its templates and rules."""

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
        self.followers: tuple[CompiledPart, ...] = ()
        """Parts that wait for this one; set when all are compiled."""
        self.name = settings.name
        self.method = settings.method.encode()
        self.rules = AnswerRules.of(settings)
        self.encoded_rules = msgpack.encode(self.rules)
        self.shape = shaping(self.rules)
        self.cost = OF_VALUES if settings.flatmap else 1
        """How many times as long as the check of an answer its use takes."""
        self.group_begin = None if settings.group is None else member_begin(settings.group)
        self._list_begin = member_begin(settings.group or settings.wrap)
        self.list_at = None if settings.for_each is None else parse_list(settings.for_each)
        default = settings.default
        self.default = default.encode() if default is not None and default.startswith("{") else None
        error_as = settings.error_as
        self.error_name = None if error_as is None else error_as.replace("{name}", settings.name)
        self.target = TargetTemplate(settings.path)
        self._body = None if settings.body is None or settings.takes_body else Body(settings.body)
        fields = [(name.encode(), parse_pieces(text)) for name, text in settings.headers.items()]
        own = {name.lower() for name in settings.headers}
        if self._body is not None and _TYPE not in own:
            fields.append((b"Content-Type", _JSON))
            own.add(_TYPE)  # that of the client is for its own body
        self._fields = tuple(fields)
        passed = dict.fromkeys(name.lower() for name in (*headers_to_pass, *settings.headers_to_pass))
        if settings.takes_body:
            passed[_TYPE] = None
        self._headers = tuple(name.encode() for name in passed if name not in own)
        parameters = (*query_to_pass, *settings.query_to_pass)
        self._own_parameters = frozenset(_parameter_names(settings.path))
        self._query = None if _ALL in parameters else frozenset(name.encode() for name in parameters)
        self._fixed_lines = self._constant_lines()
        """Header lines of each request; None: they have values of the request."""
        self._is_plain = settings.body is None and self._query == frozenset()
        """Whether its requests have neither a body nor parameters of the client."""
        self._variables = tuple(sorted({*self._variables_of_requests()} - _UNIQUE))
        variables = [*self._template_variables()]
        self.sources = tuple(dict.fromkeys((each.part, each.path) for each in variables if each.part))
        """Parts and paths of the values of earlier answers in its requests."""
        self.item_paths = tuple(dict.fromkeys(each.path for each in variables if each.is_item))
        """Paths of the values of an element in its requests."""

    def request(self, answers: TemplateValues, client_body: bytes) -> PartRequest:
        """Return the request with the values that `answers` has. Raises `MissingValue`."""
        target = self.target.expand(answers)
        if self._is_plain and self._fixed_lines is not None:
            return target, self._fixed_lines, b""
        exchange = answers.exchange
        if self._query is None or self._query:
            pairs = b"&".join(self._passed_pairs(exchange))
            if pairs:
                target += (b"&" if b"?" in target else b"?") + pairs
        if self._body is not None:
            body = self._body.expand(answers)
        else:
            body = client_body if self.settings.takes_body else b""
        if self._fixed_lines is not None:
            return (target, self._fixed_lines, body)
        fields = [(name, header_value(pieces, answers)) for name, pieces in self._fields]
        fields += [(name, value) for name in self._headers for value in exchange.current_values(name)]
        fields.append(_IDENTITY)
        try:
            return target, field_lines(fields), body
        except ValueError as error:
            raise MissingValue(str(error)) from None

    def key_values(self, exchange: Exchange) -> Iterator[bytes | None]:
        """Yield the values of the request in the requests of this part, except for those of its URL."""
        for name in self._headers:
            values = exchange.current_values(name)
            yield b"\n".join(values) if values else None  # an empty header is sent, too
        for variable in self._variables:
            try:
                yield raw_value(variable)(exchange)
            except Unfit:
                yield None

    def _variables_of_requests(self) -> Iterator[str]:
        """Yield the names of variables of a request that are not in its path, each time they are used."""
        for variable in self._template_variables():
            if not (variable.part or variable.is_item or variable.parameter):
                yield variable.name

    def _template_variables(self) -> Iterator[TemplateVariable]:
        """Yield the variables of its requests, each time they are used."""
        texts = [self.target.pieces, *(pieces for _, pieces in self._fields)]
        if self._body is not None:
            texts.append(self._body.variables)
        for pieces in texts:
            for piece in pieces:
                if isinstance(piece, TemplateVariable):
                    yield piece

    def _constant_lines(self) -> bytes | None:
        if self._headers:
            return None
        if any(isinstance(piece, TemplateVariable) for _, pieces in self._fields for piece in pieces):
            return None
        fields = [
            (name, b"".join(piece for piece in pieces if isinstance(piece, bytes))) for name, pieces in self._fields
        ]
        return field_lines([*fields, _IDENTITY])

    def merged_list(self, results: Sequence[bytes]) -> bytes:
        """Return the part, an object, for the answers to all elements."""
        return joined_list(results, self._list_begin + b"[", b"]}")

    def grouped(self, content: bytes) -> bytes:
        return content if self.group_begin is None else self.group_begin + content + b"}"

    def described_failure(self, status: int, body: bytes, body_type: bytes) -> bytes:
        """Return an object that describes a failure, with the beginning of its body. Only if `error_as` is set."""
        assert self.error_name is not None
        # A character that the limit cuts is left out; one that the body itself cuts is replaced.
        begin, _ = utf_8_decode(body[:_MOST_DESCRIBED], "replace", len(body) <= _MOST_DESCRIBED)
        said = {
            "http_status_code": status,
            "http_body": begin,
            "http_body_encoding": body_type.decode("latin-1"),
        }
        return orjson.dumps({self.error_name: {name: value for name, value in said.items() if value}})

    def _passed_pairs(self, exchange: Exchange) -> Iterator[bytes]:
        query = exchange.query_shown
        for pair in query.split(b"&") if query else ():
            name = decode_form_text(pair.partition(b"=")[0])
            if pair and name not in self._own_parameters and (self._query is None or name in self._query):
                yield pair


def joined_list(elements: Sequence[bytes], begin: bytes = b"[", end: bytes = b"]") -> bytes:
    """Return the text of an array, of any length: other threads have their turns between the elements."""
    text = BytesIO()
    for element in elements:
        text.write(begin)
        text.write(element)
        begin = b","
    text.write(end if elements else begin + end)
    return text.getvalue()


def _parameter_names(target: str) -> Iterator[bytes]:
    """Yield the names of the parameters in the query of a path, as it is written."""
    query = target.partition("?")[2]
    for pair in query.encode().split(b"&") if query else ():
        yield decode_form_text(pair.partition(b"=")[0])


class SentRequest:
    """Request with the changes of filters, for its conditions: those of a cache are not the client's."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange, self.method = exchange, exchange.method

    def values(self, name: bytes) -> list[bytes]:
        return self._exchange.current_values(name)
