"""JSON Schema: validators that fetch nothing, whose patterns take linear time, and that tell nothing of a value."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import islice
from json import dumps
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, final
from urllib.parse import unquote

from fastgw.config.base import redacted_problems
from fastgw.config.base.problems import format_value
from fastgw.config.formats import json
from fastgw.config.formats.positions import SyntaxProblem
from fastgw.filters.policies.content.number_comparisons import numbers_listed
from fastgw.filters.policies.content.parameter_pairs import check_numbers
from fastgw.filters.policies.content.schema_copies import (
    STEP,
    failed_keyword,
    may_repeat,
    with_one_spelling,
    with_short_errors,
    with_steps,
)
from fastgw.http.json.invalid import InvalidJson
from fastgw.http.json.strict import parse_json
from fastgw.json_pointer import pointer_of, unescaped

if TYPE_CHECKING:
    from jsonschema_rs import Validator

MOST_ERRORS: Final = 10
"""Errors that are reported for one value."""
ALL_ERRORS_BYTES: Final = 512
"""Maximum length of a text of whose value several errors are reported; of a longer one it is the first.

PERF: all errors of a value are collected before the first is returned: 13 ms for a list of 3,000 elements that have one
each, the first alone 0.02; 54 us for 8 errors in 1 KB, 6 for the first, so that a refusal costs no more than an
acceptance (CPython 3.11, jsonschema-rs 0.60)."""
STEPS_OF_ALL: Final = 256
"""Steps in a search for all errors of a value: a reference that is followed is one, and one more for each `STEP_SIZE`
of the part of the value that it is followed for."""
STEPS_OF_FIRST: Final = 1000
"""Steps in a search for the first error; one more for every 8 bytes of the value.

