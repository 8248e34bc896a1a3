"""Schemas of an OpenAPI document as JSON Schema 2020-12.

Every schema that a reference leads to becomes one definition, which all others refer to by its number; so a document of
any shape takes no more space than it has itself, and cycles need no care. Schemas of parameters and bodies that have
references are definitions, too: all definitions are compiled together, once. Schemas of OpenAPI 3.0 are
translated; in all versions `discriminator` chooses the alternative, the formats of OpenAPI become constraints, and
members that are `readOnly` are not required in requests, nor `writeOnly` ones in responses.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

from fastgw.config.base.problems import Path, format_value, shorten
from fastgw.config.base.schema_keywords import meant_by
from fastgw.config.openapi.document import DEEPEST, Holder, Spec

DEFINITIONS: Final = "urn:fastgw:openapi"
"""URI of the definitions."""
LOCATIONS: Final = "x-fastgw-locations"
"""Member with the locations of the definitions in the document, by number."""
_ONE: Final = {
    *("additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then"),
    *("unevaluatedItems", "unevaluatedProperties"),
}
"""Keywords with one schema."""
_LISTS: Final = frozenset(("allOf", "anyOf", "oneOf", "prefixItems"))
_MAPS: Final = frozenset(("properties", "patternProperties", "dependentSchemas"))
SAME_VALUE: Final = ("not", "if", "then", "else", "dependentSchemas", "allOf", "anyOf", "oneOf")
"""Keywords whose schemas are about the value itself, not about its members or elements."""
_PLAIN: Final = {
    *("type", "enum", "const", "multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"),
    *("maxLength", "minLength", "pattern", "maxItems", "minItems", "uniqueItems", "maxContains", "minContains"),
    *("maxProperties", "minProperties", "dependentRequired", "format"),
}
"""Keywords that are taken as they are."""
_BASES: Final = ("$id", "$anchor", "$dynamicRef", "$dynamicAnchor")
_DIALECTS: Final = ("https://json-schema.org/draft/2020-12/schema", "https://spec.openapis.org/oas/3.")
_BASE64: Final = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_FORMATS: Final[dict[str, dict[str, Any]]] = {
    "int32": {"minimum": -(2**31), "maximum": 2**31 - 1},
    "int64": {"minimum": -(2**63), "maximum": 2**63 - 1},
    "byte": {"pattern": _BASE64},
}
"""Constraints of formats that JSON Schema does not have."""
_NULL: Final = {"type": "null"}


class Schemas:
    """The schemas of a document. `definitions`: those that references lead to, by number."""

    def __init__(self, spec: Spec) -> None:
        self.definitions: dict[str, Any] = {}
        self.used: list[tuple[Any, Path, Holder]] = []
        """Schemas of parameters and bodies without references, with their paths in the document."""
        self.operation: str | None = None
        """Name of the operation whose schemas are made. None: it is not validated, so none are."""
        self.roots: set[str] = set()
        """Numbers of the definitions that parameters and bodies have."""
        self.kinds: dict[str, Any] = {}
        """Kinds of values (`kinds.kind_of`), by `text_of` of the schema."""
        self.likely_kinds: dict[int, Any] = {}
        """Kinds of members, by the `id` of the schema, which is a part of the document."""
        self.likely_types: dict[tuple[int, int], set[str]] = {}
        """Types of alternatives, by the `id` of the schema and the number of schemas that it is an alternative in."""
        self._flags: dict[tuple[int, str], frozenset[str]] = {}
        """Members with `readOnly` or `writeOnly`, by the `id` of the schema, which is a part of the document."""
        self._has_reference = self._has_note = False
        self.paths: dict[str, Path] = {}
        """Path in the document, by number of the definition."""
        self._spec = spec
        self._numbers: dict[tuple[Path, bool], str] = {}
        self._waiting: list[tuple[str, Any, Path, bool]] = []
        self._known: dict[tuple[str, bool], Any] = {}
        self._edges: dict[str, set[str]] = {}
        self._holders: dict[Holder, set[Holder]] = {}
        """Holders of references to a definition, by its number."""
        self._holder: Holder = ("", False)
        """Holder of the schema that is being made."""
        dialect = spec.value.get("jsonSchemaDialect")
        if dialect is not None and not _is_known(dialect):
            spec.report(("jsonSchemaDialect",), shorten(format_value(dialect)), f"expected {_DIALECTS[0]}")

    def schema(self, raw: Any, path: Path, response: bool = False) -> Any:
        """Return a schema, and make the definitions that it refers to. `response`: of what the upstream sends."""
        if self.operation is None:
            return True
        self._holder = self.operation, response
        # PERF: equal schemas are made once, and so are their kinds and the parameters that requests are checked by: an
        # operation is loaded and compiled with 1.46 million instructions, 1.59 before (callgrind, bench.openapi_load).
        text = text_of(raw)
        known = self._known.get((text, response)) if text else None
        if known is not None:
            self.used.append((known, path, self._holder))
            return known
        with self._spec.problems_of(self._holder):
            return self._schema(raw, path, response, text)

    def report(self, path: Path, wrong: str, expected: str) -> None:
        """Report what cannot be validated of the operation."""
        if self.operation is not None:
            with self._spec.problems_of((self.operation, False)):
                self._spec.report(path, wrong, expected)

    def report_problems(self) -> None:
        """Report the errors of schemas, with the operations that use them."""
        told: dict[Holder, str] = {}
        for holder, path, wrong, expected, at_key in self._spec.of_schemas:
            if holder not in told:
                told[holder] = _left_out_by(self._operations(holder))
            advice = f"{expected}, or {told[holder]}" if expected else f"expected {told[holder]}"
            self._spec.report(path, wrong, advice, at_key=at_key)

    def _operations(self, holder: Holder) -> list[tuple[str, bool]]:
        """Return the operations that use a schema, and whether they do for responses."""
        waiting, met = [holder], {holder}
        while waiting:
            more = self._holders.get(waiting.pop(), set()) - met
            met |= more
            waiting += more
        return sorted(each for each in met if isinstance(each, tuple))

    def _schema(self, raw: Any, path: Path, response: bool, text: str) -> Any:
        problems = self._spec.problem_count
        edges: set[str] = set()
        self._has_reference = self._has_note = False
        made = self._made(raw, path, response, edges, 0, frozenset())
        number = _number_of(made)
        if number is not None:
            self.roots.add(number)
        elif self._has_reference:
            number = self._number(path, response)
            self.definitions[number], self._edges[number] = made, edges
            self._holders.setdefault(number, set()).add(self._holder)
            self.roots.add(number)
            made = {"$ref": f"{DEFINITIONS}#/$defs/{number}"}
        else:
            self.used.append((made, path, self._holder))
            if text and not self._has_note and self._spec.problem_count == problems:
                self._known[text, response] = made
        while self._waiting:
            number, held, at, of_response = self._waiting.pop()
            self.definitions[number] = True  # keeps the order
            edges = self._edges[number] = set()
            self._holder = number
            with self._spec.problems_of(number):
                self.definitions[number] = self._made(held, at, of_response, edges, 0, frozenset())
        return made

    def locations(self) -> dict[str, str]:
        """Return the locations of the definitions in the document, by number. Responses have their own ones."""
        made = {number: (path, response) for (path, response), number in self._numbers.items()}
        return {
            number: ".".join(map(str, path)) + (" in responses" if response else "")
            for number, (path, response) in made.items()
        }

    def report_cycles(self) -> None:
        """Report definitions that refer to themselves without a member or element between: they have no meaning."""
        done: set[str] = set()
        for start in self._edges:
            above: dict[str, None] = {}
            waiting: list[tuple[str, bool]] = [(start, False)]
            while waiting:
                each, left = waiting.pop()
                if left:
                    above.pop(each)
                    done.add(each)
                elif each in above:
                    with self._spec.problems_of(each):
                        self._spec.report(
                            self.paths[each],
                            "the schema refers to itself",
                            "expected a property or element between",
                            at_key=True,
                        )
                elif each not in done:
                    above[each] = None
                    waiting.append((each, True))
                    waiting += [(below, False) for below in sorted(self._edges.get(each, ()))]

    def _reference(self, reference: Any, path: Path, response: bool, edges: set[str] | None) -> Any:
        found = self._spec.target(reference, path)
        if found is None:
            return True
        raw, at = found
        self._has_reference = True
        number = self._numbers.get((at, response))
        if number is None:
            number = self._number(at, response)
            self._waiting.append((number, raw, at, response))
        self._holders.setdefault(number, set()).add(self._holder)
        if edges is not None:
            edges.add(number)
        return {"$ref": f"{DEFINITIONS}#/$defs/{number}"}

    def _number(self, path: Path, response: bool) -> str:
        """Return the number of a new definition."""
        number = self._numbers[path, response] = str(len(self._numbers))
        self.paths[number] = path
        return number

    def _made(
        self, raw: Any, path: Path, response: bool, edges: set[str] | None, depth: int, hidden: frozenset[str]
    ) -> Any:
        """`edges`: collects the definitions that are about the same value. `hidden`: members that are not required."""
        if isinstance(raw, bool) and not self._spec.is_3_0:
            return raw
        if not isinstance(raw, dict):
            self._spec.report(path, shorten(format_value(raw)), "expected a schema, an object")
            return True
        if depth > DEEPEST:
            self._spec.report(path, "the schema is nested too deeply")
            return True
        self._spec.mapping(raw, path)
        reference = raw.get("$ref")
        if reference is not None and (self._spec.is_3_0 or len(raw) == 1):
            return self._reference(reference, path, response, edges)
        made: dict[str, Any] = {}
        if reference is not None:
            held = self._reference(reference, path, response, edges)
            made = held if isinstance(held, dict) else {}
        self._refuse_bases(raw, path)
        hidden |= self._hidden(raw, path, response)
        extra: list[Any] = []
        discriminated = self._discriminated(raw, path, response, edges, depth)
        for key, value in raw.items():
            at = (*path, key)
            below = edges if key in SAME_VALUE else None
            if key in _PLAIN:
                made[key] = value
            elif key == "required":
                are_names = isinstance(value, list) and all(isinstance(each, str) for each in value)
                made[key] = [each for each in value if each not in hidden] if hidden and are_names else value
            elif key == "additionalProperties" and isinstance(value, bool):
                made[key] = value
            elif key in _ONE:
                made[key] = self._made(value, at, response, below, depth + 1, frozenset())
            elif key in ("oneOf", "anyOf") and discriminated is not None:
                extra += discriminated
            elif key in _LISTS:
                passed = hidden if key == "allOf" else frozenset[str]()
                listed = value if isinstance(value, list) else []
                if not listed:
                    self._spec.report(at, "no schemas", "expected a non-empty list of schemas")
                    continue
                each_made = [
                    self._made(each, (*at, index), response, below, depth + 1, passed)
                    for index, each in enumerate(listed)
                ]
                made[key] = each_made
            elif key in _MAPS:
                made[key] = {
                    name: self._made(each, (*at, name), response, below, depth + 1, frozenset())
                    for name, each in self._spec.mapping(value, at).items()
                }
            elif (meant := meant_by(key, value)) is not None:
                reading, local = self._spec.origin(at)
                reading.note_keyword(local, meant)
                self._has_note = True
        self._adapt(made, raw, path, extra)
        if extra:
            made["allOf"] = [*made.get("allOf", ()), *extra]
        return _nullable(made, raw) if self._spec.is_3_0 and raw.get("nullable") is True else made

    def _adapt(self, made: dict[str, Any], raw: dict[str, Any], path: Path, extra: list[Any]) -> None:
        """Translate what OpenAPI writes in another way than JSON Schema."""
        if self._spec.is_3_0:
            for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
                flag = made.get(exclusive)
                if isinstance(flag, bool):
                    del made[exclusive]
                    if flag and bound in made:
                        made[exclusive] = made.pop(bound)
            if raw.get("type") == "file":
                self._spec.report((*path, "type"), "`file` is a type of Swagger 2.0", "expected `format: binary`")
                made.pop("type")
        known = made.get("format")
        if isinstance(known, str) and known in _FORMATS:
            extra.append(_FORMATS[known])
        if known == "binary":  # bytes: not the characters of a text
            for key in ("pattern", "minLength", "maxLength", "format"):
                made.pop(key, None)

    def _refuse_bases(self, raw: dict[str, Any], path: Path) -> None:
        for key in _BASES:
            if key in raw:
                self._spec.report(
                    (*path, key),
                    f"`{key}` is not supported",
                    "expected references by path, #/components/…",
                    at_key=True,
                )
        if "$schema" in raw and not _is_known(raw["$schema"]):
            self._spec.report((*path, "$schema"), shorten(format_value(raw["$schema"])), f"expected {_DIALECTS[0]}")

    def _hidden(self, raw: dict[str, Any], path: Path, response: bool) -> frozenset[str]:
        """Return the names of the members that are sent in the other direction only."""
        if "required" not in raw and "allOf" not in raw:
            return frozenset()
        flag = "writeOnly" if response else "readOnly"
        return frozenset().union(*(self._flagged(each, flag) for each in self._all_of(raw)))

    def _flagged(self, schema: dict[str, Any], flag: str) -> frozenset[str]:
        """Return the names of the `properties` of one schema that have a flag. Many schemas may extend it."""
        key = id(schema), flag
        known = self._flags.get(key)
        if known is None:
            properties = schema.get("properties")
            held = properties.items() if isinstance(properties, dict) else ()
            known = self._flags[key] = frozenset(name for name, raw in held if self._has_flag(raw, flag))
        return known

    def _has_flag(self, raw: Any, flag: str) -> bool:
        beside = isinstance(raw, dict) and raw.get(flag) is True  # a reference, in 3.0 too
        return beside or any(each.get(flag) is True for each in self._all_of(raw))

    def _all_of(self, raw: Any) -> Iterator[dict[str, Any]]:
        """Return a schema and all that apply with it, by reference and `allOf`; at most `DEEPEST`, without those that
        are a reference only.
        """
        return islice((each for each in self.applied(raw, ("allOf",)) if not self.is_reference(each)), DEEPEST)

    def applied(self, raw: Any, keywords: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Yield a schema and those that are about the same value, by reference and by some of `SAME_VALUE`, each once;
        also those that are a reference only (`is_reference`).
        """
        waiting: list[Any] = [raw]
        met: set[int] = set()
        while waiting:
            each = waiting.pop()
            if not isinstance(each, dict) or id(each) in met:
                continue
            met.add(id(each))
            yield each
            if isinstance(each.get("$ref"), str):
                waiting.append(self.looked_up(each["$ref"]))
                if self.is_reference(each):
                    continue
            for keyword in keywords:
                held = each.get(keyword)
                if held is None:
                    continue
                if keyword in _LISTS:
                    waiting += held if isinstance(held, list) else ()
                elif keyword in _MAPS:
                    waiting += held.values() if isinstance(held, dict) else ()
                else:
                    waiting.append(held)

    def followed(self, raw: Any) -> dict[str, Any]:
        """Return the schema that a reference leads to, without problems: they are reported where it is made."""
        for _ in range(DEEPEST):
            if not (isinstance(raw, dict) and isinstance(raw.get("$ref"), str)):
                break
            raw = self.looked_up(raw["$ref"])
        return raw if isinstance(raw, dict) else {}

    def has_keywords_beside(self, raw: Any) -> bool:
        """Whether a schema is a reference with other keywords beside it, which count since OpenAPI 3.1."""
        is_reference = isinstance(raw, dict) and isinstance(raw.get("$ref"), str)
        return not self._spec.is_3_0 and is_reference and len(raw) > 1

    def is_reference(self, schema: dict[str, Any]) -> bool:
        """Whether a schema is a reference, and nothing beside it counts."""
        return isinstance(schema.get("$ref"), str) and not self.has_keywords_beside(schema)

    def looked_up(self, reference: str) -> Any:
        """Return what a reference leads to. None: it does not exist in this document, which is reported elsewhere."""
        found = self._spec.looked_up(reference)
        return None if found is None else found[0]

    def _discriminated(
        self, raw: dict[str, Any], path: Path, response: bool, edges: set[str] | None, depth: int
    ) -> list[Any] | None:
        """Return the conditions that choose one of several schemas by a member's value. None: they are tried all."""
        said = raw.get("discriminator")
        if said is None:
            return None
        at = (*path, "discriminator")
        held = self._spec.mapping(said, at)
        name = held.get("propertyName")
        if not isinstance(name, str):
            self._spec.report((*at, "propertyName"), "missing", "expected the name of a property", at_key=True)
            return None
        mapping = self._spec.mapping_at(held, "mapping", at)
        values: dict[str, list[str]] = {}
        for value, meant in mapping.items():
            values.setdefault(as_reference(meant), []).append(value)
        default = as_reference(held["defaultMapping"]) if self._spec.is_3_2 and "defaultMapping" in held else None
        targets = [(reference, (*at, "mapping", named[0])) for reference, named in values.items()]
        if default is not None:
            targets.append((default, (*at, "defaultMapping")))
        if [reference for reference, its_path in targets if self._leads_nowhere(reference, its_path)]:
            return None
        key = "oneOf" if "oneOf" in raw else "anyOf"
        branches = raw.get(key)
        if not isinstance(branches, list) or not branches:
            return None  # of a schema that others extend: it only names the property
        fallback: Any = None
        chosen: list[Any] = []
        names: list[str] = []
        null = False
        for index, branch in enumerate(branches):
            if branch == _NULL:
                null = True
                continue
            reference = branch.get("$ref") if isinstance(branch, dict) else None
            if not isinstance(reference, str):
                return None  # it has no name to choose it by
            schema = self._made(branch, (*path, key, index), response, edges, depth + 1, frozenset())
            if reference == default:
                fallback = schema
            own = reference.rpartition("/")[2]
            for value in (*values.pop(reference, ()), *(() if own in mapping else (own,))):
                names.append(value)
                is_it = {"properties": {name: {"const": value}}, "required": [name]}
                chosen.append({"if": is_it, "then": schema})
        for reference, unused in values.items():
            wrong = f"{shorten(format_value(reference))} is not one of `{key}`"
            self._spec.report((*at, "mapping", unused[0]), wrong, "expected a reference to one of them")
        if default is not None and fallback is None:
            wrong = f"{shorten(format_value(default))} is not one of `{key}`"
            self._spec.report((*at, "defaultMapping"), wrong, "expected a reference to one of them")
        is_named = {"required": [name], "properties": {name: {"enum": names}}}
        alternatives: dict[str, Any] = {"type": "object", "allOf": chosen}
        if fallback is None:
            alternatives |= is_named
        else:
            chosen.append({"if": is_named, "else": fallback})
        return [{"anyOf": [_NULL, alternatives]} if null else alternatives]

    def _leads_nowhere(self, reference: str, path: Path) -> bool:
        """Whether a value of a discriminator refers to a part of the document that does not exist, which is reported.
        References to other documents are not followed.
        """
        if not reference.startswith("#") or self.looked_up(reference) is not None:
            return False
        wrong = f"{shorten(format_value(reference))} does not exist"
        self._spec.report(path, wrong, "expected the name of a schema of this document, or a reference to it")
        return True


