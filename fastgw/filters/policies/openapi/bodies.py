"""openapi: bodies of one content type and the schemas that they have, in a worker and in its helper process."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final, final

import orjson

from fastgw.filters.policies.content.number_comparisons import (
    form_takes_long_to_check,
    numbers_listed,
    takes_long_to_check,
    xml_takes_long_to_check,
)
from fastgw.filters.policies.content.parameter_pairs import Unreadable
from fastgw.filters.policies.content.schemas import SchemaValidator, converted, errors_of, validation_error
from fastgw.filters.policies.openapi.forms import MultipartForm, UrlencodedForm
from fastgw.filters.policies.openapi.xml import XmlDocument, xml_element
from fastgw.http.json.invalid import InvalidJson
from fastgw.http.json.strict import parse_json, takes_long

Error = dict[str, str]
_TAKES_LONG: Final = {
    "json": takes_long_to_check,
    "form": form_takes_long_to_check,
    "multipart": form_takes_long_to_check,
    "xml": xml_takes_long_to_check,
}
"""Functions that say whether the check of a body takes longer than the event loop may wait, by kind."""
_ANY: Final = ""
"""Kind of the bodies of a key that are all checked alike."""
_KINDS: Final = {"application/x-www-form-urlencoded": "form", "multipart/form-data": "multipart"}
"""Kinds of bodies by content type."""


@final
class OperationSchemas:
    """The schemas of a document: the definitions that its operations share, compiled together, and others."""

    def __init__(self, definitions: bytes) -> None:
        """`definitions`: their JSON text."""
        self._text = definitions
        self._others: dict[bytes, SchemaValidator] = {}

    @cached_property
    def definitions(self) -> SchemaValidator:
        """Validator of the definitions."""
        return compile_operation_schema(orjson.loads(self._text))

    @cached_property
    def _listed_in_definitions(self) -> dict[str, int]:
        definitions = orjson.loads(self._text)
        held = definitions.get("$defs", {})
        return dict(zip(held, numbers_listed(definitions, held.values()), strict=True))

    def listed(self, schema: Any) -> int:
        """Return how many numbers a schema lists for one value (`numbers_listed`)."""
        reference = schema.get("$ref") if isinstance(schema, dict) else None
        if reference is not None:
            return self._listed_in_definitions[reference.rpartition("/")[2]]
        return numbers_listed(schema, (schema,))[0]

    def validator(self, schema: Any) -> SchemaValidator | Definition | None:
        """Return the validator of a schema, which equal schemas share. None: every value is valid."""
        if schema is True or schema == {}:
            return None
        reference = schema.get("$ref") if isinstance(schema, dict) else None
        if reference is not None:
            return Definition(self.definitions, reference.rpartition("/")[2])
        key = orjson.dumps(schema)
        known = self._others.get(key)
        if known is None:
            known = self._others[key] = compile_operation_schema(schema)
        return known


def compile_operation_schema(schema: Any) -> SchemaValidator:
    """Return the validator of a schema. Raises `ValueError`."""
    import jsonschema_rs

    try:
        return SchemaValidator(schema)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        raise ValueError(str(error).partition("\n")[0]) from error


@final
class Definition:
    """Validator of one of the definitions that are compiled together."""

    # PERF: 10,000 operations with 1,000 definitions that refer to each other are compiled in 0.1 s; each by itself in
    # 45 (CPython 3.11, jsonschema-rs 0.60).
    __slots__ = ("_all", "_number")

    def __init__(self, all_of_them: SchemaValidator, number: str) -> None:
        self._all, self._number = all_of_them, number

    def is_valid(self, value: Any) -> bool:
        return self._all.is_valid({self._number: value})

    def errors(self, value: Any, location: str, length: int) -> list[Error]:
        """Return the first errors (`content.schemas.errors_of`)."""
        found = errors_of(self._all, {self._number: value}, location, length)
        begin = f"/{self._number}"
        return [each | {"pointer": each["pointer"].removeprefix(begin)} for each in found]


def errors_in(validator: SchemaValidator | Definition, value: Any, location: str, length: int) -> list[Error]:
    if isinstance(validator, Definition):
        return validator.errors(value, location, length)
    return errors_of(validator, value, location, length)


@final
class Content:
    """Bodies of a request or response, by their content type."""

    __slots__ = ("_by_key", "checks")

    def __init__(self, plans: Mapping[str, Any], schemas: OperationSchemas) -> None:
        """`plans`: how bodies are checked, by content type, by range such as `image/*`, or by `application/*+json`."""
        self._by_key: dict[str, dict[str, TypedBody]] = {
            key: {kind: TypedBody(each, schemas) for kind, each in _plans_by_kind(plan).items()}
            for key, plan in plans.items()
        }
        self.checks = any(body.checks for bodies in self._by_key.values() for body in bodies.values())
        """Whether anything is checked about bodies of any of the types."""

    def __bool__(self) -> bool:
        return bool(self._by_key)

    def __str__(self) -> str:
        return " or ".join(self._by_key)

    def body_of(self, content_type: bytes) -> TypedBody | None:
        """Return the bodies of a content type, by the most specific key. None: there are no such bodies."""
        bare = content_type.partition(b";")[0].strip().lower().decode("latin-1")
        found = self._by_key.get(bare)
        if found is None and bare:
            main, _, rest = bare.partition("/")
            _, plus, suffix = rest.rpartition("+")
            keys = *((f"{main}/*+{suffix}",) if plus else ()), f"{main}/*", "*/*"
            found = next((self._by_key[key] for key in keys if key in self._by_key), None)
        if found is None:
            return None
        return found.get(_ANY) or found.get(_kind_of(bare)) or _UNCHECKED


def _plans_by_kind(plan: Mapping[str, Any]) -> Mapping[str, Any]:
    return plan["kinds"] if plan["kind"] == "range" else {_ANY: plan}


def _kind_of(bare: str) -> str:
    """Return the kind of the bodies of a content type, as ranges have them (`config.openapi.bodies`)."""
    if bare == "application/json" or bare.endswith("+json"):
        return "json"
    if bare in ("application/xml", "text/xml") or bare.endswith("+xml"):
        return "xml"
    return _KINDS.get(bare) or ("text" if bare.startswith("text/") else "other")


@final
class TypedBody:
    """Bodies of one content type."""

    def __init__(self, plan: Mapping[str, Any], schemas: OperationSchemas) -> None:
        self.plan = plan
        self._kind: str = plan["kind"]
        self._validator = schemas.validator(plan.get("schema", True))
        self._form = UrlencodedForm(plan) if self._kind == "form" else None
        self._multipart = MultipartForm(plan) if self._kind == "multipart" else None
        self._xml = XmlDocument(plan["xml"]) if "xml" in plan else None
        self._types: tuple[str, ...] = tuple(plan.get("types", ()))
        self._listed = schemas.listed(plan.get("schema", True)) if self._kind in _TAKES_LONG else 0
        self.checks = self._kind != "any"
        """Whether anything about such bodies is checked."""

    def takes_long(self, payload: bytes) -> bool:
        """Return whether the check of a body takes longer than the event loop may wait."""
        check = _TAKES_LONG.get(self._kind)
        return takes_long(payload) if check is None else check(payload, self._listed)

    def errors(self, payload: bytes, content_type: bytes) -> list[Error]:
        try:
            value = self._value(payload, content_type)
        except InvalidJson as error:
            return [validation_error("body", "json", str(error))]
        except Unreadable as error:
            return [validation_error("body", error.keyword, error.detail)]
        if self._validator is None or self._validator.is_valid(value):
            return []
        return errors_in(self._validator, value, "body", len(payload))

    def _value(self, payload: bytes, content_type: bytes) -> Any:
        if self._kind == "json":
            return parse_json(payload)
        if self._form is not None:
            return self._form.value(payload)
        if self._multipart is not None:
            return self._multipart.value(payload, content_type)
        if self._kind == "any":
            return None
        if self._kind == "xml":
            return xml_element(payload) if self._xml is None else self._xml.value(payload)
        try:
            return converted(payload.decode(), self._types)
        except UnicodeDecodeError:
            raise Unreadable("encoding", "expected UTF-8") from None


_UNCHECKED: Final = TypedBody({"kind": "any"}, OperationSchemas(b""))
"""Bodies of a type that no schema can say anything about."""