PERF: a search that is given up takes 1 ms for 1 KB and 10 to 20 for 100 KB, 3 of them for the sizes; with a count of
references alone it took 3 s for 100 KB, and without a limit 4 s for 100 bytes (CPython 3.11, jsonschema-rs 0.61)."""
STEP_SIZE: Final = 64
"""Size of a part of a value, as of `_sizes_in`, whose check may take as long as a step: what a schema without
references checks between two steps is no larger than that part."""
CHARACTERS: Final = 8
"""Number of characters of a text whose check, by a pattern or length, takes as long as that of a number."""
_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,30})")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,30})(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,3})?")
_VALUE_LENGTH: Final = 200
_MOST_REFERENCES: Final = 32
"""Maximum number of references to a schema that are followed one after another."""


class UnusableSchema(ValueError):
    """A schema is no JSON Schema that can be used. The message has nothing of the schema. `path`: to the keyword.
    `shown`: its value for people; "" = it may be data, such as a secret among the values of `enum`.
    """

    def __init__(self, wrong: str, path: Iterable[str | int] = (), shown: str = "") -> None:
        self.wrong, self.path, self.shown = wrong, tuple(path), shown
        at = pointer_of(self.path)
        super().__init__(f"{at}: {wrong}" if at else wrong)


def read_schema(content: bytes) -> Any:
    """Return the schema in a JSON text. Raises `ValueError`."""
    try:
        schema = parse_json(content)
    except InvalidJson as error:
        raise ValueError(f"the schema is {error}") from error
    if not isinstance(schema, dict | bool):
        raise ValueError("a schema is an object, or true or false")
    return schema


@final
class SchemaValidator:
    """Validator of the values of one schema."""

    __slots__ = ("_all", "_first", "_steps", "is_valid")

    def __init__(self, schema: Any) -> None:
        """Raises `jsonschema_rs.ValidationError` or `ReferencingError`."""
        import jsonschema_rs

        self._all: Validator | None = _validator_for(schema)
        """Validator that finds all errors; None: there is none that does so within a limit of steps."""
        self.is_valid: Callable[[Any], bool] = self._all.is_valid
        """Whether a value is valid. It needs no limit: for each object and array, jsonschema-rs keeps the results of
        recursive schemas."""
        self._first: Validator | None = self._all
        """Validator that finds the first error; None: there is none that does so in the time of a valid value."""
        self._steps: Steps | None = None
        """Steps of these two; None: they need no limit, because they check each part of a value once."""
        has_if = not isinstance(self._all, jsonschema_rs.Draft4Validator | jsonschema_rs.Draft6Validator)
        short = with_short_errors(schema, has_if=has_if)
        if not may_repeat(schema):
            if short is not schema:
                self._first = _validator_of_copy(short)  # None: something refers to an alternative
            return
        keeps_siblings = has_if and not isinstance(self._all, jsonschema_rs.Draft7Validator)
        self._steps = Steps()
        limit = partial(_limited, steps=self._steps, has_if=has_if, keeps_siblings=keeps_siblings)
        self._first = limit(short)
        self._all = None if not has_if else limit(schema) if self._first is None else self._first

    def errors(self, value: Any, length: int) -> Iterable[Any]:
        """Return the first errors of an invalid value; none if they are not found in a limited number of steps.
        `length`: of its text in bytes.
        """
        steps = self._steps
        if length <= ALL_ERRORS_BYTES and self._all is not None:
            if steps is None:
                return islice(self._all.iter_errors(value), MOST_ERRORS)
            with steps.limited(STEPS_OF_ALL, value):
                found = list(islice(self._all.iter_errors(value), MOST_ERRORS))
            if steps.left >= 0:
                return found
        if self._first is None:
            return ()
        if steps is None:
            return _first_error(self._first, value)
        with steps.limited(STEPS_OF_FIRST + length // 8, value):
            found = _first_error(self._first, value)
        return found if steps.left >= 0 else ()


def _first_error(validator: Validator, value: Any) -> list[Any]:
    """Return the first error of a value, if there is one."""
    import jsonschema_rs

    try:
        validator.validate(value)
    except jsonschema_rs.ValidationError as error:
        return [error]
    return []


@final
class Steps:
    """Steps that are left in a search for errors: the keyword `STEP` of a validator."""

    __slots__ = ("_sizes", "left")

    def __init__(self) -> None:
        self.left = 0
        """Below 0: some references were not followed, so that what was found may be no error."""
        self._sizes: Mapping[int, int] = {}

    @contextmanager
    def limited(self, steps: int, value: Any) -> Iterator[None]:
        """Allow so many steps for the search in a value."""
        self.left, self._sizes = steps, _sizes_in(value)
        try:
            yield
        finally:
            self._sizes = {}

    def __call__(self, schema: Any, value: Any, path: Any) -> Steps:
        """Return the validator of the keyword in a schema."""
        return self

    def validate(self, value: Any) -> None:
        """Follow a reference for a part of the value. Raises `ValueError` if not enough steps are left."""
        size = len(value) // CHARACTERS if isinstance(value, str) else self._sizes.get(id(value), 0)
        self.left -= 1 + size // STEP_SIZE
        if self.left < 0:
            self.left = -1  # so that a smaller part is not followed either
            raise ValueError


def _sizes_in(value: Any) -> dict[int, int]:
    """Return the sizes of the objects and arrays in a JSON value by their `id`: 1 for each of them, for each value in
    them, and for every `CHARACTERS` of a text.
    """
    containers = [value] if isinstance(value, dict | list) else []
    sizes: list[int] = []
    outer = [0]  # indexes in `containers`
    for index, container in enumerate(containers):  # grows: each container is before those in it
        size = 1 + len(container)
        members: Iterable[Any] = container
        if type(container) is dict:
            for name in container:
                size += len(name) // CHARACTERS
            members = container.values()
        for held in members:
            kind = type(held)
            if kind is str:
                size += len(held) // CHARACTERS
            elif kind is dict or kind is list:
                containers.append(held)
                outer.append(index)
        sizes.append(size)
    for index in range(len(sizes) - 1, 0, -1):
        sizes[outer[index]] += sizes[index]
    return dict(zip(map(id, containers), sizes, strict=True))


def _limited(schema: Any, *, steps: Steps, has_if: bool, keeps_siblings: bool) -> Validator | None:
    """Return a validator that follows references as long as steps are left; None: there is none."""
    try:
        copy = with_steps(schema, has_if=has_if, keeps_siblings=keeps_siblings)
    except ValueError:
        return None
    return _validator_of_copy(copy, {STEP: steps})


def _validator_of_copy(schema: Any, keywords: Any = None) -> Validator | None:
    """Return the validator of a changed schema; None: references in it lead to what the change has moved."""
    import jsonschema_rs

    try:
        return _validator_for(schema, keywords)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError):
        return None


def _validator_for(schema: Any, keywords: Any = None) -> Validator:
    import jsonschema_rs

    return jsonschema_rs.validator_for(
        schema,
        validate_formats=True,
        offline=True,
        pattern_options=jsonschema_rs.RegexOptions(),
        mask="",  # no message has the text of a value, which is 5 ms of work for 120 KB
        keywords=keywords,
    )


def compile_schema(schema: Any) -> SchemaValidator:
    """Return the validator of a schema: draft 2020-12, or as `$schema` says. Raises `UnusableSchema`.

    References to other documents are errors, and so are patterns with look-around or back-references.
    """
    import jsonschema_rs

    try:
        return SchemaValidator(schema)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        raise _unusable(error, schema) from error


def compile_header_schema(schema: Any) -> SchemaValidator:
    """Return the validator of a schema of headers, whose names have any case. Raises `UnusableSchema`."""
    validator = compile_schema(schema)  # an error is at a path of the schema as it is written
    try:
        copy = with_one_spelling(schema)
    except ValueError as error:
        raise UnusableSchema(f"{error}", ()) from error
    return validator if copy == schema else compile_schema(copy)


_LATEST_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"


def all_errors(schema: Any, first: UnusableSchema) -> Iterable[UnusableSchema]:
    """Return the errors of a schema of draft 2020-12, of which compiling it has found the first; of an older draft the
    first alone.
    """
    import jsonschema_rs

    found = {first.path: first}
    if isinstance(schema, dict) and schema.get("$schema", _LATEST_DRAFT) == _LATEST_DRAFT:
        for error in jsonschema_rs.validator_for({"$ref": _LATEST_DRAFT}, offline=True, mask="").iter_errors(schema):
            each = _unusable(error, schema)
            if each.path:
                found.setdefault(each.path, each)
    return islice(found.values(), MOST_ERRORS)


_TYPES: Final[Mapping[str, str]] = {
    "object": "an object",
    "array": "a list",
    "string": "a string",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "null": "null",
}
"""Types of JSON Schema as people are shown them, in the order in which alternatives are listed."""


def expected_of_keyword(keyword: str, kind: Any) -> str:
    """Return what a keyword of JSON Schema may have. `kind`: of the error that the meta-schema has found."""
    if keyword == "type":
        return f"expected {', '.join(sorted(_TYPES))}, or a list of them"
    if kind.name == "type":
        return f"expected {' or '.join(text for name, text in _TYPES.items() if name in kind.types)}"
    if kind.name == "minimum":
        return f"expected a number from {kind.limit}"
    return "expected a value that the keyword may have"


_NAMED: Final = frozenset({
    "properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependentRequired", "dependencies",
})  # fmt: skip
"""Keywords of objects whose members have names of a user's choice."""
_DATA: Final = frozenset({"enum", "const", "default", "examples", "pattern"})
"""Keywords whose values are data. They are never shown."""
_WORDS: Final = frozenset({
    "$ref", "$schema", "type", "format", "required", "additionalItems", "additionalProperties", "maximum", "minimum",
    "exclusiveMaximum", "exclusiveMinimum", "multipleOf", "maxLength", "minLength", "maxItems", "minItems",
    "uniqueItems", "maxContains", "minContains", "maxProperties", "minProperties",
})  # fmt: skip
"""Keywords whose texts are shown: words of JSON Schema, names, and numbers in quotes."""