def _left_out_by(operations: list[tuple[str, bool]]) -> str:
    """Return the setting that leaves out the first of the operations whose validation needs a schema."""
    (name, response), *more = operations
    others = len({other for other, _ in more} - {name})
    noun = "operation" if others == 1 else "operations"
    setting = f"`operations: {{{format_value(name)}: {{{'responses' if response else 'validate'}: off}}}}`"
    return f"{setting} and the same for {others} other {noun}" if others else setting


def as_reference(meant: Any) -> str:
    """Return the reference that a value of `mapping` stands for: itself, or the name of a component."""
    text = str(meant)
    return text if "/" in text or "#" in text else f"#/components/schemas/{text}"


def _nullable(made: dict[str, Any], raw: dict[str, Any]) -> Any:
    """Return a schema of OpenAPI 3.0 that accepts null. An `enum` beside `type` has to list null itself."""
    if isinstance(raw.get("type"), str) and not any(key in made for key in ("allOf", "anyOf", "oneOf", "not")):
        return made | {"type": [raw["type"], "null"]}
    return {"anyOf": [_NULL, made]}


def _is_known(dialect: Any) -> bool:
    return isinstance(dialect, str) and dialect.startswith(_DIALECTS)


def text_of(raw: Any) -> str:
    """Return a text that equal schemas have, and others do not. Empty: it has none."""
    try:
        return repr(raw)
    except RecursionError:
        return ""


def _number_of(made: Any) -> str | None:
    """Return the number of the definition that a schema only refers to."""
    reference = made.get("$ref") if isinstance(made, dict) and len(made) == 1 else None
    return reference.rpartition("/")[2] if isinstance(reference, str) else None


def whole(schemas: Schemas) -> dict[str, Any]:
    """Return all definitions as one schema: it validates an object with the number of a definition, and the value."""
    members = {number: {"$ref": f"{DEFINITIONS}#/$defs/{number}"} for number in sorted(schemas.roots)}
    return {
        "$schema": _DIALECTS[0],
        "$id": DEFINITIONS,
        "$defs": schemas.definitions,
        LOCATIONS: schemas.locations(),
        "properties": members,
        "additionalProperties": False,
    }
