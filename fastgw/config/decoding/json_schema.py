"""JSON Schema (draft 2020-12) of a configuration file, for editors.

Descriptions are the docstrings under the fields, read from the source, because msgspec does not keep them. Rules that
only `check` can evaluate, such as whether an upstream exists, are not part of it.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

from msgspec import Struct

from fastgw.config.decoding.decoder import (
    AnyJson,
    ChoiceDecoder,
    Decoder,
    Either,
    EntryDecoder,
    Field,
    File,
    Hidden,
    InnerInstance,
    InNotation,
    Instance,
    Null,
    Number,
    Sequence,
    Structure,
    Table,
    Text,
    Truth,
    fields_of,
    shape_of,
)
from fastgw.config.settings.gateway import Config
from fastgw.config.sources.environment_variables import KEY, NAME

Schema = dict[str, Any]
SECRET_SOURCES: Final = ("env", "file", "credential", "vault")
VARIABLE: Final[Schema] = {
    "type": "object",
    "description": "The value of an environment variable.",
    "properties": {
        KEY: {"type": "string", "pattern": f"^{NAME}$", "description": "The name of the environment variable."}
    },
    "required": [KEY],
    "additionalProperties": False,
}


def schema(filter_types: Mapping[str, type]) -> Schema:
    """Return the schema of a whole file with these filters."""
    return _Drawing(filter_types).whole()


@cache
def field_docs(settings: type[Struct]) -> Mapping[str, str]:
    """Return the docstring of each field by name, base classes included."""
    docs: dict[str, str] = {}
    for each in reversed(settings.__mro__):
        if not (isinstance(each, type) and issubclass(each, Struct)) or each.__module__.startswith("msgspec"):
            continue
        try:
            (declared,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        except OSError:  # a third-party filter, installed without its source
            continue
        assert isinstance(declared, ast.ClassDef)
        for field, below in zip(declared.body, declared.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
                docs[field.target.id] = inspect.cleandoc(ast.literal_eval(below.value))
    return docs


class _Drawing:
    """Schema under construction; every struct and filter becomes one definition."""

    def __init__(self, filter_types: Mapping[str, type]) -> None:
        self._filter_types = filter_types
        self._definitions: dict[str, Schema] = {}

    def whole(self) -> Schema:
        for name, filter_type in self._filter_types.items():
            self._definitions[f"filter {name}"] = self._instance(name, filter_type)
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "fastgw configuration",
            **self._struct(Config),
            "$defs": self._definitions,
        }

    def of(self, shape: Decoder) -> Schema:
        """Return the schema of a value; a plain one may also come from an environment variable."""
        drawn = self.itself(shape)
        if not shape.may_be_variable:
            return drawn
        self._definitions.setdefault("variable", VARIABLE)
        options = drawn["anyOf"] if [*drawn] == ["anyOf"] else [drawn]
        return {"anyOf": [*options, _reference("variable")]}

    def itself(self, shape: Decoder) -> Schema:
        return _DRAW[type(shape)](self, shape)

    def structure(self, shape: Structure) -> Schema:
        if shape.shorthand:
            only = shape.fields[shape.shorthand].shape
            return {"anyOf": [self.structure(Structure(shape.type)), self.itself(only)]}
        settings = shape.type
        own = settings.__module__.startswith("fastgw.config.")
        name = settings.__name__ if own else f"{settings.__module__}.{settings.__qualname__}"
        if name not in self._definitions:
            self._definitions[name] = {}  # a filter may contain filters of its own type
            self._definitions[name] = self._struct(settings)
        return _reference(name)

    def table(self, shape: Table) -> Schema:
        """Return the schema of a mapping by name. In a mapping of filters, each name selects the settings of its
        type.
        """
        if isinstance(shape.each, Either) and isinstance(shape.each.shapes[0], Instance):
            return self._filters(shape.key)
        drawn = {"type": "object", "additionalProperties": self.of(shape.each)}
        if shape.besides is not None:
            about_all = self.of(shape_of(shape.besides.type)) | {"description": shape.besides.text}
            drawn["properties"] = {shape.besides.name: {"anyOf": [about_all, self.of(shape.each)]}}
        if isinstance(shape.key, InNotation):
            drawn["propertyNames"] = self.itself(shape.key)
        return drawn | ({"minProperties": shape.shortest} if shape.shortest else {})

    def sequence(self, shape: Sequence) -> Schema:
        bounds = {"minItems": shape.shortest or None, "maxItems": shape.longest}
        return {"type": "array", "items": self.of(shape.each)} | _without_nulls(bounds)

    def either(self, shape: Either) -> Schema:
        return {"anyOf": [self.itself(each) for each in shape.shapes]}

    def inner(self, shape: InnerInstance) -> Schema:
        """Return the schema of an inner filter, whose type may also be unknown: `package.module:Class`."""
        taken = {name: each for name, each in self._filter_types.items() if shape.accepts_filter(each)}
        return {
            "type": "object",
            "properties": {name: self.structure(Structure(each)) for name, each in taken.items()},
            "patternProperties": {":": {"type": "object"}},
            "additionalProperties": False,
            "minProperties": 1,
            "maxProperties": 1,
        }

    def _filters(self, names: Decoder) -> Schema:
        if "filters" not in self._definitions:
            typed: list[Schema] = [
                {"allOf": [_reference(f"filter {name}"), {"required": ["type"]}]} for name in self._filter_types
            ]
            self._definitions["filters"] = {
                "type": "object",
                "properties": {
                    name: {"anyOf": [{"enum": [None, "off"]}, _reference(f"filter {name}"), *typed]}
                    for name in self._filter_types
                },
                "additionalProperties": {"anyOf": [{"enum": [None, "off"]}, *typed]},
                "propertyNames": self.itself(names),
            }
        return _reference("filters")

    def _instance(self, name: str, filter_type: type[Struct]) -> Schema:
        drawn = self._struct(filter_type)
        drawn["properties"] |= {
            "type": {"const": name, "description": "The filter type. Default: the name of the instance."},
            "enforced": {
                "type": "boolean",
                "default": False,
                "description": "Whether inner levels are forbidden to replace or remove this instance.",
            },
            "shadow": {
                "type": "boolean",
                "default": False,
                "description": "Dry run: the filter decides and reports what it would do, in log and metrics, but "
                "does not act. It sees the identity that shadow filters before it would set.",
            },
        }
        return drawn

    def _struct(self, settings: type[Struct]) -> Schema:
        fields = fields_of(settings)
        docs = field_docs(settings)
        drawn: Schema = {
            "type": "object",
            "description": inspect.cleandoc(settings.__doc__ or ""),
            "properties": {key: self._field(field, docs.get(field.name)) for key, field in fields.items()}
            | {each.former: self._former(each) for each in fields.values() if each.former},
            "additionalProperties": False,
        }
        required = [key for key, field in fields.items() if field.required and not field.former]
        renamed = [self._one_name(each) for each in fields.values() if each.former]
        # Sets of settings of which exactly one is given, such as the files of a certificate, or `acme`.
        sets: Schema = {"oneOf": [{"required": [*each]} for each in getattr(settings, "ALTERNATIVES", ())]}
        drawn |= {"required": required} if required else {}
        return drawn | ({"allOf": renamed} if renamed else {}) | (sets if sets["oneOf"] else {})

    def _former(self, field: Field) -> Schema:
        """Return the schema of a setting under its deprecated name."""
        return self._field(field, f"Deprecated; use `{field.key}`.") | {"deprecated": True}

    def _one_name(self, field: Field) -> Schema:
        """Return the condition that a setting is given by only one of its names."""
        names: list[Schema] = [{"required": [field.key]}, {"required": [field.former]}]
        return {"oneOf": names} if field.required else {"not": {"allOf": names}}

    def _field(self, field: Field, doc: str | None) -> Schema:
        drawn = self.of(field.shape)
        return drawn | ({"description": doc} if doc else {})


def _reference(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name.replace(' ', '%20')}"}


def _number(_: _Drawing, shape: Number) -> Schema:
    bounds = {"minimum": shape.least, "maximum": shape.most}
    return {"type": "integer" if shape.whole else "number"} | _without_nulls(bounds)


def _text(_: _Drawing, shape: Text) -> Schema:
    return {"type": "string"} | _without_nulls({"minLength": shape.shortest or None, "pattern": shape.pattern})


def _source(kind: str) -> Schema:
    """Return the schema of a secret's source outside the configuration."""
    properties = {kind: {"type": "string", "minLength": 1}}
    return {"type": "object", "properties": properties, "required": [kind], "additionalProperties": False}


def _without_nulls(constraints: Schema) -> Schema:
    return {name: value for name, value in constraints.items() if value is not None}


_DRAW: Final[Mapping[type[Decoder], Callable[[_Drawing, Any], Schema]]] = {
    AnyJson: lambda drawing, shape: {},
    Text: _text,
    Number: _number,
    Truth: lambda drawing, shape: {"type": "boolean"},
    Null: lambda drawing, shape: {"type": "null"},
    ChoiceDecoder: lambda drawing, shape: {"enum": list(shape.values)},
    InNotation: lambda drawing, shape: dict(shape.notation.schema),
    File: lambda drawing, shape: {"type": "string", "minLength": 1},
    Hidden: lambda drawing, shape: {
        "anyOf": [
            *([{"type": "string", "minLength": 1}] if shape.text else ()),
            *map(_source, SECRET_SOURCES),
        ]
    },
    Sequence: _Drawing.sequence,
    Table: _Drawing.table,
    Either: _Drawing.either,
    Structure: _Drawing.structure,
    EntryDecoder: lambda drawing, shape: {"anyOf": [drawing.of(shape.usual), drawing.of(shape.expanded)]},
    InnerInstance: _Drawing.inner,
}