def _unusable(error: Any, schema: Any) -> UnusableSchema:
    steps = tuple(getattr(error, "instance_path", ()))
    if not steps and str(error).startswith("Unknown meta-schema"):
        wrong = "unknown draft; expected draft 2020-12, 2019-09, 7, 6 or 4"
        return _unusable_at(wrong, schema, _written_path(schema, ("$schema",), None))
    if not steps:
        wrong = "a `$ref` leads to another document, or to nothing"
        path = next((path for path, target in _references(schema, ()) if target in str(error)), ())
        return _unusable_at(f"{wrong}; expected a part of this schema, such as #/$defs/NAME", schema, path)
    if error.kind.name == "format" and error.kind.format == "regex":
        wrong = "the pattern is not valid, or takes more than linear time"
        wrong = f"{wrong}; expected a regular expression without look-around and back-references"
        return UnusableSchema(wrong, _written_path(schema, steps, error.instance))
    path = _written_path(schema, steps, error.instance)
    named = next((each for each in reversed(path) if isinstance(each, str)), "")
    expected = expected_of_keyword(_keyword_at(path), error.kind)
    return _unusable_at(f"not valid JSON Schema: `{named}`; {expected}", schema, path)


def _unusable_at(wrong: str, schema: Any, path: tuple[str | int, ...]) -> UnusableSchema:
    """Return the error at a path of the schema, with the value there unless it may be data."""
    value = schema
    for step in path:
        value = value[step]
    keyword = _keyword_at(path)
    hidden = not path or keyword in _DATA or (isinstance(value, str) and keyword not in _WORDS)
    return UnusableSchema(wrong, path, "" if hidden else format_value(value))


