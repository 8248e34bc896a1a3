"""JSON and messages: requests are made of path, query and body, and responses become JSON (the mapping of proto3).

The mapping itself is that of the protobuf library. Imported only where the filter is configured: it needs
`fastgw[grpc]`.
"""

from base64 import b64encode
from typing import Any, Final, NamedTuple, final
from urllib.parse import unquote_to_bytes

import orjson
from google.protobuf import json_format, message_factory
from google.protobuf.message import DecodeError

from fastgw.filters.policies.grpc_transcode.conversions import PIECE
from fastgw.filters.policies.grpc_transcode.descriptors import (
    HTTP_BODY,
    WHOLE,
    Api,
    Binding,
    field_of,
    is_leaf,
)
from fastgw.filters.policies.grpc_transcode.json_input import (
    MOST_DEPTH,
    WRAPPERS,
    InvalidRequest,
    quoted,
    read_json,
)
from fastgw.filters.policies.grpc_transcode.json_size import JsonSizes, JsonTooLarge
from fastgw.http.grpc.details import Detail, read_details

MOST_PARAMETERS: Final = 1000
"""Query parameters of a request."""
_READ_VALUE: Final = 64
"""Cost of a value of a request: 10 us. The cost of a byte is 1."""
_WRITTEN_VALUE: Final = 24
"""Cost of a value of a response: 4 us."""
UNMEASURED: Final = 8
"""Cost of a byte of a response that is not measured."""
_COPIED: Final = 16
"""Bytes that are passed as they are for the cost of one that is converted."""
_GROWTH: Final = 64
"""A message that is shorter than the limit by this factor is written before its JSON is measured, and checked then."""
_STRING, _BYTES = 9, 12  # types of fields, as descriptor.proto numbers them
_SHOWN: Final = 300
"""Characters of an error of the library that a client is shown."""


class InvalidResponse(ValueError):
    """Raised for a message of the upstream that cannot be converted. The text is for the log."""


class ResponseTooLarge(InvalidResponse):
    """Raised for a message of the upstream that is too long as JSON."""


class JsonFormat(NamedTuple):
    """Options of the JSON that is written and read."""

    preserve_proto_field_names: bool
    always_print_primitive_fields: bool
    enums_as_integers: bool
    ignores_unknown_fields: bool
    ignored_parameters: frozenset[str]


# requests