def _keyword_at(path: Iterable[str | int]) -> str:
    """Return the last keyword of JSON Schema on a path; "" = a name of a user's choice stands there."""
    keyword, is_named = "", False
    for step in path:
        if is_named:
            keyword, is_named = "", False
        elif isinstance(step, str):
            keyword, is_named = step, step in _NAMED
    return keyword


def _written_path(schema: Any, steps: Iterable[str | int], instance: Any) -> tuple[str | int, ...]:
    """Return the path of an error as the schema has it, or to the nearest enclosing value. jsonschema-rs makes a number
    of a name that reads as one, such as "007", and leaves out empty names; `instance`, the value of the error, says
    which of several paths is meant.
    """
    found: list[tuple[tuple[str | int, ...], Any]] = [((), schema)]
    for step in steps:
        below = [((*path, name), value[name]) for path, value in found for name in _names_of(step, value)]
        if not below:
            break
        found = below
        for path, value in found:  # grows: an empty name may be in an object with an empty name
            if isinstance(value, dict) and "" in value:
                found.append(((*path, ""), value[""]))
    return next((path for path, value in found if value == instance), found[0][0])


def _names_of(step: str | int, value: Any) -> list[str | int]:
    """Return the names or the index in a value that a step of jsonschema-rs may mean."""
    if isinstance(value, dict):
        if isinstance(step, str):
            return [step] if step in value else []
        return [name for name in value if re.fullmatch(rf"\+?0*{step}", name)]
    return [step] if isinstance(value, list) and isinstance(step, int) and step < len(value) else []