@final
class RequestReader:
    """Makes the messages of one request: of what its path and query say, and of its body.

    Raises `InvalidRequest`.
    """

    def __init__(
        self, binding: Binding, segments: list[bytes], query: bytes | None, format: JsonFormat, api: Api
    ) -> None:
        self._binding, self._format, self._api = binding, format, api
        self.is_raw = binding.body is not None and is_http_body(binding.method.input, binding.body)
        """Whether messages hold a body of any type, which passes as it is."""
        self._tree: dict[str, Any] = {}
        self._given = len(binding.variables)  # values of the path and the query
        for place, fields in binding.variables:
            variable = binding.template.variables[place]
            name = ".".join(variable.field_path)
            try:
                text = variable.value_in(segments)
            except UnicodeDecodeError:
                raise InvalidRequest(f"{name} in the path is not UTF-8.") from None
            _put(self._tree, fields, _value_of(fields[-1], text, f"{name} in the path"))
        if query:
            self._read_query(query)

    def cost(self, body: bytes) -> int:
        """Return the cost of the conversion of a body, as `conversions` counts it."""
        binding = self._binding
        if binding.body is None or self.is_raw:
            return len(body) // _COPIED + _READ_VALUE * self._given
        # Each value is behind a bracket or a comma.
        values = self._given + body.count(b",") + body.count(b"[") + body.count(b"{")
        return len(body) + _READ_VALUE * values

    def read(self, body: bytes, content_type: bytes = b"") -> bytes:
        """Return the message for a body, serialized. `content_type`: as sent, for a body that is passed as it is."""
        binding = self._binding
        message = binding.method.input()
        if binding.body is None:
            if body and not self._format.ignores_unknown_fields:
                raise InvalidRequest("This request takes no body.")
        elif self.is_raw:
            holder = message if binding.body == WHOLE else getattr(message, binding.body.name)
            holder.data, holder.content_type = body, content_type.decode("latin-1")
        elif body:
            value = read_json(body)
            if binding.body == WHOLE:
                if not isinstance(value, dict) and not _is_special(binding.method.input.DESCRIPTOR):
                    raise InvalidRequest("The body is not a JSON object.")
                self._parse(value, message)
            else:
                self._parse({binding.body.name: value}, message)
        if self._tree:
            self._parse(self._tree, message)
        try:
            return message.SerializeToString()  # type: ignore[no-any-return]
        except Exception as error:  # the edge of the library, which misses required fields of proto2
            raise InvalidRequest(_shown(error)) from error

    def _parse(self, value: Any, message: Any) -> None:
        checked = self._api.checker.check(value, message.DESCRIPTOR)
        try:
            json_format.ParseDict(
                checked,
                message,
                ignore_unknown_fields=self._format.ignores_unknown_fields,
                descriptor_pool=self._api.pool,
                max_recursion_depth=MOST_DEPTH,
            )
        except Exception as error:  # the edge of the library, which raises many kinds
            cause = _cause_in_python(error)
            if isinstance(cause, OverflowError):
                raise InvalidRequest("The JSON has a number that is too large.") from error
            if cause is not None:
                name = message.DESCRIPTOR.full_name
                raise InvalidRequest(f"The JSON has a value of another type than {name} has.") from error
            raise InvalidRequest(_shown(error)) from error

    def _read_query(self, query: bytes) -> None:
        pieces = query.split(b"&")
        if len(pieces) > MOST_PARAMETERS:
            raise InvalidRequest(f"The query has more than {MOST_PARAMETERS} parameters.")
        self._given += len(pieces)
        texts: dict[str, list[str]] = {}
        for piece in filter(None, pieces):
            written, _, given = piece.partition(b"=")
            try:
                texts.setdefault(_unescaped(written), []).append(_unescaped(given))
            except UnicodeDecodeError:
                raise InvalidRequest("The query is not UTF-8.") from None
        bound = {binding[1] for binding in self._binding.variables}
        seen: dict[tuple[Any, ...], str] = {}
        for name, values in texts.items():
            if name in self._format.ignored_parameters:
                continue
            fields = self._parameter(name)
            if fields is None:
                continue
            if fields in bound:
                raise InvalidRequest(f"{quoted(name)} is in the path and in the query.")
            if fields in seen:
                raise InvalidRequest(f"{quoted(name)} and {quoted(seen[fields])} are the same field.")
            seen[fields] = name
            field, where = fields[-1], f"the query parameter {quoted(name)}"
            if field.is_repeated:
                _put(self._tree, fields, [_value_of(field, value, where) for value in values])
            elif len(values) > 1:
                raise InvalidRequest(f"The query parameter {quoted(name)} is given {len(values)} times.")
            else:
                _put(self._tree, fields, _value_of(field, values[0], where))

    def _parameter(self, name: str) -> tuple[Any, ...] | None:
        """Return the fields that a query parameter leads to; None: it is ignored."""
        binding, ignores = self._binding, self._format.ignores_unknown_fields
        message = binding.method.input.DESCRIPTOR
        if binding.body == WHOLE:
            if ignores:
                return None
            raise InvalidRequest(f"The query parameter {quoted(name)} is unknown: all fields are in the body.")
        fields: list[Any] = []
        kind = message
        for part in name.split("."):
            field = None if kind is None or (fields and fields[-1].is_repeated) else field_of(kind, part)
            if field is None:
                if ignores:
                    return None
                raise InvalidRequest(f"The query parameter {quoted(name)} is not a field of {message.full_name}.")
            fields.append(field)
            kind = field.message_type
        if binding.body is not None and fields[0] is binding.body:
            raise InvalidRequest(f"The query parameter {quoted(name)} is a field of the body.")
        if not is_leaf(fields[-1]):
            raise InvalidRequest(f"The query parameter {quoted(name)} is a message; expected one of its fields.")
        return tuple(fields)


def _unescaped(text: bytes) -> str:
    """Raises `UnicodeDecodeError`."""
    return unquote_to_bytes(text.replace(b"+", b" ")).decode("utf-8")


def _put(tree: dict[str, Any], fields: tuple[Any, ...], value: Any) -> None:
    for field in fields[:-1]:
        tree = tree.setdefault(field.name, {})
    tree[fields[-1].name] = value


def _value_of(field: Any, text: str, where: str) -> Any:
    """Return the JSON value that a text stands for, as the value of a field or of one element."""
    message = field.message_type
    kind = field.cpp_type
    if message is not None:
        if message.full_name not in WRAPPERS:
            return text
        kind = message.fields_by_name["value"].cpp_type
    if kind == field.CPPTYPE_BOOL:
        if text not in ("true", "false"):
            raise InvalidRequest(f"{where[0].upper()}{where[1:]} is not true or false.")
        return text == "true"
    return text