def _references(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield the references of a schema: the path to each, and its target without `#`."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, member in members:
        if name == "$ref" and isinstance(member, str):
            yield (*path, name), member.removeprefix("#")
        else:
            yield from _references(member, (*path, name))


def place_in(content: bytes, error: UnusableSchema) -> str:
    """Return line and column of the keyword in the text of a schema, as `LINE:COLUMN`."""
    line, column = json.trace(content.decode()).root.find(error.path).value
    return f"{line}:{column}"


def syntax_error_in(content: bytes) -> str:
    """Describe why a text is no schema, as `LINE:COLUMN: error`, with nothing of the text; "" = not known."""
    try:
        text = content.decode()
        _, doubled = json.read(text)
    except UnicodeDecodeError:
        return ""
    except SyntaxProblem as error:
        return f"{error.mark[0]}:{error.mark[1]}: {redacted_problems.wrong(error.wrong)}"
    if not doubled:
        return ""
    repeat = json.trace(text).repeats[0]
    return f"{repeat.mark[0]}:{repeat.mark[1]}: duplicate key; first defined on line {repeat.first[0]}"


def body_errors(validator: SchemaValidator, payload: bytes) -> list[dict[str, str]]:
    """Return the errors of a JSON body: [] if it conforms."""
    try:
        value = parse_json(payload)
    except InvalidJson as error:
        return [validation_error("body", "json", str(error))]
    return [] if validator.is_valid(value) else errors_of(validator, value, "body", len(payload))


def validation_error(location: str, keyword: str, detail: str) -> dict[str, str]:
    """Return an error of a whole body or of a parameter."""
    return {"in": location, "pointer": "", "keyword": keyword, "detail": detail}


def errors_of(validator: SchemaValidator, value: Any, location: str, length: int) -> list[dict[str, str]]:
    """Return the first errors of a value: JSON Pointer (RFC 6901), keyword, and what the schema expects. `length`: of
    its text in bytes.
    """
    found = []
    for error in validator.errors(value, length):
        keyword = failed_keyword(error.kind)
        found.append(
            {
                "in": location,
                "pointer": pointer_of(error.instance_path),
                "keyword": keyword,
                "detail": expected_text(keyword, _expected(keyword, error.kind)),
            }
        )
    if not found and not validator.is_valid(value):
        found.append(validation_error(location, "schema", "the value does not satisfy the schema"))
    return found


def _expected(keyword: str, kind: Any) -> Any:
    return kind.property if keyword == "required" else getattr(kind, "value", None)


def expected_text(keyword: str, expected: Any) -> str:
    """Return what the schema expects. Nothing in it is of the value. `expected`: value of the keyword; of `required`
    the name of the member.
    """
    if keyword == "required":
        return f"expected the member {expected!r}"
    if keyword in ("additionalProperties", "unevaluatedProperties"):
        return "expected no members other than those of the schema"
    if keyword in ("enum", "const"):
        text = " or ".join(map(_json_text, expected if keyword == "enum" else [expected]))
    elif keyword in _ABOUT_VALUES or expected is None or isinstance(expected, dict):
        return f"the value does not satisfy `{keyword}`"
    else:
        text = " or ".join(map(str, expected)) if isinstance(expected, list) else str(expected)
    return f"expected {keyword} {text[:_VALUE_LENGTH]}"


def _json_text(value: Any) -> str:
    """Return a value of a schema as JSON; a string, which is mostly a name, without quotation marks."""
    return value if isinstance(value, str) else dumps(value, ensure_ascii=False, default=str)


_ABOUT_VALUES: Final = frozenset(
    ("additionalProperties", "unevaluatedProperties", "propertyNames", "oneOf", "anyOf", "not", "dependentRequired")
)


@final
class Parameters:
    """Converter of texts (of a query, headers, cookies or a path) to an object, by the types in its schema."""

    __slots__ = ("_listed", "_types", "names")

    def __init__(self, schema: Any) -> None:
        properties = schema.get("properties", {}) if isinstance(schema, dict) else {}
        properties = properties if isinstance(properties, dict) else {}
        self.names = tuple(properties)
        """Names of the properties in the schema."""
        self._types = {name: _types_of(each, schema) for name, each in properties.items()}
        self._listed = numbers_listed(schema, (schema,))[0]

    def value(self, pairs: Mapping[str, list[str]]) -> dict[str, Any]:
        """Return the object. A repeated name is an array; an array in the schema may have one element. Raises
        `Unreadable` for too many numbers that take long to compare.
        """
        made = {name: self._converted(name, texts) for name, texts in pairs.items()}
        check_numbers(made, self._listed)
        return made

    def _converted(self, name: str, texts: list[str]) -> Any:
        types, items = self._types.get(name, ((), ()))
        if "array" in types:
            return [converted(text, items) for text in texts]
        return converted(texts[0], types) if len(texts) == 1 else texts


def _types_of(schema: Any, root: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the types of a property, and of its elements. `root`: the schema that has it."""
    held = _followed(schema, root)
    if not isinstance(held, dict):
        return (), ()
    items = _followed(held.get("items"), root)
    return _names(held.get("type")), _names(items.get("type")) if isinstance(items, dict) else ()


def _followed(schema: Any, root: Any) -> Any:
    """Return a schema, or the one that it refers to: by a JSON Pointer within `root`, and without a type of its own."""
    for _ in range(_MOST_REFERENCES):
        reference = schema.get("$ref") if isinstance(schema, dict) and "type" not in schema else None
        if not isinstance(reference, str) or not reference.startswith("#"):
            return schema
        schema = root
        for step in unquote(reference).split("/")[1:]:
            key = unescaped(step)
            schema = schema.get(key) if isinstance(schema, dict) else None
    return None


def _names(types: Any) -> tuple[str, ...]:
    return (types,) if isinstance(types, str) else tuple(types) if isinstance(types, list) else ()


def converted(text: str, types: Iterable[str]) -> Any:
    """Return the value of a text: a number or boolean if its types say so and it is one."""
    if "integer" in types and _INTEGER.fullmatch(text):
        return int(text)
    if "number" in types and _NUMBER.fullmatch(text):
        number = int(text) if _INTEGER.fullmatch(text) else float(text)
        return number if isfinite(number) else text
    if "boolean" in types and text in ("true", "false"):
        return text == "true"
    return text