def _cause_in_python(error: Exception) -> BaseException | None:
    """Return the exception of Python whose text an error of the library has; it says nothing to a client."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, (TypeError, AttributeError, LookupError, OverflowError)):
        cause = cause.__cause__
    return cause if cause is not None and str(cause).rstrip(".") in str(error) else None


def _shown(error: Exception) -> str:
    """An error of the library, for the client: without its list of all fields."""
    text = " ".join(str(error).split()).partition(" Available Fields(")[0] or "The request does not fit the method."
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


# responses


@final
class ResponseWriter:
    """Converts the response messages of a method. Raises `InvalidResponse`. `most`: maximum bytes of JSON."""

    def __init__(self, binding: Binding, format: JsonFormat, api: Api, most: int) -> None:
        self._output, self._field = binding.method.output, binding.response_body
        self._format, self._api, self._most = format, api, most
        self._sizes = _sizes_of(format, api)
        self.is_raw = is_http_body(binding.method.output, binding.response_body or WHOLE)
        """Whether messages hold a body of any type, which passes as it is."""

    def cost(self, message: bytes) -> int:
        """Return the cost of the conversion of a message, as `conversions` counts it."""
        size = len(message)
        if self.is_raw:
            return size // _COPIED
        if size > PIECE:
            return size * UNMEASURED  # to measure it on the loop would take too long
        try:
            return self._sizes.least(self._decoded(message), PIECE, self._field, _WRITTEN_VALUE)
        except JsonTooLarge:
            return PIECE + 1
        except (ValueError, RecursionError):  # it is no message, or cannot be JSON: `write` raises it again
            return size

    def write(self, message: bytes) -> bytes:
        """Return a serialized message as JSON."""
        decoded = self._decoded(message)
        try:
            if len(message) * _GROWTH > self._most:
                self._sizes.least(decoded, self._most, self._field)  # before there are objects for all of its values
            written = orjson.dumps(self._to_json(decoded))
        except JsonTooLarge as error:
            raise ResponseTooLarge(str(error)) from error
        except Exception as error:  # the edge of the library: an Any of an unknown type, an invalid Timestamp
            raise InvalidResponse(f"a message cannot be written as JSON: {_shown(error)}") from error
        if len(written) > self._most:
            raise ResponseTooLarge(f"the JSON of a message is longer than the {self._most} bytes allowed")
        return written

    def raw(self, message: bytes) -> tuple[bytes, bytes]:
        """Return the content type and the bytes of a message that holds a body."""
        decoded = self._decoded(message)
        body = decoded if self._field is None else getattr(decoded, self._field.name)
        return body.content_type.encode("latin-1", "replace"), body.data

    def _decoded(self, message: bytes) -> Any:
        try:
            return self._output.FromString(message)
        except (DecodeError, ValueError) as error:
            raise InvalidResponse(f"a message is not a {self._output.DESCRIPTOR.full_name}") from error

    def _to_json(self, message: Any) -> Any:
        field = self._field
        if field is None:
            return self._dict(message, self._format.always_print_primitive_fields)
        # With all fields printed, the one that is looked for is there unless it is a message that is not set.
        only = message.__class__()
        if field.is_repeated or field.message_type is None or message.HasField(field.name):
            only.MergeFrom(message)
            for other in message.DESCRIPTOR.fields:
                if other is not field and other.name != field.name:
                    only.ClearField(other.name)
        value = self._dict(only, self._format.always_print_primitive_fields)
        name = field.name if self._format.preserve_proto_field_names else field.json_name
        if name in value:
            return value[name]
        if field.is_repeated:
            return {} if field.message_type is not None and field.message_type.GetOptions().map_entry else []
        if field.message_type is not None:
            return None
        return self._dict(only, True).get(name)

    def _dict(self, message: Any, with_defaults: bool) -> Any:
        return _as_dict(message, self._format, self._api, with_defaults)


def _sizes_of(format: JsonFormat, api: Api) -> JsonSizes:
    key = (
        format.preserve_proto_field_names,
        format.always_print_primitive_fields,
        format.enums_as_integers,
    )
    return api.sizes.get(key) or api.sizes.setdefault(key, JsonSizes(api.pool, *key))


def is_http_body(message: Any, field: Any) -> bool:
    """Whether a body of any type is passed in a message, or in a field of it, as google.api.HttpBody."""
    kind = message.DESCRIPTOR if field == WHOLE else None if field is None else field.message_type
    if kind is None or kind.full_name != HTTP_BODY or (field != WHOLE and field.is_repeated):
        return False
    named = kind.fields_by_name
    data, content_type = named.get("data"), named.get("content_type")
    types = None if data is None or content_type is None else (data.type, content_type.type)
    return bool(types == (_BYTES, _STRING))


def _is_special(kind: Any) -> bool:
    """Whether the JSON of a message is not an object of its fields."""
    return bool(kind.file.package == "google.protobuf")


# errors


def status_details(value: bytes | None, format: JsonFormat, api: Api) -> list[Any]:
    """Return the details of a `grpc-status-details-bin` as JSON; of a type that is not in the set as Base64."""
    return [_detail(each, format, api) for each in read_details(value)]


def _detail(detail: Detail, format: JsonFormat, api: Api) -> Any:
    try:
        kind = api.pool.FindMessageTypeByName(detail.type_name)
        message = message_factory.GetMessageClass(kind).FromString(detail.value)
        value = _as_dict(message, format, api, with_defaults=False)
    except Exception:  # the edge of the library: it is in the hands of the upstream what it says here
        return {"@type": detail.type_url, "value": b64encode(detail.value).decode("ascii")}
    return (
        {"@type": detail.type_url, **value} if isinstance(value, dict) else {"@type": detail.type_url, "value": value}
    )


def _as_dict(message: Any, format: JsonFormat, api: Api, with_defaults: bool) -> Any:
    return json_format.MessageToDict(
        message,
        preserving_proto_field_name=format.preserve_proto_field_names,
        use_integers_for_enums=format.enums_as_integers,
        always_print_fields_with_no_presence=with_defaults,
        descriptor_pool=api.pool,
    )
